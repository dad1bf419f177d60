import { type Client, connect } from "./_postgres_client.ts";
import type { Db } from "./_postgres_queue.ts";

/** How long a statement may take. */
const QUERY_MS = 5000;

/** Whom a {@link Hotline} calls. */
export interface HotlineListener {
  /** Another machine has notified the channel. */
  notified(payload: string): void;
  /** There is a connection again: what was notified before may have been missed. */
  connected(): void;
  /** Something keeps it from connecting; called once. */
  missed(error: unknown): void;
}

/**
 * A connection for what must not wait: heartbeats, what other machines notify, and
 * the last words of a process that is about to end, which has no time to wait for
 * the end of another statement.
 */
export class Hotline {
  readonly #connectionString: string;
  readonly #channel: string;
  readonly #listener: HotlineListener;
  #client: Client | undefined;
  #isMissed = false;
  #isClosed = false;
  /** Set while it connects. */
  #preparing: Promise<void> | undefined;

  constructor(
    connectionString: string,
    channel: string,
    listener: HotlineListener,
  ) {
    this.#connectionString = connectionString;
    this.#channel = channel;
    this.#listener = listener;
  }

  /** Sees that there is a connection if there can be one. */
  prepare(): Promise<void> {
    return this.#preparing ??= this.#prepare()
      .finally(() => this.#preparing = undefined);
  }

  async #prepare(): Promise<void> {
    if (this.#client !== undefined || this.#isClosed) return;
    try {
      const client = await connect(
        this.#connectionString,
        "hotline",
        QUERY_MS,
        0,
        (client) => {
          if (this.#client === client) this.#client = undefined;
        },
      );
      this.#client = client;
      client.on("notification", ({ payload = "" }) => {
        this.#listener.notified(payload);
      });
      await client.query(`LISTEN ${this.#channel}`);
      this.#isMissed = false;
      this.#listener.connected();
    } catch (error) {
      this.drop();
      if (!this.#isMissed) this.#listener.missed(error);
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

  /**
   * Sends a statement at once, if there is a connection. Resolves with whether it
   * was carried out.
   */
  send(run: (db: Db) => Promise<unknown>): Promise<boolean> | undefined {
    const { db } = this;
    const client = this.#client;
    if (db === undefined) return undefined;
    return run(db).then(() => true, () => {
      this.drop(client);
      return false;
    });
  }

  /** Gives a connection up that does not work. */
  drop(client = this.#client): void {
    if (this.#client === client) this.#client = undefined;
    client?.end().catch(() => {}); // it may have failed before
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    const client = this.#client;
    this.#client = undefined;
    await client?.end().catch(() => {}); // it may have failed before
  }
}
