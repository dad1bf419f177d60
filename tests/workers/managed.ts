/** Runs a bot with workers until it is told to stop: the process must end. */
import { Bot } from "grammy";
import process from "node:process";
import { distribute, run } from "../../mod.ts";

const bot = new Bot(process.env.TEST_TOKEN!, {
  client: { apiRoot: process.env.TEST_API_ROOT },
});
bot.use((ctx, next) => {
  if (ctx.msg?.text === "stop") handle.stop();
  return next();
});
bot.use(distribute(new URL("./bot.ts", import.meta.url), {
  count: 1,
  unresponsiveAfter: 500,
}));
bot.catch(({ ctx, error }) => void ctx.reply((error as Error).message));
const handle = run(bot, { runner: { fetch: { timeout: 1 } } });
