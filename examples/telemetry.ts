// Metrics and traces by OpenTelemetry; run it with OTEL_DENO=true.
import { run } from "@grammyjs/runner";
import { recordMetrics, traceUpdates } from "@grammyjs/runner/otel";
import { Bot } from "grammy";

const bot = new Bot(Deno.env.get("BOT_TOKEN") ?? "", {
  client: { apiRoot: Deno.env.get("BOT_API_ROOT") },
});

bot.use(traceUpdates()); // first, so that the spans cover all the rest
bot.on("message:text", (ctx) => ctx.reply(`You said: ${ctx.msg.text}`));
bot.catch((error) => console.error(error.message));

const handle = run(bot, { onEvent: recordMetrics() });
Deno.addSignalListener("SIGINT", () => handle.stop().then(() => Deno.exit()));
