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
import type { DatabaseSync, StatementSync } from "node:sqlite";
import {
  ALONE,
  closeInboxFile,
  openInboxFile,
  RUNNING,
  SET_ASIDE,
  WAITING,
} from "./_sqlite_file.ts";
import { type InboxRun, type UpdateInbox, wait } from "./inbox.ts";

/** Options of {@link createSqliteInbox}. */
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
   * How many times the process may die while an update runs: an integer of at
   * least 1. The last of these attempts is made while nothing else runs. As a
   * death can still be a kill from outside, the update is set aside once that
   * many deaths in a row hit it alone. Every other recent death, at which it was
   * not running, proves that something else kills the process, and takes one
   * more.
   *
   * @default 3
   */
  maxAttempts?: number;
  /**
   * Number of finished updates whose ids are remembered, so that they do not run
   * again if Telegram sends them again: an integer of at least 0.
   *
   * @default 10_000
   */
  tombstones?: number;
}

/**
 * An update that is set aside because the process died whenever it was handled.
 *
 * @typeParam Y Type of the updates
 */
export interface QuarantinedUpdate<Y> {
  /** The update. */
  update: Y;
  /** How many times the process is known to have died while it ran. */
  deaths: number;
}

/**
 * An inbox in an SQLite file.
 *
 * @typeParam Y Type of the updates
 */
export interface SqliteInbox<Y> extends UpdateInbox<Y> {
  /**
   * Lists the updates that have been set aside, in the order of their arrival.
   * Works while the inbox is open, and on a file that nobody uses.
   */
  quarantined(): QuarantinedUpdate<Y>[];
  /**
   * Puts an update that was set aside back: it runs as if it had just arrived.
   *
   * @param id The `update_id`
   * @returns Whether there was one with this id
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
 * @typeParam Y Type of the updates
 * @param path The file; made if there is none
 * @param options Further options
 * @returns A new inbox, to be used by one runner
 * @throws {RangeError} If an option is out of bounds
 * @throws {TypeError} If the path is none
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
    tombstones = 10_000,
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
  if (typeof file !== "string" || file === "" || file.startsWith(":")) {
    throw new TypeError(
      `Cannot create inbox: path must be the path of a file: received ${
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

function checkCount(name: string, value: number, least: number): void {
  if (Number.isInteger(value) && value >= least) return;
  throw new RangeError(
    `Cannot create inbox: ${name} must be an integer of at least ${least}: received ${value}`,
  );
}

/** How long an end may go unrecorded; what ended since runs again after a crash. */
const FLUSH_MS = 20;
/** How often it is tried again after that has failed. */
const RETRY_MS = 1000;
/** Number of rows to insert at once, as each call costs as much as a row. */
const MANY = 25;

/** An update that has not finished. */
interface Entry<Y> {
  readonly seq: number;
  readonly id: number;
  readonly update: Y;
  deaths: number;
  alone: number;
  /** It comes from an earlier life, or has been released. */
  replayed: boolean;
  /** Handed out and not settled. */
  taken: boolean;
  settled: boolean;
  state: number;
  /** The state that the file knows. */
  stored: number;
}

interface Row {
  seq: number;
  id: number;
  data: string;
  state: number;
  deaths: number;
  alone: number;
}

class FileInbox<Y extends { update_id: number }> implements SqliteInbox<Y> {
  readonly durable = true;
  readonly lookahead: number;
  readonly #path: string;
  readonly #options: Required<SqliteInboxOptions>;
  /** Set iff the inbox is open. */
  #db: DatabaseSync | undefined;
  #statements!: Record<
    "insert" | "insertMany" | "state" | "remove" | "finish" | "prune",
    StatementSync
  >;
  #run: InboxRun<Y> | undefined;
  #nextSeq = 1;
  /** All ids in the file. */
  #known = new Set<number>();
  /** The ids that transactions recorded the end of, the oldest first. */
  #tombstones: { n: number; ids: number[] }[] = [];
  #tombstoneCount = 0;
  #unfinished = new Map<number, Entry<Y>>();
  #setAside = new Map<number, Entry<Y>>();
  /** What can be taken, from position `#head` on. */
  #buffer: Entry<Y>[] = [];
  #head = 0;
  #takenCount = 0;
  /** A suspect that runs; nothing else does meanwhile. */
  #suspect: Entry<Y> | undefined;
  /** What the next transaction has to record. */
  #dirty = new Set<Entry<Y>>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Why the file could not be written to, unless it worked since. */
  #broken: Error | undefined;
  #wakeAppend: (() => void) | undefined;
  #wakeTake: (() => void) | undefined;

  constructor(path: string, options: Required<SqliteInboxOptions>) {
    this.#path = path;
    this.#options = options;
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
    const db = openInboxFile(
      this.#path,
      run.botId,
      this.#options.synchronous,
    );
    try {
      this.#run = run;
      this.#statements = {
        insert: db.prepare(
          "INSERT INTO updates (seq, id, data) VALUES (?, ?, ?)",
        ),
        insertMany: db.prepare(
          "INSERT INTO updates (seq, id, data) VALUES " +
            Array(MANY).fill("(?, ?, ?)").join(),
        ),
        state: db.prepare(
          "UPDATE updates SET state = ?, deaths = ?, alone = ? WHERE seq = ?",
        ),
        remove: db.prepare("DELETE FROM updates WHERE seq BETWEEN ? AND ?"),
        finish: db.prepare("INSERT INTO finished (n, ids) VALUES (?, ?)"),
        prune: db.prepare("DELETE FROM finished WHERE n <= ?"),
      };
      this.#load(db);
    } catch (error) {
      closeInboxFile(db);
      throw error;
    }
    this.#db = db;
  }

  /** Reads what there is, and counts whom the last life ended with. */
  #load(db: DatabaseSync): void {
    this.#known = new Set();
    this.#tombstones = [];
    this.#tombstoneCount = 0;
    this.#nextSeq = 1;
    this.#unfinished = new Map();
    this.#setAside = new Map();
    this.#dirty = new Set();
    this.#buffer = [];
    this.#head = this.#takenCount = 0;
    this.#suspect = this.#broken = undefined;
    const fresh: Entry<Y>[] = [];
    for (const row of db.prepare("SELECT * FROM finished ORDER BY n").all()) {
      this.#bury({ n: Number(row.n), ids: JSON.parse(String(row.ids)) });
    }
    const rows = db.prepare("SELECT * FROM updates ORDER BY seq").all();
    let deaths = Number(db.prepare("SELECT deaths FROM bot").get()!.deaths);
    if (rows.some(({ state }) => state === RUNNING || state === ALONE)) {
      deaths++;
    }
    for (const row of rows as unknown as Row[]) {
      this.#nextSeq = row.seq + 1;
      this.#known.add(row.id);
      const entry = this.#parse(row);
      if (row.state === SET_ASIDE) {
        this.#setAside.set(row.id, entry);
        continue;
      }
      if (row.state !== WAITING) entry.deaths++;
      entry.alone = row.state === ALONE ? row.alone + 1 : 0;
      entry.state = WAITING;
      const others = Math.max(0, deaths - entry.deaths);
      if (entry.alone >= this.#options.maxAttempts + others) {
        entry.state = SET_ASIDE;
        this.#setAside.set(row.id, entry);
        fresh.push(entry);
      } else {
        this.#unfinished.set(row.id, entry);
        this.#buffer.push(entry);
      }
      if (entry.deaths !== row.deaths || entry.alone !== row.alone) {
        this.#dirty.add(entry);
      }
    }
    // Those that led to setting one aside are explained.
    db.exec(`UPDATE bot SET deaths = ${fresh.length > 0 ? 0 : deaths}`);
    this.#commit(db, []);
    for (const { id, update, deaths } of fresh) {
      this.#run!.emit({
        type: "inbox",
        level: "error",
        message:
          `The update ${id} is set aside, as the process died ${deaths} times while it was handled; \`release(${id})\` puts it back`,
        update,
      });
    }
    if (this.#length > 0) {
      this.#run!.emit({
        type: "inbox",
        level: "info",
        message: `${this.#length} updates did not finish earlier and run first`,
      });
    }
  }

  #parse(row: Row): Entry<Y> {
    const { seq, id, state, deaths, alone } = row;
    return {
      seq,
      id,
      update: JSON.parse(row.data),
      deaths,
      alone,
      replayed: true,
      taken: false,
      settled: false,
      state,
      stored: state,
    };
  }

  async append(updates: Y[], signal: AbortSignal): Promise<void> {
    while (this.#length >= this.lookahead) {
      await wait(signal, (wake) => this.#wakeAppend = wake);
    }
    signal.throwIfAborted();
    const db = this.#opened();
    const fresh = new Map<number, Entry<Y>>();
    for (const update of updates) {
      const id = update?.update_id;
      if (!Number.isSafeInteger(id)) {
        throw new TypeError(
          `Cannot store update: update_id must be an integer: received ${id}`,
        );
      }
      if (this.#known.has(id) || fresh.has(id)) continue;
      fresh.set(id, {
        seq: this.#nextSeq + fresh.size,
        id,
        update,
        deaths: 0,
        alone: 0,
        replayed: false,
        taken: false,
        settled: false,
        state: WAITING,
        stored: WAITING,
      });
    }
    if (fresh.size === 0 && this.#broken === undefined) return;
    const entries = [...fresh.values()];
    this.#commit(db, entries);
    for (const entry of entries) {
      this.#known.add(entry.id);
      this.#unfinished.set(entry.id, entry);
      this.#buffer.push(entry);
    }
    this.#nextSeq += fresh.size;
    this.#wakeTake?.();
  }

  async take(limit: number, signal: AbortSignal): Promise<Y[]> {
    signal.throwIfAborted();
    let count: number;
    while ((count = this.#takeable(limit)) === 0) {
      await wait(signal, (wake) => this.#wakeTake = wake);
    }
    const end = this.#head + count;
    const taken = this.#buffer.slice(this.#head, end);
    this.#head = end;
    // Moving the rest only then keeps the cost per update constant.
    if (this.#head * 2 >= this.#buffer.length) {
      this.#buffer = this.#buffer.slice(this.#head);
      this.#head = 0;
    }
    this.#takenCount += count;
    if (this.#isSuspect(taken[0])) this.#suspect = taken[0];
    for (const entry of taken) {
      entry.taken = true;
      entry.state = this.#suspect === undefined ? RUNNING : ALONE;
      this.#dirty.add(entry);
    }
    // Should the process die of one that may have killed it before, the file
    // knows. If it cannot be told, they run all the same: they are stored.
    if (taken.some((entry) => entry.replayed)) this.#flush();
    if (this.#length < this.lookahead) this.#wakeAppend?.();
    return taken.map((entry) => entry.update);
  }

  /** How many updates can be taken now; suspects only by themselves. */
  #takeable(limit: number): number {
    if (this.#length === 0 || this.#suspect !== undefined) return 0;
    if (this.#isSuspect(this.#buffer[this.#head])) {
      return this.#takenCount === 0 ? 1 : 0;
    }
    let end = this.#head + 1;
    const most = Math.min(this.#buffer.length, this.#head + limit);
    while (end < most && !this.#isSuspect(this.#buffer[end])) end++;
    return end - this.#head;
  }

  #isSuspect(entry: Entry<Y>): boolean {
    return entry.replayed && entry.deaths >= this.#options.maxAttempts - 1;
  }

  running(update: Y, running: boolean): void {
    const entry = this.#unfinished.get(update.update_id);
    if (this.#db === undefined || !entry?.taken) return;
    const runs = entry === this.#suspect ? ALONE : RUNNING;
    entry.state = running ? runs : WAITING;
    this.#dirty.add(entry);
    if (!entry.replayed) return;
    if (running) this.#flush();
    else this.#arm(FLUSH_MS);
  }

  settle(update: Y): void {
    const entry = this.#unfinished.get(update.update_id);
    if (this.#db === undefined || !entry?.taken) return;
    this.#unfinished.delete(entry.id);
    entry.settled = true;
    this.#dirty.add(entry);
    this.#takenCount--;
    if (this.#suspect === entry) this.#suspect = undefined;
    if (this.#length > 0 && this.#takeable(1) > 0) this.#wakeTake?.();
    this.#arm(FLUSH_MS);
    if (this.#broken !== undefined) throw this.#broken;
  }

  // deno-lint-ignore require-await -- throwing shall be rejecting
  async close(): Promise<void> {
    const db = this.#db;
    if (db === undefined) return;
    clearTimeout(this.#timer);
    this.#timer = this.#db = undefined;
    try {
      // Whatever happens to the process from now on is no fault of theirs.
      for (const entry of this.#unfinished.values()) {
        if (entry.state === WAITING && entry.stored === WAITING) continue;
        entry.state = WAITING;
        this.#dirty.add(entry);
      }
      this.#commit(db, []);
      db.exec("UPDATE bot SET deaths = 0");
    } finally {
      closeInboxFile(db);
      this.#buffer = [];
      this.#head = 0;
      this.#run = undefined;
    }
  }

  stats(): Record<string, number | boolean> {
    return {
      buffered: this.#length,
      unfinished: this.#unfinished.size,
      quarantined: this.#setAside.size,
    };
  }

  quarantined(): QuarantinedUpdate<Y>[] {
    const entries = this.#db !== undefined
      ? [...this.#setAside.values()]
      : this.#withFile((db) =>
        db.prepare("SELECT * FROM updates WHERE state = ? ORDER BY seq")
          .all(SET_ASIDE).map((row) => this.#parse(row as unknown as Row))
      );
    return entries.map(({ update, deaths }) => ({ update, deaths }));
  }

  release(id: number): boolean {
    const release = (db: DatabaseSync) =>
      db.prepare(
        "UPDATE updates SET state = 0, deaths = 0, alone = 0 WHERE id = ? AND state = ?",
      ).run(id, SET_ASIDE).changes > 0;
    if (this.#db === undefined) return this.#withFile(release);
    const entry = this.#setAside.get(id);
    if (entry === undefined) return false;
    release(this.#db);
    this.#setAside.delete(id);
    Object.assign(entry, { state: WAITING, stored: WAITING });
    entry.deaths = entry.alone = 0;
    this.#unfinished.set(id, entry);
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

  #opened(): DatabaseSync {
    if (this.#db !== undefined) return this.#db;
    throw new Error(`Cannot store updates: ${this.#path} must be open`);
  }

  #arm(ms: number): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#flush();
    }, ms);
  }

  /** Records what has changed. A failure ends fetching at the next chance. */
  #flush(): void {
    if (this.#db === undefined || this.#dirty.size === 0) return;
    try {
      this.#commit(this.#db, []);
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
  #commit(db: DatabaseSync, fresh: Entry<Y>[]): void {
    if (fresh.length === 0 && this.#dirty.size === 0) return;
    const { insert, insertMany, state, remove, finish, prune } =
      this.#statements;
    const ended: Entry<Y>[] = [];
    for (const entry of this.#dirty) if (entry.settled) ended.push(entry);
    const n = (this.#tombstones.at(-1)?.n ?? 0) + 1;
    const ids = ended.map(({ id }) => id);
    const forgotten = this.#countForgotten(ids.length);
    try {
      db.exec("BEGIN IMMEDIATE");
      let i = 0;
      while (i + MANY <= fresh.length) {
        insertMany.run(...fresh.slice(i, i += MANY).flatMap(columns));
      }
      while (i < fresh.length) insert.run(...columns(fresh[i++]));
      for (const entry of this.#dirty) {
        if (entry.settled) continue;
        state.run(entry.state, entry.deaths, entry.alone, entry.seq);
      }
      for (const [first, last] of ranges(ended.map(({ seq }) => seq))) {
        remove.run(first, last);
      }
      if (ids.length > 0) finish.run(n, JSON.stringify(ids));
      if (forgotten > 0) prune.run(this.#tombstones[forgotten - 1].n);
      db.exec("COMMIT");
    } catch (error) {
      if (db.isTransaction) db.exec("ROLLBACK");
      this.#broken = new Error(
        `Cannot write to inbox: ${this.#path} must be writable, with space left on the disk: ${
          (error as Error).message
        }`,
        { cause: error },
      );
      throw this.#broken;
    }
    this.#broken = undefined;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const entry of this.#dirty) entry.stored = entry.state;
    this.#dirty.clear();
    for (const { ids } of this.#tombstones.splice(0, forgotten)) {
      this.#tombstoneCount -= ids.length;
      for (const id of ids) this.#known.delete(id);
    }
    if (ids.length > 0) this.#bury({ n, ids });
  }

  /** How many of the oldest records can go once `more` ids are added. */
  #countForgotten(more: number): number {
    let left = this.#tombstoneCount + more;
    let count = 0;
    for (const { ids } of this.#tombstones) {
      left -= ids.length;
      if (left < this.#options.tombstones) break;
      count++;
    }
    return count;
  }

  #bury(tombstone: { n: number; ids: number[] }): void {
    this.#tombstones.push(tombstone);
    this.#tombstoneCount += tombstone.ids.length;
    for (const id of tombstone.ids) this.#known.add(id);
  }
}

function columns<Y>({ seq, id, update }: Entry<Y>): [number, number, string] {
  return [seq, id, JSON.stringify(update)];
}

/** Most updates finish next to each other: fewer calls for the same rows. */
function ranges(numbers: number[]): [first: number, last: number][] {
  const result: [number, number][] = [];
  for (const n of numbers.sort((a, b) => a - b)) {
    const range = result.at(-1);
    if (range !== undefined && range[1] === n - 1) range[1] = n;
    else result.push([n, n]);
  }
  return result;
}
