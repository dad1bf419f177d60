// All cores: this thread fetches updates, and workers handle them.
import { distribute, run } from "@grammyjs/runner";
import { Bot } from "grammy";

const bot = new Bot(Deno.env.get("BOT_TOKEN") ?? "", {
  client: { apiRoot: Deno.env.get("BOT_API_ROOT") },
});
bot.use(distribute(new URL("./worker.ts", import.meta.url)));
// What handlers throw in the workers, and what becomes of the workers.
bot.catch((error) => console.error(error.message));

const handle = run(bot);

// Lets the workers finish what they do, and close what they have open.
Deno.addSignalListener("SIGINT", () => handle.stop().then(() => Deno.exit()));
