import { type Client, connect } from "./_postgres_client.ts";
import type { Db } from "./_postgres_queue.ts";

/** How long a statement may take. */
const QUERY_MS = 5000;

/**
 * A connection that is kept idle, so that a process that is about to end can
 * still send a statement: there is no time left to wait for the end of another.
 */
export class Witness {
  readonly #connectionString: string;
  #client: Client | undefined;
  /** Told of what keeps it from connecting, once. */
  readonly #onMissed: (error: unknown) => void;
  #isMissed = false;
  #isClosed = false;

  constructor(connectionString: string, onMissed: (error: unknown) => void) {
    this.#onMissed = onMissed;
    this.#connectionString = connectionString;
  }

  /** Sees that there is a connection if there can be one. */
  async prepare(): Promise<void> {
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

  /** Sends a statement at once, if there is a connection. */
  send(run: (db: Db) => Promise<unknown>): void {
    const client = this.#client;
    if (client === undefined) return;
    run({ executeSql: (text, values) => client.query(text, values) })
      .catch(() => {}); // nobody is left to hear of it
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    const client = this.#client;
    this.#client = undefined;
    await client?.end().catch(() => {}); // it may have failed before
  }
}
