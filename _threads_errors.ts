import { BotError, GrammyError, HttpError } from "./deps.ts";

/**
 * A worker of {@link distribute} died, got stuck, or could not start. An update
 * that it had fails with this error: it may have been handled in part, or in
 * full. The error that the worker died of is the `cause`, where there is one.
 *
 * @example
 * ```ts
 * import { WorkerError } from "@grammyjs/runner";
 * import { Bot } from "grammy";
 *
 * const bot = new Bot("123456:token");
 * bot.catch(({ error, ctx }) => {
 *   if (error instanceof WorkerError) {
 *     console.error("Perhaps not handled:", ctx.update, error);
 *   } else {
 *     console.error(error);
 *   }
 * });
 * ```
 */
export class WorkerError extends Error {
  /**
   * Creates an error of a worker.
   *
   * @param message What happened
   * @param options What caused it, if that is known
   */
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "WorkerError";
  }
}

/** A thrown value in a form that can be sent from one thread to another. */
export type EncodedError =
  | { type: "value"; value: unknown }
  | { type: "list"; items: EncodedError[] }
  | { type: "object"; fields: [string, EncodedError][] }
  | {
    type: "error";
    /** The class that it is an instance of. */
    class: string;
    name: string;
    message: string;
    stack: string | undefined;
    fields: [string, EncodedError][];
  };

/** Errors that are instances of the same class on the other side. */
const CLASSES: Record<string, { prototype: Error }> = {
  BotError,
  GrammyError,
  HttpError,
  AggregateError,
  EvalError,
  RangeError,
  ReferenceError,
  SyntaxError,
  TypeError,
  URIError,
};

/** How far values inside of values are followed. */
const MAX_DEPTH = 8;

/** How many values are sent for one that was thrown; those after are left out. */
const MAX_VALUES = 1000;

/** Encodes whatever was thrown, and what hangs on it; never throws. */
export function encodeError(thrown: unknown): EncodedError {
  /** As values may form circles. */
  const seen = new Map<unknown, EncodedError>();
  let left = MAX_VALUES;

  function encode(value: unknown, depth: number): EncodedError {
    left--;
    try {
      const known = seen.get(value);
      if (known !== undefined) return known;
      if (depth > MAX_DEPTH) return { type: "value", value: describe(value) };
      if (value instanceof Error) return encodeFields(value, depth);
      if (Array.isArray(value)) {
        const items: EncodedError[] = [];
        const list: EncodedError = { type: "list", items };
        seen.set(value, list);
        for (let i = 0; i < value.length && left > 0; i++) {
          items.push(encode(value[i], depth + 1));
        }
        return list;
      }
      if (isPlain(value)) return encodeFields(value, depth);
      const copy = { type: "value" as const, value: structuredClone(value) };
      seen.set(value, copy);
      return copy;
    } catch {
      return { type: "value", value: describe(value) };
    }
  }

  function encodeFields(object: object, depth: number): EncodedError {
    const fields: [string, EncodedError][] = [];
    const isError = object instanceof Error;
    const encoded: EncodedError = isError
      ? { ...encodeHead(object), fields }
      : { type: "object", fields };
    seen.set(object, encoded);
    for (const key of isError ? extraKeys(object) : Object.keys(object)) {
      if (left <= 0) break;
      fields.push([key, encode(read(object, key), depth + 1)]);
    }
    return encoded;
  }

  return encode(thrown, 0);
}

/** What every error has, as strings whatever it has been set to. */
function encodeHead(error: Error) {
  const { stack } = error;
  return {
    type: "error" as const,
    class: error instanceof DOMException ? "DOMException" : classOf(error),
    name: `${error.name}`,
    message: `${error.message}`,
    stack: typeof stack === "string" ? stack : undefined,
  };
}

/** By name, as there can be several copies of grammY. */
function classOf(error: Error): string {
  let prototype: object | null = Object.getPrototypeOf(error);
  while (prototype !== null) {
    const { name } = prototype.constructor;
    if (Object.hasOwn(CLASSES, name)) return name;
    prototype = Object.getPrototypeOf(prototype);
  }
  return "Error";
}

/** The fields of an error other than those that every error has. */
function extraKeys(error: Error): string[] {
  const hidden = ["cause", "errors"].filter((key) => Object.hasOwn(error, key));
  return [...new Set([...Object.keys(error), ...hidden])]
    .filter((key) => !["name", "message", "stack"].includes(key));
}

/** What a getter throws takes the place of what it should have returned. */
function read(object: object, key: string): unknown {
  try {
    return object[key as keyof typeof object];
  } catch (error) {
    return error;
  }
}

function isPlain(value: unknown): value is object {
  if (typeof value !== "object" || value === null) return false;
  const prototype = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

/** The value as a string, whatever it is. */
export function describe(value: unknown): string {
  try {
    // Lists of lists could become longer than any string.
    return Array.isArray(value) ? "[object Array]" : String(value);
  } catch {
    try {
      return Object.prototype.toString.call(value);
    } catch {
      return "[object Object]"; // a revoked proxy
    }
  }
}

/** Makes the value that was encoded. */
export function decodeError(thrown: EncodedError): unknown {
  const seen = new Map<EncodedError, unknown>();

  function decode(encoded: EncodedError): unknown {
    if (encoded.type === "value") return encoded.value;
    if (seen.has(encoded)) return seen.get(encoded);
    if (encoded.type === "list") {
      const list: unknown[] = [];
      seen.set(encoded, list);
      for (const item of encoded.items) list.push(decode(item));
      return list;
    }
    const isError = encoded.type === "error";
    const object = isError ? decodeHead(encoded) : {};
    seen.set(encoded, object);
    for (const [key, value] of encoded.fields) {
      const hidden = isError && (key === "cause" || key === "errors");
      define(object, key, decode(value), !hidden);
    }
    return object;
  }

  return decode(thrown);
}

function decodeHead(
  { class: name, ...encoded }: EncodedError & { type: "error" },
): Error {
  const error = name === "DOMException"
    ? new DOMException(encoded.message, encoded.name)
    : new Error(encoded.message);
  if (Object.hasOwn(CLASSES, name)) {
    Object.setPrototypeOf(error, CLASSES[name].prototype);
  }
  if (error.name !== encoded.name) define(error, "name", encoded.name, false);
  define(error, "stack", encoded.stack, false);
  return error;
}

function define(
  object: object,
  key: string,
  value: unknown,
  enumerable: boolean,
): void {
  const attributes = { writable: true, configurable: true, enumerable };
  Object.defineProperty(object, key, { value, ...attributes });
}
