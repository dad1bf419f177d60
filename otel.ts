/**
 * Metrics and traces of a bot, by OpenTelemetry. They go wherever the SDK sends
 * them that the program has set up: with Deno, set `OTEL_DENO=true`; elsewhere,
 * start the SDK before the functions of this module are called.
 *
 * Nothing that is recorded here tells who wrote what to the bot. Beware of the
 * spans that Deno, and instrumentations of Node, record for every HTTP request:
 * URLs of the Bot API contain the token. Have your collector remove the
 * attributes `url.full` and `url.path`.
 *
 * @example
 * ```ts
 * import { run } from "@grammyjs/runner";
 * import { recordMetrics, traceUpdates } from "@grammyjs/runner/otel";
 * import { Bot } from "grammy";
 *
 * function main() {
 *   const bot = new Bot("123456:token");
 *   bot.use(traceUpdates()); // first, so that the spans cover all the rest
 *   bot.on("message", (ctx) => ctx.reply("Got it!"));
 *   run(bot, { onEvent: recordMetrics() });
 * }
 * ```
 *
 * @module
 */
import {
  type Attributes,
  metrics,
  type Span,
  SpanKind,
  SpanStatusCode,
  trace,
  // deno-lint-ignore no-import-prefix -- raw files have no import map
} from "npm:@opentelemetry/api@1";
import { slotOf } from "./_slot.ts";
import type { RunnerEvent, RunnerStats } from "./events.ts";

/** The scope of all that is recorded here, and the prefix of its names. */
const SCOPE = "@grammyjs/runner";
const PREFIX = "grammy.runner";
const UPDATE_TYPE = "telegram.update.type";
const ERROR_TYPE = "error.type";

/** What stands for all values of an attribute that are too many, or unknown. */
const OTHER = "_OTHER";
/** Every value costs memory for good; Telegram has less than half as many. */
const MAX_VALUES = 64;

/** Upper bounds of the classes into which durations are sorted, in seconds. */
const BOUNDS =
  // deno-fmt-ignore -- one row
  [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];

/**
 * Records metrics of a runner. The result is for the option `onEvent`. It can
 * serve several runners, whose numbers are added up.
 *
 * | Name | Kind and unit | Attributes |
 * | --- | --- | --- |
 * | `grammy.runner.received.updates` | counter | `telegram.update.type` |
 * | `grammy.runner.handled.updates` | counter | `telegram.update.type` |
 * | `grammy.runner.failed.updates` | counter | `telegram.update.type` |
 * | `grammy.runner.timed_out.updates` | counter | `telegram.update.type` |
 * | `grammy.runner.wait.duration` | histogram, s | `telegram.update.type` |
 * | `grammy.runner.handle.duration` | histogram, s | `telegram.update.type` |
 * | `grammy.runner.poll.duration` | histogram, s | |
 * | `grammy.runner.failed.polls` | counter | `error.type` |
 * | `grammy.runner.running.updates` | up-down counter | |
 * | `grammy.runner.parked.updates` | up-down counter | |
 * | `grammy.runner.buffered.updates` | up-down counter | |
 * | `grammy.runner.inbox.updates` | gauge | `grammy.runner.inbox.state` |
 *
 * The type of an update is the name of its field, such as `message`. The type of
 * an error is the error code of the Bot API, or the name of the error. The state
 * is what the inbox calls its numbers, such as `buffered` or `unfinished`.
 *
 * @returns A function to be called with all events of a runner
 *
 * @example
 * Together with an observer of your own:
 * ```ts
 * import { run } from "@grammyjs/runner";
 * import { recordMetrics } from "@grammyjs/runner/otel";
 * import { Bot } from "grammy";
 *
 * function main() {
 *   const record = recordMetrics();
 *   run(new Bot("123456:token"), {
 *     onEvent(event) {
 *       record(event);
 *       if (event.type === "stalled") console.warn("Telegram does not answer");
 *     },
 *   });
 * }
 * ```
 */
export function recordMetrics(): (event: RunnerEvent) => void {
  const meter = metrics.getMeter(SCOPE);
  const count = (what: string, unit: string, description: string) =>
    meter.createCounter(`${PREFIX}.${what}`, { unit, description });
  const measure = (what: string, description: string) =>
    meter.createHistogram(`${PREFIX}.${what}.duration`, {
      unit: "s",
      description,
      advice: { explicitBucketBoundaries: BOUNDS },
    });

  const received = count(
    "received.updates",
    "{update}",
    "Updates that arrived",
  );
  const ended = {
    handled: count("handled.updates", "{update}", "Updates that ended well"),
    failed: count("failed.updates", "{update}", "Updates that failed"),
    timedOut: count(
      "timed_out.updates",
      "{update}",
      "Updates past the time limit",
    ),
  };
  const waited = measure("wait", "Time that an update waited until its end");
  const ran = measure("handle", "Time that an update ran");
  const polled = measure("poll", "Time until a call to getUpdates is answered");
  const failedPolls = count("failed.polls", "{poll}", "Failures to fetch");
  const byUpdate = attributesBy(UPDATE_TYPE, typeOf);
  const byError = attributesBy(ERROR_TYPE, errorTypeOf);
  const observe = observeStats();

  return (event) => {
    switch (event.type) {
      case "started":
        observe(event.stats);
        break;
      case "received":
        for (const update of event.updates) received.add(1, byUpdate(update));
        break;
      case "ended": {
        const attributes = byUpdate(event.update);
        ended[event.outcome].add(1, attributes);
        waited.record(event.waitedMs / 1000, attributes);
        ran.record(event.ranMs / 1000, attributes);
        break;
      }
      case "poll":
        polled.record(event.durationMs / 1000);
        break;
      case "poll-failed":
        failedPolls.add(1, byError(event.error));
        break;
    }
  };
}

/** Observes runners from when they have started until they have stopped. */
function observeStats(): (stats: () => RunnerStats) => void {
  const meter = metrics.getMeter(SCOPE);
  const level = (what: string, description: string) =>
    meter.createObservableUpDownCounter(`${PREFIX}.${what}.updates`, {
      unit: "{update}",
      description,
    });
  const running = level("running", "Updates that are running");
  const parked = level("parked", "Updates that wait for others");
  const buffered = level("buffered", "Updates that were not started yet");
  // Machines that share an inbox all tell the same, hence no sum.
  const inbox = meter.createObservableGauge(`${PREFIX}.inbox.updates`, {
    unit: "{update}",
    description: "Updates in the inbox",
  });
  const runners = new Set<() => RunnerStats>();

  meter.addBatchObservableCallback((result) => {
    const sum = { running: 0, parked: 0, buffered: 0 };
    const states = new Map<string, number>();
    for (const stats of runners) {
      const now = stats();
      if (now.state === "stopped" || now.state === "failed") {
        runners.delete(stats);
        continue;
      }
      sum.running += now.running;
      sum.parked += now.parked;
      sum.buffered += now.buffered;
      for (const [state, value] of Object.entries(now.inbox)) {
        if (typeof value !== "number") continue;
        states.set(state, (states.get(state) ?? 0) + value);
      }
    }
    result.observe(running, sum.running);
    result.observe(parked, sum.parked);
    result.observe(buffered, sum.buffered);
    for (const [state, value] of states) {
      result.observe(inbox, value, { [`${PREFIX}.inbox.state`]: state });
    }
  }, [running, parked, buffered, inbox]);
  return (stats) => void runners.add(stats);
}

/** The part of a context object that tracing uses. All of grammY's fit. */
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

/** The error code of the Bot API where there is one, else the error's name. */
function errorTypeOf(error: unknown): string {
  const { error_code: code } = (error ?? {}) as { error_code?: unknown };
  if (Number.isInteger(code)) return `${code}`;
  return error instanceof Error ? error.name : OTHER;
}

/** The field of an update other than its id, which tells what it is. */
function typeOf(update: unknown): string {
  if (typeof update === "object") {
    for (const field in update) if (field !== "update_id") return field;
  }
  return OTHER;
}

/**
 * Makes attributes with one key, and with a bounded number of values, whatever
 * they are made from.
 */
function attributesBy(
  key: string,
  valueOf: (subject: unknown) => string,
): (subject: unknown) => Attributes {
  const known = new Map<string, Attributes>();
  const other = { [key]: OTHER };
  return (subject) => {
    const value = valueOf(subject);
    let attributes = known.get(value);
    if (attributes === undefined) {
      if (known.size >= MAX_VALUES) return other;
      known.set(value, attributes = { [key]: value });
    }
    return attributes;
  };
}
