import { checkCount } from "./_check.ts";
import type { RunnerEvent } from "./events.ts";

/**
 * What an inbox gets to know about the run that opens it.
 *
 * @typeParam Y Type of the updates
 *
 * @example
 * ```ts
 * import type { InboxRun } from "@grammyjs/runner";
 *
 * async function open({ botId, signal, emit }: InboxRun<unknown>) {
 *   signal.throwIfAborted();
 *   if (botId === undefined) throw new TypeError("Whose updates are these?");
 *   emit({ type: "inbox", level: "info", message: `Opened for bot ${botId}` });
 * }
 * ```
 */
export interface InboxRun<Y> {
  /** The numeric id of the bot, if it is known. */
  botId: number | undefined;
  /** Aborts when the runner gives up opening the inbox. */
  signal: AbortSignal;
  /** Tells the observers of the runner what happened in the inbox. */
  emit(event: RunnerEvent<Y>): void;
}

/**
 * Holds the updates that have been received and are not finished: the buffer
 * between the half of the runner that fetches and the half that handles. Where
 * it is durable, it makes a crash lose nothing.
 *
 * **Order of calls.** `open` comes first, and `close` last; an inbox can be
 * opened again after that. In between, `append` and `take` are called
 * concurrently with each other, but there is never more than one call of each
 * under way. `settle` can come at any time, also after `close`, and is ignored
 * then.
 *
 * **Fetching is acknowledged by fetching on:** the runner asks Telegram for more
 * only after `append` has resolved. So a durable inbox must have stored the
 * updates by then.
 *
 * **Errors.** A rejection that is not caused by the abort of the signal that was
 * passed is fatal: the runner stops fetching, finishes what has been stored, and
 * its `task()` rejects. An inbox waits out passing outages inside the call.
 *
 * @typeParam Y Type of the updates
 *
 * @example
 * ```ts
 * import { createMemoryInbox, type UpdateInbox } from "@grammyjs/runner";
 * import type { Update } from "grammy/types";
 *
 * // An inbox that tells what passes through it.
 * const inner = createMemoryInbox<Update>();
 * const inbox: UpdateInbox<Update> = {
 *   durable: inner.durable,
 *   open: (run) => inner.open(run),
 *   append(updates, signal) {
 *     console.log("received", updates.length);
 *     return inner.append(updates, signal);
 *   },
 *   take: (limit, signal) => inner.take(limit, signal),
 *   settle: (update) => inner.settle(update),
 *   close: () => inner.close(),
 * };
 * ```
 */
export interface UpdateInbox<Y> {
  /** Whether what is stored survives a crash and a stop. */
  readonly durable: boolean;
  /**
   * How many updates are worth fetching at once. Unlimited if absent, which
   * means 100 for Telegram.
   */
  readonly lookahead?: number;
  /**
   * Opens the inbox. The unfinished updates of earlier runs can be taken from
   * now on.
   */
  open(run: InboxRun<Y>): Promise<void>;
  /**
   * Resolves when this process may fetch updates. The signal it resolves with
   * aborts when it may no longer: fetching ends, what was fetched and is not
   * stored is left to whoever comes next, and this is called again. An inbox
   * without this method can always be fetched for.
   */
  lead?(signal: AbortSignal): Promise<AbortSignal>;
  /**
   * This process fetches no more, so another one may. Called at the end of a run,
   * once what has been stored is confirmed. Only for inboxes with `lead`.
   */
  resign?(): void;
  /**
   * Stores a batch of updates, all of them or none. They are stored once it
   * resolves. Waits while the inbox is full. A durable inbox drops updates that
   * it has seen before, finished or not.
   *
   * @param updates The updates in the order of their arrival
   * @param signal Aborts when the runner stops; nothing is stored then
   */
  append(updates: Y[], signal: AbortSignal): Promise<void>;
  /**
   * Takes updates out in order to handle them, the oldest first. Waits while
   * there are none.
   *
   * @param limit Largest number of updates to take: positive, can be `Infinity`
   * @param signal Aborts when the runner stops; nothing is taken then
   */
  take(limit: number, signal: AbortSignal): Promise<Y[]>;
  /**
   * An update ran to its end: it was handled, it failed, or it timed out. Called
   * with an update that was taken, once. Ignored after `close`.
   */
  settle(update: Y): void | Promise<void>;
  /**
   * An update that was taken gave up its slot to wait for others, as
   * `sequentialize` does, or is about to go on. It counts as running from `take`
   * on. Only for inboxes that want to know what was running when the process
   * died; must be quick, and is called between `take` and `settle`.
   *
   * @returns `false` if the update must not go on, as another process has it by
   * now; it is not settled then
   */
  running?(update: Y, running: boolean): boolean | void;
  /**
   * Updates that were taken will not be started: the run stops. They stay
   * unfinished, as all others at `close`, but other processes may take them now.
   */
  giveBack?(updates: Y[]): void;
  /**
   * Closes the inbox. What was not settled stays unfinished if the inbox is
   * durable, and is dropped otherwise.
   */
  close(): Promise<void>;
  /** What the inbox can tell about itself. `buffered` counts what can be taken. */
  stats?(): Record<string, number | boolean>;
}

/**
 * Options of {@link createMemoryInbox}.
 *
 * @example
 * ```ts
 * import { createMemoryInbox, type MemoryInboxOptions } from "@grammyjs/runner";
 *
 * const options: MemoryInboxOptions = { lookahead: 20 };
 * const inbox = createMemoryInbox(options);
 * ```
 */
export interface MemoryInboxOptions {
  /**
   * Number of updates that are held ready to be handled, so that handlers need
   * not wait for the network; the batch that is fetched while fewer are there
   * comes on top, with no more than as many. An integer of at least 1. With fewer,
   * more is left on Telegram for another process when this one stops.
   *
   * @default 100
   */
  lookahead?: number;
}

/**
 * Creates the inbox that is used by default: a bounded buffer in memory, which a
 * crash empties.
 *
 * @typeParam Y Type of the updates
 * @param options Further options
 * @returns A new inbox, to be used by one runner
 * @throws {RangeError} If `lookahead` is not an integer of at least 1
 * @throws {TypeError} If `lookahead` is not a number
 *
 * @example
 * ```ts
 * import { createMemoryInbox, run } from "@grammyjs/runner";
 * import { Bot } from "grammy";
 *
 * function main() {
 *   const bot = new Bot("123456:token");
 *   run(bot, { inbox: createMemoryInbox({ lookahead: 20 }) });
 * }
 * ```
 */
export function createMemoryInbox<Y>(
  options: MemoryInboxOptions = {},
): UpdateInbox<Y> {
  const { lookahead = 100 } = options;
  checkCount("lookahead", lookahead, 1);
  return new MemoryInbox(lookahead);
}

class MemoryInbox<Y> implements UpdateInbox<Y> {
  readonly durable = false;
  readonly lookahead: number;
  /** What can be taken, from position `#head` on. */
  #buffer: Y[] = [];
  #head = 0;
  /** Wakes the `append` that waits for room, or the `take` that waits for updates. */
  #wakeAppend: (() => void) | undefined;
  #wakeTake: (() => void) | undefined;

  constructor(lookahead: number) {
    this.lookahead = lookahead;
  }

  get #length(): number {
    return this.#buffer.length - this.#head;
  }

  open(): Promise<void> {
    return Promise.resolve();
  }

  async append(updates: Y[], signal: AbortSignal): Promise<void> {
    while (this.#length >= this.lookahead) {
      await wait(signal, (wake) => this.#wakeAppend = wake);
    }
    signal.throwIfAborted();
    for (const update of updates) this.#buffer.push(update);
    if (updates.length > 0) this.#wakeTake?.();
  }

  async take(limit: number, signal: AbortSignal): Promise<Y[]> {
    while (this.#length === 0) {
      await wait(signal, (wake) => this.#wakeTake = wake);
    }
    signal.throwIfAborted();
    const end = Math.min(this.#buffer.length, this.#head + limit);
    const taken = this.#buffer.slice(this.#head, end);
    this.#head = end;
    // Moving the rest only then keeps the cost per update constant.
    if (this.#head * 2 >= this.#buffer.length) {
      this.#buffer = this.#buffer.slice(this.#head);
      this.#head = 0;
    }
    if (this.#length < this.lookahead) this.#wakeAppend?.();
    return taken;
  }

  settle(): void {}

  close(): Promise<void> {
    this.#buffer = [];
    this.#head = 0;
    return Promise.resolve();
  }

  stats(): Record<string, number | boolean> {
    return { buffered: this.#length };
  }
}

/** Waits to be woken; rejects with the reason of the signal when it aborts. */
export function wait(
  signal: AbortSignal,
  subscribe: (wake: () => void) => void,
): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason);
    const abort = () => reject(signal.reason);
    signal.addEventListener("abort", abort, { once: true });
    subscribe(() => {
      signal.removeEventListener("abort", abort);
      resolve();
    });
  });
}
