/** The central bot of `distribute_flow_test.ts`. */
import { Bot } from "grammy";
import { appendFileSync } from "node:fs";
import process from "node:process";
import { distribute, run, WorkerError } from "../../mod.ts";

const bot = new Bot(process.env.TEST_TOKEN!, {
  client: { apiRoot: process.env.TEST_API_ROOT },
});
bot.use((ctx, next) => ctx.msg?.text === "stop" ? void handle.stop() : next());
bot.use(distribute(new URL("./bot.ts", import.meta.url), {
  count: 2,
  unresponsiveAfter: 3000,
  resourceLimits: { maxOldGenerationSizeMb: 50 },
}));
bot.catch(({ ctx, error }) => {
  if (!(error instanceof WorkerError)) throw error;
  const line = `${ctx.chat!.id} ${ctx.update.update_id}\n`;
  appendFileSync(`${process.env.TEST_FOLDER}/failed`, line);
});
const handle = run(bot, {
  // Few, as all that a worker has fails with it.
  sink: { concurrency: 30, backlog: 20 },
  runner: { silent: true },
  onEvent(event) {
    if (event.type === "worker-failed") console.log(event.error.message);
  },
});
