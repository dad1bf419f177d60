/** The worker file of `workers_bot.ts`. */
import { BotWorker, sequentialize } from "@grammyjs/runner";
import { env, exit } from "node:process";

const bot = new BotWorker(env.TOKEN!, {
  client: { apiRoot: env.API_ROOT! },
});
bot.use(sequentialize());
bot.onStop(() => console.log("closed"));
bot.on("message:text", async (ctx) => {
  switch (ctx.msg.text) {
    case "error":
      throw new RangeError("thrown");
    case "exit":
      return exit(3);
    case "crash":
      setTimeout(() => {
        throw new TypeError("uncaught");
      });
      return await new Promise(() => {});
    case "odd":
      setTimeout(() => {
        throw { toString: null, valueOf: null };
      });
      return await new Promise(() => {});
    case "loop":
      while (true);
  }
  await ctx.reply(ctx.me.username);
});
