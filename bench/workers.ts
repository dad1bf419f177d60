/**
 * What workers gain and cost: handlers that compute, and the price of sending
 * an update to another thread. Needs Linux, which knows the time of a thread.
 *
 * ```sh
 * deno run -A bench/workers.ts
 * ```
 */
import { Bot, type Context } from "grammy";
import type { Update } from "grammy/types";
// deno-lint-ignore no-import-prefix -- nothing but the benchmark needs it
import * as old from "npm:@grammyjs/runner@2.0.3";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { linkSlot } from "../_slot.ts";
import { DecayingDeque, distribute } from "../mod.ts";
import { type Contender, median, medians, printTable } from "./measure.ts";
import { burn } from "./workers/bot.ts";

const ROUNDS = 7;
/** Milliseconds that a handler computes. */
const HANDLER_MS = 2;

type Middleware = (ctx: Context) => unknown;

const inPlace = createBot(burn);
const nothing = createBot(() => {});
const byWorkers = createBot(
  distribute(new URL("./workers/current.ts", import.meta.url), { count: 2 }),
);
const byOldWorkers = createBot(old.distribute(
  fileURLToPath(new URL("./workers/old.ts", import.meta.url)),
  { count: 2 },
));

const byEcho = createBot(echo());

/** The least that can be done: each update as a message of its own. */
function echo(): Middleware {
  const worker = new Worker(
    `const { parentPort } = require("node:worker_threads");
    parentPort.on("message", () => parentPort.postMessage(0));`,
    { eval: true },
  );
  const waiting: (() => void)[] = [];
  worker.on("message", () => waiting.shift()!());
  return (ctx: Context) =>
    new Promise<void>((resolve) => {
      waiting.push(resolve);
      worker.postMessage(ctx.update);
    });
}

function createBot(middleware: Middleware): Bot {
  const bot = new Bot(
    "123456:token",
    {
      botInfo: { id: 123456, is_bot: true, first_name: "Bot", username: "bot" },
    } as ConstructorParameters<typeof Bot>[1],
  );
  bot.use(middleware as () => void);
  return bot;
}

/** An update of 1 KB. */
function createUpdate(id: number, text: string): Update {
  const chat = { id: 1 + id % 1000, type: "private", first_name: "Ada" };
  const entities = Array.from(
    { length: 18 },
    (_, i) => ({ type: "bold", offset: 10 * i, length: 5 }),
  );
  const message = { message_id: id, date: 1, chat, from: chat, text, entities };
  return { update_id: id, message } as unknown as Update;
}

/** Has updates handled as `run` does it, without a network. */
async function handle(
  bot: Bot,
  count: number,
  inFlight: number,
  text: string,
): Promise<void> {
  const queue = new DecayingDeque<Update>(
    60_000,
    (update, slot) => {
      linkSlot(update, slot);
      return bot.handleUpdate(update);
    },
    inFlight,
    (error) => Promise.reject(error),
    () => {},
  );
  let room = inFlight;
  for (let id = 1; id <= count;) {
    const batch: Update[] = [];
    while (batch.length < room && id <= count) {
      batch.push(createUpdate(id++, text));
    }
    room = await queue.add(batch);
  }
  await queue.empty();
}

function contender(
  bot: Bot,
  count: number,
  inFlight: number,
  text: string,
  startClock: () => () => number = startWatch,
): Contender {
  return {
    async round() {
      const elapsed = startClock();
      await handle(bot, count, inFlight, text);
      return elapsed();
    },
  };
}

function startWatch(): () => number {
  const start = performance.now();
  return () => performance.now() - start;
}

/** Milliseconds for which a thread has been running, this one by default. */
function cpuMs(thread: string | number = Deno.pid): number {
  const path = `/proc/self/task/${thread}/schedstat`;
  return Number(Deno.readTextFileSync(path).split(" ")[0]) / 1e6;
}

function startCpuClock(): () => number {
  const start = cpuMs();
  return () => cpuMs() - start;
}

/** The time that two cores need which have nothing else to do. */
function startIdealClock(): () => number {
  const times = () =>
    new Map(
      Deno.readDirSync("/proc/self/task").map((
        { name },
      ) => [name, cpuMs(name)]),
    );
  const start = times();
  return () => {
    const spent = [...times()].map(([id, ms]) => ms - (start.get(id) ?? 0));
    const total = spent.reduce((sum, ms) => sum + ms, 0);
    return Math.max(...spent, total / 2);
  };
}

/** The text that keeps a handler busy for the given time. */
function calibrate(): string {
  const samples = Array.from({ length: 50 }, () => {
    const start = cpuMs();
    burn({ msg: { text: "1000000" } } as Parameters<typeof burn>[0]);
    return cpuMs() - start;
  });
  return `${Math.round(1_000_000 / median(samples) * HANDLER_MS)}`;
}

/** This machine may have other things to do; what if it had not? */
const CLOCKS = [
  [startWatch, "now"],
  [startIdealClock, "on idle cores"],
] as const;

const rows: string[][] = [];
function report(what: string, value: string, target: string, ok: boolean) {
  rows.push([what, value, target, ok ? "ok" : "short"]);
}

const text = calibrate();
for (const [clock, condition] of CLOCKS) {
  const [alone, spread] = await medians(
    [inPlace, byWorkers].map((bot) => contender(bot, 500, 100, text, clock)),
    ROUNDS,
  );
  report(
    `rate of 2 workers : none, handlers of ${HANDLER_MS} ms, ${condition}`,
    (alone / spread).toFixed(2),
    ">= 1.6",
    alone / spread >= 1.6,
  );
}

for (const inFlight of [1, 100]) {
  const count = 5000;
  const [without, withWorkers, bare] = await medians(
    [nothing, byWorkers, byEcho].map((bot) =>
      contender(bot, count, inFlight, "0", startCpuClock)
    ),
    ROUNDS,
  );
  const microseconds = (withWorkers - without) / count * 1000;
  report(
    `central microseconds per update, ${inFlight} at once`,
    microseconds.toFixed(1),
    "<= 60",
    microseconds <= 60,
  );
  rows.push([
    "the same for nothing but a message and its echo",
    ((bare - without) / count * 1000).toFixed(1),
    "",
    "bound",
  ]);
}

for (const inFlight of [1, 100]) {
  for (const [clock, condition] of CLOCKS) {
    const [current, former] = await medians(
      [byWorkers, byOldWorkers].map((bot) =>
        contender(bot, 5000, inFlight, "0", clock)
      ),
      ROUNDS,
    );
    report(
      `rate of this version : 2.0.3, ${inFlight} at once, ${condition}`,
      (former / current).toFixed(2),
      ">= 1",
      former / current >= 1,
    );
  }
}
printTable(["what", "value", "target", ""], rows);
Deno.exit(); // 2.0.3 does not end its workers
