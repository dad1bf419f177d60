import {
  type Span,
  SpanKind,
  SpanStatusCode,
  trace,
  // deno-lint-ignore no-import-prefix -- raw files have no import map
} from "npm:@opentelemetry/api@1";
import {
  attributesBy,
  ERROR_TYPE,
  errorTypeOf,
  SCOPE,
  typeOf,
  UPDATE_TYPE,
} from "./_otel_attributes.ts";
import { slotOf } from "./_slot.ts";

/**
 * The part of a context object that tracing uses. All of grammY's fit.
 *
 * @example
 * ```ts
 * import type { TracedContext } from "@grammyjs/runner/otel";
 * import type { Context } from "grammy";
 *
 * const traced: (ctx: Context) => TracedContext = (ctx) => ctx;
 * ```
 */
export interface TracedContext {
  /** The update. */
  update: { update_id: number };
  /** Does the calls to the Bot API. */
  api: {
    /** Where functions that transform these calls are installed. */
    config: {
      /** Installs such a function. */
      // deno-lint-ignore no-explicit-any -- the generics of grammY's functions
      use: (transformer: any) => void;
    };
  };
}

/**
 * Creates middleware that records a span for each update, and one within it for
 * each call to the Bot API that is made by `ctx.api`, or by a shortcut such as
 * `ctx.reply`. Install it before all other middleware: what that does belongs to
 * the span.
 *
 * The span of an update is the root of a trace, has the kind `CONSUMER`, and is
 * named like `handle message`. Its attributes are `telegram.update.type` and
 * `messaging.message.id`, the `update_id`. The span of a call has the kind
 * `CLIENT`, and is named like the method.
 *
 * Errors are passed on. The span of what has failed has the status `ERROR`, the
 * attribute `error.type`, and the stack of the error without its message, which
 * may quote what people write. A span ends no later than the time limit of the
 * update, or a stop that runs out of time; its `error.type` tells so.
 *
 * To record more, set it on the active span, as in the example.
 *
 * @returns Middleware for a bot
 *
 * @example
 * ```ts
 * import { traceUpdates } from "@grammyjs/runner/otel";
 * import { trace } from "@opentelemetry/api";
 * import { Bot } from "grammy";
 *
 * const bot = new Bot("123456:token");
 * bot.use(traceUpdates());
 * bot.use((ctx, next) => {
 *   if (ctx.chat) trace.getActiveSpan()?.setAttribute("chat.id", ctx.chat.id);
 *   return next();
 * });
 * ```
 */
export function traceUpdates(): (
  ctx: TracedContext,
  next: () => Promise<void>,
) => Promise<void> {
  const tracer = trace.getTracer(SCOPE);
  const byUpdate = attributesBy(UPDATE_TYPE, typeOf);

  /** Records a call to the Bot API. */
  const traceCall = <T extends { ok: boolean }>(
    call: (method: string, payload: unknown, signal?: unknown) => Promise<T>,
    method: string,
    payload: unknown,
    signal?: unknown,
  ): Promise<T> =>
    tracer.startActiveSpan(
      method,
      { kind: SpanKind.CLIENT },
      async (span) => {
        try {
          const answer = await call(method, payload, signal);
          if (!answer.ok) recordError(span, answer);
          return answer;
        } catch (error) {
          recordError(span, error);
          throw error;
        } finally {
          span.end();
        }
      },
    );

  return (ctx, next) => {
    const attributes = byUpdate(ctx.update);
    return tracer.startActiveSpan(
      `handle ${attributes[UPDATE_TYPE]}`,
      {
        kind: SpanKind.CONSUMER,
        root: true,
        attributes: {
          ...attributes,
          "messaging.message.id": `${ctx.update.update_id}`,
        },
      },
      async (span) => {
        if (!span.isRecording()) return await next();
        ctx.api.config.use(traceCall);
        const signal = slotOf(ctx)?.signal;
        const giveUp = () => {
          recordError(span, signal!.reason);
          span.end();
        };
        if (signal?.aborted) giveUp();
        else signal?.addEventListener("abort", giveUp, { once: true });
        try {
          await next();
        } catch (error) {
          if (!signal?.aborted) recordError(span, error);
          throw error;
        } finally {
          signal?.removeEventListener("abort", giveUp);
          if (!signal?.aborted) span.end();
        }
      },
    );
  };
}

function recordError(span: Span, error: unknown): void {
  const name = errorTypeOf(error);
  span.setAttribute(ERROR_TYPE, name);
  span.setStatus({ code: SpanStatusCode.ERROR });
  if (error instanceof Error) {
    span.recordException({ name: error.name, stack: framesOf(error) });
  }
}

/** The stack of an error without the message that it begins with. */
function framesOf({ message, stack = "" }: Error): string {
  const lines = stack.replace(message, "").split("\n");
  return lines.filter((line) => /^\s+at /.test(line)).join("\n");
}
