// deno-lint-ignore no-import-prefix -- raw files have no import map
import type { Attributes } from "npm:@opentelemetry/api@1";
import type { Update } from "./deps.ts";

/** The scope of all that is recorded. */
export const SCOPE = "@grammyjs/runner";

export const UPDATE_TYPE = "telegram.update.type";
export const ERROR_TYPE = "error.type";

/** What stands for all values of an attribute that are too many, or unknown. */
const OTHER = "_OTHER";
/** Every value costs memory for good. */
const MAX_VALUES = 64;

/** Others can be made up by whoever knows a webhook without a secret. */
const UPDATE_TYPES: Record<Exclude<keyof Update, "update_id">, true> = {
  message: true,
  edited_message: true,
  channel_post: true,
  edited_channel_post: true,
  business_connection: true,
  business_message: true,
  edited_business_message: true,
  deleted_business_messages: true,
  guest_message: true,
  stopped_message_generation: true,
  message_reaction: true,
  message_reaction_count: true,
  inline_query: true,
  chosen_inline_result: true,
  callback_query: true,
  shipping_query: true,
  pre_checkout_query: true,
  purchased_paid_media: true,
  poll: true,
  poll_answer: true,
  my_chat_member: true,
  chat_member: true,
  chat_join_request: true,
  chat_boost: true,
  removed_chat_boost: true,
  managed_bot: true,
  subscription: true,
};

/**
 * The error code of the Bot API where there is one, else the error's name. Never
 * throws, although errors can have getters that do.
 */
export function errorTypeOf(error: unknown): string {
  try {
    const { error_code: code } = (error ?? {}) as { error_code?: unknown };
    return Number.isInteger(code) ? `${code}` : nameOf(error);
  } catch {
    return OTHER;
  }
}

/** The name of an error, unless it is no name but a text, or an object. */
export function nameOf(error: unknown): string {
  if (!(error instanceof Error)) return OTHER;
  const { name } = error;
  return typeof name === "string" && NAME.test(name) ? name : OTHER;
}

const NAME = /^[\w$.]{1,64}$/;

/** The field of an update that tells what it is. */
export function typeOf(update: unknown): string {
  if (typeof update === "object") {
    for (const field in update) {
      if (Object.hasOwn(UPDATE_TYPES, field)) return field;
    }
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
