/** The bot that `crash_test.ts` kills: it writes down what it starts and ends. */
import { openSync, writeSync } from "node:fs";
import { Bot } from "grammy";
import type { Update } from "../deps.ts";
import {
  createMemoryInbox,
  createWebhookSource,
  run,
  sequentialize,
} from "../mod.ts";
import { createSqliteInbox } from "../sqlite_inbox.ts";

const [url, token, logPath, inboxPath, webhookPort] = Deno.args;
const log = openSync(logPath, "a");

/** What is written is safe from the death of the process, as the system has it. */
function note(what: string, { update_id }: Update): void {
  writeSync(log, `${what} ${update_id} ${Date.now()}\n`);
}

/** What updates can do to the process. */
const deaths: Record<string, () => void> = {
  kill: () => Deno.kill(Deno.pid, "SIGKILL"),
  exit: () => Deno.exit(1),
  throw: () =>
    setTimeout(() => {
      throw new Error("nobody catches this");
    }),
  reject: () => void Promise.reject(new Error("nobody catches this")),
};

const bot = new Bot(token, { client: { apiRoot: url } });
bot.use(sequentialize());
bot.use(async (ctx) => {
  note("start", ctx.update);
  const [how, ms = "0"] = ctx.msg!.text!.split(" ");
  deaths[how]?.();
  await new Promise((resolve) => setTimeout(resolve, Number(ms)));
  deaths[how.replace("late-", "")]?.();
  note("end", ctx.update);
});

const source = webhookPort === undefined ? undefined : createWebhookSource();
const handle = run(bot, {
  source,
  inbox: inboxPath === "memory"
    ? createMemoryInbox<Update>()
    : createSqliteInbox<Update>(inboxPath),
  sink: { concurrency: 200 },
  runner: { silent: true },
});
const server = source && Deno.serve(
  { hostname: "127.0.0.1", port: Number(webhookPort), onListen() {} },
  source.handler,
);
Deno.addSignalListener("SIGTERM", async () => {
  await handle.stop();
  await server?.shutdown();
  Deno.exit();
});
