/** The one place that names grammY. Only what workers need is loaded to run. */
// deno-lint-ignore-file no-import-prefix -- raw files have no import map
import type { Api } from "npm:grammy@1";
export { Bot, BotError, GrammyError, HttpError } from "npm:grammy@1";
export type { BotConfig, Context } from "npm:grammy@1";
export type { Api };
export type { Message, Update, UserFromGetMe } from "npm:grammy@1/types";

/**
 * The type of the signals that grammY's API methods take. The npm types of
 * grammY want the one of the package `abort-controller` here; at runtime it is
 * the web standard's.
 *
 * @example
 * ```ts
 * import type { GrammySignal } from "@grammyjs/runner";
 * import { Bot } from "grammy";
 *
 * const bot = new Bot("123456:token");
 *
 * function getMe(signal: AbortSignal) {
 *   return bot.api.getMe(signal as AbortSignal & GrammySignal);
 * }
 * ```
 */
export type GrammySignal = NonNullable<Parameters<Api["getUpdates"]>[1]>;
