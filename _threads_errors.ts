import { GrammyError, HttpError } from "./deps.ts";

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

/** How far values inside of values are followed, as they may form circles. */
const MAX_DEPTH = 8;

/** Encodes whatever was thrown, and what hangs on it; never throws. */
export function encodeError(value: unknown, depth = 0): EncodedError {
  const fieldsOf = (object: object, keys: string[]) =>
    keys.map((key): [string, EncodedError] => [
      key,
      encodeError(object[key as keyof typeof object], depth + 1),
    ]);
  try {
    if (depth > MAX_DEPTH) return { type: "value", value: describe(value) };
    if (value instanceof Error) {
      return {
        type: "error",
        class: value instanceof DOMException ? "DOMException" : classOf(value),
        name: `${value.name}`,
        message: `${value.message}`,
        stack: value.stack,
        fields: fieldsOf(value, extraKeys(value)),
      };
    }
    if (Array.isArray(value)) {
      const items = value.map((item) => encodeError(item, depth + 1));
      return { type: "list", items };
    }
    if (isPlain(value)) {
      return { type: "object", fields: fieldsOf(value, Object.keys(value)) };
    }
    return { type: "value", value: structuredClone(value) };
  } catch {
    return { type: "value", value: describe(value) };
  }
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

function isPlain(value: unknown): value is object {
  if (typeof value !== "object" || value === null) return false;
  const prototype = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

function describe(value: unknown): string {
  try {
    return String(value);
  } catch {
    return Object.prototype.toString.call(value);
  }
}

/** Makes the value that was encoded. */
export function decodeError(encoded: EncodedError): unknown {
  switch (encoded.type) {
    case "value":
      return encoded.value;
    case "list":
      return encoded.items.map(decodeError);
    case "object":
      return Object.fromEntries(
        encoded.fields.map(([key, value]) => [key, decodeError(value)]),
      );
  }
  const { name, message, stack, fields } = encoded;
  const error = encoded.class === "DOMException"
    ? new DOMException(message, name)
    : new Error(message);
  if (Object.hasOwn(CLASSES, encoded.class)) {
    Object.setPrototypeOf(error, CLASSES[encoded.class].prototype);
  }
  if (error.name !== name) define(error, "name", name, false);
  define(error, "stack", stack, false);
  for (const [key, value] of fields) {
    const enumerable = key !== "cause" && key !== "errors";
    define(error, key, decodeError(value), enumerable);
  }
  return error;
}

function define(
  error: Error,
  key: string,
  value: unknown,
  enumerable: boolean,
): void {
  const attributes = { writable: true, configurable: true, enumerable };
  Object.defineProperty(error, key, { value, ...attributes });
}
