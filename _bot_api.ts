/**
 * What a Bot API server knows of updates, without any HTTP: their queue, the rules of
 * getUpdates, and how parameters are written.
 *
 * How updates leave the store (long polling, webhooks) is not its business.
 * @module
 */
import { Buffer } from "node:buffer";
import type { Update } from "./deps.ts";

/** An update on the server: serialised once, when it is pushed. */
export interface StoredUpdate {
  readonly id: number;
  readonly json: string;
  /** How many times it was handed out so far. */
  deliveries: number;
  /** Whether it was confirmed before others that are older. */
  isRemoved: boolean;
}

/** Keeps the newest `limit` items, in order. */
export class History<T> {
  #items: T[] = [];

  constructor(readonly limit: number) {}

  add(item: T): void {
    if (this.limit === 0) return;
    this.#items.push(item);
    // Cut in bulk, so that adding stays O(1).
    if (this.#items.length >= 2 * this.limit) {
      this.#items.splice(0, this.#items.length - this.limit);
    }
  }

  list(): T[] {
    return this.#items.slice(-this.limit);
  }

  clear(): void {
    this.#items = [];
  }
}

/** Types that are sent only to bots which ask for them by name. */
const OPT_IN_TYPES = new Set([
  "chat_member",
  "message_reaction",
  "message_reaction_count",
]);

/** Offsets further than this beyond the end of the queue belong to an earlier sequence of ids. */
const MAX_OFFSET_AHEAD = 10;

/** The queue of unconfirmed updates, with the documented semantics of `offset`. */
export class UpdateStore {
  // Unconfirmed updates are `#entries[#head..]`, in the order they were pushed.
  #entries: StoredUpdate[] = [];
  #head = 0;
  // How many of them were removed out of order.
  #removed = 0;
  // The entries' ids ascend, so confirming may stop at the first one that stays.
  #ascending = true;
  #nextId = 1;
  #allowed: ReadonlySet<string> | undefined;

  readonly delivered: History<number>;
  readonly confirmed: History<number>;
  readonly counts = {
    pushed: 0,
    dropped: 0,
    delivered: 0,
    redelivered: 0,
    confirmed: 0,
  };

  constructor(history: number = Infinity) {
    this.delivered = new History(history);
    this.confirmed = new History(history);
  }

  /** The id that the next update without one gets. */
  get nextId(): number {
    return this.#nextId;
  }

  get size(): number {
    return this.#entries.length - this.#head - this.#removed;
  }

  get allowedUpdates(): string[] {
    return [...this.#allowed ?? []];
  }

  /** Sets the types queued from now on. An empty list means all but the opt-in ones. */
  allow(types: readonly string[]): void {
    this.#allowed = types.length === 0 ? undefined : new Set(types);
  }

  /** Queues an update and returns it, unless its type is not allowed. */
  push(
    id: number,
    type: string | undefined,
    json: string,
  ): StoredUpdate | undefined {
    this.counts.pushed++;
    // A lower id on an empty queue starts a new sequence.
    const newest = this.#entries.at(-1);
    if (newest === undefined) this.#nextId = id + 1;
    else this.#nextId = Math.max(this.#nextId, id + 1);
    if (type !== undefined && !this.#isAllowed(type)) {
      this.counts.dropped++;
      return undefined;
    }
    if (newest === undefined) this.#ascending = true;
    else if (id < newest.id) this.#ascending = false;
    const update = { id, json, deliveries: 0, isRemoved: false };
    this.#entries.push(update);
    return update;
  }

  /** Confirms what is before `offset` and returns the next updates. */
  take(offset: number, limit: number): StoredUpdate[] {
    this.confirm(offset);
    const batch = this.#entries.slice(this.#head, this.#head + limit);
    for (const entry of batch) this.handOut(entry);
    return batch;
  }

  /** Counts that an update is sent to the bot. */
  handOut(update: StoredUpdate): void {
    if (update.deliveries++ === 0) this.counts.delivered++;
    else this.counts.redelivered++;
    this.delivered.add(update.id);
  }

  /** Confirms one update, wherever it is in the queue. */
  remove(update: StoredUpdate): void {
    this.#confirmed(update);
    update.isRemoved = true;
    this.#removed++;
    while (this.#entries[this.#head]?.isRemoved) {
      this.#head++;
      this.#removed--;
    }
    this.#compact();
  }

  /** Forgets all updates before `offset`, or all but the last `-offset`. */
  confirm(offset: number): void {
    if (this.#removed > 0) this.#repack();
    if (offset < 0) {
      for (let n = this.size + offset; n > 0; n--) this.#shift();
    } else if (offset > this.#nextId + MAX_OFFSET_AHEAD) {
      return;
    } else if (this.#ascending) {
      while (this.size > 0 && this.#entries[this.#head].id < offset) {
        this.#shift();
      }
    } else {
      const entries = this.list();
      const before = entries.filter((entry) => entry.id < offset);
      for (const entry of before) this.#confirmed(entry);
      this.#entries = entries.filter((entry) => entry.id >= offset);
      this.#head = 0;
    }
    this.#compact();
  }

  /** Forgets all updates, as `drop_pending_updates` does. */
  drop(): void {
    this.counts.dropped += this.size;
    this.#entries = [];
    this.#head = this.#removed = 0;
  }

  list(): StoredUpdate[] {
    return this.#entries.slice(this.#head).filter((entry) => !entry.isRemoved);
  }

  #isAllowed(type: string): boolean {
    return this.#allowed?.has(type) ?? !OPT_IN_TYPES.has(type);
  }

  #shift(): void {
    this.#confirmed(this.#entries[this.#head++]);
  }

  #confirmed(entry: StoredUpdate): void {
    this.counts.confirmed++;
    this.confirmed.add(entry.id);
  }

  #compact(): void {
    if (
      this.#head === this.#entries.length ||
      (this.#head > 1000 && this.#head * 2 > this.#entries.length)
    ) this.#repack();
  }

  #repack(): void {
    this.#entries = this.list();
    this.#head = this.#removed = 0;
  }
}

/** The parameters of getUpdates which decide what it answers, and when. */
export interface PollParams {
  offset: number;
  /** 1..100 */
  limit: number;
  /** Seconds, 0..50. */
  timeout: number;
}

/** Reads the parameters of getUpdates, out of bounds ones moved to the nearest bound. */
export function pollParams(params: Record<string, unknown>): PollParams {
  return {
    offset: integer(params.offset, 0, -Infinity, Infinity),
    limit: integer(params.limit, 100, 1, 100),
    timeout: integer(params.timeout, 0, 0, 50),
  };
}

/** Slows down clients that ask again and again with the same offset. */
export class PollThrottle {
  #offset: number | undefined;
  #at = -Infinity;

  constructor(readonly now: () => number = () => performance.now()) {}

  apply(poll: PollParams): PollParams {
    const now = this.now();
    const since = poll.offset === this.#offset ? now - this.#at : Infinity;
    this.#offset = poll.offset;
    this.#at = now;
    return {
      offset: poll.offset,
      limit: since < 500 ? 1 : poll.limit,
      timeout: since < 3000 ? Math.max(3, poll.timeout) : poll.timeout,
    };
  }
}

/** Decodes the parameters of a call. Returns `undefined` if they are malformed. */
export function decodeParams(
  query: string | undefined,
  contentType: string,
  body: Uint8Array,
): Record<string, unknown> | undefined {
  const params: Record<string, unknown> = {};
  const addFields = (fields: Iterable<[string, string | UploadedFile]>) => {
    for (const [name, value] of fields) params[name] = field(name, value);
  };
  if (query !== undefined) addFields(new URLSearchParams(query));
  if (body.length === 0) return params;
  const type = contentType.split(";", 1)[0].trim().toLowerCase();
  try {
    if (type === "application/json") {
      const json = JSON.parse(new TextDecoder().decode(body));
      if (typeof json !== "object" || json === null || Array.isArray(json)) {
        return undefined;
      }
      return Object.assign(params, json);
    }
    if (type === "application/x-www-form-urlencoded") {
      addFields(new URLSearchParams(new TextDecoder().decode(body)));
    } else if (type === "multipart/form-data") {
      addFields(multipartFields(contentType, body));
    }
    return params;
  } catch {
    return undefined;
  }
}

/** The type of an update: the name of its one field beside the id. */
export function typeOf(update: Partial<Update>): string | undefined {
  return Object.keys(update).find((key) => key !== "update_id");
}

/** What is kept of an uploaded file. */
interface UploadedFile {
  name: string;
  type: string;
  size: number;
}

// Parsed by hand: Node's `formData()` refuses forms as lenient as grammY's.
function* multipartFields(
  contentType: string,
  body: Uint8Array,
): Generator<[string, string | UploadedFile]> {
  const [, quoted, bare] =
    /boundary=(?:"([^"]+)"|([^\s;]+))/i.exec(contentType) ?? [];
  const bytes = Buffer.from(body.buffer, body.byteOffset, body.byteLength);
  const delimiter = Buffer.from(`--${quoted ?? bare}`);
  let start = bytes.indexOf(delimiter);
  if (start < 0) throw new SyntaxError("The boundary is missing");
  while (true) {
    start += delimiter.length;
    const end = bytes.indexOf(Buffer.concat([CRLF, delimiter]), start);
    const split = bytes.indexOf(HEAD_END, start);
    if (end < 0 || split < 0 || split > end) return;
    const head = bytes.toString("utf8", start, split);
    const content = bytes.subarray(split + HEAD_END.length, end);
    const [, name] = /[;\s]name="([^"]*)"/i.exec(head) ?? [];
    const [, fileName] = /[;\s]filename="?([^"\r\n]*)"?/i.exec(head) ?? [];
    const [, type = ""] = /^content-type:\s*(.*)$/im.exec(head) ?? [];
    if (name !== undefined && fileName !== undefined) {
      yield [name, { name: fileName, type, size: content.length }];
    } else if (name !== undefined) yield [name, content.toString()];
    start = end + CRLF.length;
  }
}

const CRLF = Buffer.from("\r\n");
const HEAD_END = Buffer.from("\r\n\r\n");

// Form fields hold objects as JSON; numbers stay strings, since "1" may be a text.
function field(name: string, value: string | UploadedFile): unknown {
  if (typeof value !== "string") return value;
  if (value === "true" || value === "false") return value === "true";
  if (!/^[[{]/.test(value) || name === "text" || name === "caption") {
    return value;
  }
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}

/** Reads an integer, an out of bounds one moved to the nearest bound. */
export function integer(
  value: unknown,
  fallback: number,
  min: number,
  max: number,
): number {
  if (value === undefined || value === null || value === "") return fallback;
  const number = Math.trunc(Number(value));
  return Math.min(max, Math.max(min, Number.isNaN(number) ? 0 : number));
}

/** Throws a `RangeError` unless the value is an integer within the bounds. */
export function check(
  name: string,
  value: unknown,
  min: number,
  max?: number,
): void {
  if (
    Number.isSafeInteger(value) && (value as number) >= min &&
    (value as number) <= (max ?? Infinity)
  ) return;
  const range = max === undefined ? `${min} or more` : `of ${min}..${max}`;
  throw new RangeError(
    `'${name}' must be an integer ${range}: received ${value}`,
  );
}

/** What a well-formed token looks like. */
export const TOKEN = /^[1-9]\d*:[\w-]+$/;
/** The longest time a timer can be set to, in milliseconds. */
export const MAX_TIMER = 2 ** 31 - 1;
