/**
 * An inbox in PostgreSQL, so that many machines run one bot.
 *
 * @example
 * ```ts
 * import { run } from "@grammyjs/runner";
 * import { createPostgresInbox } from "@grammyjs/runner/postgres";
 * import { Bot } from "grammy";
 *
 * function main() {
 *   const bot = new Bot("123456:token");
 *   const connectionString = Deno.env.get("DATABASE_URL");
 *   run(bot, { inbox: createPostgresInbox({ connectionString }) });
 * }
 * ```
 *
 * @module
 */
import { checkCount } from "./_check.ts";
import { keyOf } from "./_key.ts";
import { Session, type Settings } from "./_postgres_session.ts";
import { isPostgresUrl } from "./_postgres_url.ts";
import type { InboxRun, UpdateInbox } from "./inbox.ts";

/**
 * Options of {@link createPostgresInbox}.
 *
 * @typeParam Y Type of the updates
 *
 * @example
 * ```ts
 * import type { PostgresInboxOptions } from "@grammyjs/runner/postgres";
 * import type { Update } from "grammy/types";
 *
 * const options: PostgresInboxOptions<Update> = {
 *   connectionString: "postgres://bot:password@127.0.0.1:5432/bots",
 * };
 * ```
 */
export interface PostgresInboxOptions<Y> {
  /**
   * Where the database is: a URL that starts with `postgres://` or
   * `postgresql://`. It must lead to PostgreSQL itself, version 14 or later, or to
   * a pooler in session mode.
   */
  connectionString: string | undefined;
  /**
   * The key by which updates are kept in order: those with the same key run one
   * after another, wherever they run. Updates with an empty key run in any order.
   *
   * @default The chat, else the user, else the update itself
   */
  key?: (update: Y) => string | undefined;
  /**
   * Number of updates that may wait in the database: an integer of at least 1.
   * More are left on Telegram, as the database gets slow with too many.
   *
   * @default 5_000
   */
  maxBacklog?: number;
  /**
   * How many machines may die while an update runs, until the update is set aside:
   * an integer of at least 1. The last of these attempts is made while nothing
   * else runs on its machine, for some seconds; then the others go on.
   *
   * This counts the deaths that a machine sees coming: uncaught errors, and exits
   * with a code that tells of a failure. Any other can be a kill from outside, so
   * it takes that many of them while the update runs alone.
   *
   * @default 3
   */
  maxAttempts?: number;
}

/**
 * An update that is set aside because machines died whenever it was handled.
 *
 * @typeParam Y Type of the updates
 *
 * @example
 * ```ts
 * import type { QuarantinedUpdate } from "@grammyjs/runner/postgres";
 * import type { Update } from "grammy/types";
 *
 * function describe({ update, deaths }: QuarantinedUpdate<Update>) {
 *   return `${deaths} machines died of the update ${update.update_id}`;
 * }
 * ```
 */
export interface QuarantinedUpdate<Y> {
  /** The update. */
  update: Y;
  /** How many machines are known to have died while it ran. */
  deaths: number;
}

/**
 * An inbox in PostgreSQL.
 *
 * @typeParam Y Type of the updates
 *
 * @example
 * ```ts
 * import type { PostgresInbox } from "@grammyjs/runner/postgres";
 * import type { Update } from "grammy/types";
 *
 * async function putAllBack(inbox: PostgresInbox<Update>) {
 *   for (const { update } of await inbox.quarantined()) {
 *     await inbox.release(update.update_id);
 *   }
 * }
 * ```
 */
export interface PostgresInbox<Y> extends UpdateInbox<Y> {
  /**
   * Lists the updates that have been set aside, in the order in which that
   * happened. Works while the inbox is open.
   */
  quarantined(): Promise<QuarantinedUpdate<Y>[]>;
  /**
   * Puts an update that was set aside back: it runs as if it had just arrived.
   * Works while the inbox is open.
   *
   * @param id The `update_id`
   * @returns Whether there was one with this id
   * @throws {RangeError} If the id is not an integer of at least 0
   * @throws {TypeError} If the id is not a number
   */
  release(id: number): Promise<boolean>;
}

/**
 * Creates an inbox in PostgreSQL, which any number of machines use at the same
 * time. One of them fetches, all of them handle; updates with the same key run in
 * order and never two at once anywhere. When one of the machines dies, the others
 * take over: see that a handler that runs twice does no harm.
 *
 * The database can hold the updates of several bots.
 *
 * @typeParam Y Type of the updates
 * @param options Where the database is, and further options
 * @returns A new inbox, to be used by one runner
 * @throws {RangeError} If an option is out of bounds
 * @throws {TypeError} If an option is of the wrong type
 *
 * @example
 * ```ts
 * import { run } from "@grammyjs/runner";
 * import { createPostgresInbox } from "@grammyjs/runner/postgres";
 * import { Bot } from "grammy";
 * import type { Update } from "grammy/types";
 *
 * function main() {
 *   const bot = new Bot("123456:token");
 *   const inbox = createPostgresInbox<Update>({
 *     connectionString: Deno.env.get("DATABASE_URL"),
 *     maxBacklog: 1000,
 *   });
 *   bot.command("poison", async (ctx) => {
 *     await ctx.reply(`${(await inbox.quarantined()).length}`);
 *   });
 *   run(bot, { inbox });
 * }
 * ```
 */
export function createPostgresInbox<Y extends { update_id: number }>(
  options: PostgresInboxOptions<Y>,
): PostgresInbox<Y> {
  const {
    connectionString,
    key = keyOf,
    maxBacklog = 5000,
    maxAttempts = 3,
  } = options ?? {} as Partial<PostgresInboxOptions<Y>>;
  if (!isPostgresUrl(connectionString)) {
    throw new TypeError(
      `Cannot create inbox: connectionString must start with postgres:// or postgresql:// and be a valid URL, with special characters in the password percent-encoded: received ${
        describe(connectionString)
      }`,
    );
  }
  if (typeof key !== "function") {
    throw new TypeError(
      `Cannot create inbox: key must be a function: received ${key}`,
    );
  }
  checkCount("maxBacklog", maxBacklog, 1);
  checkCount("maxAttempts", maxAttempts, 1);
  return new QueueInbox({ connectionString, key, maxBacklog, maxAttempts });
}

/** What was received instead of a URL, without the password that can be in it. */
function describe(value: unknown): string {
  if (value === undefined) {
    return "undefined, is the environment variable set?";
  }
  return typeof value === "string"
    ? "another string"
    : `something of the type ${typeof value}`;
}

class QueueInbox<Y extends { update_id: number }> implements PostgresInbox<Y> {
  readonly durable = true;
  readonly #settings: Settings<Y>;
  /** Whether a run has the inbox, from the first moment of opening on. */
  #isInUse = false;
  /** Set iff the inbox is open. */
  #session: Session<Y> | undefined;

  constructor(settings: Settings<Y>) {
    this.#settings = settings;
  }

  async open(run: InboxRun<Y>): Promise<void> {
    const { signal, botId } = run;
    signal.throwIfAborted();
    if (botId === undefined || !Number.isInteger(botId)) {
      throw new TypeError(
        `Cannot open inbox: the id of the bot must be known, pass botId to createRunner: received ${botId}`,
      );
    }
    if (this.#isInUse) {
      throw new Error(
        "Cannot open inbox: it must be used by one runner: it is open already",
      );
    }
    this.#isInUse = true;
    try {
      this.#session = await Session.open(this.#settings, botId, run);
    } catch (error) {
      this.#isInUse = false;
      throw error;
    }
  }

  async lead(signal: AbortSignal): Promise<AbortSignal> {
    return await this.#opened().lead(signal);
  }

  resign(): void {
    this.#session?.resign();
  }

  async append(updates: Y[], signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    await this.#opened().append(updates, signal);
  }

  async take(limit: number, signal: AbortSignal): Promise<Y[]> {
    return await this.#opened().take(limit, signal);
  }

  settle(update: Y): void | Promise<void> {
    return this.#session?.settle(update);
  }

  running(update: Y, running: boolean): boolean | void {
    return this.#session?.running(update, running);
  }

  giveBack(updates: Y[]): void {
    this.#session?.giveBack(updates);
  }

  async close(): Promise<void> {
    const session = this.#session;
    this.#session = undefined;
    if (session === undefined) return;
    this.#isInUse = false;
    await session.close();
  }

  stats(): Record<string, number | boolean> {
    return this.#session?.stats() ??
      { buffered: 0, running: 0, leading: false, quarantined: 0 };
  }

  async quarantined(): Promise<QuarantinedUpdate<Y>[]> {
    return await this.#opened().quarantined();
  }

  async release(id: number): Promise<boolean> {
    if (typeof id !== "number") {
      throw new TypeError(
        `Cannot release update: id must be a number: received ${
          JSON.stringify(id)
        }`,
      );
    }
    if (!(Number.isSafeInteger(id) && id >= 0)) {
      throw new RangeError(
        `Cannot release update: id must be an integer of at least 0: received ${id}`,
      );
    }
    return await this.#opened().release(id);
  }

  #opened(): Session<Y> {
    if (this.#session !== undefined) return this.#session;
    throw new Error("Cannot use inbox: it must be open");
  }
}
