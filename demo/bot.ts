/** The bot of the demo: some of its handlers are slow, some fail, some hang. */
import { abortSignal, sequentialize } from "../mod.ts";
import { Bot } from "grammy";
import { setTimeout } from "node:timers/promises";

const HELP = `Write anything, or try these:
/report takes a few seconds
/crash fails
/hang never ends, until the time limit does it`;

/** Creates the bot. Each chat is handled in order, all chats at the same time. */
export function createBot(token: string, apiRoot?: string): Bot {
  const bot = new Bot(token, { client: { apiRoot } });
  bot.use(sequentialize());
  bot.command("start", (ctx) => ctx.reply(HELP));
  bot.command("report", async (ctx) => {
    await work(1000, 3000);
    await ctx.reply("Here is your report.");
  });
  bot.command("crash", async () => {
    await work(20, 100);
    throw new Error("the database is not in the mood");
  });
  bot.command("hang", async (ctx) => {
    await setTimeout(2 ** 31 - 1, undefined, { signal: abortSignal(ctx) });
  });
  bot.on("message:text", async (ctx) => {
    await work(20, 150);
    await ctx.reply(`You said: ${ctx.msg.text}`);
  });
  // The dashboard counts and shows what goes wrong.
  bot.catch(() => {});
  return bot;
}

/** What a database query or a download would take. */
function work(leastMs: number, mostMs: number): Promise<void> {
  return setTimeout(leastMs + Math.random() * (mostMs - leastMs));
}
