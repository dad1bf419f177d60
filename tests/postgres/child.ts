/** A machine: the bot that the tests start many times, and kill. */
import { openSync, writeSync } from "node:fs";
import { Bot } from "grammy";
import type { Update } from "../../deps.ts";
import { run, sequentialize } from "../../mod.ts";
import { createPostgresInbox } from "../../postgres_inbox.ts";

const [url, token, connectionString, logPath, concurrency, maxAttempts] =
  Deno.args;
const log = openSync(logPath, "a");

/** What is written is safe from the death of the process, as the system has it. */
function note(what: string, text: unknown): void {
  writeSync(log, `${what} ${Date.now()} ${text}\n`);
}

const bot = new Bot(token, { client: { apiRoot: url } });
bot.use(sequentialize((ctx) => ctx.msg!.text!.match(/^lock/)?.[0]));
bot.use(async (ctx) => {
  const id = ctx.update.update_id;
  note("start", id);
  const [how, ms = "0"] = ctx.msg!.text!.replace("lock ", "").split(" ");
  if (how === "kill") Deno.kill(Deno.pid, "SIGKILL");
  if (how === "exit") Deno.exit(1);
  if (how === "throw") {
    setTimeout(() => {
      throw new Error("nobody catches this");
    });
  }
  await new Promise((resolve) => setTimeout(resolve, Number(ms)));
  note("end", id);
});

let leading = false;
const handle = run(bot, {
  inbox: createPostgresInbox<Update>({
    connectionString,
    maxAttempts: Number(maxAttempts),
  }),
  sink: { concurrency: Number(concurrency) },
  runner: { silent: true, maxRetryInterval: 1000 },
  onEvent: (event) => {
    if (event.type !== "inbox") return;
    note(event.level, `${event.message} ${event.error ?? ""}`);
  },
});
handle.task()!.catch((error) => note("fatal", error));
setInterval(() => {
  const { inbox } = handle.stats();
  if (inbox.leading !== leading) note(leading ? "follows" : "leads", "");
  leading = inbox.leading === true;
}, 20);
note("ready", Deno.pid);
Deno.addSignalListener("SIGTERM", () => {
  note("stop", "");
  handle.stop().then(() => {
    note("stopped", "");
    Deno.exit();
  });
});
