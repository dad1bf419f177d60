/** The bot of the demo: some of its handlers are slow, some fail, some hang. */
import { abortSignal, sequentialize } from "../mod.ts";
import { Bot } from "grammy";
import { setTimeout } from "node:timers/promises";

const HELP = `Write anything, or try these:
/report takes a few seconds
/crash fails
/hang never ends, until the time limit does it`;

/** Aborts when nobody has the time for simulated work. */
let patience = new AbortController();

/** Ends all the work that is being simulated. */
export function hurry(): void {
  patience.abort();
}

/** Lets the work that is simulated from now on take its time again. */
export function takeTime(): void {
  patience = new AbortController();
}

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
    await work(2 ** 31 - 1, 2 ** 31 - 1, abortSignal(ctx));
  });
  bot.on("message:text", async (ctx) => {
    await work(20, 150);
    await ctx.reply(`You said: ${ctx.msg.text}`);
  });
  // The dashboard counts and shows what goes wrong.
  bot.catch(() => {});
  return bot;
}

/** Takes the time that a database query or a download would take. */
async function work(
  leastMs: number,
  mostMs: number,
  signal?: AbortSignal,
): Promise<void> {
  const ms = leastMs + Math.random() * (mostMs - leastMs);
  const signals = signal ? [signal, patience.signal] : [patience.signal];
  await setTimeout(ms, undefined, { signal: AbortSignal.any(signals) })
    .catch(() => {});
}
