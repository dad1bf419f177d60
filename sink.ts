import {
  DecayingDeque,
  type Slot,
  type TaskEnd,
  type TaskObserver,
} from "./queue.ts";

/**
 * Processes updates one by one. `run(bot)` makes one for the bot; you need your
 * own only to process updates differently, for example to pass them on to a
 * message queue.
 *
 * @typeParam Y Type of the updates
 *
 * @example
 * ```ts
 * import { createSequentialSink, type UpdateConsumer } from "@grammyjs/runner";
 *
 * class Printer implements UpdateConsumer<string> {
 *   async consume(update: string) {
 *     console.log(update);
 *   }
 * }
 *
 * const sink = createSequentialSink(
 *   new Printer(),
 *   async (error) => console.error(error),
 * );
 * ```
 */
export interface UpdateConsumer<Y> {
  /**
   * Processes an update.
   *
   * @param update The update
   * @param slot The right to run, see {@link Slot}; passed by the sinks of this
   * module
   * @returns A promise that settles when the update has been processed
   */
  consume: (update: Y, slot?: Slot) => Promise<void>;
}

/**
 * Takes updates in and processes them. The first three members are all that a
 * sink of your own needs; with the others, the runner works more exactly.
 *
 * Without them, a sink has room for as many updates as `handle` last resolved
 * with, and an update has ended when `snapshot` no longer lists it. If `snapshot`
 * lists other objects than those that `handle` was given, updates have ended when
 * `size` is 0. Updates that `snapshot` does not list when `handle` rejects have
 * failed.
 *
 * @typeParam Y Type of the updates
 *
 * @example
 * ```ts
 * import type { UpdateSink } from "@grammyjs/runner";
 *
 * // Passes one batch on at a time, and takes the next 100 after that.
 * let current: string[] = [];
 * const sink: UpdateSink<string> = {
 *   async handle(updates) {
 *     current = updates;
 *     await fetch("https://example.com", {
 *       method: "POST",
 *       body: JSON.stringify(updates),
 *     });
 *     current = [];
 *     return 100;
 *   },
 *   size: () => current.length,
 *   snapshot: () => current,
 * };
 * ```
 */
export interface UpdateSink<Y> {
  /**
   * Takes updates in. Resolves with the number of updates that the sink is ready
   * to take next, as soon as that is positive. Anything else counts as 1, unless
   * the sink has the members below.
   *
   * @param updates The updates, can be empty
   * @param observer Hears of what happens to these updates; only for sinks that
   * have the members below
   */
  handle: (updates: Y[], observer?: TaskObserver<Y>) => Promise<number>;
  /** Number of updates that are being processed. */
  size: () => number;
  /** The updates that are being processed, in the order of their arrival. */
  snapshot: () => Y[];
  /**
   * Number of updates that the sink can take right now. A sink that has this
   * member tells the observer passed to `handle` how each update ends.
   */
  room?: () => number;
  /**
   * Gives up the updates that were passed along with the observer, because a
   * stop ran out of time.
   *
   * @returns The updates that were running, and those that were parked
   */
  abandon?: (
    reason: DOMException,
    observer: TaskObserver<Y>,
  ) => { running: Y[]; parked: Y[] };
  /**
   * Number of running and of parked updates, their limits if there are any, and
   * the age of the oldest running one.
   */
  stats?: () => {
    running: number;
    parked: number;
    limits?: { running: number; parked: number };
    oldestRunningMs: number;
  };
}

/**
 * Options of the sinks.
 *
 * @typeParam Y Type of the updates
 *
 * @example
 * ```ts
 * import { run, type SinkOptions } from "@grammyjs/runner";
 * import { Bot } from "grammy";
 * import type { Update } from "grammy/types";
 *
 * const sink: SinkOptions<Update> = {
 *   concurrency: 50,
 *   timeout: {
 *     milliseconds: 30_000,
 *     handler: (update) => console.error("Too slow:", update.update_id),
 *   },
 * };
 *
 * function main() {
 *   run(new Bot("123456:token"), { sink });
 * }
 * ```
 */
export interface SinkOptions<Y> {
  /**
   * How many updates are processed at the same time at most: an integer of at
   * least 1, or `Infinity`. Only for concurrent sinks.
   *
   * @default 500
   */
  concurrency?: number;
  /**
   * Time limit for each update: `milliseconds`, above 0, for which it may run, and
   * a `handler` that is called with each update that exceeds it, and with the
   * promise of its processing, which goes on. None by default.
   */
  timeout?: {
    /**
     * How long an update may run, in milliseconds; above 0. The time for which
     * it waits in `sequentialize` does not count. Limits above 2^31 - 1, or
     * `Infinity`, never end.
     */
    milliseconds: number;
    /**
     * Called synchronously with each update that exceeds the limit, and the
     * promise of its processing, which goes on: use `abortSignal(ctx)` to end
     * it.
     */
    handler: (update: Y, task: Promise<void>) => void;
  };
  /**
   * How many updates may wait for others, for example in `sequentialize`, on top
   * of the running ones: an integer of at least 0, or `Infinity`. They take up
   * memory only. Only for concurrent sinks.
   *
   * @default 5000
   */
  backlog?: number;
}

/**
 * Creates a sink that processes updates one after another. An update is started
 * when the one before has been processed, or has failed and its error has been
 * handled.
 *
 * This is what `bot.start()` of grammY does, too. It is predictable and slow.
 *
 * @typeParam Y Type of the updates
 * @typeParam R Type of the errors
 * @param handler Processes the updates
 * @param errorHandler Called with the errors of updates
 * @param options Further options
 * @returns A new sink
 * @throws {RangeError} If an option is out of bounds
 * @throws {TypeError} If an option is of the wrong type
 *
 * @example
 * ```ts
 * import { createSequentialSink } from "@grammyjs/runner";
 *
 * const sink = createSequentialSink<string>(
 *   { consume: async (update) => console.log(update) },
 *   async (error) => console.error(error),
 * );
 * await sink.handle(["first", "second"]);
 * ```
 */
export function createSequentialSink<Y, R = unknown>(
  handler: UpdateConsumer<Y>,
  errorHandler: (error: R) => Promise<void>,
  options: SinkOptions<Y> = {},
): UpdateSink<Y> {
  // No backlog: a parked update holds up the others like a running one.
  const queue = createQueue(handler, errorHandler, options, 1, 0);
  return {
    ...createSinkMembers(queue, 0),
    async handle(updates, observer) {
      for (const update of updates) {
        while (queue.room < 1) await queue.capacity();
        queue.add([update], observer);
      }
      while (queue.room < 1) await queue.capacity();
      return Infinity;
    },
  };
}

/**
 * Creates a sink that processes the updates of a batch concurrently, and takes
 * the next batch when all of them are done. Rarely useful: it exists for bots
 * that rely on this behavior of older frameworks.
 *
 * @typeParam Y Type of the updates
 * @typeParam R Type of the errors
 * @param handler Processes the updates
 * @param errorHandler Called with the errors of updates
 * @param options Further options
 * @returns A new sink
 * @throws {RangeError} If an option is out of bounds
 * @throws {TypeError} If an option is of the wrong type
 *
 * @example
 * ```ts
 * import { createBatchSink } from "@grammyjs/runner";
 *
 * const sink = createBatchSink<string>(
 *   { consume: async (update) => console.log(update) },
 *   async (error) => console.error(error),
 * );
 * await sink.handle(["these two", "run concurrently"]);
 * ```
 */
export function createBatchSink<Y, R = unknown>(
  handler: UpdateConsumer<Y>,
  errorHandler: (error: R) => Promise<void>,
  options: SinkOptions<Y> = {},
): UpdateSink<Y> {
  const queue = createQueue(handler, errorHandler, options, Infinity, Infinity);
  return {
    ...createSinkMembers(queue, Infinity),
    async handle(updates, observer) {
      queue.add(updates, observer);
      await queue.empty();
      return Infinity;
    },
    room: () => queue.length === 0 ? Infinity : 0,
  };
}

/**
 * Creates a sink that processes updates concurrently, up to a limit. This is
 * what `run(bot)` uses.
 *
 * @typeParam Y Type of the updates
 * @typeParam R Type of the errors
 * @param handler Processes the updates
 * @param errorHandler Called with the errors of updates
 * @param options Further options
 * @returns A new sink
 * @throws {RangeError} If an option is out of bounds
 * @throws {TypeError} If an option is of the wrong type
 *
 * @example
 * ```ts
 * import { createConcurrentSink } from "@grammyjs/runner";
 *
 * const sink = createConcurrentSink<string>(
 *   { consume: async (update) => console.log(update) },
 *   async (error) => console.error(error),
 *   { concurrency: 50 },
 * );
 * const room = await sink.handle(["these two", "run concurrently"]);
 * console.log(room); // 48
 * ```
 */
export function createConcurrentSink<Y, R = unknown>(
  handler: UpdateConsumer<Y>,
  errorHandler: (error: R) => Promise<void>,
  options: SinkOptions<Y> = {},
): UpdateSink<Y> {
  const { concurrency = 500, backlog = 5000 } = options;
  const queue = createQueue(
    handler,
    errorHandler,
    options,
    concurrency,
    backlog,
  );
  return {
    ...createSinkMembers(queue, backlog),
    handle: (updates, observer) => queue.add(updates, observer),
  };
}

function createQueue<Y, R>(
  consumer: UpdateConsumer<Y>,
  errorHandler: (error: R) => Promise<void>,
  options: SinkOptions<Y>,
  concurrency: number,
  backlog: number,
): DecayingDeque<Y, R> {
  checkOptions(options);
  if (typeof consumer?.consume !== "function") {
    throw new TypeError(
      `Cannot create sink: the update consumer must have a method consume: received ${consumer}`,
    );
  }
  if (typeof errorHandler !== "function") {
    throw new TypeError(
      `Cannot create sink: the error handler must be a function: received ${errorHandler}`,
    );
  }
  const { timeout } = options;
  return new DecayingDeque<Y, R>(
    timeout?.milliseconds ?? Infinity,
    (update, slot) => consumer.consume(update, slot),
    concurrency,
    (error) => errorHandler(error),
    (update, task) => timeout?.handler?.(update, task),
    { backlog },
  );
}

function createSinkMembers<Y, R>(
  queue: DecayingDeque<Y, R>,
  backlog: number,
): Omit<Required<UpdateSink<Y>>, "handle"> {
  return {
    size: () => queue.length,
    snapshot: () => queue.pendingTasks(),
    room: () => Math.max(0, queue.room),
    abandon: (reason, observer) => queue.abandon(reason, observer),
    stats: () => ({
      running: queue.running,
      parked: queue.parked,
      limits: { running: queue.concurrency, parked: backlog },
      oldestRunningMs: queue.oldestRunningMs,
    }),
  };
}

function checkOptions<Y>(options: SinkOptions<Y>): void {
  const { concurrency, timeout, backlog } = options;
  checkCount("concurrency", concurrency, 1);
  checkCount("backlog", backlog, 0);
  if (timeout === undefined) return;
  if (typeof timeout !== "object" || timeout === null) {
    throw new TypeError(
      `Cannot create sink: timeout must be an object: received ${timeout}`,
    );
  }
  // 2.0.3 lets programs without types leave out either of them.
  const { milliseconds = Infinity, handler = () => {} } = timeout;
  if (typeof milliseconds !== "number") {
    throw new TypeError(
      `Cannot create sink: timeout.milliseconds must be a number: received ${milliseconds}`,
    );
  }
  if (!(milliseconds > 0)) {
    throw new RangeError(
      `Cannot create sink: timeout.milliseconds must be above 0: received ${milliseconds}`,
    );
  }
  if (typeof handler !== "function") {
    throw new TypeError(
      `Cannot create sink: timeout.handler must be a function: received ${handler}`,
    );
  }
}

function checkCount(name: string, value: unknown, least: number): void {
  if (value === undefined) return;
  if (typeof value !== "number") {
    throw new TypeError(
      `Cannot create sink: ${name} must be a number: received ${value}`,
    );
  }
  if (value !== Infinity && !Number.isInteger(value) || value < least) {
    throw new RangeError(
      `Cannot create sink: ${name} must be an integer of at least ${least}, or Infinity: received ${value}`,
    );
  }
}

type CompleteSink<Y> =
  & UpdateSink<Y>
  & Required<Pick<UpdateSink<Y>, "room">>;

/** What {@link completeSink} made; runners that share a sink share this, too. */
const completed = new WeakMap<object, unknown>();

/**
 * Makes up for the members that a sink does not have, by looking at its size and
 * its snapshot from time to time.
 *
 * @returns The sink itself if it has all that the runner needs
 */
export function completeSink<Y>(sink: UpdateSink<Y>): CompleteSink<Y> {
  if (sink.room !== undefined) return sink as CompleteSink<Y>;
  const existing = completed.get(sink) as CompleteSink<Y> | undefined;
  if (existing !== undefined) return existing;
  /** Updates whose end has not been told, oldest first. */
  let pending: LegacyTask<Y>[] = [];
  let room = Infinity;
  let timer: ReturnType<typeof setInterval> | undefined;

  /** Tells which updates have ended. Takes time for each that has not. */
  function look(): void {
    const snapshot = sink.snapshot();
    // Updates of primitive types can be equal: how often is each listed?
    const listed = new Map<Y, number>();
    for (const elem of snapshot) listed.set(elem, (listed.get(elem) ?? 0) + 1);
    const missing: LegacyTask<Y>[] = [];
    // Of equal updates, the oldest ends first.
    for (let i = pending.length - 1; i >= 0; i--) {
      const task = pending[i];
      const count = listed.get(task.elem) ?? 0;
      if (count > 0) {
        listed.set(task.elem, count - 1);
        task.seen = true;
      } else {
        missing.push(task);
      }
    }
    // Some sinks count their updates without listing them, or list other objects
    // in their place. Nothing can be told from those, until none are left.
    const known = pending.length - missing.length;
    const size = sink.size();
    const exact = known === snapshot.length && known >= size;
    const ended = new Set<LegacyTask<Y>>();
    for (const task of missing.reverse()) {
      // It may have yet to be listed until the sink has taken it in.
      const over = task.seen || task.state === "refused" ||
        (task.state === "taken" && (exact || size === 0));
      if (over) ended.add(task);
    }
    if (ended.size > 0) pending = pending.filter((task) => !ended.has(task));
    keepLooking();
    for (const task of ended) task.observer.ended(new LegacyEnd(task));
  }

  /** Looks at intervals, for as long as there is something to look for. */
  function keepLooking(): void {
    if (pending.length === 0) return stopLooking();
    timer ??= setInterval(look, 20);
    // Updates that were given up are no reason to keep the process alive.
    setRef(timer, pending.some((task) => !task.givenUp));
  }

  function stopLooking(): void {
    clearInterval(timer);
    timer = undefined;
  }

  const complete: CompleteSink<Y> = {
    async handle(updates, observer) {
      room = 0;
      const tasks = observer === undefined
        ? []
        : updates.map((elem) => new LegacyTask(elem, observer));
      for (const task of tasks) pending.push(task);
      keepLooking();
      try {
        const next = await sink.handle(updates);
        // Sinks can resolve with anything, and 2.0.3 goes on all the same.
        room = next >= 1 ? next : 1;
      } catch (error) {
        for (const task of tasks) task.refuse(error);
        look();
        throw error;
      }
      for (const task of tasks) task.state = "taken";
      // Looking costs too much to do it for each call that ends nothing.
      if (sink.size() === 0) look();
      return room;
    },
    size: () => sink.size(),
    snapshot: () => sink.snapshot(),
    room() {
      // What a stop gave up is of interest again to the next run.
      if (pending.length > 0 && timer === undefined) look();
      return room;
    },
    abandon(_reason, observer) {
      look();
      const given = pending.filter((task) => task.observer === observer);
      for (const task of given) task.givenUp = true;
      if (pending.every((task) => task.givenUp)) stopLooking();
      return { running: given.map(({ elem }) => elem), parked: [] };
    },
  };
  completed.set(sink, complete);
  return complete;
}

/** Sets whether a timer keeps the process alive, where timers are objects. */
function setRef(timer: unknown, ref: boolean): void {
  const { ref: hold, unref: release } = timer as {
    ref?: () => void;
    unref?: () => void;
  };
  (ref ? hold : release)?.call(timer);
}

/** An update that a custom sink processes. */
class LegacyTask<Y> {
  /** Whether the snapshot has ever listed it. */
  seen = false;
  /** How the call of `handle` that passed it on has settled. */
  state: "passed" | "taken" | "refused" = "passed";
  /** What that call has rejected with. */
  error: unknown;
  /** Whether a stop has given it up. */
  givenUp = false;
  constructor(readonly elem: Y, readonly observer: TaskObserver<Y>) {}

  refuse(error: unknown): void {
    this.state = "refused";
    this.error = error;
  }
}

/**
 * Custom sinks do not tell how an update ended, nor how long it took. Only those
 * that a sink failed to take in are known not to have been handled.
 */
class LegacyEnd<Y> implements TaskEnd<Y> {
  readonly elem: Y;
  readonly outcome: "handled" | "failed";
  readonly error: unknown;
  readonly parkedMs = 0;
  readonly ranMs = 0;
  constructor(task: LegacyTask<Y>) {
    const failed = task.state === "refused" && !task.seen;
    this.elem = task.elem;
    this.outcome = failed ? "failed" : "handled";
    this.error = failed ? task.error : undefined;
  }
}
