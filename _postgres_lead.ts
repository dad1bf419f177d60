import "./_postgres_runtime.ts";
// deno-lint-ignore no-import-prefix -- raw files have no import map
import pg from "npm:pg@^8.16";
// deno-lint-ignore no-import-prefix -- raw files have no import map
import type { Db } from "npm:pg-boss@^12.38";
import { sleep } from "./_time.ts";

/** How often those who do not lead try to. */
const TRY_MS = 1000;
/** How often the leader tells the server that it is there. */
const PING_MS = 4000;
/** After how long without that the server takes the lock away. */
const SILENCE_MS = 15_000;

interface Client {
  connect(): Promise<void>;
  // deno-lint-ignore no-explicit-any -- rows are what the statement makes them
  query(text: string, values?: unknown[]): Promise<{ rows: any[] }>;
  end(): Promise<void>;
  on(event: "error", listener: (error: Error) => void): void;
  on(event: "end", listener: () => void): void;
}

/**
 * The right to fetch for a bot, which one machine has at a time: an advisory lock
 * of PostgreSQL that lives as long as the connection that took it. What is written
 * through this very connection is written by the leader.
 */
export class Leadership {
  readonly #connectionString: string;
  readonly #lock: string;
  /** Tells the process of the server behind another connection. */
  readonly #otherBackend: () => Promise<number>;
  #client: Client | undefined;
  #ended: Promise<void> | undefined;
  #term: AbortController | undefined;
  #pings: ReturnType<typeof setTimeout> | undefined;

  constructor(
    connectionString: string,
    lock: string,
    otherBackend: () => Promise<number>,
  ) {
    this.#connectionString = connectionString;
    this.#lock = lock;
    this.#otherBackend = otherBackend;
  }

  /** Whether this machine leads. */
  get leads(): boolean {
    return this.#term !== undefined;
  }

  /** Waits until this machine leads. Rejects if PostgreSQL cannot be reached. */
  async acquire(signal: AbortSignal): Promise<AbortSignal> {
    while (this.#term === undefined) {
      signal.throwIfAborted();
      const client = this.#client ?? await this.#connect(signal);
      try {
        const { rows } = await client.query(
          "SELECT pg_try_advisory_lock(hashtextextended($1, 0)) AS locked",
          [this.#lock],
        );
        // The connection may have ended meanwhile.
        if (rows[0].locked && this.#client === client) this.#begin(client);
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

  /** The connection that holds the lock, to be used while it leads. */
  get db(): Db {
    const client = this.#client;
    if (client === undefined) throw new Error("The lead was lost meanwhile");
    return { executeSql: (text, values) => client.query(text, values) };
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
    const client: Client = new pg.Client({
      connectionString: this.#connectionString,
      application_name: "grammy_runner lead",
      connectionTimeoutMillis: 5000,
      // Whoever waits for longer cannot lead.
      query_timeout: SILENCE_MS,
      keepAlive: true,
    });
    const ended = () => this.#client === client && this.lose();
    client.on("error", ended);
    client.on("end", ended);
    try {
      await client.connect();
      await client.query(`SET idle_session_timeout = ${SILENCE_MS}`);
      const { rows } = await client.query("SELECT pg_backend_pid() AS pid");
      if (await this.#otherBackend() === rows[0].pid) {
        throw transactionPooler();
      }
      signal.throwIfAborted();
    } catch (error) {
      client.end().catch(() => {}); // it may not even have begun
      throw error;
    }
    this.#client = client;
    return client;
  }

  #begin(client: Client): void {
    this.#term = new AbortController();
    const ping = async () => {
      try {
        await client.query("SELECT");
      } catch {
        if (this.#client === client) this.lose();
      }
      if (this.#client === client) this.#pings = setTimeout(ping, PING_MS);
    };
    this.#pings = setTimeout(ping, PING_MS);
  }
}

/** Of two connections, both have the same session behind them, or had. */
function transactionPooler(): Error {
  return new TypeError(
    "Cannot lead: connectionString must lead to PostgreSQL itself, or to a pooler in session mode, as a lock belongs to a session: received a pooler in transaction mode",
  );
}
