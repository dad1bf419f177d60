/**
 * A local Bot API server to test bots with: real HTTP on the loopback interface, updates
 * you push, calls you inspect, and the faults of a real network when you ask for them.
 *
 * @example
 * ```ts
 * import { startBotApiServer } from "@grammyjs/runner/testing";
 * import { assertEquals } from "@std/assert";
 * import { Bot } from "grammy";
 *
 * await using server = await startBotApiServer({ quirks: false });
 * const bot = new Bot(server.token, { client: { apiRoot: server.url } });
 * bot.command("start", (ctx) => ctx.reply("Welcome!"));
 *
 * const running = bot.start();
 * server.pushText("/start");
 * const call = await server.waitForCall("sendMessage");
 * assertEquals(call.params.text, "Welcome!");
 * await bot.stop();
 * await running;
 * ```
 * @module
 */
import { createServer } from "node:http";
import type { Message, Update, UserFromGetMe } from "./deps.ts";
import { check, MAX_TIMER, TOKEN } from "./_bot_api.ts";
import { LocalServer } from "./_bot_api_server.ts";

/**
 * Options of {@link startBotApiServer}.
 *
 * @example
 * ```ts
 * import {
 *   type BotApiServerOptions,
 *   startBotApiServer,
 * } from "@grammyjs/runner/testing";
 * import { assertEquals } from "@std/assert";
 *
 * const options: BotApiServerOptions = {
 *   botInfo: { username: "my_bot" },
 *   latencyMilliseconds: 20,
 *   quirks: false,
 * };
 * await using server = await startBotApiServer(options);
 * assertEquals(server.botInfo.username, "my_bot");
 * ```
 */
export interface BotApiServerOptions {
  /**
   * The token of the bot; the number before the colon is the bot's id. Requests with any
   * other token are answered 401.
   * @default "123456:TEST-local-Bot-API-server-TEST-0000"
   */
  token?: string;
  /** What getMe tells of the bot, where it should differ from the defaults. */
  botInfo?: Partial<Omit<UserFromGetMe, "id" | "is_bot">>;
  /**
   * The port on 127.0.0.1, 0..65535. 0 picks a free one.
   * @default 0
   */
  port?: number;
  /**
   * How long every answer takes to arrive, in milliseconds, 0..2^31-1. See
   * {@link BotApiServer.setLatency}.
   * @default 0
   */
  latencyMilliseconds?: number;
  /**
   * Whether getUpdates calls that repeat an offset are slowed down as on the real server:
   * within 0.5 s they get one update at most, within 3 s they wait for at least 3 s when
   * there are none. Switch it off for tests that must not wait, such as tests which stop
   * a bot soon after it was started.
   * @default true
   */
  quirks?: boolean;
  /**
   * How many calls and how many polls are remembered, the newest ones; also, times 100,
   * how many ids of delivered and of confirmed updates. 0 or more, may be `Infinity`.
   * @default 10_000
   */
  history?: number;
  /**
   * How long a delivery to a webhook that failed waits before it is tried again, in
   * milliseconds, 1..2^31-1; doubles with each failure, up to 60 times as long. Where the
   * answer has a Retry-After header, that counts instead.
   * @default 1000
   */
  webhookRetryMilliseconds?: number;
}

/**
 * An update to push: one without an `update_id` gets the next one.
 *
 * @example
 * ```ts
 * import { type NewUpdate, startBotApiServer } from "@grammyjs/runner/testing";
 * import { assertEquals } from "@std/assert";
 *
 * const from = { id: 7, is_bot: false, first_name: "Ada" };
 * const update: NewUpdate = {
 *   inline_query: { id: "1", from, query: "cats", offset: "" },
 * };
 * await using server = await startBotApiServer();
 * const [{ update_id }] = server.push(update);
 * assertEquals(update_id, 1);
 * ```
 */
export type NewUpdate = Omit<Update, "update_id"> & { update_id?: number };

/**
 * Who writes where, for {@link BotApiServer.pushText}.
 *
 * @example
 * ```ts
 * import { type PushOptions, startBotApiServer } from "@grammyjs/runner/testing";
 * import { assertEquals } from "@std/assert";
 *
 * const inGroup: PushOptions = { userId: 7, chatId: -100 };
 * await using server = await startBotApiServer();
 * const { message } = server.pushText("Hello, everyone", inGroup);
 * assertEquals(message?.chat.type, "group");
 * ```
 */
export interface PushOptions {
  /** The id of the user. @default 1001 */
  userId?: number;
  /** The id of the chat. Negative ids are groups. @default the user's id: a private chat */
  chatId?: number;
}

/**
 * Who presses a button where, for {@link BotApiServer.pushCallbackQuery}.
 *
 * @example
 * ```ts
 * import {
 *   type PushCallbackQueryOptions,
 *   startBotApiServer,
 * } from "@grammyjs/runner/testing";
 * import { assertEquals } from "@std/assert";
 *
 * const options: PushCallbackQueryOptions = { userId: 7, messageId: 42 };
 * await using server = await startBotApiServer();
 * const { callback_query } = server.pushCallbackQuery("yes", options);
 * assertEquals(callback_query?.message?.message_id, 42);
 * ```
 */
export interface PushCallbackQueryOptions extends PushOptions {
  /** The id of the message that has the button. @default a new one */
  messageId?: number;
}

/**
 * What can go wrong with a call. See {@link BotApiServer.fail}.
 *
 * @example
 * ```ts
 * import { type Fault, startBotApiServer } from "@grammyjs/runner/testing";
 * import { assertEquals } from "@std/assert";
 *
 * const flood: Fault = { status: 429, retryAfter: 3 };
 * await using server = await startBotApiServer();
 * server.fail(flood);
 * const response = await fetch(`${server.url}/bot${server.token}/getUpdates`);
 * assertEquals((await response.json()).parameters, { retry_after: 3 });
 * ```
 */
export type Fault =
  /** No answer ever comes. Ends when the client gives up or the server closes. */
  | "hang"
  /** The connection breaks before any answer. */
  | "reset"
  /** The call is processed, and the connection breaks halfway through the answer. */
  | "truncate"
  /** An answer with status 200 that is not JSON. */
  | "garbage"
  /** An error as the Bot API writes them; `retryAfter` in seconds. */
  | { status: number; description?: string; retryAfter?: number }
  /** Any answer at all; by default with status 200, as `application/json`. */
  | { body: string; status?: number; contentType?: string };

/**
 * Options of {@link BotApiServer.fail}.
 *
 * @example
 * ```ts
 * import { type FaultOptions, startBotApiServer } from "@grammyjs/runner/testing";
 * import { assertEquals } from "@std/assert";
 *
 * const twice: FaultOptions = { times: 2, method: "getMe" };
 * await using server = await startBotApiServer();
 * server.fail({ status: 502 }, twice);
 * const statuses = [];
 * for (let i = 0; i < 3; i++) {
 *   const response = await fetch(`${server.url}/bot${server.token}/getMe`);
 *   statuses.push(response.status);
 *   await response.body?.cancel();
 * }
 * assertEquals(statuses, [502, 502, 200]);
 * ```
 */
export interface FaultOptions {
  /** How many calls fail, 1 or more, may be `Infinity`. @default 1 */
  times?: number;
  /** The method whose calls fail, `"*"` for all. @default "getUpdates" */
  method?: string;
  /**
   * Whether the server does its work first (confirms the offset, sends the message), so
   * that only the answer is lost. Always so for `"truncate"`.
   * @default false
   */
  processed?: boolean;
}

/**
 * A getUpdates call.
 *
 * @example
 * ```ts
 * import { type Poll, startBotApiServer } from "@grammyjs/runner/testing";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = await startBotApiServer();
 * server.pushText("Hello");
 * await (await fetch(`${server.url}/bot${server.token}/getUpdates?limit=7`)).json();
 * const [poll]: Poll[] = server.polls();
 * assertEquals([poll.limit, poll.count, poll.outcome], [7, 1, "answered"]);
 * ```
 */
export interface Poll {
  /** As in the call, 0 when left out. */
  readonly offset: number;
  /** As in the call, within its bounds 1..100. */
  readonly limit: number;
  /** Seconds, as in the call, within its bounds 0..50. */
  readonly timeout: number;
  /** Whether a repeated offset changed the limit or the timeout. */
  readonly throttled: boolean;
  /** When it arrived, in milliseconds since 1970. */
  readonly at: number;
  /** When it ended. */
  readonly endedAt?: number;
  /**
   * How it stands or ended. `"refused"` is an error answer such as a conflict, `"aborted"`
   * a client that gave up, `"failed"` an injected fault.
   */
  readonly outcome: "waiting" | "answered" | "refused" | "aborted" | "failed";
  /** How many updates its answer held. */
  readonly count: number;
}

/**
 * A call of any method other than getUpdates.
 *
 * @example
 * ```ts
 * import { type ApiCall, startBotApiServer } from "@grammyjs/runner/testing";
 * import { assertEquals } from "@std/assert";
 * import { Bot } from "grammy";
 *
 * await using server = await startBotApiServer();
 * const bot = new Bot(server.token, { client: { apiRoot: server.url } });
 * await bot.api.sendMessage(7, "Hello");
 * const [call]: ApiCall[] = server.calls("sendMessage");
 * assertEquals([call.params.text, call.ok], ["Hello", true]);
 * ```
 */
export interface ApiCall {
  /** Its name, in the case it was called with. */
  readonly method: string;
  /** Fields of JSON bodies as they are; form fields stay strings unless they hold JSON. */
  readonly params: Record<string, unknown>;
  /** When it arrived, in milliseconds since 1970. */
  readonly at: number;
  /** Whether it was answered with success: no error, no injected fault. */
  readonly ok: boolean;
  /** The `result` of the answer, `undefined` if it was not processed. */
  readonly result: unknown;
}

/**
 * Totals since the server was started.
 *
 * @example
 * ```ts
 * import {
 *   type BotApiServerStats,
 *   startBotApiServer,
 * } from "@grammyjs/runner/testing";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = await startBotApiServer();
 * server.pushText("Hello");
 * const { pushed, unconfirmed }: BotApiServerStats = server.stats();
 * assertEquals([pushed, unconfirmed], [1, 1]);
 * ```
 */
export interface BotApiServerStats {
  /** Updates pushed, dropped ones included. */
  pushed: number;
  /** Updates of types that were not allowed, or dropped at a bot's request. */
  dropped: number;
  /** Updates handed out for the first time. */
  delivered: number;
  /** Updates handed out once more. */
  redelivered: number;
  /** Updates confirmed, and so forgotten. */
  confirmed: number;
  /** Updates still on the server. */
  unconfirmed: number;
  /** getUpdates calls. */
  polls: number;
  /** Calls of any other method. */
  calls: number;
}

/**
 * Options of {@link BotApiServer.waitFor}.
 *
 * @example
 * ```ts
 * import { startBotApiServer, type WaitOptions } from "@grammyjs/runner/testing";
 * import { assertRejects } from "@std/assert";
 *
 * const briefly: WaitOptions = { timeout: 10 };
 * await using server = await startBotApiServer();
 * await assertRejects(() => server.waitFor(() => server.sent()[0], briefly));
 * ```
 */
export interface WaitOptions {
  /** Milliseconds until it rejects, 0..2^31-1. @default 5000 */
  timeout?: number;
}

/**
 * A running server. See {@link startBotApiServer}.
 *
 * @example
 * ```ts
 * import { run } from "@grammyjs/runner";
 * import { type BotApiServer, startBotApiServer } from "@grammyjs/runner/testing";
 * import { assertEquals } from "@std/assert";
 * import { Bot } from "grammy";
 *
 * function createBot(server: BotApiServer): Bot {
 *   const bot = new Bot(server.token, { client: { apiRoot: server.url } });
 *   bot.on("message", (ctx) => ctx.reply("Got it!"));
 *   return bot;
 * }
 *
 * await using server = await startBotApiServer({ quirks: false });
 * await using _handle = run(createBot(server));
 * server.pushText("Hello");
 * const { text } = await server.waitFor(() => server.sent()[0]);
 * assertEquals(text, "Got it!");
 * ```
 */
export interface BotApiServer extends AsyncDisposable {
  /** The API root to give to a bot, such as `http://127.0.0.1:38001`. */
  readonly url: string;
  /** The token to give to a bot. */
  readonly token: string;
  /** What getMe answers. */
  readonly botInfo: UserFromGetMe;
  /**
   * Makes updates available to the bot, in this order. Those without an `update_id` get
   * ascending ones, from 1. Types the bot did not allow are dropped, as Telegram does. An
   * id lower than all before, pushed while nothing is unconfirmed, begins a new sequence.
   * Push thousands of updates in several calls: a call takes only so many arguments.
   *
   * Returns the updates with their ids. Throws a `TypeError` or a `RangeError`, and
   * pushes none, if one is not an object or its id is not an integer of 0..2^53-1.
   */
  push(...updates: NewUpdate[]): Update[];
  /**
   * Pushes a text message, and returns the update. Commands such as `/start` are marked
   * as such.
   */
  pushText(text: string, options?: PushOptions): Update;
  /**
   * Pushes a callback query: the press of a button below a message of the bot. Returns
   * the update.
   */
  pushCallbackQuery(data: string, options?: PushCallbackQueryOptions): Update;
  /** The updates still on the server: neither confirmed nor dropped, in order. */
  unconfirmed(): Update[];
  /** The ids of updates handed out, in order. Those handed out again are there again. */
  delivered(): number[];
  /** The ids of updates confirmed by an offset, or by the answer of a webhook, in order. */
  confirmed(): number[];
  /** The getUpdates calls, in order. */
  polls(): Poll[];
  /** The calls of all other methods, or of one, in order. */
  calls(method?: string): ApiCall[];
  /** The messages sent, forwarded and copied by the bot, in order. */
  sent(): Message[];
  /** Totals since the server was started. */
  stats(): BotApiServerStats;
  /**
   * Resolves with the oldest remembered call of the method that passes the test, or
   * else with the next one. Its answer may still be on its way. Rejects as `waitFor` does.
   */
  waitForCall(
    method: string,
    test?: (call: ApiCall) => boolean,
    options?: WaitOptions,
  ): Promise<ApiCall>;
  /**
   * Resolves with what the condition returns as soon as that is truthy. It is checked at
   * once and after whatever happens on the server. Rejects with what the condition throws,
   * with an `Error` when the timeout runs out or the server closes, and with a
   * `RangeError` if the timeout is out of bounds.
   */
  waitFor<T>(
    condition: () => T | undefined | null | false,
    options?: WaitOptions,
  ): Promise<T>;
  /** Forgets all polls, calls, messages and ids recorded so far; not the updates. */
  clearHistory(): void;
  /**
   * Sets the round-trip time in milliseconds, 0..2^31-1: what is answered is settled
   * when it would be without latency, and arrives that much later. Throws a `RangeError`
   * if it is out of bounds.
   */
  setLatency(milliseconds: number): void;
  /**
   * Lets the next calls fail. Faults of the same method come true one after another.
   * Throws a `TypeError` if there is no such fault, and a `RangeError` if its status is
   * not one of 200..599 or `times` is out of bounds.
   */
  fail(fault: Fault, options?: FaultOptions): void;
  /** Takes back all faults that did not come true yet. */
  clearFaults(): void;
  /**
   * Sets the result of a method from now on: a value, or a function of the parameters of
   * a call. `undefined` brings back the default.
   */
  answer(
    method: string,
    result: unknown | ((params: Record<string, unknown>) => unknown),
  ): void;
  /** Breaks all connections and frees the port. Resolves once nothing is left. */
  close(): Promise<void>;
}

/**
 * Starts a local Bot API server on the loopback interface. It serves one bot, and answers
 * all methods: getUpdates and those around webhooks as documented, others plausibly.
 *
 * Updates go to a webhook as soon as one is set, if it is on a loopback address: up to
 * `max_connections` at a time, those of a chat one after another, again and again until
 * they are answered with a status of 200 to 299.
 *
 * @param options Further options
 * @returns The server, which takes calls already
 * @throws {RangeError} If an option is out of bounds
 * @throws {TypeError} If the token does not look like one
 * @throws {Error} The system's, if the port is taken
 *
 * @example
 * ```ts
 * import { startBotApiServer } from "@grammyjs/runner/testing";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = await startBotApiServer();
 * server.pushText("Hello");
 * const response = await fetch(`${server.url}/bot${server.token}/getUpdates`);
 * const { result } = await response.json();
 * assertEquals(result[0].message.text, "Hello");
 * ```
 */
export async function startBotApiServer(
  options: BotApiServerOptions = {},
): Promise<BotApiServer> {
  const {
    token = "123456:TEST-local-Bot-API-server-TEST-0000",
    botInfo,
    port = 0,
    latencyMilliseconds = 0,
    quirks = true,
    history = 10_000,
    webhookRetryMilliseconds = 1000,
  } = options;
  if (typeof token !== "string" || !TOKEN.test(token)) {
    throw new TypeError(
      `Cannot start the server as 'token' must look like "123:abc": received ${token}`,
    );
  }
  check("port", port, 0, 65535);
  check("latencyMilliseconds", latencyMilliseconds, 0, MAX_TIMER);
  if (history !== Infinity) check("history", history, 0);
  check("webhookRetryMilliseconds", webhookRetryMilliseconds, 1, MAX_TIMER);
  const bot: UserFromGetMe = {
    ...BOT_INFO,
    ...botInfo,
    id: parseInt(token),
    is_bot: true,
  };
  const server = createServer();
  // No idle connection is closed in the moment when its client uses it again.
  server.keepAliveTimeout = 0;
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", () => {
      server.off("error", reject);
      resolve();
    });
  });
  const local = new LocalServer(
    server,
    token,
    bot,
    quirks,
    history,
    webhookRetryMilliseconds,
  );
  local.setLatency(latencyMilliseconds);
  return local;
}

const BOT_INFO = {
  first_name: "Test Bot",
  username: "local_test_bot",
  can_join_groups: true,
  can_read_all_group_messages: false,
  supports_inline_queries: false,
  can_connect_to_business: false,
  has_main_web_app: false,
  has_topics_enabled: false,
  allows_users_to_create_topics: false,
  can_manage_bots: false,
  supports_join_request_queries: false,
};
