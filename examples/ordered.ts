// Sessions without races: updates of one chat run in order, chats run at once.
import { run, sequentialize } from "@grammyjs/runner";
import { Bot, type Context, session, type SessionFlavor } from "grammy";
import { setTimeout } from "node:timers/promises";

type MyContext = Context & SessionFlavor<{ count: number }>;

const bot = new Bot<MyContext>(Deno.env.get("BOT_TOKEN") ?? "", {
  client: { apiRoot: Deno.env.get("BOT_API_ROOT") },
});

// The same key for both: whoever shares a session waits for each other.
const getSessionKey = (ctx: Context) => ctx.chat?.id.toString();
bot.use(sequentialize(getSessionKey));
bot.use(session({ getSessionKey, initial: () => ({ count: 0 }) }));

bot.on("message:text", async (ctx) => {
  // Two messages that are sent at once still count as two: without
  // `sequentialize`, both would read the same count.
  const count = ctx.session.count;
  await setTimeout(200);
  ctx.session.count = count + 1;
  await ctx.reply(`Message ${ctx.session.count}: ${ctx.msg.text}`);
});
bot.catch((error) => console.error(error.message));

run(bot);
