import { backoff, type RetryInterval, sleep, withDeadline } from "./_time.ts";
import type { GrammySignal, Update } from "./deps.ts";
import { logEvent, type PollEvent } from "./events.ts";
import type { UpdateSupplier } from "./source.ts";

/**
 * The part of a bot that the runner uses. All grammY bots fit.
 *
 * @typeParam Y Type of the updates
 * @typeParam R Type of the errors that `handleUpdate` rejects with
 *
 * @example
 * ```ts
 * import { type BotAdapter, run } from "@grammyjs/runner";
 *
 * const bot: BotAdapter<{ update_id: number }, Error> = {
 *   handleUpdate: async (update) => console.log(update.update_id),
 *   errorHandler: (error) => console.error(error.message),
 *   api: { getUpdates: ({ offset }) => Promise.resolve([{ update_id: offset }]) },
 * };
 *
 * function main() {
 *   run(bot);
 * }
 * ```
 */
export interface BotAdapter<Y, R> {
  /** Prepares the bot; called before updates are fetched. */
  // deno-lint-ignore no-explicit-any -- the signal types of grammY differ by platform
  init?: (signal?: any) => Promise<void>;
  /** Handles an update. */
  handleUpdate: (update: Y) => Promise<void>;
  /** Called with the errors that `handleUpdate` rejects with. */
  errorHandler: (error: R) => unknown;
  /** The bot token; tells a durable inbox whose updates it holds. */
  token?: string;
  /** Does the calls to the Bot API. */
  api: {
    /** Calls the method `getUpdates` of the Bot API. */
    getUpdates: (
      args: { offset: number; limit: number; timeout: number },
      // deno-lint-ignore no-explicit-any -- the signal types of grammY differ by platform
      signal: any,
    ) => Promise<Y[]>;
  };
}

/**
 * Options for the calls to `getUpdates`.
 *
 * @example
 * ```ts
 * import { type FetchOptions, run } from "@grammyjs/runner";
 * import { Bot } from "grammy";
 *
 * const fetch: FetchOptions = { allowed_updates: ["message", "chat_member"] };
 *
 * function main() {
 *   run(new Bot("123456:token"), { runner: { fetch } });
 * }
 * ```
 */
export interface FetchOptions {
  /**
   * How long Telegram may hold back its answer while there are no updates, in
   * seconds: an integer of at least 0. Telegram takes more than 50 as 50.
   *
   * @default 30
   */
  timeout?: number;
  /**
   * The types of updates to receive, for example `["message",
   * "callback_query"]`. An empty list means all but `chat_member` and message
   * reactions. If absent, the setting of the last call is kept.
   */
  allowed_updates?: ReadonlyArray<Exclude<keyof Update, "update_id">>;
}

/**
 * Options that control how updates are fetched.
 *
 * @example
 * ```ts
 * import { run, type RunnerOptions } from "@grammyjs/runner";
 * import { Bot } from "grammy";
 *
 * // Gives up after an hour, and tries again every second until then.
 * const runner: RunnerOptions = {
 *   maxRetryTime: 60 * 60 * 1000,
 *   retryInterval: 1000,
 * };
 *
 * function main() {
 *   run(new Bot("123456:token"), { runner });
 * }
 * ```
 */
export interface RunnerOptions {
  /** Options for the calls to `getUpdates`. */
  fetch?: FetchOptions;
  /**
   * For how long to retry a call that keeps failing, in milliseconds; at least
   * 0. When the time is up, the runner stops, and its `task()` rejects.
   *
   * @default Infinity
   */
  maxRetryTime?: number;
  /**
   * How long to wait between retries: a number of milliseconds, above 0, or
   * `"exponential"` or `"quadratic"` for waits that grow from 100 ms, up to half
   * of them being cut off at random.
   *
   * @default "exponential"
   */
  retryInterval?: "exponential" | "quadratic" | number;
  /**
   * The longest wait between retries that grow, in milliseconds; above 0.
   *
   * @default 30000
   */
  maxRetryInterval?: number;
  /**
   * How much longer than `fetch.timeout` a call may take before it is abandoned
   * and tried again, in milliseconds; above 0.
   *
   * @default 10000
   */
  pollGrace?: number;
  /**
   * Whether to print nothing. Otherwise failures and recoveries are printed with
   * `console.error`.
   *
   * @default false
   */
  silent?: boolean;
}

/** Why fetching fails, and what to do about it, where that is known. */
interface Verdict {
  /** The error to stop with; `undefined` if the call is to be repeated. */
  fatal?: unknown;
  /** Milliseconds that the server wants us to wait. */
  waitMs?: number;
  hint?: string;
}

/**
 * Creates a function that fetches new updates on each call. It retries calls
 * that fail, and keeps track of the offset.
 *
 * It rejects if Telegram refuses the token, if a webhook is set, if `maxRetryTime`
 * is up, and with the reason of the signal if that aborts.
 *
 * @typeParam Y Type of the updates
 * @typeParam R Type of the errors of the bot
 * @param bot The bot to fetch updates for
 * @param options Further options
 * @returns A function that takes the number of updates to fetch at most, and a
 * signal to interrupt it
 * @throws {RangeError} If an option is out of bounds
 * @throws {TypeError} If an option is of the wrong type
 *
 * @example
 * ```ts
 * import { createUpdateFetcher } from "@grammyjs/runner";
 * import { Bot } from "grammy";
 *
 * const fetchUpdates = createUpdateFetcher(new Bot("123456:token"));
 *
 * async function printNext() {
 *   const { signal } = new AbortController();
 *   console.log(await fetchUpdates(100, signal));
 * }
 * ```
 */
export function createUpdateFetcher<Y extends { update_id: number }, R>(
  bot: BotAdapter<Y, R>,
  options: RunnerOptions = {},
): (
  batchSize: number,
  signal: AbortSignal | GrammySignal,
  emit?: (event: PollEvent) => void,
) => Promise<Y[]> {
  const { supply } = createUpdateSupplier(bot, options);
  return async (batchSize, signal, emit) => {
    // Named this way for esbuild, see `anyOf` in `_run.ts`.
    if (signal instanceof globalThis.AbortSignal) {
      return await supply(
        batchSize,
        signal as typeof signal & GrammySignal,
        emit,
      );
    }
    // The signals of the package `abort-controller` have no reason.
    const controller = new AbortController();
    const abort = () => controller.abort();
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort);
    try {
      return await supply(
        batchSize,
        controller.signal as AbortSignal & GrammySignal,
        emit,
      );
    } finally {
      signal.removeEventListener("abort", abort);
    }
  };
}

/**
 * Creates a supplier that fetches updates like {@link createUpdateFetcher}, and
 * that can take back updates which a stop has left unstarted.
 *
 * @typeParam Y Type of the updates
 * @typeParam R Type of the errors of the bot
 * @param bot The bot to fetch updates for
 * @param options Further options
 * @returns A supplier for {@link createSource}
 * @throws {RangeError} If an option is out of bounds
 * @throws {TypeError} If an option is of the wrong type
 *
 * @example
 * ```ts
 * import { createSource, createUpdateSupplier } from "@grammyjs/runner";
 * import { Bot } from "grammy";
 *
 * const bot = new Bot("123456:token");
 * const source = createSource(createUpdateSupplier(bot, { silent: true }));
 * ```
 */
export function createUpdateSupplier<Y extends { update_id: number }, R>(
  bot: BotAdapter<Y, R>,
  options: RunnerOptions = {},
): UpdateSupplier<Y> {
  checkOptions(options);
  if (typeof bot?.api?.getUpdates !== "function") {
    throw new TypeError(
      `Cannot fetch updates: the bot must have a method api.getUpdates: received ${bot}`,
    );
  }
  const {
    fetch = {},
    maxRetryTime = Infinity,
    retryInterval = "exponential",
    maxRetryInterval = 30_000,
    pollGrace = 10_000,
    silent = false,
  } = options;
  const { timeout = 30, ...fetchOptions } = fetch;
  // Telegram takes more than 50 s as 50 s.
  const pollMs = Math.min(timeout, 50) * 1000;

  let initialized = false;
  /** The next request asks for updates from this id on. */
  let offset = 0;
  /** The offset of the last request; whatever is below counts as acknowledged. */
  let issued = 0;
  /** The offset of the last request that was answered. */
  let answered = 0;

  async function initialize(signal: AbortSignal): Promise<void> {
    await withDeadline(
      (signal) => bot.init!(signal),
      pollGrace,
      `bot.init() did not finish within ${pollGrace} ms`,
      signal,
    );
    initialized = true;
  }

  async function poll(batchSize: number, signal: AbortSignal): Promise<Y[]> {
    // A request that is never issued acknowledges nothing.
    signal.throwIfAborted();
    const limit = Math.max(1, Math.min(Math.floor(batchSize), 100)) || 100;
    const requested = issued = offset;
    const deadline = pollMs + pollGrace;
    const updates = await withDeadline(
      (signal) =>
        bot.api.getUpdates(
          { timeout, ...fetchOptions, offset: requested, limit },
          signal,
        ),
      deadline,
      `getUpdates did not answer within ${deadline} ms`,
      signal,
    );
    checkAnswer(updates);
    answered = requested;
    if (updates.length > 0) {
      const ids = updates.map((update) => update.update_id);
      offset = Math.max(...ids) + 1;
      // Telegram has started a new sequence; nothing of it is acknowledged yet.
      if (offset <= issued) {
        issued = Math.min(...ids);
        answered = -1;
      }
    }
    return updates;
  }

  /** Tries until it works, the error is final, or the time is up. */
  async function retrying<T>(
    attempt: () => Promise<T>,
    signal: AbortSignal,
    tell: (event: PollEvent) => void,
  ): Promise<T> {
    let failures = 0;
    let downSince = 0;
    while (true) {
      const startedAt = Date.now();
      try {
        const result = await attempt();
        if (failures > 0) {
          tell({
            type: "recovered",
            failures,
            downMs: Date.now() - downSince,
          });
        }
        return result;
      } catch (error) {
        signal.throwIfAborted();
        const now = Date.now();
        if (failures++ === 0) downSince = now;
        if (isTimeout(error)) {
          tell({ type: "stalled", afterMs: now - startedAt });
        }
        const { fatal, waitMs, hint } = judge(error);
        if (fatal !== undefined) throw fatal;
        const retryInMs = waitMs ??
          backoff(retryInterval, failures, maxRetryInterval);
        if (now - downSince + retryInMs > maxRetryTime) throw error;
        tell({ type: "poll-failed", error, failures, retryInMs, hint });
        await sleep(retryInMs, signal);
      }
    }
  }

  function teller(emit?: (event: PollEvent) => void) {
    return (event: PollEvent) => {
      if (!silent) logEvent(event);
      try {
        emit?.(event);
      } catch {
        // Observers never steer: fetched updates must not get lost for them.
      }
    };
  }

  async function ready(
    signal: AbortSignal,
    emit?: (event: PollEvent) => void,
  ): Promise<void> {
    if (initialized || !bot.init) return;
    await retrying(() => initialize(signal), signal, teller(emit));
  }

  async function supply(
    batchSize: number,
    signal: AbortSignal,
    emit?: (event: PollEvent) => void,
  ): Promise<Y[]> {
    const tell = teller(emit);
    let startedAt = 0;
    const updates = await retrying(
      async () => {
        if (!initialized && bot.init) await initialize(signal);
        startedAt = Date.now();
        return await poll(batchSize, signal);
      },
      signal,
      tell,
    );
    const durationMs = Date.now() - startedAt;
    tell({ type: "poll", durationMs, count: updates.length });
    return updates;
  }

  return {
    supply,
    ready,
    async confirm(id, signal) {
      // Telegram would take a negative offset as the order to forget updates.
      if (!(id >= 0)) {
        throw new RangeError(
          `Cannot confirm updates: offset must be at least 0: received ${id}`,
        );
      }
      offset = id;
      if (answered === id) return;
      issued = id;
      const send = () =>
        withDeadline(
          (signal) =>
            bot.api.getUpdates({ offset: id, limit: 1, timeout: 0 }, signal),
          pollGrace,
          `getUpdates did not answer within ${pollGrace} ms`,
          signal,
        );
      try {
        await send();
      } catch (error) {
        // Deno's node:http sends an interrupted request a second time, which can
        // overtake this one and have it refused. That does not happen twice.
        const { error_code } = (error ?? {}) as { error_code?: number };
        if (error_code !== 409 || signal.aborted) throw error;
        await send();
      }
      answered = id;
    },
    acknowledged: () => issued,
    rewind() {
      offset = issued = answered = 0;
    },
  };
}

function isTimeout(error: unknown): boolean {
  return error instanceof DOMException && error.name === "TimeoutError";
}

/** Tells failures that pass from failures that do not. */
function judge(error: unknown): Verdict {
  const { error_code: code, description = "", parameters } = (error ?? {}) as {
    error_code?: number;
    description?: string;
    parameters?: { retry_after?: number };
  };
  switch (code) {
    case 401:
    case 404:
      return { fatal: error };
    case 409:
      return /webhook/i.test(description) && !/terminated/i.test(description)
        ? {
          fatal: new Error(
            `Cannot fetch updates while a webhook is set: call bot.api.deleteWebhook() first (${description})`,
            { cause: error },
          ),
        }
        : {
          hint:
            "Another process fetches updates with the same token. During a redeploy this passes by itself; otherwise stop the other process.",
        };
    case 429: {
      const seconds = parameters?.retry_after;
      return typeof seconds === "number" && seconds > 0
        ? { waitMs: seconds * 1000 }
        : {};
    }
    default:
      return isTimeout(error)
        ? { hint: "Telegram cannot be reached, or it does not answer in time." }
        : {};
  }
}

function checkAnswer(updates: unknown): void {
  if (
    !Array.isArray(updates) ||
    !updates.every((update) => isUpdateId(update?.update_id))
  ) {
    const received = JSON.stringify(updates)?.slice(0, 100);
    throw new TypeError(
      `Cannot use the answer to getUpdates: it must be an array of updates: received ${received}`,
    );
  }
}

/** Negative ones would lead to negative offsets. */
function isUpdateId(id: unknown): boolean {
  return Number.isSafeInteger(id) && id as number >= 0;
}

function checkOptions(options: RunnerOptions): void {
  const { fetch, retryInterval } = options;
  check(
    "fetch.timeout",
    fetch?.timeout,
    "an integer of at least 0",
    (value) => Number.isInteger(value) && value >= 0,
  );
  check("maxRetryTime", options.maxRetryTime, "at least 0", (v) => v >= 0);
  check("maxRetryInterval", options.maxRetryInterval, "above 0", (v) => v > 0);
  check("pollGrace", options.pollGrace, "above 0", (value) => value > 0);
  const growing: RetryInterval[] = ["exponential", "quadratic"];
  if (typeof retryInterval === "number") {
    check("retryInterval", retryInterval, "above 0", (value) => value > 0);
  } else if (retryInterval !== undefined && !growing.includes(retryInterval)) {
    throw new TypeError(
      `Cannot fetch updates: retryInterval must be "exponential", "quadratic", or a number: received ${retryInterval}`,
    );
  }
  if (
    fetch?.allowed_updates !== undefined &&
    !Array.isArray(fetch.allowed_updates)
  ) {
    throw new TypeError(
      `Cannot fetch updates: fetch.allowed_updates must be an array: received ${fetch.allowed_updates}`,
    );
  }
}

function check(
  name: string,
  value: unknown,
  rule: string,
  test: (value: number) => boolean,
): void {
  if (value === undefined) return;
  if (typeof value !== "number") {
    throw new TypeError(
      `Cannot fetch updates: ${name} must be a number: received ${value}`,
    );
  }
  if (!test(value)) {
    throw new RangeError(
      `Cannot fetch updates: ${name} must be ${rule}: received ${value}`,
    );
  }
}
