import { assertEquals } from "@std/assert";
import { createMemoryInbox, run, sequentialize } from "../mod.ts";
import { createBot, sleep, startServer, until } from "./_bot.ts";

/** A generator of random numbers that can be repeated. */
function random(seed: number): (below: number) => number {
  return (below) => {
    seed = (seed * 1664525 + 1013904223) % 2 ** 32;
    return Math.floor(seed / 2 ** 32 * below);
  };
}

Deno.test("through faults and restarts, every update is handled once, in the order of its chat", async () => {
  await using server = await startServer();
  const next = random(42);
  const handled: [chat: number, n: number][] = [];
  const holders = new Map<number, number>();
  let overlaps = 0;
  const bot = createBot(server);
  bot.catch(() => {});
  bot.use(sequentialize());
  bot.on("message:text", async (ctx) => {
    const chat = ctx.chat.id;
    holders.set(chat, (holders.get(chat) ?? 0) + 1);
    if (holders.get(chat)! > 1) overlaps++;
    if (next(3) === 0) await sleep(next(4));
    holders.set(chat, holders.get(chat)! - 1);
    handled.push([chat, Number(ctx.msg.text)]);
    if (next(50) === 0) throw new Error("oh no");
  });
  const handle = run(bot, {
    // The deadline matters: some clients hang for ever on a truncated answer.
    runner: {
      silent: true,
      retryInterval: 1,
      fetch: { timeout: 1 },
      pollGrace: 500,
    },
    sink: { concurrency: 20 },
    inbox: createMemoryInbox({ lookahead: 50 }),
  });

  const total = 5_000;
  let pushed = 0;
  // Only faults before an answer: what is lost on the way comes again.
  const faults = [
    { status: 500 },
    { status: 429, retryAfter: 0.01 },
    { body: "<html>", status: 200 },
    "reset",
    "truncate",
    {
      status: 409,
      description: "Conflict: terminated by other getUpdates request",
    },
  ] as const;
  while (pushed < total) {
    for (let i = next(200); i > 0 && pushed < total; i--) {
      const chat = 1 + next(next(2) === 0 ? 3 : 200);
      server.pushText(`${pushed++}`, { userId: chat, chatId: chat });
    }
    if (next(2) === 0) server.fail(faults[next(faults.length)]);
    if (next(4) === 0) {
      // The confirm of a stop is not tried again.
      server.clearFaults();
      await handle.stop();
      handle.start();
    }
    await sleep(next(5));
  }
  await until(() => handled.length >= total);
  await handle.stop();

  assertEquals(overlaps, 0);
  assertEquals(handled.length, total);
  assertEquals(new Set(handled.map(([, n]) => n)).size, total);
  const last = new Map<number, number>();
  for (const [chat, n] of handled) {
    assertEquals(n > (last.get(chat) ?? -1), true, `${n} in chat ${chat}`);
    last.set(chat, n);
  }
  assertEquals(server.unconfirmed(), []);
});
