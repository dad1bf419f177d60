/** A machine of `postgres.ts`: handles updates in 10 ms, and tells about them. */
import { Bot } from "grammy";
import { run } from "../mod.ts";
import { createPostgresInbox } from "../postgres_inbox.ts";
import type { Update } from "../deps.ts";

const [url, token, connectionString] = Deno.args;
const bot = new Bot(token, { client: { apiRoot: url } });
/** Milliseconds from being sent to being started. */
let waits: number[] = [];
let handled = 0;
let told = 0;
bot.on("message:text", async (ctx) => {
  waits.push(Date.now() - Number(ctx.msg.text));
  await new Promise((resolve) => setTimeout(resolve, 10));
  handled++;
});
run(bot, { inbox: createPostgresInbox<Update>({ connectionString }) });
setInterval(() => {
  if (handled === told) return;
  told = handled;
  console.log(JSON.stringify({ handled, waits }));
  waits = [];
}, 20);
console.log(JSON.stringify({ handled, waits }));
