import { statSync } from "node:fs";
import type { DatabaseSync, StatementSync } from "node:sqlite";
import { first } from "./_sqlite_file.ts";

/** A life this long shows that nothing kills the process again and again. */
const LONG_LIFE_MS = 60_000;
const FORGET_DEATHS = "UPDATE bot SET deaths = 0";

/** What was stored by one append. */
interface Batch {
  readonly n: number;
  /** Number of its updates whose end has not been recorded. */
  left: number;
  /**
   * The oldest record of an end that is needed to tell which of its updates have
   * finished; `undefined` if the batch holds only unfinished ones.
   */
  needs: number | undefined;
}

/** An update that has not finished. */
export interface Entry<Y> {
  readonly id: number;
  readonly update: Y;
  readonly batch: Batch;
  /** How many times the process died while it ran. */
  deaths: number;
  /** How many of these deaths are known not to have been kills from outside. */
  failures: number;
  /** How many times in a row it then ran alone. */
  alone: number;
  /** It comes from an earlier life, or has been released. */
  replayed: boolean;
  /** Handed out and not settled. */
  taken: boolean;
  settled: boolean;
}

/**
 * An update that is set aside because the process died whenever it was handled.
 * {@link SqliteInbox.quarantined} lists them.
 *
 * @typeParam Y Type of the updates
 *
 * @example
 * ```ts
 * import type { QuarantinedUpdate } from "@grammyjs/runner/sqlite";
 * import type { Update } from "grammy/types";
 *
 * function describe({ update, deaths }: QuarantinedUpdate<Update>): string {
 *   return `${update.update_id} ended the process ${deaths} times`;
 * }
 * ```
 */
export interface QuarantinedUpdate<Y> {
  /** The update. */
  update: Y;
  /** How many times the process is known to have died while it ran. */
  deaths: number;
}

/**
 * @param others Number of deaths in short lives at which the update did not run
 * @param isOnly Whether nothing else ran at the last death
 */
type IsGuilty<Y> = (
  entry: Entry<Y>,
  others: number,
  isOnly: boolean,
) => boolean;

/** What a transaction records. */
interface Change<Y> {
  /** New updates. */
  fresh?: Y[];
  /** Updates that have been settled. */
  ended: Entry<Y>[];
  /**
   * The ids of those that run now, and which of them is a suspect that runs by
   * itself; absent if they are still the same.
   */
  running?: { ids: Iterable<number>; alone?: number; failed?: boolean };
}

/**
 * What is in an inbox file. One row per batch and one per transaction that
 * records ends keep the cost per update low; everything else is in memory.
 */
export class InboxLog<Y extends { update_id: number }> {
  /** By id, in the order of their arrival. */
  readonly unfinished = new Map<number, Entry<Y>>();
  readonly quarantine = new Map<number, QuarantinedUpdate<Y>>();
  readonly #db: DatabaseSync;
  readonly #path: string;
  readonly #inode: number | undefined;
  readonly #tombstones: number;
  readonly #statements: Record<
    | "append"
    | "rewrite"
    | "remove"
    | "finish"
    | "prune"
    | "run"
    | "suspect"
    | "acquit"
    | "setAside",
    StatementSync
  >;
  /** Those with an update that has not finished. */
  readonly #batches = new Set<Batch>();
  #lastBatch = 0;
  /** The ids of finished updates by record, the oldest first. */
  #records: { n: number; ids: number[] }[] = [];
  #finished = new Set<number>();
  readonly #bornAt = Date.now();
  #isLong = false;
  /** Why the file could not be written to, unless it worked since. */
  broken: Error | undefined;

  /**
   * @param tombstones Number of finished updates whose ids are kept
   */
  constructor(db: DatabaseSync, path: string, tombstones: number) {
    this.#db = db;
    this.#path = path;
    this.#inode = inodeOf(path);
    this.#tombstones = tombstones;
    this.#statements = {
      append: db.prepare("INSERT INTO batches VALUES (?, ?)"),
      rewrite: db.prepare("UPDATE batches SET data = ? WHERE n = ?"),
      remove: db.prepare("DELETE FROM batches WHERE n = ?"),
      finish: db.prepare("INSERT INTO finished VALUES (?, ?)"),
      prune: db.prepare("DELETE FROM finished WHERE n <= ?"),
      run: db.prepare("UPDATE bot SET running = ?, alone = ?, failed = ?"),
      suspect: db.prepare("REPLACE INTO suspects VALUES (?, ?, ?, ?)"),
      acquit: db.prepare("DELETE FROM suspects WHERE id = ?"),
      setAside: db.prepare(
        "INSERT INTO quarantine (id, deaths, data) VALUES (?, ?, ?)",
      ),
    };
  }

  /**
   * Reads the file, and notes for whom the last life ended badly.
   *
   * @param isGuilty Tells whether to set an update aside
   * @returns The updates that have been set aside just now
   */
  load(isGuilty: IsGuilty<Y>): Entry<Y>[] {
    this.#loadFinished();
    this.#loadBatches();
    for (const quarantined of listQuarantine<Y>(this.#db)) {
      this.quarantine.set(quarantined.update.update_id, quarantined);
    }
    return this.#transact(() => this.#judge(isGuilty));
  }

  #loadFinished(): void {
    const rows = this.#db.prepare("SELECT * FROM finished ORDER BY n").all();
    for (const { n, data } of rows) {
      const ids: number[] = JSON.parse(String(data));
      this.#records.push({ n: Number(n), ids });
      for (const id of ids) this.#finished.add(id);
    }
  }

  #loadBatches(): void {
    const recordOf = new Map<number, number>();
    for (const { n, ids } of this.#records) {
      for (const id of ids) recordOf.set(id, n);
    }
    const rows = this.#db.prepare("SELECT * FROM batches ORDER BY n").all();
    for (const { n, data } of rows) {
      const batch: Batch = { n: Number(n), left: 0, needs: undefined };
      this.#lastBatch = batch.n;
      this.#batches.add(batch);
      for (const update of JSON.parse(String(data)) as Y[]) {
        const record = recordOf.get(update.update_id);
        if (record === undefined) this.#enter(update, batch, true);
        else batch.needs = Math.min(batch.needs ?? record, record);
      }
    }
    const suspects = this.#db.prepare("SELECT * FROM suspects").all();
    for (const { id, deaths, failures, alone } of suspects) {
      const entry = this.unfinished.get(Number(id));
      if (entry === undefined) continue;
      entry.deaths = Number(deaths);
      entry.failures = Number(failures);
      entry.alone = Number(alone);
    }
  }

  #judge(isGuilty: IsGuilty<Y>): Entry<Y>[] {
    const bot = first(this.#db, "SELECT * FROM bot")!;
    const running = new Set<number>(JSON.parse(String(bot.running)));
    const deaths = Number(bot.deaths) + (running.size > 0 ? 1 : 0);
    const guilty: Entry<Y>[] = [];
    for (const entry of this.unfinished.values()) {
      const { id } = entry;
      const wasRunning = running.has(id);
      const alone = wasRunning && bot.alone === id ? entry.alone + 1 : 0;
      if (!wasRunning && entry.alone === alone) continue;
      if (wasRunning) entry.deaths++;
      if (wasRunning && bot.failed === 1) entry.failures++;
      entry.alone = alone;
      const others = Math.max(0, deaths - entry.deaths);
      if (isGuilty(entry, others, running.size === 1)) {
        guilty.push(entry);
      } else {
        this.#statements.suspect.run(id, entry.deaths, entry.failures, alone);
      }
    }
    for (const entry of guilty) this.#setAside(entry);
    this.#removeEmpty(guilty);
    this.#compact(new Set(guilty.map(({ batch }) => batch)));
    this.#db.exec(`
      UPDATE bot SET running = '[]', alone = NULL, failed = 0, deaths = ${deaths}
    `);
    if (guilty.length > 0) {
      // Those deaths that led to setting one aside are explained.
      this.#db.exec(
        "UPDATE bot SET deaths = 0; UPDATE suspects SET failures = 0",
      );
    }
    return guilty;
  }

  /** Whether an update with this id has been stored, and not been forgotten. */
  has(id: number): boolean {
    return this.#finished.has(id) || this.unfinished.has(id) ||
      this.quarantine.has(id);
  }

  /**
   * Records all that has changed in one transaction, and nothing if that fails.
   *
   * @returns The entries of the new updates
   */
  commit({ fresh = [], ended, running }: Change<Y>): Entry<Y>[] {
    const { append, finish, run, acquit, prune } = this.#statements;
    const data = toJson(fresh);
    const isLong = !this.#isLong && Date.now() - this.#bornAt > LONG_LIFE_MS;
    const batch = { n: this.#lastBatch + 1, left: 0, needs: undefined };
    const record = (this.#records.at(-1)?.n ?? 0) + 1;
    const ids = ended.map(({ id }) => id);
    const forgotten = this.#countForgotten(ids.length);
    const lastForgotten = this.#records[forgotten - 1]?.n ?? 0;
    let compacted = new Set<Batch>();
    for (const { batch } of ended) {
      batch.left--;
      batch.needs ??= record;
    }
    try {
      this.#transact(() => {
        if (fresh.length > 0) append.run(batch.n, data);
        if (ids.length > 0) finish.run(record, JSON.stringify(ids));
        for (const { id, deaths } of ended) if (deaths > 0) acquit.run(id);
        this.#removeEmpty(ended);
        if (forgotten > 0) {
          // Finished updates must not look unfinished once the record is gone.
          compacted = this.#batchesThatNeed(lastForgotten);
          this.#compact(compacted);
          prune.run(lastForgotten);
        }
        if (running !== undefined) {
          const { ids, alone, failed } = running;
          run.run(JSON.stringify([...ids]), alone ?? null, failed ? 1 : 0);
        }
        if (isLong) this.#db.exec(FORGET_DEATHS);
      });
    } catch (error) {
      for (const entry of ended) entry.batch.left++;
      throw error;
    }
    if (isLong) this.#isLong = true;
    for (const batch of compacted) batch.needs = undefined;
    for (const { batch } of ended) {
      if (batch.left === 0) this.#batches.delete(batch);
    }
    this.#bury(record, ids, forgotten);
    if (fresh.length === 0) return [];
    this.#lastBatch = batch.n;
    this.#batches.add(batch);
    return fresh.map((update) => this.#enter(update, batch, false));
  }

  /**
   * Puts an update back that was set aside.
   *
   * @returns Its entry; `undefined` if there is none with this id
   */
  release(id: number): Entry<Y> | undefined {
    const quarantined = this.quarantine.get(id);
    if (quarantined === undefined) return undefined;
    const n = this.#transact(() => releaseIn(this.#db, id))!;
    this.quarantine.delete(id);
    this.#lastBatch = Math.max(this.#lastBatch, n);
    const batch: Batch = { n, left: 0, needs: undefined };
    this.#batches.add(batch);
    return this.#enter(quarantined.update, batch, true);
  }

  /** Notes that this life ends well. */
  endLife(): void {
    this.#transact(() => this.#db.exec(FORGET_DEATHS));
  }

  #enter(update: Y, batch: Batch, replayed: boolean): Entry<Y> {
    const entry: Entry<Y> = {
      id: update.update_id,
      update,
      batch,
      deaths: 0,
      failures: 0,
      alone: 0,
      replayed,
      taken: false,
      settled: false,
    };
    batch.left++;
    this.unfinished.set(entry.id, entry);
    return entry;
  }

  #setAside(entry: Entry<Y>): void {
    const { id, update, deaths, batch } = entry;
    this.#statements.setAside.run(id, deaths, JSON.stringify(update));
    this.#statements.acquit.run(id);
    this.unfinished.delete(id);
    this.quarantine.set(id, { update, deaths });
    batch.left--;
  }

  #removeEmpty(entries: Entry<Y>[]): void {
    let last: Batch | undefined;
    for (const { batch } of entries) {
      if (batch.left > 0 || batch === last) continue;
      this.#statements.remove.run(batch.n);
      last = batch;
    }
  }

  /**
   * Writes batches anew, with their unfinished updates only: as they came, since
   * handlers may have changed the objects in memory.
   */
  #compact(batches: Set<Batch>): void {
    for (const { n } of batches) {
      const row = first(this.#db, `SELECT data FROM batches WHERE n = ${n}`);
      if (row === undefined) continue; // it has just been removed
      const left = (JSON.parse(String(row.data)) as Y[]).filter(
        ({ update_id }) => this.unfinished.get(update_id)?.settled === false,
      );
      this.#statements.rewrite.run(JSON.stringify(left), n);
    }
  }

  #batchesThatNeed(record: number): Set<Batch> {
    const result = new Set<Batch>();
    for (const batch of this.#batches) {
      if (
        batch.left > 0 && batch.needs !== undefined && batch.needs <= record
      ) {
        result.add(batch);
      }
    }
    return result;
  }

  /** How many of the oldest records can go once `more` ids are added. */
  #countForgotten(more: number): number {
    let left = this.#finished.size + more;
    let count = 0;
    for (const { ids } of this.#records) {
      left -= ids.length;
      if (left < this.#tombstones) break;
      count++;
    }
    return count;
  }

  #bury(n: number, ids: number[], forgotten: number): void {
    for (const { ids } of this.#records.splice(0, forgotten)) {
      for (const id of ids) this.#finished.delete(id);
    }
    if (ids.length === 0) return;
    this.#records.push({ n, ids });
    for (const id of ids) {
      this.unfinished.delete(id);
      this.#finished.add(id);
    }
  }

  #transact<T>(write: () => T): T {
    try {
      // SQLite would go on writing to a file that nobody can find.
      if (inodeOf(this.#path) !== this.#inode) {
        throw new Error("it has been removed, moved, or replaced");
      }
      const result = transact(this.#db, write);
      this.broken = undefined;
      return result;
    } catch (error) {
      this.broken = new Error(
        `Cannot write to inbox: ${this.#path} must be writable, with space left on the disk: ${
          (error as Error).message
        }`,
        { cause: error },
      );
      throw this.broken;
    }
  }
}

function inodeOf(path: string): number | undefined {
  return statSync(path, { throwIfNoEntry: false })?.ino;
}

function toJson(updates: unknown[]): string {
  try {
    return JSON.stringify(updates);
  } catch (error) {
    throw new TypeError(
      `Cannot store updates: they must be what JSON can hold: ${
        (error as Error).message
      }`,
      { cause: error },
    );
  }
}

/** The updates that a file has set aside, in the order in which that happened. */
export function listQuarantine<Y>(db: DatabaseSync): QuarantinedUpdate<Y>[] {
  return db.prepare("SELECT * FROM quarantine ORDER BY n").all().map((
    { data, deaths },
  ) => ({ update: JSON.parse(String(data)), deaths: Number(deaths) }));
}

/** {@link InboxLog.release} for a file that is not loaded. */
export function releaseFromFile(db: DatabaseSync, id: number): boolean {
  return transact(db, () => releaseIn(db, id)) !== undefined;
}

/** Returns the number of the batch that holds the update now. */
function releaseIn(db: DatabaseSync, id: number): number | undefined {
  const { changes, lastInsertRowid } = db.prepare(
    "INSERT INTO batches (data) SELECT '[' || data || ']' FROM quarantine WHERE id = ?",
  ).run(id);
  if (changes === 0) return undefined;
  db.prepare("DELETE FROM quarantine WHERE id = ?").run(id);
  return Number(lastInsertRowid);
}

/** Does everything or nothing. */
function transact<T>(db: DatabaseSync, write: () => T): T {
  db.exec("BEGIN IMMEDIATE");
  try {
    const result = write();
    db.exec("COMMIT");
    return result;
  } catch (error) {
    try {
      db.exec("ROLLBACK");
    } catch {
      // SQLite has done so already.
    }
    throw error;
  }
}
