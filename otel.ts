/**
 * Metrics and traces of a bot, by OpenTelemetry. They go wherever the SDK sends
 * them that the program has set up: with Deno, set `OTEL_DENO=true`; elsewhere,
 * start the SDK before the functions of this module are called.
 *
 * Nothing that is recorded here tells who wrote what to the bot. Beware of the
 * spans that Deno, and instrumentations of Node, record for every HTTP request:
 * URLs of the Bot API contain the token. Have your collector remove the
 * attributes `url.full` and `url.path`.
 *
 * @example
 * ```ts
 * import { run } from "@grammyjs/runner";
 * import { recordMetrics, traceUpdates } from "@grammyjs/runner/otel";
 * import { Bot } from "grammy";
 *
 * function main() {
 *   const bot = new Bot("123456:token");
 *   bot.use(traceUpdates()); // first, so that the spans cover all the rest
 *   bot.on("message", (ctx) => ctx.reply("Got it!"));
 *   run(bot, { onEvent: recordMetrics() });
 * }
 * ```
 *
 * @module
 */
export { recordMetrics } from "./_otel_metrics.ts";
export { type TracedContext, traceUpdates } from "./_otel_traces.ts";
