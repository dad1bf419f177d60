import { Leftovers } from "./_leftovers.ts";
import { Run } from "./_run.ts";
import { linkSlot } from "./_slot.ts";
import {
  logEvent,
  type PollEvent,
  type RunnerEvent,
  type RunnerState,
  type RunnerStats,
} from "./events.ts";
import {
  type BotAdapter,
  createUpdateSupplier,
  type RunnerOptions,
} from "./fetcher.ts";
import { createMemoryInbox, type UpdateInbox } from "./inbox.ts";
import type { TaskEnd } from "./queue.ts";
import {
  completeSink,
  createConcurrentSink,
  type SinkOptions,
  type UpdateSink,
} from "./sink.ts";
import {
  createSource,
  type SourceOptions,
  type UpdateSource,
  type UpdateSupplier,
} from "./source.ts";

/**
 * Options of {@link createRunner}.
 *
 * @typeParam Y Type of the updates
 *
 * @example
 * ```ts
 * import {
 *   createConcurrentSink,
 *   createRunner,
 *   type CreateRunnerOptions,
 *   createSource,
 * } from "@grammyjs/runner";
 *
 * const options: CreateRunnerOptions<string> = {
 *   onEvent: (event) => console.log(event.type),
 *   silent: true,
 * };
 * const handle = createRunner(
 *   createSource({ supply: () => Promise.resolve(["ping"]) }),
 *   createConcurrentSink<string>(
 *     { consume: async (update) => console.log(update) },
 *     async (error) => console.error(error),
 *   ),
 *   options,
 * );
 * ```
 */
export interface CreateRunnerOptions<Y> {
  /**
   * Where to keep updates between their arrival and their end. By default, a
   * {@link createMemoryInbox | buffer in memory}.
   */
  inbox?: UpdateInbox<Y>;
  /**
   * Called with everything worth knowing about what the runner does. It
   * observes only: its errors are ignored.
   */
  onEvent?: (event: RunnerEvent<Y>) => void;
  /** Stops the runner when it aborts, and keeps it from being started then. */
  signal?: AbortSignal;
  /**
   * Whether to print nothing; see {@link RunnerOptions.silent}.
   *
   * @default false
   */
  silent?: boolean;
  /**
   * The numeric id of the bot, which durable inboxes insist on; `run` takes it
   * from the token. Unknown by default.
   */
  botId?: number;
}

/**
 * Options of {@link run}.
 *
 * @typeParam Y Type of the updates
 *
 * @example
 * ```ts
 * import { run, type RunOptions } from "@grammyjs/runner";
 * import { Bot } from "grammy";
 * import type { Update } from "grammy/types";
 *
 * const options: RunOptions<Update> = {
 *   runner: { fetch: { allowed_updates: ["message"] } },
 *   sink: { concurrency: 50 },
 * };
 *
 * function main() {
 *   run(new Bot("123456:token"), options);
 * }
 * ```
 */
export interface RunOptions<Y> {
  /**
   * Options of the update source; or another source to take the place of long
   * polling, such as that of {@link createWebhookSource}.
   */
  source?: SourceOptions | UpdateSource<Y>;
  /**
   * Options for fetching updates, and for `bot.init()`, which goes first with any
   * source.
   */
  runner?: RunnerOptions;
  /** Options of the update sink. */
  sink?: SinkOptions<Y>;
  /** See {@link CreateRunnerOptions.inbox}. */
  inbox?: UpdateInbox<Y>;
  /** See {@link CreateRunnerOptions.onEvent}. */
  onEvent?: (event: RunnerEvent<Y>) => void;
  /** Stops the runner when it aborts. */
  signal?: AbortSignal;
}

/**
 * Options of {@link RunnerHandle.stop}.
 *
 * @example
 * ```ts
 * import { run, type StopOptions } from "@grammyjs/runner";
 * import { Bot } from "grammy";
 *
 * // Two seconds less than the process is given to end.
 * const options: StopOptions = { timeout: 8000 };
 *
 * async function main() {
 *   const handle = run(new Bot("123456:token"));
 *   // Later:
 *   await handle.stop(options);
 * }
 * ```
 */
export interface StopOptions {
  /**
   * How long the stop may take, in milliseconds; at least 0. Whatever has not
   * ended by then is given up and reported. With 0 there is no time to tell
   * Telegram which updates were started: they may come again.
   *
   * @default Infinity
   */
  timeout?: number;
}

/**
 * What a stop with a time limit had to give up.
 *
 * @typeParam Y Type of the updates
 *
 * @example
 * ```ts
 * import type { StopReport } from "@grammyjs/runner";
 * import type { Update } from "grammy/types";
 *
 * function idsOf({ unfinished, unstarted }: StopReport<Update>): number[] {
 *   return [...unfinished, ...unstarted].map((update) => update.update_id);
 * }
 * ```
 */
export interface StopReport<Y> {
  /** Updates that were running, in the order of their arrival. */
  unfinished: Y[];
  /**
   * Updates that were received but waited for their turn. Those that a durable
   * inbox keeps, or that are left on Telegram, are not listed.
   */
  unstarted: Y[];
}

/**
 * Controls a runner.
 *
 * @typeParam Y Type of the updates
 *
 * @example
 * ```ts
 * import { run } from "@grammyjs/runner";
 * import { Bot } from "grammy";
 *
 * async function main() {
 *   const handle = run(new Bot("123456:token"));
 *   // Later:
 *   const { unfinished } = await handle.stop({ timeout: 10_000 });
 *   console.log(`${unfinished.length} updates took too long`);
 * }
 * ```
 */
export interface RunnerHandle<Y = unknown> {
  /**
   * Starts the runner, also again after a stop or a failure. Does nothing while
   * it is running. `run` calls it for you.
   */
  start: () => void;
  /**
   * Stops the runner: no more updates are fetched, and those that were started
   * finish. Resolves when all of them have ended and Telegram knows about it.
   * With a time limit, resolves by then with what had to be given up. Rejects
   * only with a `RangeError`, if the time limit is below 0 or not a number.
   *
   * Can be called at any time and repeatedly. Do not wait for it in a handler,
   * as it waits for the handler, too.
   */
  stop: {
    (options: StopOptions): Promise<StopReport<Y>>;
    (): Promise<void>;
  };
  /** Number of updates that are being handled. */
  size: () => number;
  /**
   * A promise that resolves when the runner has stopped, and that rejects if it
   * stopped because of an error. `undefined` while it is not running, unless it
   * has failed.
   */
  task: () => Promise<void> | undefined;
  /** Whether the runner is running: started, and neither stopped nor failed. */
  isRunning: () => boolean;
  /** Takes a snapshot of what the runner does and has done. */
  stats: () => RunnerStats;
  /** Stops the runner, see {@link RunnerHandle.stop}. */
  [Symbol.asyncDispose]: () => Promise<void>;
}

/**
 * Runs a bot on long polling, or on another source of updates, and handles them
 * concurrently.
 *
 * Errors in handlers go to `bot.catch`. Use {@link sequentialize} to keep the
 * order of updates where it matters.
 *
 * @typeParam Y Type of the updates
 * @typeParam R Type of the errors of the bot
 * @param bot The bot to run
 * @param options Further options
 * @returns A handle to control the runner, which has already been started
 * @throws {RangeError} If an option is out of bounds
 * @throws {TypeError} If an option is of the wrong type
 *
 * @example
 * ```ts
 * import { run } from "@grammyjs/runner";
 * import { Bot } from "grammy";
 *
 * function main() {
 *   const bot = new Bot("123456:token");
 *   bot.on("message", (ctx) => ctx.reply("Got it!"));
 *   bot.catch((error) => console.error(error.message));
 *   run(bot, { sink: { concurrency: 100 } });
 * }
 * ```
 */
export function run<Y extends { update_id: number }, R>(
  bot: BotAdapter<Y, R>,
  options: RunOptions<Y> = {},
): RunnerHandle<Y> {
  const { source: given = {}, inbox, onEvent, signal } = options;
  if (typeof given !== "object" || given === null) {
    throw new TypeError(
      `Cannot create runner: source must be options or a source: received ${given}`,
    );
  }
  const supplier = createUpdateSupplier(bot, options.runner);
  const source = "generator" in given
    ? initializing(given, supplier)
    : createSource(supplier, given);
  const sink = createConcurrentSink<Y, R>(
    {
      consume(update, slot) {
        linkSlot(update, slot);
        return bot.handleUpdate(update);
      },
    },
    async (error) => void await bot.errorHandler(error),
    options.sink,
  );
  const handle = createRunner(source, sink, {
    inbox,
    onEvent,
    signal,
    silent: options.runner?.silent,
    botId: botIdOf(bot),
  });
  handle.start();
  return handle;
}

/** The same source, but ready only when the bot is initialized. */
function initializing<Y>(
  source: UpdateSource<Y>,
  supplier: UpdateSupplier<Y>,
): UpdateSource<Y> {
  const ready: UpdateSource<Y>["ready"] = async (signal, emit) => {
    await supplier.ready?.(signal, emit);
    await source.ready?.(signal, emit);
  };
  // Not a copy, as members of a class instance are not its own.
  return new Proxy({} as UpdateSource<Y>, {
    get(_, name) {
      if (name === "ready") return ready;
      const member = Reflect.get(source, name);
      return typeof member === "function" ? member.bind(source) : member;
    },
  });
}

/** The bot's id as its token tells, or its `botInfo` where that is set. */
function botIdOf(
  bot: { token?: string; botInfo?: { id?: number } },
): number | undefined {
  const id = /^\d+(?=:)/.exec(bot.token ?? "")?.[0];
  if (id !== undefined) return Number(id);
  try {
    return bot.botInfo?.id;
  } catch {
    return undefined; // grammY throws until the bot is initialized
  }
}

/**
 * Creates a runner from its parts. It takes updates from the source and hands as
 * many to the sink as that has room for.
 *
 * @typeParam Y Type of the updates
 * @param source Where updates come from
 * @param sink Where updates are processed
 * @param options Further options
 * @returns A handle to start and control the runner
 * @throws {TypeError} If a part is missing a method
 *
 * @example
 * ```ts
 * import {
 *   createConcurrentSink,
 *   createRunner,
 *   createSource,
 * } from "@grammyjs/runner";
 *
 * let n = 0;
 * const source = createSource({ supply: () => Promise.resolve([n++]) });
 * const sink = createConcurrentSink<number>(
 *   {
 *     async consume(update) {
 *       if (update === 10) handle.stop();
 *     },
 *   },
 *   async (error) => console.error(error),
 * );
 * const handle = createRunner(source, sink);
 * handle.start();
 * await handle.task();
 * ```
 */
export function createRunner<Y>(
  source: UpdateSource<Y>,
  sink: UpdateSink<Y>,
  options: CreateRunnerOptions<Y> = {},
): RunnerHandle<Y> {
  if (typeof source?.generator !== "function") {
    throw new TypeError(
      `Cannot create runner: the source must have a method generator: received ${source}`,
    );
  }
  if (typeof sink?.handle !== "function") {
    throw new TypeError(
      `Cannot create runner: the sink must have a method handle: received ${sink}`,
    );
  }
  const { inbox = createMemoryInbox<Y>(), onEvent, signal } = options;
  if (onEvent !== undefined && typeof onEvent !== "function") {
    throw new TypeError(
      `Cannot create runner: onEvent must be a function: received ${onEvent}`,
    );
  }
  for (const method of ["open", "append", "take", "settle", "close"] as const) {
    if (typeof inbox?.[method] !== "function") {
      throw new TypeError(
        `Cannot create runner: the inbox must have a method ${method}: received ${inbox}`,
      );
    }
  }
  if (signal !== undefined && typeof signal?.addEventListener !== "function") {
    throw new TypeError(
      `Cannot create runner: signal must be an AbortSignal: received ${signal}`,
    );
  }
  return new Runner(source, sink, { ...options, inbox, onEvent, signal });
}

class Runner<Y> implements RunnerHandle<Y> {
  readonly #source: UpdateSource<Y>;
  readonly #sink: ReturnType<typeof completeSink<Y>>;
  readonly #inbox: UpdateInbox<Y>;
  readonly #options: CreateRunnerOptions<Y>;
  readonly #leftovers = new Leftovers<Y>();
  /** The current run, or the last one. */
  #run: Run<Y> | undefined;
  #task: Promise<void> | undefined;
  #retrying = false;
  #received = 0;
  #outcomes = { handled: 0, failed: 0, timedOut: 0 };
  #startedAt: number | undefined;
  #polls = 0;
  #lastPollAt: number | undefined;
  #lastError: unknown;

  constructor(
    source: UpdateSource<Y>,
    sink: UpdateSink<Y>,
    options: CreateRunnerOptions<Y> & { inbox: UpdateInbox<Y> },
  ) {
    this.#source = source;
    this.#sink = completeSink(sink);
    this.#inbox = options.inbox;
    this.#options = options;
  }

  readonly start = (): void => {
    const { signal } = this.#options;
    if (this.isRunning() || signal?.aborted) return;
    this.#retrying = false;
    this.#startedAt = Date.now();
    const run = new Run<Y>({
      source: this.#source,
      sink: this.#sink,
      inbox: this.#inbox,
      botId: this.#options.botId,
      observed: this.#options.onEvent !== undefined,
      stats: this.stats,
      leftovers: this.#leftovers,
      emit: (event) => this.#emit(event),
      onPoll: (event) => this.#onPoll(event),
      onReceived: (updates) => this.#onReceived(updates),
      onEnded: (end, receivedAt) => this.#onEnded(end, receivedAt),
    }, this.#run);
    this.#run = run;
    const stop = () => run.stop();
    signal?.addEventListener("abort", stop, { once: true });
    // If this rejects and nobody has asked for it, the runtime shall tell.
    this.#task = run.done.then(() => {
      signal?.removeEventListener("abort", stop);
      if (run.failed) throw run.error;
    });
  };

  readonly stop = (async (options?: StopOptions) => {
    const timeout = options?.timeout ?? Infinity;
    if (!(timeout >= 0)) {
      throw new RangeError(
        `Cannot stop runner: timeout must be at least 0: received ${timeout}`,
      );
    }
    const run = this.#run;
    run?.stop();
    if (timeout === Infinity) await run?.done;
    else await run?.expireAfter(timeout);
    if (options === undefined) return;
    return {
      unfinished: [...run?.unfinished ?? []],
      unstarted: [...run?.unstarted ?? []],
    };
  }) as RunnerHandle<Y>["stop"];

  readonly size = (): number => this.#sink.size();

  readonly task = (): Promise<void> | undefined =>
    this.isRunning() || this.#run?.failed ? this.#task : undefined;

  readonly isRunning = (): boolean =>
    this.#run !== undefined && !this.#run.stopping;

  readonly stats = (): RunnerStats => {
    const { limits, ...sink } = this.#sink.stats?.() ??
      { running: this.#sink.size(), parked: 0, oldestRunningMs: 0 };
    const { running = Infinity, parked = Infinity } = limits ?? {};
    const { lookahead = Infinity } = this.#inbox;
    return {
      state: this.#state,
      startedAt: this.#startedAt,
      received: this.#received,
      ...this.#outcomes,
      ...sink,
      blockedMs: this.#run?.blockedMs ?? 0,
      buffered: this.#run === undefined
        ? 0
        : this.#run.buffered + this.#run.held,
      limits: { running, parked, buffered: 2 * lookahead },
      polls: this.#polls,
      lastPollAt: this.#lastPollAt,
      lastError: this.#lastError,
      inbox: this.#inbox.stats?.() ?? {},
    };
  };

  readonly [Symbol.asyncDispose] = (): Promise<void> => this.stop();

  get #state(): RunnerState {
    const run = this.#run;
    if (run === undefined) return "idle";
    if (!run.stopping) return this.#retrying ? "retrying" : "polling";
    if (!run.over) return "draining";
    return run.failed ? "failed" : "stopped";
  }

  #emit(event: RunnerEvent<Y>): void {
    if (event.type === "fatal") this.#lastError = event.error;
    if (!this.#options.silent) logEvent(event);
    this.#tell(event);
  }

  /** Unlike for other events, printing these is up to the fetcher. */
  #onPoll(event: PollEvent): void {
    if (event.type === "poll") {
      this.#polls++;
      this.#lastPollAt = Date.now();
      this.#retrying = false;
    } else if (event.type === "poll-failed") {
      this.#retrying = true;
      this.#lastError = event.error;
    } else if (event.type === "recovered") {
      this.#retrying = false;
    }
    this.#tell(event);
  }

  #onReceived(updates: Y[]): void {
    this.#received += updates.length;
    if (this.#options.onEvent === undefined || updates.length === 0) return;
    this.#tell({ type: "received", updates });
  }

  #onEnded(end: TaskEnd<Y>, receivedAt: number | undefined): void {
    const { elem: update, outcome } = end;
    this.#outcomes[outcome]++;
    if (this.#options.onEvent === undefined) return;
    const { ranMs, parkedMs, error } = end;
    const waitedMs = receivedAt === undefined
      ? parkedMs
      : Math.max(0, Date.now() - receivedAt - ranMs);
    this.#tell({ type: "ended", update, outcome, waitedMs, ranMs, error });
  }

  /** The hook observes; it must not be able to steer. */
  #tell(event: RunnerEvent<Y>): void {
    try {
      const told: unknown = this.#options.onEvent?.(event);
      if (told instanceof Promise) told.catch(() => {});
    } catch {
      // Ignored, as documented.
    }
  }
}
