import { type Client, connect } from "./_postgres_client.ts";
import type { Db } from "./_postgres_queue.ts";

/** How long a statement may take. */
const QUERY_MS = 5000;

/**
 * A connection that is idle but for heartbeats, so that a process that is about to
 * end can still send a statement: there is no time left to wait for the end of
 * another.
 */
export class Witness {
  readonly #connectionString: string;
  #client: Client | undefined;
  /** Told of what keeps it from connecting, once. */
  readonly #onMissed: (error: unknown) => void;
  #isMissed = false;
  #isClosed = false;
  /** Set while it connects. */
  #preparing: Promise<void> | undefined;

  constructor(connectionString: string, onMissed: (error: unknown) => void) {
    this.#onMissed = onMissed;
    this.#connectionString = connectionString;
  }

  /** Sees that there is a connection if there can be one. */
  prepare(): Promise<void> {
    return this.#preparing ??= this.#prepare()
      .finally(() => this.#preparing = undefined);
  }

  async #prepare(): Promise<void> {
    if (this.#client !== undefined || this.#isClosed) return;
    try {
      this.#client = await connect(
        this.#connectionString,
        "witness",
        QUERY_MS,
        0,
        (client) => {
          if (this.#client === client) this.#client = undefined;
        },
      );
      this.#isMissed = false;
    } catch (error) {
      if (!this.#isMissed) this.#onMissed(error);
      this.#isMissed = true;
    }
    if (this.#isClosed) await this.close();
  }

  /** The connection, if there is one. */
  get db(): Db | undefined {
    const client = this.#client;
    if (client === undefined) return undefined;
    return { executeSql: (text, values) => client.query(text, values) };
  }

  /** Sends a statement at once, if there is a connection. */
  send(run: (db: Db) => Promise<unknown>): void {
    const { db } = this;
    if (db !== undefined) run(db).catch(() => this.drop()); // it is told again
  }

  /** Gives a connection up that does not work. */
  drop(): void {
    const client = this.#client;
    this.#client = undefined;
    client?.end().catch(() => {}); // it may have failed before
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    const client = this.#client;
    this.#client = undefined;
    await client?.end().catch(() => {}); // it may have failed before
  }
}
