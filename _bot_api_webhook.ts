/**
 * How a local Bot API server delivers updates to a bot that has set a webhook.
 * @module
 */
import {
  decodeParams,
  integer,
  type StoredUpdate,
  typeOf,
  type UpdateStore,
} from "./_bot_api.ts";
import { ApiFailure, now } from "./_bot_api_answers.ts";
import type { Timer, Timers } from "./_bot_api_waiting.ts";
import type { Update } from "./deps.ts";

/** The last wait between two tries is this many times as long as the first. */
const MAX_GROWTH = 60;
/** Longer waits are not granted to a webhook, in seconds. */
const MAX_RETRY_AFTER = 3600;
/** How long a webhook may take to answer, in milliseconds. */
const ANSWER_TIMEOUT = 60_000;

/** What a bot asks for with setWebhook. */
export interface WebhookParams {
  url: string;
  secretToken: string | undefined;
  maxConnections: number;
}

/** Reads the parameters of setWebhook. Throws an `ApiFailure`. */
export function webhookParams(params: Record<string, unknown>): WebhookParams {
  const { url = "", secret_token: secretToken, max_connections } = params;
  if (typeof url !== "string" || (url !== "" && !URL.canParse(url))) {
    throw new ApiFailure(400, "Bad Request: invalid webhook URL specified");
  }
  if (
    secretToken !== undefined &&
    !(typeof secretToken === "string" && /^[\w-]{1,256}$/.test(secretToken))
  ) {
    throw new ApiFailure(
      400,
      "Bad Request: secret token contains unallowed characters",
    );
  }
  const maxConnections = integer(max_connections, 40, 1, 100);
  return { url, secretToken, maxConnections };
}

/** Updates that are sent one after another: those of one chat. */
interface Queue {
  readonly key: string;
  readonly updates: StoredUpdate[];
  /** Failures in a row. */
  failures: number;
  /** Set iff it waits to be tried again. */
  timer?: Timer;
}

/** Sends updates to one webhook, until that is set anew or deleted. */
export class WebhookDelivery {
  /** Queues that hold updates, by their keys. */
  readonly #queues = new Map<string, Queue>();
  /** Those that wait for a connection, in order. */
  readonly #ready: Queue[] = [];
  /** One for each connection in use. */
  readonly #requests = new Set<AbortController>();
  #isClosed = false;
  #lastError: { last_error_date: number; last_error_message: string } | null =
    null;

  /**
   * `retryDelay` is the wait after a first failure, in milliseconds. `replied` is
   * called with calls that answers contain, `changed` whenever a request ends.
   */
  constructor(
    readonly params: WebhookParams,
    readonly store: UpdateStore,
    readonly timers: Timers,
    readonly retryDelay: number,
    readonly replied: (
      method: string,
      params: Record<string, unknown>,
    ) => void,
    readonly changed: () => void,
  ) {
    for (const update of store.list()) this.add(update);
  }

  /** The part of getWebhookInfo that is about delivery. */
  info(): Record<string, unknown> {
    const { url, maxConnections } = this.params;
    return { url, max_connections: maxConnections, ...this.#lastError };
  }

  add(update: StoredUpdate): void {
    const key = queueOf(JSON.parse(update.json));
    const queue = this.#queues.get(key);
    if (queue !== undefined) return void queue.updates.push(update);
    const added = { key, updates: [update], failures: 0 };
    this.#queues.set(key, added);
    this.#ready.push(added);
    this.#sendNext();
  }

  /** Breaks all connections off. What was not answered stays in the store. */
  close(): void {
    this.#isClosed = true;
    for (const request of this.#requests) request.abort();
    for (const { timer } of this.#queues.values()) {
      if (timer !== undefined) this.timers.clear(timer);
    }
  }

  #sendNext(): void {
    if (!isLoopback(this.params.url)) {
      return this.#note("The local server sends to loopback addresses only");
    }
    while (this.#requests.size < this.params.maxConnections) {
      const queue = this.#ready.shift();
      if (queue === undefined) return;
      this.#send(queue);
    }
  }

  /** Sends the first update of a queue. Never rejects. */
  async #send(queue: Queue): Promise<void> {
    const [update] = queue.updates;
    this.store.handOut(update);
    const request = new AbortController();
    this.#requests.add(request);
    const timer = this.timers.after(ANSWER_TIMEOUT, () => {
      request.abort(new Error("Read timeout expired"));
    });
    let retryAfter: number | undefined;
    try {
      const answer = await this.#post(update, request.signal);
      if (!this.#isClosed) retryAfter = this.#judge(answer);
    } catch (error) {
      // Where fetch tells a reason, it hides it in the cause.
      const { cause = error } = error as Error;
      if (!this.#isClosed) this.#note(`Connection failed: ${cause}`);
      retryAfter = 0;
    }
    this.timers.clear(timer);
    this.#requests.delete(request);
    if (this.#isClosed) return;
    if (retryAfter === undefined) this.#delivered(queue);
    else this.#failed(queue, retryAfter);
    this.#sendNext();
    this.changed();
  }

  async #post(update: StoredUpdate, signal: AbortSignal) {
    const { url, secretToken } = this.params;
    const headers = new Headers({ "content-type": "application/json" });
    if (secretToken !== undefined) {
      headers.set("x-telegram-bot-api-secret-token", secretToken);
    }
    const response = await fetch(url, {
      method: "POST",
      headers,
      body: update.json,
      redirect: "manual",
      signal,
    });
    return { response, body: new Uint8Array(await response.arrayBuffer()) };
  }

  /** Returns after how many seconds to try again; `undefined` if all is well. */
  #judge(
    { response, body }: { response: Response; body: Uint8Array },
  ): number | undefined {
    const { ok, status, statusText, headers } = response;
    if (!ok) {
      this.#note(`Wrong response from the webhook: ${status} ${statusText}`);
      return integer(headers.get("retry-after"), 0, 0, MAX_RETRY_AFTER);
    }
    const type = headers.get("content-type") ?? "";
    const { method, ...params } = decodeParams(undefined, type, body) ?? {};
    if (typeof method === "string") this.replied(method, params);
  }

  #delivered(queue: Queue): void {
    this.store.remove(queue.updates.shift()!);
    queue.failures = 0;
    if (queue.updates.length > 0) this.#ready.push(queue);
    else this.#queues.delete(queue.key);
  }

  #failed(queue: Queue, retryAfter: number): void {
    const growth = Math.min(2 ** queue.failures++, MAX_GROWTH);
    const delay = retryAfter * 1000 || this.retryDelay * growth;
    queue.timer = this.timers.after(delay, () => {
      queue.timer = undefined;
      this.#ready.push(queue);
      this.#sendNext();
    });
  }

  #note(message: string): void {
    this.#lastError = { last_error_date: now(), last_error_message: message };
  }
}

/**
 * What updates are sent one after another by: the chat of messages, the user of
 * everything else. So a pressed button can overtake a message.
 */
function queueOf(update: Update): string {
  const type = typeOf(update);
  // deno-lint-ignore no-explicit-any
  const content = (update as any)[type ?? ""];
  const chat = content?.chat?.id;
  if (chat !== undefined) return `chat ${chat}`;
  const { user = content?.from } = content ?? {};
  return `${type} ${user?.id ?? update.update_id}`;
}

/** Tests must not send updates into the world, such as to a bot in production. */
function isLoopback(url: string): boolean {
  return /^(localhost|127(\.\d+){3}|\[::1\])$/.test(new URL(url).hostname);
}
