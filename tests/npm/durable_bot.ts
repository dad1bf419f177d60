/** A bot that ends in the middle of an update, and another one that goes on. */
import { run } from "@grammyjs/runner";
import { createPostgresInbox } from "@grammyjs/runner/postgres";
import { createSqliteInbox } from "@grammyjs/runner/sqlite";
import { startBotApiServer } from "@grammyjs/runner/testing";
import { Bot } from "grammy";
import { argv } from "node:process";
import { setTimeout as delay } from "node:timers/promises";

/** An inbox in a database, if it is a URL, or else in a file. */
function createInbox(path: string) {
  return path.startsWith("postgres:")
    ? createPostgresInbox({ connectionString: path })
    : createSqliteInbox(path);
}

async function main() {
  const server = await startBotApiServer({ quirks: false });
  let attempts = 0;
  const start = () => {
    const bot = new Bot(server.token, { client: { apiRoot: server.url } });
    bot.on("message:text", async (ctx) => {
      if (++attempts === 1) await new Promise(() => {});
      await ctx.reply(ctx.msg.text);
    });
    return run(bot, { inbox: createInbox(argv[2]) });
  };
  server.pushText("Hello");
  const first = start();
  // Only the inbox has the update once the server was told that it arrived.
  await server.waitFor(() => server.stats().confirmed === 1);
  while (first.stats().running === 0) await delay(1);
  const { unfinished } = await first.stop({ timeout: 100 });
  const second = start();
  await server.waitForCall("sendMessage");
  await second.stop();
  console.log(unfinished.length, attempts, server.sent()[0].text);
  await server.close();
}

main();
