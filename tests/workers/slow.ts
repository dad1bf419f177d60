/** A worker that has something to wait for before its handlers are in place. */
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { BotWorker } from "../../mod.ts";

const bot = new BotWorker(process.env.TEST_TOKEN!, {
  client: { apiRoot: process.env.TEST_API_ROOT },
});
await sleep(300);
bot.on("message", (ctx) => ctx.reply("in place"));
