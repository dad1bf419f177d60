/** A bot with workers that fail in many ways; the argument is their file. */
import { distribute, run } from "@grammyjs/runner";
import { startBotApiServer } from "@grammyjs/runner/testing";
import { Bot } from "grammy";
import { argv, env } from "node:process";

async function main() {
  const server = await startBotApiServer({ quirks: false });
  env.TOKEN = server.token;
  env.API_ROOT = server.url;
  const bot = new Bot(server.token, { client: { apiRoot: server.url } });
  bot.use(distribute(argv[2], { count: 1, unresponsiveAfter: 2000 }));
  bot.catch(async ({ ctx, error }) => {
    await ctx.reply(error instanceof Error ? error.message : "no error");
  });
  const handle = run(bot, { runner: { silent: true } });
  const texts = ["error", "exit", "crash", "odd", "loop", "me"];
  for (const [i, text] of texts.entries()) {
    server.pushText(text);
    await server.waitFor(() => server.sent().length > i, { timeout: 30_000 });
  }
  await handle.stop();
  for (const { text } of server.sent()) console.log(text);
  await server.close();
}

main();
