// A clean shutdown: finish what was started, but take no longer than 10 seconds.
import { abortSignal, run } from "@grammyjs/runner";
import { Bot } from "grammy";

const bot = new Bot(Deno.env.get("BOT_TOKEN") ?? "", {
  client: { apiRoot: Deno.env.get("BOT_API_ROOT") },
});

bot.on("message:text", async (ctx) => {
  await work(1000, abortSignal(ctx)); // ends early if the shutdown runs out of time
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

/** Stands in for anything that takes long and accepts a signal, like `fetch`. */
function work(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", abort);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", abort, { once: true });
  });
}
