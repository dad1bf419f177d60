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
 * with, and an update has ended when `snapshot` no longer lists it.
 *
 * @typeParam Y Type of the updates
 */
export interface UpdateSink<Y> {
  /**
   * Takes updates in. Resolves with the number of updates that the sink is ready
   * to take next, as soon as that is positive.
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
  /** Number of running and of parked updates, and the age of the oldest. */
  stats?: () => { running: number; parked: number; oldestRunningMs: number };
}

/**
 * Options of the sinks.
 *
 * @typeParam Y Type of the updates
 */
export interface SinkOptions<Y> {
  /**
   * How many updates are processed at the same time at most: an integer of at
   * least 1, or `Infinity`. Only for concurrent sinks.
   *
   * @default 500
   */
  concurrency?: number;
  /** Time limit for each update. None by default. */
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
    ...createSinkMembers(queue),
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
    ...createSinkMembers(queue),
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
    ...createSinkMembers(queue),
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
): Omit<Required<UpdateSink<Y>>, "handle"> {
  return {
    size: () => queue.length,
    snapshot: () => queue.pendingTasks(),
    room: () => Math.max(0, queue.room),
    abandon: (reason, observer) => queue.abandon(reason, observer),
    stats: () => ({
      running: queue.running,
      parked: queue.parked,
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

/**
 * Makes up for the members that a sink does not have, by looking at its
 * snapshot.
 *
 * @returns The sink itself if it has all that the runner needs
 */
export function completeSink<Y>(
  sink: UpdateSink<Y>,
): UpdateSink<Y> & Required<Pick<UpdateSink<Y>, "room">> {
  if (sink.room !== undefined) return sink as Required<UpdateSink<Y>>;
  /** Updates whose end has not been told, oldest first. */
  let pending: LegacyTask<Y>[] = [];
  let room = Infinity;
  let timer: ReturnType<typeof setInterval> | undefined;

  function look(): void {
    const snapshot = sink.snapshot();
    // Updates of primitive types can be equal: how often is each listed?
    const listed = new Map<Y, number>();
    for (const elem of snapshot) listed.set(elem, (listed.get(elem) ?? 0) + 1);
    // Some sinks count their updates without listing them.
    const complete = snapshot.length >= sink.size();
    const ended: LegacyTask<Y>[] = [];
    const remaining: LegacyTask<Y>[] = [];
    // Of equal updates, the oldest ends first.
    for (let i = pending.length - 1; i >= 0; i--) {
      const task = pending[i];
      const count = listed.get(task.elem) ?? 0;
      if (count > 0) {
        listed.set(task.elem, count - 1);
        task.seen = true;
      }
      // It may have yet to be listed until the sink has taken it in.
      const over = count === 0 && (task.seen || (task.takenIn && complete));
      (over ? ended : remaining).push(task);
    }
    pending = remaining.reverse();
    if (pending.length === 0) stopLooking();
    else timer ??= setInterval(look, 20);
    for (const { elem, observer } of ended.reverse()) {
      observer.ended(new LegacyEnd(elem));
    }
  }

  function stopLooking(): void {
    clearInterval(timer);
    timer = undefined;
  }

  return {
    async handle(updates, observer) {
      room = 0;
      const tasks: LegacyTask<Y>[] = [];
      if (observer) {
        for (const elem of updates) {
          tasks.push({ elem, observer, seen: false, takenIn: false });
        }
        pending.push(...tasks);
      }
      try {
        const handled = sink.handle(updates);
        look();
        room = await handled;
      } finally {
        for (const task of tasks) task.takenIn = true;
        look();
      }
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
      stopLooking();
      if (given.length < pending.length) look();
      return { running: given.map(({ elem }) => elem), parked: [] };
    },
  };
}

/** An update that a custom sink processes. */
interface LegacyTask<Y> {
  readonly elem: Y;
  readonly observer: TaskObserver<Y>;
  /** Whether the snapshot has ever listed it. */
  seen: boolean;
  /** Whether the call of `handle` that passed it on has settled. */
  takenIn: boolean;
}

/** Custom sinks do not tell how an update ended, nor how long it took. */
class LegacyEnd<Y> implements TaskEnd<Y> {
  readonly outcome = "handled";
  readonly error = undefined;
  readonly parkedMs = 0;
  readonly ranMs = 0;
  constructor(readonly elem: Y) {}
}
