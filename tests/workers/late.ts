/** A worker whose bot is created after the file was loaded. */
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { BotWorker } from "../../mod.ts";

async function main() {
  await sleep(100);
  const bot = new BotWorker(process.env.TEST_TOKEN!, {
    client: { apiRoot: process.env.TEST_API_ROOT },
  });
  bot.on("message", (ctx) => ctx.reply("in place"));
}
main();
