import { type Client, connect } from "./_postgres_client.ts";
import type { Db } from "./_postgres_queue.ts";
import { sleep } from "./_time.ts";

/** How often those who do not lead try to. */
const TRY_MS = 1000;
/** How often the leader tells the server that it is there. */
const PING_MS = 4000;
/** After how long without that the server takes the lock away. */
const SILENCE_MS = 15_000;

/** The setting that holds the name of the session. */
const SESSION = "grammy_runner.session";
/** How many times it is looked for poolers. */
const CHECKS = 3;

/** @param run Is called with the process of the server behind the connection */
type WhileBusy = (run: (backend: number) => Promise<void>) => Promise<void>;

/**
 * The right to fetch for a bot, which one machine has at a time: an advisory lock
 * of PostgreSQL that lives as long as the session that took it. What is written is
 * written by that very session, or not at all.
 */
export class Leadership {
  readonly #connectionString: string;
  readonly #lock: string;
  /** Calls a function while another connection keeps its session busy. */
  readonly #whileBusy: WhileBusy;
  /** Called when this machine leads for the first time, after another one has. */
  readonly #onTakeover: () => void;
  #hasLed = false;
  #client: Client | undefined;
  /** The session of the client calls itself so. */
  #session = "";
  #ended: Promise<void> | undefined;
  #term: AbortController | undefined;
  #pings: ReturnType<typeof setTimeout> | undefined;

  constructor(
    connectionString: string,
    lock: string,
    whileBusy: WhileBusy,
    onTakeover: () => void = () => {},
  ) {
    this.#connectionString = connectionString;
    this.#lock = lock;
    this.#whileBusy = whileBusy;
    this.#onTakeover = onTakeover;
  }

  /** Whether this machine leads. */
  get leads(): boolean {
    return this.#term !== undefined;
  }

  /** Waits until this machine leads. Rejects if PostgreSQL cannot be reached. */
  async acquire(signal: AbortSignal): Promise<AbortSignal> {
    for (let tries = 1; this.#term === undefined; tries++) {
      signal.throwIfAborted();
      const client = this.#client ?? await this.#connect(signal);
      try {
        const { rows } = await client.query(
          "SELECT pg_try_advisory_lock(hashtextextended($1, 0)) AS locked",
          [this.#lock],
        );
        if (rows[0].locked) {
          if (!await this.#isLeading(client)) throw transactionPooler();
          // The connection may have ended, or another call have got it, meanwhile.
          if (this.#client === client && !this.leads) {
            // After an outage, a lock can have been that of its own last session.
            if (tries > 1 && !this.#hasLed) this.#onTakeover();
            this.#hasLed = true;
            this.#begin(client);
          }
        }
      } catch (error) {
        this.lose();
        throw error;
      }
      if (this.#term === undefined) await sleep(TRY_MS, signal);
    }
    return this.#term.signal;
  }

  /** Resolves when the last connection has ended. */
  async close(): Promise<void> {
    this.lose();
    await this.#ended;
  }

  /** Writes all or nothing, as the leader. The lead is lost if that fails. */
  async write<T>(run: (db: Db) => Promise<T>): Promise<T> {
    const client = this.#client;
    if (client === undefined) throw new Error("The lead was lost meanwhile");
    try {
      await client.query("BEGIN");
      // A pooler could have put another session behind the connection.
      if (!await this.#isLeading(client)) throw transactionPooler();
      const executeSql: Db["executeSql"] = (text, values) =>
        client.query(text, values);
      const result = await run({ executeSql });
      await client.query("COMMIT");
      return result;
    } catch (error) {
      // Who knows what has become of the connection.
      if (this.#client === client) this.lose();
      throw error;
    }
  }

  /** Whether the session behind the connection is the one that took the lock. */
  async #isLeading(client: Client): Promise<boolean> {
    const { rows } = await client.query(
      `SELECT current_setting('${SESSION}', true) = $1 AND EXISTS (
         SELECT FROM pg_locks
         WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted
           AND objsubid = 1 AND (classid::bigint << 32) | objid::bigint =
             hashtextextended($2, 0)
           AND database = (SELECT oid FROM pg_database
                           WHERE datname = current_database())
       ) AS leading`,
      [this.#session, this.#lock],
    );
    return rows[0].leading === true;
  }

  /** This machine leads no more. The lock is free when the connection ends. */
  lose(): void {
    const client = this.#client;
    const term = this.#term;
    clearTimeout(this.#pings);
    this.#client = this.#term = undefined;
    if (client !== undefined) {
      this.#ended = client.end().catch(() => {}); // it may have failed before
    }
    term?.abort(
      new DOMException("This machine fetches no more", "AbortError"),
    );
  }

  async #connect(signal: AbortSignal): Promise<Client> {
    const client = await connect(
      this.#connectionString,
      "lead",
      SILENCE_MS, // whoever waits for longer cannot lead
      SILENCE_MS,
      (client) => this.#client === client && this.lose(),
    );
    try {
      const session = await this.#nameSession(client);
      signal.throwIfAborted();
      this.#client = client;
      this.#session = session;
      return client;
    } catch (error) {
      client.end().catch(() => {}); // it may have failed before
      throw error;
    }
  }

  /**
   * Names the session, by which it can be told. Rejects if the connection gets
   * another one while that is busy; as it may have come free again before, this
   * does not notice every pooler. {@link Leadership.write} does.
   */
  async #nameSession(client: Client): Promise<string> {
    const session = crypto.randomUUID();
    const { rows } = await client.query(
      `SELECT set_config('${SESSION}', $1, false), pg_backend_pid() AS pid`,
      [session],
    );
    for (let i = 0; i < CHECKS; i++) {
      await this.#whileBusy(async (other) => {
        if (other === rows[0].pid) throw transactionPooler();
        const now = await client.query(
          `SELECT current_setting('${SESSION}', true) AS session`,
        );
        if (now.rows[0].session !== session) throw transactionPooler();
      });
    }
    return session;
  }

  #begin(client: Client): void {
    this.#term = new AbortController();
    const ping = async () => {
      try {
        if (!await this.#isLeading(client)) throw transactionPooler();
      } catch {
        if (this.#client === client) this.lose();
      }
      if (this.#client === client) this.#pings = setTimeout(ping, PING_MS);
    };
    this.#pings = setTimeout(ping, PING_MS);
  }
}

/** The connection does not keep its session. */
function transactionPooler(): Error {
  return new TypeError(
    "Cannot lead: connectionString must lead to PostgreSQL itself, or to a pooler in session mode, as a lock belongs to a session: received a pooler in transaction mode",
  );
}
