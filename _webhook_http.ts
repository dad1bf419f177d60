/**
 * What HTTP has to do with a webhook: which requests hold an update, and how they are
 * answered.
 * @module
 */
import { Buffer } from "node:buffer";
import { createHash, timingSafeEqual } from "node:crypto";

/** How long a request may take to be read and stored, in milliseconds. */
const MAX_WAIT_MS = 10_000;
/** The number of connections that Telegram opens at most. */
const MAX_REQUESTS = 100;
/** Updates are far smaller. */
const MAX_BODY_BYTES = 1024 * 1024;

/** A request, whatever the server. */
export interface Incoming {
  method: string | undefined;
  header(name: string): string | null | undefined;
  body: AsyncIterable<Uint8Array> | null;
}

/** A response, whatever the server. */
export interface Answer {
  status: number;
  text: string;
  headers: Record<string, string>;
}

function answer(
  status: number,
  text: string,
  headers: Record<string, string> = {},
): Answer {
  return { status, text, headers };
}

const OK = answer(200, "");
const MALFORMED = answer(400, "The body must be an update");
const UNAUTHORIZED = answer(401, "The secret token is wrong");
const NOT_POST = answer(405, "The method must be POST", { allow: "POST" });
// What is left of the body is not worth waiting for.
const SLOW = answer(408, "The body took too long", { connection: "close" });
const TOO_LARGE = answer(413, "The body must be of 1 MiB at most", {
  connection: "close",
});
const BUSY = answer(503, "The bot cannot take updates now", {
  "retry-after": "1",
});

/** Answers requests; not too many at a time, and none too late. */
export class WebhookEndpoint<Y> {
  /** The hash of the secret token, if there is one. */
  readonly #secret: Uint8Array | undefined;
  readonly #store: (update: Y, late: Promise<undefined>) => Promise<boolean>;
  /** Number of requests that have not been answered. */
  #requests = 0;

  /**
   * `store` resolves with whether the update is stored, as soon as it is too late at
   * the latest. It never rejects.
   */
  constructor(
    secretToken: string | undefined,
    store: (update: Y, late: Promise<undefined>) => Promise<boolean>,
  ) {
    this.#secret = secretToken === undefined ? undefined : hash(secretToken);
    this.#store = store;
  }

  /** Never rejects. */
  async answer({ method, header, body }: Incoming): Promise<Answer> {
    if (method !== "POST") return NOT_POST;
    if (!this.#isSecret(header("x-telegram-bot-api-secret-token") ?? "")) {
      return UNAUTHORIZED;
    }
    if (Number(header("content-length")) > MAX_BODY_BYTES) return TOO_LARGE;
    if (this.#requests >= MAX_REQUESTS) return BUSY;
    this.#requests++;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<undefined>((resolve) => {
      timer = setTimeout(() => resolve(undefined), MAX_WAIT_MS);
    });
    try {
      return await this.#take(body, late);
    } finally {
      clearTimeout(timer);
      this.#requests--;
    }
  }

  #isSecret(token: string): boolean {
    // Hashes are of equal length, which is what comparing takes.
    return this.#secret === undefined ||
      timingSafeEqual(hash(token), this.#secret);
  }

  async #take(
    body: AsyncIterable<Uint8Array> | null,
    late: Promise<undefined>,
  ): Promise<Answer> {
    let update: Y | undefined;
    try {
      const bytes = await Promise.race([readBody(body), late]);
      if (bytes === undefined) return SLOW;
      if (bytes.length > MAX_BODY_BYTES) return TOO_LARGE;
      update = parse<Y>(bytes);
    } catch {
      // It is not JSON, the client broke off, or somebody else has read the body.
    }
    if (update === undefined) return MALFORMED;
    return await this.#store(update, late) ? OK : BUSY;
  }
}

function hash(text: string): Uint8Array {
  return createHash("sha256").update(text).digest();
}

/** Reads a body; of one that is too large, only so much that this can be told. */
async function readBody(
  body: AsyncIterable<Uint8Array> | null,
): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of body ?? []) {
    // The rest is read, too: many clients listen only when they have had their say.
    if (length > MAX_BODY_BYTES) continue;
    chunks.push(chunk);
    length += chunk.length;
  }
  return Buffer.concat(chunks);
}

/** The update that a body holds, if it does. */
function parse<Y>(bytes: Uint8Array): Y | undefined {
  const json = JSON.parse(new TextDecoder("utf-8", DECODING).decode(bytes));
  const id: unknown = json?.update_id;
  return Number.isSafeInteger(id) && id as number >= 0 ? json : undefined;
}

const DECODING = { fatal: true };
