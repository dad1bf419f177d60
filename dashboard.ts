/**
 * A dashboard for the terminal: what a runner is doing, live.
 *
 * @example
 * ```ts
 * import { run } from "@grammyjs/runner";
 * import { dashboard } from "@grammyjs/runner/dashboard";
 * import { Bot } from "grammy";
 *
 * function main() {
 *   const bot = new Bot("123456:token");
 *   bot.on("message", (ctx) => ctx.reply("Got it!"));
 *   bot.catch(console.error);
 *   run(bot, { onEvent: dashboard() });
 * }
 * ```
 *
 * @module
 */
import { Dashboard } from "./_dashboard.ts";
import { processTerminal } from "./_dashboard_terminal.ts";
import type { RunnerEvent } from "./events.ts";

/**
 * Options of {@link dashboard}.
 *
 * @example
 * ```ts
 * import type { DashboardOptions } from "@grammyjs/runner/dashboard";
 *
 * const startedAt = Date.now();
 * const options: DashboardOptions = {
 *   footer: () => `${Math.round((Date.now() - startedAt) / 1000)} s`,
 * };
 * ```
 */
export interface DashboardOptions {
  /**
   * Returns the lines to show below the dashboard. It is called for each
   * picture, and should be quick. What it writes in square brackets is
   * emphasised, such as the names of keys. None by default.
   */
  footer?: () => string;
}

/**
 * Creates an observer that shows on the terminal what a runner is doing, from
 * its start to its end: updates per second; how many updates are running, parked
 * and buffered, and their limits; how long updates wait and run (percentiles of
 * the last ten seconds); failures, timeouts and reconnects; the chats with the
 * most updates, and how long their last update waited; and the last errors.
 *
 * It takes up the whole terminal, and follows its size. What the program prints
 * with `console` meanwhile is shown as a message, and the last 20 of these are
 * printed at the end. The errors that the runner prints by default are only
 * shown. Colors are left out if `NO_COLOR` is set.
 *
 * If the standard output is no terminal, a line is printed every five seconds.
 *
 * The dashboard neither keeps the process alive nor listens to any key or
 * signal, and leaves nothing behind in the terminal that would have to be
 * restored. Use one of them in a process.
 *
 * @param options Further options
 * @returns A function for the option `onEvent` of a runner
 * @throws {TypeError} If `footer` is not a function
 *
 * @example
 * ```ts
 * import { run } from "@grammyjs/runner";
 * import { dashboard } from "@grammyjs/runner/dashboard";
 * import { Bot } from "grammy";
 *
 * function main() {
 *   const bot = new Bot("123456:token");
 *   run(bot, { onEvent: dashboard({ footer: () => "[Ctrl-C] ends" }) });
 * }
 * ```
 */
export function dashboard(
  options: DashboardOptions = {},
): (event: RunnerEvent) => void {
  const { footer } = options;
  if (footer !== undefined && typeof footer !== "function") {
    throw new TypeError(
      `Cannot create dashboard: footer must be a function: received ${footer}`,
    );
  }
  const board = new Dashboard(processTerminal(), footer);
  return (event) => board.record(event);
}
