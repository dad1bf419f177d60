import "./_postgres_runtime.ts";
// deno-lint-ignore no-import-prefix -- raw files have no import map
import { type Db, PgBoss } from "npm:pg-boss@^12.38";
import { SESSION_SETTINGS } from "./_postgres_client.ts";

export type { Db };

/** The schema that holds the tables of pg-boss; no other program uses it. */
const SCHEMA = "grammy_runner";
/** The channel that tells all machines of new updates. */
export const CHANNEL = "grammy_runner";

/** After how many seconds a machine that has gone silent is taken for dead. */
export const HEARTBEAT_SECONDS = 10;
/** The queue is looked over this often, by whatever machine comes first. */
const MONITOR_SECONDS = 2;
const DAY = 24 * 60 * 60;
/** Telegram keeps updates for a day; ids must be known for longer. */
const REMEMBER_SECONDS = 2 * DAY;
/** pg-boss would drop updates after that. */
const NEVER = 10 * 365 * DAY;
/** See {@link suspicionOf}. */
const MOST_PARKED = 5;
/** How long a statement may take, so that a server that hangs is noticed. */
const QUERY_MS = 30_000;
/** The right to run an update; others have it after a while without heartbeats. */
export interface Claim {
  /** The id of the job. */
  readonly id: string;
  /** How many machines are known to have died with this job. */
  retryCount: number;
  /** At how many deaths it was parked, the next one included if it is now. */
  parked: number;
  /**
   * At how many deaths it had outlived its time alone, so that they were not its
   * own, the next one included if it has.
   */
  spared: number;
}

/** An update on its way into the queue. */
export interface Entry {
  id: number;
  key: string;
  json: string;
}

/** What the queue stores; a string keeps what the type `jsonb` would change. */
interface Stored {
  json: string;
  /** How many of the deaths are known not to have been kills from outside. */
  failures?: number;
  /** Whether the update ran alone at the last of them. */
  alone?: boolean;
  /** What a {@link Claim} has. */
  parked?: number;
  spared?: number;
}

/** An update that was claimed. */
export interface Job extends Claim, Required<Stored> {}

/** An update that is set aside. */
interface StoredAside extends Stored {
  key: string;
  deaths: number;
}

/**
 * The queue of one bot as the machines share it: what pg-boss is asked for, and
 * nothing else. All methods reject while PostgreSQL cannot be reached.
 */
export class PostgresQueue {
  readonly name: string;
  readonly #aside: string;
  readonly #botId: number;
  readonly #boss: PgBoss;
  readonly #onError: (error: unknown) => void;
  readonly #db: Db;
  /** Set while it is opened, even if nobody waits for that any longer. */
  #opening: Promise<void> | undefined;
  #isClosed = false;
  /** Settles when the last transaction has ended; never rejects. */
  #lastTransaction: Promise<unknown> = Promise.resolve();

  constructor(
    connectionString: string,
    botId: number,
    on: { error(error: unknown): void; warning(message: string): void },
  ) {
    this.#botId = botId;
    this.name = `bot-${botId}`;
    this.#aside = `bot-${botId}-aside`;
    const options = {
      connectionString,
      schema: SCHEMA,
      application_name: "grammy_runner",
      // For taking, settling, heartbeats, looking after, and telling others.
      max: 5,
      connectionTimeoutMillis: 5000,
      query_timeout: QUERY_MS,
      keepAlive: true,
      // The inbox does this itself, when all machines have had time to reconnect.
      supervise: false,
      schedule: false,
      registerInstance: false,
      monitorVacuum: false,
      monitorIntervalSeconds: MONITOR_SECONDS,
      maintenanceIntervalSeconds: 3600,
    };
    this.#boss = new PgBoss(options);
    // What is closed while it connects has nothing to tell.
    this.#onError = (error) =>
      void (this.#isClosed || on.error(toError(error)));
    this.#boss.on("error", this.#onError);
    this.#boss.on("warning", ({ message }) => on.warning(message));
    this.#db = this.#boss.getDb();
    // Done at once, as there is no connection yet.
    this.#db.setSessionStatements!(SESSION_SETTINGS);
  }

  /** Connects, and creates whatever is missing. Can be called again if it fails. */
  open(): Promise<void> {
    return this.#opening ??= this.#open()
      .finally(() => this.#opening = undefined);
  }

  async #open(): Promise<void> {
    await this.#boss.start();
    const { rows: [{ version, encoding }] } = await this.#db.executeSql(
      `SELECT current_setting('server_version_num')::int AS version,
         current_setting('server_encoding') AS encoding`,
    );
    if (version < 140000) {
      throw new RangeError(
        `Cannot open inbox: PostgreSQL must be version 14 or later: received ${
          Math.floor(version / 10000)
        }`,
      );
    }
    if (encoding !== "UTF8") {
      throw new RangeError(
        `Cannot open inbox: the encoding of the database must be UTF8: received ${encoding}`,
      );
    }
    const keep = { retentionSeconds: NEVER, deleteAfterSeconds: NEVER };
    await this.#boss.createQueue(this.#aside, keep);
    await this.#boss.createQueue(this.name, {
      policy: "key_strict_fifo",
      heartbeatSeconds: HEARTBEAT_SECONDS,
      retentionSeconds: NEVER,
      deleteAfterSeconds: REMEMBER_SECONDS,
      // Handlers have heartbeats instead; this is the most that pg-boss allows.
      expireInSeconds: DAY,
      // When an update is set aside is up to the inbox.
      retryLimit: 2 ** 31 - 1,
    });
  }

  /** Ends without waiting for handlers; undoes an `open` that is under way. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#opening?.catch(() => {}); // whoever opens it gets to know
    await this.#lastTransaction; // others that wait for it do not begin
    await this.#boss.stop({ graceful: false });
  }

  /**
   * Calls a function during a transaction, with the process of the server that
   * this keeps busy.
   */
  async whileBusy(run: (backend: number) => Promise<void>): Promise<void> {
    await this.#transaction(async (db) => {
      const { rows } = await db.executeSql("SELECT pg_backend_pid() AS pid");
      await run(rows[0].pid);
    });
  }

  /**
   * Adds updates in this order; known ones are dropped. Returns how many were new.
   *
   * @param db The session of the leader, see {@link Leadership.write}
   */
  async append(entries: Entry[], db: Db): Promise<number> {
    const jobs = entries.map(({ id, key, json }) => ({
      id: this.#jobId(id),
      singletonKey: key,
      data: { json } satisfies Stored,
    }));
    const options = { db, returnId: true };
    const fresh = await this.#boss.insert(this.name, jobs, options);
    return fresh?.length ?? 0;
  }

  /** Wakes all machines. */
  async notify(): Promise<void> {
    await this.#db.executeSql("SELECT pg_notify($1, $2)", [CHANNEL, this.name]);
  }

  /** Takes updates whose chats are free, oldest first within a chat. */
  async fetch(limit: number): Promise<Job[]> {
    const batchSize = limit;
    const jobs = await this.#boss.fetch<Stored>(this.name, { batchSize });
    return jobs
      .map(({ id, retryCount, data }) => {
        const none = { failures: 0, alone: false, parked: 0, spared: 0 };
        return { ...none, ...data, id, retryCount };
      })
      .sort((a, b) => a.id < b.id ? -1 : 1);
  }

  /** Ends claims; those that others have by now stay theirs. */
  async complete(claims: Claim[]): Promise<void> {
    await this.#boss.complete(this.name, claims);
  }

  /**
   * Keeps claims alive, without waiting for whatever else is done with them just
   * now. Returns the ids of those that are held.
   */
  async touch(claims: Claim[], db = this.#db): Promise<Set<string>> {
    const { rows } = await db.executeSql(
      `WITH free AS (
         SELECT job.id FROM ${SCHEMA}.job, ${held()} FOR UPDATE OF job SKIP LOCKED
       ), touched AS (
         UPDATE ${SCHEMA}.job SET heartbeat_on = now()
         WHERE name = $1 AND id IN (SELECT id FROM free)
       )
       SELECT job.id FROM ${SCHEMA}.job, ${held()}`,
      this.#held(claims),
    );
    return new Set(rows.map(({ id }) => id));
  }

  /**
   * Gives claims up as if they had never been taken, for others to take. Once it has
   * resolved, it must not be called again: others may have them by then.
   */
  async release(claims: Claim[]): Promise<number> {
    const transaction = await this.#db.beginTransaction!();
    try {
      // `fail` would do the same, and count an attempt.
      const { rows } = await transaction.db.executeSql(
        `UPDATE ${SCHEMA}.job
         SET state = 'created', started_on = NULL, heartbeat_on = NULL
         FROM ${held()} RETURNING job.id`,
        this.#held(claims),
      );
      // Without an answer, it may have worked. If not, the heartbeats end.
      await transaction.commit().catch((error) => this.#onError(error));
      return rows.length;
    } catch (error) {
      await transaction.rollback();
      throw error;
    }
  }

  /**
   * Notes what is known of claims, and keeps them alive: {@link PostgresQueue.touch}
   * passes over them meanwhile.
   *
   * @param failures By how many failures of this machine more they ran, in their
   * order; none if absent
   * @param alone The one that runs alone
   */
  async note(
    claims: Claim[],
    failures: number[] = claims.map(() => 0),
    alone?: Claim,
    db = this.#db,
  ): Promise<void> {
    await db.executeSql(
      `UPDATE ${SCHEMA}.job
       SET heartbeat_on = now(), data = data
         || jsonb_build_object('parked', held.parked, 'spared', held.spared)
         || CASE held.failures WHEN 0 THEN '{}' ELSE jsonb_build_object(
           'failures', ${stored("failures")} + held.failures,
           'alone', job.id IS NOT DISTINCT FROM $7::uuid
         ) END
       FROM ${held("parked", "spared", "failures")}`,
      [
        ...this.#held(claims),
        toArray(claims.map(({ parked }) => parked)),
        toArray(claims.map(({ spared }) => spared)),
        toArray(failures),
        alone?.id ?? null,
      ],
    );
  }

  /** Frees what machines that have gone silent held. */
  async supervise(): Promise<void> {
    await this.#boss.supervise(this.name);
  }

  /** Lets PostgreSQL know what the queue is like, on which the speed depends. */
  async analyze(): Promise<void> {
    await this.#db.executeSql(`ANALYZE ${SCHEMA}.job_common`);
  }

  /**
   * How many updates wait to be taken, how many of them are suspects from so many
   * deaths on, and how many are set aside.
   */
  async count(deaths: number) {
    // The next claim counts the death that made the last one end.
    const all = "retry_count + (started_on IS NOT NULL)::int";
    const { rows } = await this.#db.executeSql(
      `SELECT name, count(*)::int AS n, count(*) FILTER (
         WHERE ${all} >= $3 AND
           ${all} - least(${stored("parked")}, ${MOST_PARKED}) >= $3
       )::int AS suspects FROM ${SCHEMA}.job
       WHERE name IN ($1, $2) AND state < 'active' GROUP BY name`,
      [this.name, this.#aside, deaths],
    );
    const of = (name: string): { n: number; suspects: number } =>
      rows.find((row) => row.name === name) ?? { n: 0, suspects: 0 };
    const { n: waiting, suspects } = of(this.name);
    return { waiting, suspects, aside: of(this.#aside).n };
  }

  /**
   * Sets a claimed update aside, so that its chat goes on. Returns false if others
   * have it by now.
   */
  async setAside(job: Job, key: string): Promise<boolean> {
    const { id, json } = job;
    const data: StoredAside = { json, key, deaths: deathsOf(job) };
    return await this.#transaction(async (db) => {
      const held = await this.#boss.complete(this.name, [job], null, { db });
      if (!settled(held).has(id)) return false;
      await this.#boss.insert(this.#aside, [{ id, data }], { db });
      // What led to this is explained, and counts for no other.
      await db.executeSql(
        `UPDATE ${SCHEMA}.job SET data = data - 'failures'
         WHERE name = $1 AND id IN (
           SELECT id FROM ${SCHEMA}.job
           WHERE name = $1 AND state < 'completed' AND data ? 'failures'
           FOR UPDATE SKIP LOCKED
         )`,
        [this.name],
      );
      return true;
    });
  }

  /** What is set aside, oldest first. */
  async aside(): Promise<StoredAside[]> {
    const jobs = await this.#boss.findJobs<StoredAside>(this.#aside, {
      limit: 100_000,
    });
    return jobs.map(({ data }) => data);
  }

  /** Puts an update that was set aside back. Returns whether there was one. */
  async putBack(updateId: number): Promise<boolean> {
    const id = this.#jobId(updateId);
    const found = await this.#transaction(async (db) => {
      // Of two calls at once, only one finds it.
      await db.executeSql(
        "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))",
        [`grammy_runner/${this.#aside}`],
      );
      const [job] = await this.#boss.findJobs<StoredAside>(this.#aside, {
        id,
        db,
      });
      if (job === undefined) return false;
      const { json, key } = job.data;
      await this.#boss.deleteJob(this.#aside, id, { db });
      await this.#boss.deleteJob(this.name, id, { db });
      await this.append([{ id: updateId, key, json }], db);
      return true;
    });
    if (found) await this.notify();
    return found;
  }

  /** One at a time, so that connections are left for all else. */
  #transaction<T>(run: (db: Db) => Promise<T>): Promise<T> {
    const result = this.#lastTransaction.then(() => this.#transact(run));
    this.#lastTransaction = result.catch(() => {}); // whoever called hears of it
    return result;
  }

  async #transact<T>(run: (db: Db) => Promise<T>): Promise<T> {
    if (this.#isClosed) throw new Error("The inbox was closed");
    const transaction = await this.#db.beginTransaction!();
    try {
      const result = await run(transaction.db);
      await transaction.commit();
      return result;
    } catch (error) {
      await transaction.rollback();
      throw error;
    }
  }

  /** The parameters of {@link held}. */
  #held(claims: Claim[]): unknown[] {
    return [
      this.name,
      toArray(claims.map(({ id }) => id)),
      toArray(claims.map(({ retryCount }) => retryCount)),
    ];
  }

  /** Ids drop what is known, and order what was inserted at the same moment. */
  #jobId(updateId: number): string {
    const hex = this.#botId.toString(16).padStart(16, "0") +
      updateId.toString(16).padStart(16, "0");
    return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
  }
}

/**
 * The jobs of claims that nobody else has by now.
 *
 * @param more Names of further integers of each claim
 */
function held(...more: string[]): string {
  const arrays = more.map((_, i) => `, $${i + 4}::int[]`).join("");
  return `unnest($2::uuid[], $3::int[] ${arrays})
      AS held (${["id", "retry_count", ...more]})
    WHERE job.name = $1 AND job.state = 'active'
      AND (job.id, job.retry_count) = (held.id, held.retry_count)`;
}

/** How many machines have died while an update ran. */
export function deathsOf({ retryCount, parked }: Claim): number {
  return retryCount - parked;
}

/**
 * How many have died of an update, for all that is known. If it was parked at very
 * many deaths, it could also be one that ends its machine as soon as it goes on,
 * before PostgreSQL knows that it does.
 */
export function suspicionOf({ retryCount, parked }: Claim): number {
  return retryCount - Math.min(parked, MOST_PARKED);
}

/**
 * An array as PostgreSQL reads it. The driver would quote what is in it, and what a
 * process says in its last moment has to be short.
 */
function toArray(values: (string | number)[]): string {
  return `{${values}}`;
}

/** pg-boss copies errors now and then, and forgets that they are ones. */
function toError(error: unknown): Error {
  if (error instanceof Error) return error;
  const { message } = (error ?? {}) as { message?: string };
  return new Error(message ?? String(error), { cause: error });
}

/** A number in what is stored with a job. */
function stored(name: keyof Stored): string {
  return `coalesce((data->>'${name}')::int, 0)`;
}

function settled(response: object): Set<string> {
  return new Set((response as { settled: string[] }).settled);
}
