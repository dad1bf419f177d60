// The smallest concurrent bot: it answers many chats at once.
import { run } from "@grammyjs/runner";
import { Bot } from "grammy";

const bot = new Bot(Deno.env.get("BOT_TOKEN") ?? "", {
  client: { apiRoot: Deno.env.get("BOT_API_ROOT") },
});

bot.on("message:text", (ctx) => ctx.reply(`You said: ${ctx.msg.text}`));
bot.catch((error) => console.error(error.message));

run(bot);
