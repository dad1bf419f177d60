// deno-lint-ignore no-import-prefix -- raw files have no import map
import type { Attributes } from "npm:@opentelemetry/api@1";

/** The scope of all that is recorded. */
export const SCOPE = "@grammyjs/runner";

export const UPDATE_TYPE = "telegram.update.type";
export const ERROR_TYPE = "error.type";

/** What stands for all values of an attribute that are too many, or unknown. */
const OTHER = "_OTHER";
/** Every value costs memory for good; Telegram has less than half as many. */
const MAX_VALUES = 64;

/** The error code of the Bot API where there is one, else the error's name. */
export function errorTypeOf(error: unknown): string {
  const { error_code: code } = (error ?? {}) as { error_code?: unknown };
  if (Number.isInteger(code)) return `${code}`;
  return error instanceof Error ? error.name : OTHER;
}

/** The field of an update other than its id, which tells what it is. */
export function typeOf(update: unknown): string {
  if (typeof update === "object") {
    for (const field in update) if (field !== "update_id") return field;
  }
  return OTHER;
}

/**
 * Makes attributes with one key, and with a bounded number of values, whatever
 * they are made from.
 */
export function attributesBy(
  key: string,
  valueOf: (subject: unknown) => string,
): (subject: unknown) => Attributes {
  const known = new Map<string, Attributes>();
  const other = { [key]: OTHER };
  return (subject) => {
    const value = valueOf(subject);
    let attributes = known.get(value);
    if (attributes === undefined) {
      if (known.size >= MAX_VALUES) return other;
      known.set(value, attributes = { [key]: value });
    }
    return attributes;
  };
}
