// What every worker runs: the handlers, as in any other bot.
import { BotWorker, sequentialize } from "@grammyjs/runner";
import { type Context, session, type SessionFlavor } from "grammy";
import { createHash } from "node:crypto";
import { threadId } from "node:worker_threads";

type MyContext = Context & SessionFlavor<{ count: number }>;

const bot = new BotWorker<MyContext>(Deno.env.get("BOT_TOKEN") ?? "", {
  client: { apiRoot: Deno.env.get("BOT_API_ROOT") },
});

// A chat always has the same worker, so that its session can be in memory.
bot.use(sequentialize());
bot.use(session({ initial: () => ({ count: 0 }) }));

bot.on("message:text", async (ctx) => {
  const count = ++ctx.session.count;
  const hash = strengthen(ctx.msg.text); // takes a while
  await ctx.reply(`Message ${count}, by thread ${threadId}: ${hash}`);
});

bot.onStop(() => console.log(`Thread ${threadId} closes its database`));

function strengthen(text: string): string {
  for (let i = 0; i < 50_000; i++) {
    text = createHash("sha256").update(text).digest("hex");
  }
  return text.slice(0, 12);
}
