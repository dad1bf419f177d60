import { nextTurn } from "./_time.ts";
import { WebhookEndpoint } from "./_webhook_http.ts";
import type { Update } from "./deps.ts";
import type { UpdateSource } from "./source.ts";

/**
 * Options of {@link createWebhookSource}.
 *
 * @example
 * ```ts
 * import { createWebhookSource, type WebhookSourceOptions } from "@grammyjs/runner";
 *
 * const options: WebhookSourceOptions = { secretToken: "a-long-random-string" };
 * const source = createWebhookSource(options);
 * ```
 */
export interface WebhookSourceOptions {
  /**
   * The `secret_token` that was passed to `setWebhook`: 1 to 256 letters,
   * digits, `_`, and `-`. Requests without it are answered 401. Without this
   * option, whoever knows the URL can send updates.
   */
  secretToken?: string;
}

/**
 * The part of a request of `node:http` that is looked at.
 *
 * @example
 * ```ts
 * import type { NodeRequest } from "@grammyjs/runner";
 * import type { IncomingMessage } from "node:http";
 *
 * function describe(request: NodeRequest): string {
 *   return `${request.method} from ${request.headers["user-agent"]}`;
 * }
 * const describeIncoming: (request: IncomingMessage) => string = describe;
 * ```
 */
export interface NodeRequest extends AsyncIterable<Uint8Array> {
  /** The method, such as `"POST"`. */
  method?: string;
  /** The headers, by their names in lower case. */
  headers: { [name: string]: string | string[] | undefined };
}

/**
 * The part of a response of `node:http` that is used.
 *
 * @example
 * ```ts
 * import { createWebhookSource, type NodeResponse } from "@grammyjs/runner";
 * import { createServer } from "node:http";
 *
 * const source = createWebhookSource();
 *
 * function refuse(response: NodeResponse) {
 *   response.writeHead(404, { "content-type": "text/plain" });
 *   response.end("Not found");
 * }
 *
 * const server = createServer((request, response) => {
 *   if (request.url === "/telegram") source.listener(request, response);
 *   else refuse(response);
 * });
 * ```
 */
export interface NodeResponse {
  /** Sets status and headers. */
  writeHead(status: number, headers: Record<string, string>): unknown;
  /** Sends the body. */
  end(text: string): unknown;
}

/**
 * A source of the updates that Telegram sends to a webhook.
 *
 * @typeParam Y Type of the updates
 *
 * @example
 * ```ts
 * import { createWebhookSource, type WebhookSource } from "@grammyjs/runner";
 * import type { Update } from "grammy/types";
 *
 * const source: WebhookSource<Update> = createWebhookSource();
 *
 * // Telegram at one path, and others at the rest.
 * async function answer(request: Request): Promise<Response> {
 *   const { pathname } = new URL(request.url);
 *   if (pathname === "/telegram") return await source.handler(request);
 *   return new Response("Welcome!");
 * }
 * ```
 */
export interface WebhookSource<Y> extends UpdateSource<Y> {
  /**
   * Answers a request of Telegram: takes the update in, and resolves once it is
   * stored. Never rejects. Can be passed on without its object.
   *
   * | Status | When |
   * | ------ | ---- |
   * | 200    | the inbox has the update, from now on or from an earlier request |
   * | 400    | the body is no update |
   * | 401    | the secret token is wrong |
   * | 405    | the method is not POST |
   * | 408    | the body took longer than 10 seconds to arrive |
   * | 413    | the body is larger than 1 MiB |
   * | 503    | the runner is not running, there was no room within 10 seconds, or 100 other requests wait: Telegram sends the update again |
   */
  handler: (request: Request) => Promise<Response>;
  /**
   * The same for `node:http` and what builds on it, such as Express. Nothing
   * else may have read the body before.
   */
  listener: (request: NodeRequest, response: NodeResponse) => Promise<void>;
}

/**
 * Creates a source of the updates that Telegram sends to a webhook. With it,
 * `run` handles them like those of long polling: concurrency, order, time limits,
 * stop, statistics and inboxes work the same.
 *
 * A request is answered when its update is in the inbox: on disk where that is
 * durable, in memory otherwise. Telegram sends again what is not answered with
 * success, so an inbox that is full loses nothing. What it sends again although
 * it was stored, because the answer got lost, does not run twice: the source
 * remembers the last 10,000 updates, and a durable inbox does so beyond the life of
 * the process.
 *
 * **Order.** Telegram uses several connections, and does not promise to keep the
 * order across them. What waits at the same time is put in the order of the
 * `update_id`; whatever arrives later comes later. With `max_connections` set to 1,
 * that happens only to what had to be sent again.
 *
 * Setting the webhook is up to you, as is the end: first stop the runner, then
 * the server, so that all requests are answered. In `stats()`, the state is
 * `"polling"` as long as updates are taken in, and `polls` stays 0.
 *
 * @typeParam Y Type of the updates
 * @param options Further options
 * @returns A source for the option `source` of `run`, to be used by one runner
 * @throws {TypeError} If `secretToken` is not a token that Telegram would accept
 *
 * @example
 * ```ts
 * import { createWebhookSource, run } from "@grammyjs/runner";
 * import { Bot } from "grammy";
 *
 * async function main() {
 *   const bot = new Bot("123456:token");
 *   bot.on("message", (ctx) => ctx.reply("Got it!"));
 *   bot.catch(console.error);
 *
 *   const secretToken = "a-long-random-string";
 *   const source = createWebhookSource({ secretToken });
 *   const handle = run(bot, { source });
 *   const server = Deno.serve(source.handler);
 *   await bot.api.setWebhook("https://example.com/", { secret_token: secretToken });
 *   // Later:
 *   await handle.stop();
 *   await server.shutdown();
 * }
 * ```
 *
 * @example With Node
 * ```ts
 * import { createWebhookSource } from "@grammyjs/runner";
 * import { createServer } from "node:http";
 *
 * function main() {
 *   const source = createWebhookSource({ secretToken: "a-long-random-string" });
 *   createServer(source.listener).listen(8080);
 * }
 * ```
 */
export function createWebhookSource<Y extends { update_id: number } = Update>(
  options: WebhookSourceOptions = {},
): WebhookSource<Y> {
  const { secretToken } = options;
  if (
    secretToken !== undefined &&
    !(typeof secretToken === "string" && /^[\w-]{1,256}$/.test(secretToken))
  ) {
    // A secret is not for logs, even if it is a wrong one.
    const received = typeof secretToken === "string"
      ? `a string of ${secretToken.length} characters`
      : secretToken;
    throw new TypeError(
      `Cannot create source: secretToken must consist of 1 to 256 letters, digits, "_" and "-": received ${received}`,
    );
  }
  return new Webhook(secretToken);
}

/** Number of stored updates that are known for sure if they come again. */
const KNOWN_IDS = 10_000;

/** An update that has arrived and is not stored. */
class Arrival<Y> {
  /** Number of requests that wait for it. */
  requests = 0;
  /** Settles the requests with whether the update is stored. */
  settle!: (stored: boolean) => void;
  readonly stored = new Promise<boolean>((resolve) => this.settle = resolve);
  constructor(readonly update: Y) {}
}

class Webhook<Y extends { update_id: number }> implements WebhookSource<Y> {
  readonly #endpoint: WebhookEndpoint<Y>;
  #pace = Infinity;
  /** The generator that is being iterated over, if there is one. */
  #session: object | undefined;
  /** Tells the generator that there is something to do. */
  #wake = () => {};
  /** Arrivals that the runner has not got yet, by their ids. */
  readonly #waiting = new Map<number, Arrival<Y>>();
  /** Arrivals that the runner is storing. */
  readonly #handedOver = new Map<number, Arrival<Y>>();
  /** Ids of updates that have been stored; the newer ones, and the older ones. */
  #known = new Set<number>();
  #knownBefore = new Set<number>();

  constructor(secretToken: string | undefined) {
    this.#endpoint = new WebhookEndpoint(
      secretToken,
      (update, late) => this.#store(update, late),
    );
  }

  readonly handler = async (request: Request): Promise<Response> => {
    const { status, text, headers } = await this.#endpoint.answer({
      method: request.method,
      header: (name) => request.headers.get(name),
      body: request.body,
    });
    return new Response(text, { status, headers });
  };

  readonly listener = async (
    request: NodeRequest,
    response: NodeResponse,
  ): Promise<void> => {
    const { status, text, headers } = await this.#endpoint.answer({
      method: request.method,
      header: (name) => request.headers[name]?.toString(),
      body: request,
    });
    response.writeHead(status, headers);
    response.end(text);
  };

  async *generator(): AsyncGenerator<Y[]> {
    this.close();
    const session = this.#session = {};
    try {
      while (this.#session === session) {
        const batch = this.#handOver();
        if (batch.length === 0) {
          await new Promise<void>((resolve) => this.#wake = resolve);
          // Requests that arrive at the same time are stored at the same time.
          await nextTurn();
          continue;
        }
        let stored = false;
        try {
          yield batch.map(({ update }) => update);
          // Nobody asks for more before these are stored.
          stored = true;
        } finally {
          for (const arrival of batch) this.#settle(arrival, stored);
        }
      }
    } finally {
      if (this.#session === session) this.close();
    }
  }

  setGeneratorPace(pace: number): void {
    this.#pace = pace;
  }

  isActive(): boolean {
    return this.#session !== undefined;
  }

  close(): void {
    this.#session = undefined;
    for (const arrival of this.#waiting.values()) arrival.settle(false);
    this.#waiting.clear();
    this.#wake();
  }

  /**
   * Having this method tells the runner that what is not stored comes again. The
   * answers have said all there is to say.
   */
  confirm(): Promise<void> {
    return Promise.resolve();
  }

  /** There is no position to go back to: what is not stored comes again. */
  rewind(): void {}

  /** What is stored is answered, and so not taken back. */
  acknowledged(): number {
    return Infinity;
  }

  /** Resolves with whether the update is stored by the time that it is too late. */
  async #store(update: Y, late: Promise<undefined>): Promise<boolean> {
    const id = update.update_id;
    if (this.#known.has(id) || this.#knownBefore.has(id)) return true;
    let arrival = this.#waiting.get(id) ?? this.#handedOver.get(id);
    if (arrival === undefined) {
      if (this.#session === undefined) return false;
      arrival = new Arrival(update);
      this.#waiting.set(id, arrival);
      this.#wake();
    }
    arrival.requests++;
    const stored = await Promise.race([arrival.stored, late]);
    arrival.requests--;
    // Telegram is told to send it again, so it must not take up room here.
    if (arrival.requests === 0 && this.#waiting.get(id) === arrival) {
      this.#waiting.delete(id);
    }
    return stored ?? false;
  }

  /** The next batch: what has arrived, in order. */
  #handOver(): Arrival<Y>[] {
    const batch = [...this.#waiting.values()]
      .sort((a, b) => a.update.update_id - b.update.update_id)
      .slice(0, this.#pace);
    for (const arrival of batch) {
      this.#waiting.delete(arrival.update.update_id);
      this.#handedOver.set(arrival.update.update_id, arrival);
    }
    return batch;
  }

  #settle(arrival: Arrival<Y>, stored: boolean): void {
    const id = arrival.update.update_id;
    this.#handedOver.delete(id);
    if (stored) {
      this.#known.add(id);
      if (this.#known.size >= KNOWN_IDS) {
        this.#knownBefore = this.#known;
        this.#known = new Set();
      }
    }
    arrival.settle(stored);
  }
}
