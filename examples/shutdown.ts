// A clean shutdown: finish what was started, but take no longer than 10 seconds.
import { abortSignal, run } from "@grammyjs/runner";
import { Bot } from "grammy";
import { setTimeout } from "node:timers/promises";

const bot = new Bot(Deno.env.get("BOT_TOKEN") ?? "", {
  client: { apiRoot: Deno.env.get("BOT_API_ROOT") },
});

bot.on("message:text", async (ctx) => {
  // Stands in for slow work; ends early if the shutdown runs out of time.
  await setTimeout(1000, undefined, { signal: abortSignal(ctx) });
  await ctx.reply(`Done: ${ctx.msg.text}`);
});
bot.catch((error) => console.error(error.message));

const handle = run(bot);

async function shutdown() {
  console.log(`Stopping; ${handle.size()} updates are being handled`);
  const { unfinished, unstarted } = await handle.stop({ timeout: 10_000 });
  for (const update of [...unfinished, ...unstarted]) {
    console.error(`Update ${update.update_id} was not finished`);
  }
  console.log("Stopped");
  Deno.exit();
}
Deno.addSignalListener("SIGINT", shutdown); // Ctrl-C
Deno.addSignalListener("SIGTERM", shutdown); // docker stop, systemctl stop
