/**
 * The local Bot API server behind `testing.ts`: joins the store of updates, their delivery
 * by long polling or to a webhook, the answers to other methods, and the injected faults.
 * @module
 */
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Message, Update, UserFromGetMe } from "./deps.ts";
import {
  check,
  decodeParams,
  History,
  MAX_TIMER,
  pollParams,
  PollThrottle,
  TOKEN,
  typeOf,
  UpdateStore,
} from "./_bot_api.ts";
import {
  Answers,
  ApiFailure,
  chatOf,
  now,
  userOf,
} from "./_bot_api_answers.ts";
import {
  conflict,
  Exchange,
  readBody,
  WEBHOOK_ACTIVE,
} from "./_bot_api_exchange.ts";
import { LongPolling } from "./_bot_api_polling.ts";
import { Timers, Waiters } from "./_bot_api_waiting.ts";
import { WebhookDelivery, webhookParams } from "./_bot_api_webhook.ts";
import type {
  ApiCall,
  BotApiServer,
  BotApiServerStats,
  Fault,
  FaultOptions,
  NewUpdate,
  Poll,
  PushCallbackQueryOptions,
  PushOptions,
  WaitOptions,
} from "./testing.ts";

type Params = Record<string, unknown>;
type ArmedFault = Required<FaultOptions> & { fault: Fault };

/** The state of a local server, and what each method does to it. */
export class LocalServer implements BotApiServer {
  readonly url: string;
  readonly #server: Server;
  readonly #store: UpdateStore;
  readonly #answers: Answers;
  readonly #polling: LongPolling;
  readonly #calls: History<ApiCall>;
  readonly #sent: History<unknown>;
  readonly #results = new Map<string, unknown>();
  #callCount = 0;
  #faults: ArmedFault[] = [];
  #latency = 0;
  /** Set iff a webhook is. */
  #webhook: WebhookDelivery | undefined;
  readonly #webhookRetryDelay: number;
  #timers = new Timers();
  #waiters = new Waiters(this.#timers);
  #closed: Promise<void> | undefined;

  constructor(
    server: Server,
    readonly token: string,
    readonly botInfo: UserFromGetMe,
    quirks: boolean,
    history: number,
    webhookRetryDelay: number,
  ) {
    this.#server = server;
    this.#webhookRetryDelay = webhookRetryDelay;
    const { port } = server.address() as AddressInfo;
    this.url = `http://127.0.0.1:${port}`;
    this.#store = new UpdateStore(history * 100);
    this.#answers = new Answers(botInfo);
    this.#polling = new LongPolling(
      this.#store,
      quirks ? new PollThrottle() : undefined,
      history,
      this.#timers,
      () => this.#waiters.check(),
    );
    this.#calls = new History(history);
    this.#sent = new History(history);
    server.on("request", (request, response) => {
      // A client that breaks off is no error of the server.
      this.#receive(request, response).catch(() => response.destroy());
    });
  }

  push(...updates: NewUpdate[]): Update[] {
    let nextId = this.#store.nextId;
    const isEmpty = this.#store.size === 0;
    const stored = updates.map((given, index) => {
      if (typeof given !== "object" || given === null || Array.isArray(given)) {
        throw new TypeError(
          `Cannot push the update as it must be an object: received ${given}`,
        );
      }
      if (given.update_id !== undefined) {
        check("update_id", given.update_id, 0);
      }
      const update: Update = { ...given, update_id: given.update_id ?? nextId };
      nextId = isEmpty && index === 0
        ? update.update_id + 1
        : Math.max(nextId, update.update_id + 1);
      return { update, json: JSON.stringify(update) };
    });
    for (const { update, json } of stored) {
      const pushed = this.#store.push(update.update_id, typeOf(update), json);
      if (pushed !== undefined) this.#webhook?.add(pushed);
    }
    this.#polling.notify();
    this.#waiters.check();
    return stored.map(({ update }) => update);
  }

  pushText(text: string, options: PushOptions = {}): Update {
    const { userId = 1001, chatId = userId } = options;
    const entities = [...text.matchAll(/(?<!\S)\/\w{1,32}(?:@\w+)?/g)].map(
      (match) => ({
        type: "bot_command" as const,
        offset: match.index,
        length: match[0].length,
      }),
    );
    const message = {
      message_id: this.#answers.nextMessageId(),
      from: userOf(userId),
      chat: chatOf(chatId),
      date: now(),
      text,
      ...(entities.length > 0 ? { entities } : {}),
    };
    return this.push({ message })[0];
  }

  pushCallbackQuery(
    data: string,
    options: PushCallbackQueryOptions = {},
  ): Update {
    const {
      userId = 1001,
      chatId = userId,
      messageId = this.#answers.nextMessageId(),
    } = options;
    const { id, is_bot, first_name, username } = this.botInfo;
    const message = {
      message_id: messageId,
      from: { id, is_bot, first_name, username },
      chat: chatOf(chatId),
      date: now(),
      text: "Choose",
      reply_markup: {
        inline_keyboard: [[{ text: data, callback_data: data }]],
      },
    };
    const callback_query = {
      id: String(this.#store.nextId),
      from: userOf(userId),
      chat_instance: String(chatId),
      message,
      data,
    };
    return this.push({ callback_query })[0];
  }

  unconfirmed(): Update[] {
    return this.#store.list().map(({ json }) => JSON.parse(json));
  }

  delivered(): number[] {
    return this.#store.delivered.list();
  }

  confirmed(): number[] {
    return this.#store.confirmed.list();
  }

  polls(): Poll[] {
    return this.#polling.polls.list();
  }

  calls(method?: string): ApiCall[] {
    const calls = this.#calls.list();
    if (method === undefined) return calls;
    return calls.filter((call) => call.method === method);
  }

  sent(): Message[] {
    return this.#sent.list() as Message[];
  }

  stats(): BotApiServerStats {
    const unconfirmed = this.#store.size;
    return {
      ...this.#store.counts,
      unconfirmed,
      polls: this.#polling.count,
      calls: this.#callCount,
    };
  }

  async waitForCall(
    method: string,
    test: (call: ApiCall) => boolean = () => true,
    options?: WaitOptions,
  ): Promise<ApiCall> {
    const condition = () => this.calls(method).find(test);
    return await this.#waiters.wait(
      condition,
      `a call of '${method}'`,
      options,
    );
  }

  async waitFor<T>(
    condition: () => T | undefined | null | false,
    options?: WaitOptions,
  ): Promise<T> {
    return await this.#waiters.wait(condition, String(condition), options);
  }

  clearHistory(): void {
    this.#polling.polls.clear();
    this.#calls.clear();
    this.#sent.clear();
    this.#store.delivered.clear();
    this.#store.confirmed.clear();
  }

  setLatency(milliseconds: number): void {
    check("latencyMilliseconds", milliseconds, 0, MAX_TIMER);
    this.#latency = milliseconds;
  }

  fail(fault: Fault, options: FaultOptions = {}): void {
    const { times = 1, method = "getUpdates", processed = false } = options;
    if (times !== Infinity) check("times", times, 1);
    if (typeof fault === "string") {
      if (!["hang", "reset", "truncate", "garbage"].includes(fault)) {
        throw new TypeError(
          `Cannot inject the fault as it is not a known one: received ${fault}`,
        );
      }
    } else if (fault.status !== undefined) {
      check("status", fault.status, 200, 599);
    } else if (!("body" in fault)) {
      throw new TypeError(
        "Cannot inject the fault as it has neither a status nor a body",
      );
    }
    this.#faults.push({
      fault,
      times,
      method,
      processed: processed || fault === "truncate",
    });
    // A request on a connection used before may be repeated by the client's HTTP stack
    // when the connection breaks, so that nobody would notice the fault.
    if (fault === "reset") this.#server.closeIdleConnections();
  }

  clearFaults(): void {
    this.#faults = [];
  }

  answer(method: string, result: unknown): void {
    if (result === undefined) this.#results.delete(method);
    else this.#results.set(method, result);
  }

  close(): Promise<void> {
    return this.#closed ??= new Promise((resolve) => {
      this.#waiters.close();
      this.#webhook?.close();
      this.#timers.clearAll();
      this.#server.close(() => resolve());
      this.#server.closeAllConnections();
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #receive(
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    const at = Date.now();
    const [path, query] = (request.url ?? "").split("?", 2);
    const [, token, method] = /^\/bot([^/]+)\/(?:test\/)?(\w+)$/.exec(path) ??
      [];
    const body = await readBody(request);
    if (this.#closed) return;
    const exchange = new Exchange(response, (send) => this.#delay(send));
    if (method === undefined || !TOKEN.test(token)) {
      return exchange.refuse(new ApiFailure(404, "Not Found"));
    }
    if (token !== this.token) {
      return exchange.refuse(new ApiFailure(401, "Unauthorized"));
    }
    if (body === undefined) {
      return exchange.refuse(new ApiFailure(413, "Request Entity Too Large"));
    }
    const type = request.headers["content-type"] ?? "";
    const params = decodeParams(query, type, body);
    if (params === undefined) {
      const description = "Bad Request: can't parse the parameters";
      return exchange.refuse(new ApiFailure(400, description));
    }
    const armed = this.#takeFault(method);
    exchange.fault = armed?.fault;
    exchange.keepAlive = !this.#faults.some(({ fault }) => fault === "reset");
    const skip = armed !== undefined && !armed.processed;
    if (method === "getUpdates") this.#poll(params, exchange, at, skip);
    else this.#call(method, params, exchange, at, skip);
  }

  #poll(params: Params, exchange: Exchange, at: number, skip: boolean): void {
    if (skip) {
      const poll = this.#polling.record(pollParams(params), at);
      exchange.answer("");
      return this.#polling.ended(poll, exchange, "failed");
    }
    if (this.#webhook !== undefined) {
      const poll = this.#polling.record(pollParams(params), at);
      exchange.refuse(conflict(WEBHOOK_ACTIVE));
      return this.#polling.ended(poll, exchange, "refused");
    }
    if (Array.isArray(params.allowed_updates)) {
      this.#store.allow(params.allowed_updates);
    }
    this.#polling.poll(pollParams(params), exchange, at);
  }

  #call(
    method: string,
    params: Params,
    exchange: Exchange,
    at: number,
    skip: boolean,
  ): void {
    let result: unknown;
    let ok = exchange.fault === undefined;
    if (skip) exchange.answer("");
    else {
      try {
        result = this.#result(method, params);
        exchange.answer(JSON.stringify({ ok: true, result }));
      } catch (error) {
        ok = false;
        exchange.refuse(
          error instanceof ApiFailure
            ? error
            : new ApiFailure(500, `Internal Server Error: ${error}`),
        );
      }
    }
    this.#record({ method, params, at, ok, result });
  }

  /** A call in the answer of a webhook: nobody hears of its result. */
  #reply(method: string, params: Params): void {
    let result: unknown;
    let ok = true;
    try {
      result = this.#result(method, params);
    } catch {
      ok = false;
    }
    this.#record({ method, params, at: Date.now(), ok, result });
  }

  #record(call: ApiCall): void {
    this.#callCount++;
    this.#calls.add(call);
    this.#waiters.check();
  }

  #result(method: string, params: Params): unknown {
    if (this.#results.has(method)) {
      const result = this.#results.get(method);
      return typeof result === "function" ? result(params) : result;
    }
    switch (method) {
      case "setWebhook":
        this.#setWebhook(params);
        return true;
      case "deleteWebhook":
        this.#setWebhook({ ...params, url: "" });
        return true;
      case "getWebhookInfo": {
        const allowed_updates = this.#store.allowedUpdates;
        return {
          url: "",
          ...this.#webhook?.info(),
          has_custom_certificate: false,
          pending_update_count: this.#store.size,
          ...(allowed_updates.length > 0 ? { allowed_updates } : {}),
        };
      }
    }
    const sent = (message: unknown) => this.#sent.add(message);
    return this.#answers.result(method, params, sent);
  }

  #setWebhook(params: Params): void {
    const wanted = webhookParams(params);
    const { allowed_updates, drop_pending_updates } = params;
    if (Array.isArray(allowed_updates)) this.#store.allow(allowed_updates);
    if (drop_pending_updates === true) this.#store.drop();
    this.#webhook?.close();
    this.#webhook = undefined;
    if (wanted.url === "") return;
    this.#polling.end("terminated by setWebhook request");
    this.#webhook = new WebhookDelivery(
      wanted,
      this.#store,
      this.#timers,
      this.#webhookRetryDelay,
      (method, params) => this.#reply(method, params),
      () => this.#waiters.check(),
    );
  }

  #takeFault(method: string): ArmedFault | undefined {
    const index = this.#faults.findIndex((armed) =>
      armed.method === method || armed.method === "*"
    );
    const armed = this.#faults[index];
    if (armed !== undefined && --armed.times <= 0) {
      this.#faults.splice(index, 1);
    }
    return armed;
  }

  #delay(send: () => void): void {
    if (this.#latency === 0) send();
    else this.#timers.after(this.#latency, send);
  }
}
