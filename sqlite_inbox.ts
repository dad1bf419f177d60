/**
 * An inbox in an SQLite file, so that a crash loses nothing.
 *
 * @example
 * ```ts
 * import { run } from "@grammyjs/runner";
 * import { createSqliteInbox } from "@grammyjs/runner/sqlite";
 * import { Bot } from "grammy";
 *
 * function main() {
 *   const bot = new Bot("123456:token");
 *   run(bot, { inbox: createSqliteInbox("updates.db") });
 * }
 * ```
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import type { DatabaseSync } from "node:sqlite";
import { checkCount } from "./_check.ts";
import { onFailure } from "./_failure.ts";
import { closeInboxFile, openInboxFile } from "./_sqlite_file.ts";
import {
  type Entry,
  InboxLog,
  listQuarantine,
  type QuarantinedUpdate,
  releaseFromFile,
} from "./_sqlite_log.ts";
import { Isolation } from "./_suspect.ts";
import { type InboxRun, type UpdateInbox, wait } from "./inbox.ts";

export type { QuarantinedUpdate };

/**
 * Options of {@link createSqliteInbox}.
 *
 * @example
 * ```ts
 * import {
 *   createSqliteInbox,
 *   type SqliteInboxOptions,
 * } from "@grammyjs/runner/sqlite";
 *
 * const options: SqliteInboxOptions = { synchronous: "normal", maxAttempts: 5 };
 * const inbox = createSqliteInbox("updates.db", options);
 * ```
 */
export interface SqliteInboxOptions {
  /**
   * Number of updates that are held ready to be handled, so that handlers need
   * not wait for the network. An integer of at least 1.
   *
   * @default 100
   */
  lookahead?: number;
  /**
   * What the file survives: `"full"` a power cut, `"normal"`, which is faster,
   * the death of the process.
   *
   * @default "full"
   */
  synchronous?: "full" | "normal";
  /**
   * How many times the process may die while an update runs, until the update is
   * set aside: an integer of at least 1. The last of these attempts is made while
   * nothing else runs, for some seconds; then the others go on.
   *
   * This counts the deaths that the process sees coming: uncaught errors, and
   * exits with a code that tells of a failure. Any other can be a kill from
   * outside, so it takes that many of them in a row while the update runs alone.
   * Every death at which it was not running proves that something else kills the
   * process, and takes one more, until a life lasts for a minute.
   *
   * @default 3
   */
  maxAttempts?: number;
  /**
   * Number of finished updates whose ids are remembered, so that they do not run
   * again if Telegram sends them again: an integer of at least 0.
   *
   * @default 5_000
   */
  tombstones?: number;
}

/**
 * An inbox in an SQLite file.
 *
 * @typeParam Y Type of the updates
 *
 * @example
 * ```ts
 * import { createSqliteInbox, type SqliteInbox } from "@grammyjs/runner/sqlite";
 * import type { Update } from "grammy/types";
 *
 * // Once what killed the process is mended.
 * function releaseAll(inbox: SqliteInbox<Update>) {
 *   for (const { update } of inbox.quarantined()) inbox.release(update.update_id);
 * }
 *
 * function main() {
 *   releaseAll(createSqliteInbox("updates.db"));
 * }
 * ```
 */
export interface SqliteInbox<Y> extends UpdateInbox<Y> {
  /**
   * Lists the updates that have been set aside, the one that has been for longest first.
   * Works while the inbox is open, and on a file that nobody uses.
   *
   * @returns The updates, and how often the process died of each
   * @throws {Error} If the inbox is closed and its file is missing, in use, or
   * not an intact inbox
   */
  quarantined(): QuarantinedUpdate<Y>[];
  /**
   * Puts an update that was set aside back: it runs as if it had just arrived.
   *
   * @param id The `update_id`
   * @returns Whether there was one with this id
   * @throws {Error} As {@link SqliteInbox.quarantined} does
   */
  release(id: number): boolean;
}

/**
 * Creates an inbox in an SQLite file, for one bot on one machine. What has been
 * fetched is stored before Telegram is told that it arrived; what was not
 * handled to its end when the process died runs at the next start, before
 * anything new. What was just being handled runs again: see that a handler that
 * runs twice does no harm.
 *
 * The run fails at its start if the file cannot be opened: it is in use, it
 * belongs to another bot, or it is not an intact inbox. Importing this module
 * fails where there is no `node:sqlite`: it takes Deno >= 2.4, Node >= 22.13, or
 * Bun >= 1.4.4.
 *
 * @typeParam Y Type of the updates
 * @param path The file; made if there is none
 * @param options Further options
 * @returns A new inbox, to be used by one runner
 * @throws {RangeError} If an option is out of bounds
 * @throws {TypeError} If the path is none, or an option is of the wrong type
 *
 * @example
 * ```ts
 * import { run } from "@grammyjs/runner";
 * import { createSqliteInbox } from "@grammyjs/runner/sqlite";
 * import { Bot } from "grammy";
 *
 * function main() {
 *   const bot = new Bot("123456:token");
 *   const inbox = createSqliteInbox("updates.db", { maxAttempts: 2 });
 *   bot.command("poison", (ctx) => ctx.reply(`${inbox.quarantined().length}`));
 *   run(bot, { inbox });
 * }
 * ```
 */
export function createSqliteInbox<Y extends { update_id: number }>(
  path: string | URL,
  options: SqliteInboxOptions = {},
): SqliteInbox<Y> {
  const {
    lookahead = 100,
    synchronous = "full",
    maxAttempts = 3,
    tombstones = 5_000,
  } = options;
  checkCount("lookahead", lookahead, 1);
  checkCount("maxAttempts", maxAttempts, 1);
  checkCount("tombstones", tombstones, 0);
  if (synchronous !== "full" && synchronous !== "normal") {
    throw new RangeError(
      `Cannot create inbox: synchronous must be "full" or "normal": received ${synchronous}`,
    );
  }
  const file = path instanceof URL ? fileURLToPath(path) : path;
  if (typeof file !== "string" || /^($|:|file:)/.test(file)) {
    throw new TypeError(
      `Cannot create inbox: path must be the path or the URL object of a file: received ${
        JSON.stringify(path)
      }`,
    );
  }
  return new FileInbox(file, {
    lookahead,
    synchronous,
    maxAttempts,
    tombstones,
  });
}

/** How long an end may go unrecorded; what ended since runs again after a crash. */
const FLUSH_MS = 20;
/** How often it is tried again after that has failed. */
const RETRY_MS = 1000;

class FileInbox<Y extends { update_id: number }> implements SqliteInbox<Y> {
  readonly durable = true;
  readonly lookahead: number;
  readonly #path: string;
  readonly #options: Required<SqliteInboxOptions>;
  /** From so many deaths on, an update runs alone, or not at all. */
  readonly #aloneFrom: number;
  /** These are set iff the inbox is open. */
  #db: DatabaseSync | undefined;
  #log: InboxLog<Y> | undefined;
  #run: InboxRun<Y> | undefined;
  /** What can be taken, from position `#head` on. */
  #buffer: Entry<Y>[] = [];
  #head = 0;
  readonly #isolation = new Isolation<Entry<Y>>(
    () => this.#wakeTake?.(),
    () => this.#goOn(),
  );
  /** The ids of updates that are neither parked nor waiting. */
  #running = new Set<number>();
  /** What the next transaction has to record. */
  #ended: Entry<Y>[] = [];
  #runningChanged = false;
  /** Whether the process is about to end through a failure of its own. */
  #failing = false;
  #ignoreFailures: (() => void) | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #wakeAppend: (() => void) | undefined;
  #wakeTake: (() => void) | undefined;

  constructor(path: string, options: Required<SqliteInboxOptions>) {
    this.#path = path;
    this.#options = options;
    this.#aloneFrom = Math.max(1, options.maxAttempts - 1);
    this.lookahead = options.lookahead;
  }

  get #length(): number {
    return this.#buffer.length - this.#head;
  }

  // deno-lint-ignore require-await -- throwing shall be rejecting
  async open(run: InboxRun<Y>): Promise<void> {
    run.signal.throwIfAborted();
    if (!Number.isInteger(run.botId)) {
      throw new TypeError(
        `Cannot open inbox: the id of the bot that ${this.#path} belongs to must be known, pass botId to createRunner: received ${run.botId}`,
      );
    }
    if (this.#db !== undefined) {
      throw new Error(
        `Cannot open inbox: ${this.#path} must be used by one runner: it is open already`,
      );
    }
    const { synchronous, maxAttempts, tombstones } = this.#options;
    const db = openInboxFile(this.#path, run.botId, synchronous);
    let log: InboxLog<Y>;
    let guilty: Entry<Y>[];
    try {
      log = new InboxLog<Y>(db, this.#path, tombstones);
      guilty = log.load(({ alone, failures }, others, isOnly) =>
        // What ran out of patience before can still have been there.
        alone > 0 && isOnly && failures >= maxAttempts ||
        alone >= maxAttempts + others
      );
    } catch (error) {
      closeInboxFile(db);
      throw error;
    }
    this.#db = db;
    this.#log = log;
    this.#run = run;
    this.#buffer = [...log.unfinished.values()];
    this.#head = 0;
    this.#running = new Set();
    this.#ended = [];
    this.#runningChanged = false;
    this.#ignoreFailures = onFailure(() => {
      this.#failing = this.#runningChanged = true;
      this.#flush();
      // Should the process live on, this is taken back.
      this.#failing = false;
      this.#runningChanged = true;
      this.#arm(FLUSH_MS);
    });
    for (const { id, update, deaths } of guilty) {
      run.emit({
        type: "inbox",
        level: "error",
        message:
          `The update ${id} is set aside, as the process died ${deaths} times while it was handled; \`release(${id})\` puts it back`,
        update,
      });
    }
    if (this.#length > 0) {
      run.emit({
        type: "inbox",
        level: "info",
        message: `${this.#length} updates did not finish earlier and run first`,
      });
    }
  }

  async append(updates: Y[], signal: AbortSignal): Promise<void> {
    while (this.#length >= this.lookahead) {
      await wait(signal, (wake) => this.#wakeAppend = wake);
    }
    signal.throwIfAborted();
    const log = this.#log;
    if (log === undefined) {
      throw new Error(`Cannot store updates: ${this.#path} must be open`);
    }
    const fresh = new Map<number, Y>();
    for (const update of updates) {
      const id = update?.update_id;
      if (!Number.isSafeInteger(id)) {
        throw new TypeError(
          `Cannot store update: update_id must be an integer: received ${id}`,
        );
      }
      if (!log.has(id) && !fresh.has(id)) fresh.set(id, update);
    }
    if (fresh.size === 0 && log.broken === undefined) return;
    for (const entry of this.#commit(log, [...fresh.values()])) {
      this.#buffer.push(entry);
    }
    this.#wakeTake?.();
  }

  async take(limit: number, signal: AbortSignal): Promise<Y[]> {
    signal.throwIfAborted();
    let count: number;
    while ((count = this.#takeable(limit)) === 0) {
      if (this.#length > 0) this.#isolation.wait();
      await wait(signal, (wake) => this.#wakeTake = wake);
      signal.throwIfAborted();
    }
    const end = this.#head + count;
    const taken = this.#buffer.slice(this.#head, end);
    this.#head = end;
    // Moving the rest only then keeps the cost per update constant.
    if (this.#head * 2 >= this.#buffer.length) {
      this.#buffer = this.#buffer.slice(this.#head);
      this.#head = 0;
    }
    for (const entry of taken) {
      if (this.#isSuspect(entry)) this.#accuse(entry);
      else this.#isolation.add(entry);
      entry.taken = true;
      this.#running.add(entry.id);
    }
    this.#runningChanged = true;
    // Should the process die of one that may have killed it before, the file
    // knows. If it cannot be told, they run all the same: they are stored.
    if (taken.some((entry) => entry.replayed)) this.#flush();
    if (this.#length < this.lookahead) this.#wakeAppend?.();
    return taken.map((entry) => entry.update);
  }

  /** How many updates can be taken now; suspects only by themselves. */
  #takeable(limit: number): number {
    if (this.#length === 0 || this.#isolation.suspect) return 0;
    if (this.#isSuspect(this.#buffer[this.#head])) {
      return this.#isolation.canAccuse() ? 1 : 0;
    }
    let end = this.#head + 1;
    const most = Math.min(this.#buffer.length, this.#head + limit);
    while (end < most && !this.#isSuspect(this.#buffer[end])) end++;
    return end - this.#head;
  }

  #isSuspect(entry: Entry<Y>): boolean {
    return entry.replayed && entry.deaths >= this.#aloneFrom;
  }

  /** Lets a suspect run by itself, for some time. */
  #accuse(entry: Entry<Y>): void {
    this.#isolation.accuse(entry, entry.deaths - this.#aloneFrom);
    this.#run!.emit({
      type: "inbox",
      level: "info",
      message:
        `The update ${entry.id} runs by itself for a while, as the process died ${entry.deaths} times while it was handled`,
      update: entry.update,
    });
  }

  /** The suspect has run for long enough, or waited for long enough to do so. */
  #goOn(): void {
    this.#runningChanged = true;
    this.#flush();
    this.#wakeTake?.();
  }

  running(update: Y, running: boolean): void {
    const entry = this.#underWay(update);
    if (entry === undefined) return;
    if (running) this.#running.add(entry.id);
    else this.#running.delete(entry.id);
    this.#runningChanged = true;
    if (!running) this.#arm(FLUSH_MS);
    else if (entry.replayed) this.#flush();
  }

  settle(update: Y): void {
    const entry = this.#underWay(update);
    if (entry === undefined) return;
    entry.settled = true;
    this.#ended.push(entry);
    this.#running.delete(entry.id);
    this.#runningChanged = true;
    this.#isolation.delete(entry);
    if (this.#length > 0 && this.#takeable(1) > 0) this.#wakeTake?.();
    this.#arm(FLUSH_MS);
    const { broken } = this.#log!;
    if (broken !== undefined) throw broken;
  }

  /** The entry of an update that has been taken and not been settled. */
  #underWay(update: Y): Entry<Y> | undefined {
    const entry = this.#log?.unfinished.get(update.update_id);
    return entry?.taken && !entry.settled ? entry : undefined;
  }

  // deno-lint-ignore require-await -- throwing shall be rejecting
  async close(): Promise<void> {
    const db = this.#db;
    const log = this.#log;
    if (db === undefined || log === undefined) return;
    this.#isolation.clear();
    this.#ignoreFailures?.();
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#db = this.#log = this.#run = undefined;
    this.#buffer = [];
    this.#head = 0;
    const ended = this.#ended.splice(0);
    try {
      // Whatever happens to the process from now on is no fault of theirs.
      log.commit({ ended, running: { ids: [] } });
      log.endLife();
    } finally {
      closeInboxFile(db);
    }
  }

  stats(): Record<string, number | boolean> {
    return {
      buffered: this.#length,
      unfinished: (this.#log?.unfinished.size ?? 0) - this.#ended.length,
      quarantined: this.#log?.quarantine.size ?? 0,
    };
  }

  quarantined(): QuarantinedUpdate<Y>[] {
    return this.#log !== undefined
      ? [...this.#log.quarantine.values()]
      : this.#withFile((db) => listQuarantine<Y>(db));
  }

  release(id: number): boolean {
    if (this.#log === undefined) {
      return this.#withFile((db) => releaseFromFile(db, id));
    }
    const entry = this.#log.release(id);
    if (entry === undefined) return false;
    this.#buffer.push(entry);
    this.#wakeTake?.();
    return true;
  }

  /** For a closed inbox. */
  #withFile<T>(fn: (db: DatabaseSync) => T): T {
    const { synchronous } = this.#options;
    const db = openInboxFile(this.#path, undefined, synchronous);
    try {
      return fn(db);
    } finally {
      closeInboxFile(db);
    }
  }

  #arm(ms: number): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#flush();
    }, ms);
  }

  /** Records what has changed. A failure ends fetching at the next chance. */
  #flush(): void {
    if (this.#log === undefined) return;
    try {
      this.#commit(this.#log, []);
    } catch (error) {
      this.#run!.emit({
        type: "inbox",
        level: "error",
        message: "What has finished could not be recorded",
        error,
      });
      this.#arm(RETRY_MS);
    }
  }

  /** One transaction with new updates and all that has changed since the last. */
  #commit(log: InboxLog<Y>, fresh: Y[]): Entry<Y>[] {
    const entries = log.commit({
      fresh,
      ended: this.#ended,
      running: this.#runningChanged
        ? {
          ids: this.#running,
          alone: this.#isolation.suspect?.id,
          failed: this.#failing,
        }
        : undefined,
    });
    this.#ended = [];
    this.#runningChanged = false;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    return entries;
  }
}
