/** A worker that does what the texts say. */
import { appendFileSync, existsSync, writeFileSync } from "node:fs";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { parentPort, threadId } from "node:worker_threads";
import { abortSignal, BotWorker, sequentialize } from "../../mod.ts";

const { TEST_API_ROOT, TEST_TOKEN, TEST_FOLDER, TEST_MODE } = process.env;
const log = (line: string) => appendFileSync(`${TEST_FOLDER}/log`, line + "\n");

const bot = new BotWorker(TEST_TOKEN!, {
  client: { apiRoot: TEST_API_ROOT },
  ...TEST_MODE === "unaware" && { botInfo: undefined },
});
if (TEST_MODE === "floating") bot.use((_ctx, next) => void next());
if (TEST_MODE === "ordered" || TEST_MODE === "floating") {
  bot.use(sequentialize());
}
if (TEST_MODE === "catching") {
  bot.catch(async ({ ctx, error }) => {
    const { name } = error as Error;
    if (name === "GrammyError") throw new Error("rethrown", { cause: error });
    await ctx.reply(`caught ${name}`);
  });
}
if (TEST_MODE === "closing") {
  bot.onStop(async () => {
    await sleep(50);
    log("closed");
  });
}
if (TEST_MODE === "failing to close") {
  bot.onStop(() => {
    throw new RangeError("cannot close");
  });
  bot.onStop(() => log("closed"));
}
if (TEST_MODE === "throwing nothing") bot.onStop(() => Promise.reject());
if (TEST_MODE === "hanging") bot.onStop(() => new Promise(() => {}));

/** How often a chat has written to this thread. */
const counts = new Map<number, number>();

const boundary = bot.errorBoundary((error) => {
  throw error;
});
boundary.command("bounded", () => {
  throw new RangeError("too much");
});

bot.on("message:text", async (ctx) => {
  const [what, argument] = ctx.msg.text.split(" ");
  switch (what) {
    case "thread":
      return void await ctx.reply(`${threadId}`);
    case "me":
      return void await ctx.reply(`${ctx.me.id}`);
    case "count": {
      const count = (counts.get(ctx.chat.id) ?? 0) + 1;
      counts.set(ctx.chat.id, count);
      return void await ctx.reply(`${count}`);
    }
    case "log":
      await sleep(Math.random() * 3);
      return log(`${ctx.chat.id} ${ctx.update.update_id}`);
    case "sleep":
      await sleep(Number(argument));
      return void await ctx.reply(`slept ${argument}`);
    case "hang":
      await ctx.reply("hanging");
      return await new Promise(() => {});
    case "wait":
      try {
        await ctx.reply("waiting");
        return await sleep(60_000, undefined, { signal: abortSignal(ctx) });
      } catch {
        return void await ctx.reply(`${abortSignal(ctx).reason.name}`);
      }
    case "post":
      for (const data of [null, [null], { type: "handled", id: 0 }]) {
        parentPort!.postMessage(data);
      }
      return void await ctx.reply("posted");
    case "start":
      return await bot.start();
    case "another":
      return void new BotWorker(TEST_TOKEN!);
    case "error":
      throw Object.assign(new RangeError("too much"), { limit: 3 });
    case "call":
      return void await ctx.reply("");
    case "string":
      throw "no error";
    case "die":
      die(argument);
      return await sleep(60_000);
    case "die-once": {
      const marker = `${TEST_FOLDER}/died`;
      if (existsSync(marker)) return void await ctx.reply("alive");
      writeFileSync(marker, "");
      return process.exit(1);
    }
  }
});

function die(how: string): void {
  switch (how) {
    case "exit":
      process.exit(3);
      break;
    case "throw":
      setTimeout(() => {
        throw new TypeError("uncaught");
      });
      break;
    case "reject":
      Promise.reject(new TypeError("unhandled"));
      break;
    case "memory":
      for (const hoard = [];;) {
        hoard.push(Array.from({ length: 10_000 }, (_, i) => ({ i })));
      }
    case "loop":
      while (true);
  }
}
