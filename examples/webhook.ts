// Updates that Telegram sends over HTTP, handled as on long polling.
import { createWebhookSource, run } from "@grammyjs/runner";
import { Bot } from "grammy";

const bot = new Bot(Deno.env.get("BOT_TOKEN") ?? "", {
  client: { apiRoot: Deno.env.get("BOT_API_ROOT") },
});

bot.on("message:text", (ctx) => ctx.reply(`You said: ${ctx.msg.text}`));
bot.catch((error) => console.error(error.message));

// Proves that a request comes from Telegram.
const secretToken = crypto.randomUUID();
const source = createWebhookSource({ secretToken });
const handle = run(bot, { source });

// Telegram needs an address it can reach: set WEBHOOK_URL to that of a proxy in
// front of this port. The local server needs none.
const port = Number(Deno.env.get("PORT") ?? 0);
const server = Deno.serve({ hostname: "127.0.0.1", port }, source.handler);
const url = Deno.env.get("WEBHOOK_URL") ??
  `http://127.0.0.1:${server.addr.port}/`;
await bot.api.setWebhook(url, { secret_token: secretToken });

Deno.addSignalListener("SIGINT", async () => {
  await handle.stop(); // refuses new updates, and finishes those that it has
  await server.shutdown();
  Deno.exit();
});
