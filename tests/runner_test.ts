import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { Bot, BotError, type Context } from "grammy";
import {
  abortSignal,
  createConcurrentSink,
  createMemoryInbox,
  createRunner,
  createSequentialSink,
  createSource,
  createUpdateSupplier,
  run,
  type RunnerEvent,
  type RunOptions,
  sequentialize,
  type UpdateInbox,
  type UpdateSink,
  type UpdateSource,
} from "../mod.ts";
import { slotOf } from "../_slot.ts";
import type { Update } from "../deps.ts";
import type { BotApiServer } from "../testing.ts";
import {
  captureErrors,
  createBot,
  Deferred,
  pushTexts,
  runBot,
  sleep,
  startServer,
  until,
} from "./_bot.ts";
import { DurableInbox } from "./_inbox.ts";

const SILENT = { runner: { silent: true } };

function ids(updates: Update[]): number[] {
  return updates.map((update) => update.update_id);
}

Deno.test("run fetches updates, handles them, and stops cleanly", async () => {
  await using server = await startServer();
  const bot = createBot(server);
  bot.on("message:text", (ctx) => ctx.reply(`re: ${ctx.msg.text}`));
  const handle = run(bot);
  assert(handle.isRunning());
  server.pushText("hello");
  const call = await server.waitForCall("sendMessage");
  assertEquals(call.params.text, "re: hello");
  const task = handle.task();
  await handle.stop();
  await task;
  assert(!handle.isRunning());
  assertEquals(handle.task(), undefined);
  assertEquals(server.unconfirmed(), []);
  assertEquals(handle.size(), 0);
});

Deno.test("run handles updates concurrently", async () => {
  await using server = await startServer();
  const all = new Deferred();
  let running = 0;
  const handle = runBot(server, async () => {
    if (++running === 50) all.resolve();
    await all.promise;
  });
  pushTexts(server, 50);
  await all.promise;
  await handle.stop();
});

Deno.test("run passes errors to bot.catch and goes on", async () => {
  await using server = await startServer();
  const bot = createBot(server);
  const errors: unknown[] = [];
  bot.catch((error) => void errors.push(error));
  bot.on("message:text", (ctx) => {
    if (ctx.msg.text === "0") throw new Error("oh no");
    return ctx.reply("fine");
  });
  const handle = run(bot);
  pushTexts(server, 2);
  await server.waitForCall("sendMessage");
  await handle.stop();
  assertEquals(errors.length, 1);
  assertInstanceOf(errors[0], BotError);
  assertEquals((errors[0].error as Error).message, "oh no");
  const { handled, failed } = handle.stats();
  assertEquals({ handled, failed }, { handled: 1, failed: 1 });
});

Deno.test("run survives an error handler that fails, and prints so", async () => {
  await using server = await startServer();
  const events: RunnerEvent<Update>[] = [];
  const printed = await captureErrors(async () => {
    const bot = createBot(server);
    bot.catch(() => {
      throw new Error("handler broken");
    });
    bot.on("message:text", (ctx) => {
      if (ctx.msg.text === "0") throw new Error("oh no");
      return ctx.reply("fine");
    });
    const handle = run(bot, { onEvent: (event) => events.push(event) });
    pushTexts(server, 2);
    await server.waitForCall("sendMessage");
    await handle.stop();
  });
  assertStringIncludes(printed.join(), "handler broken");
  const event = events.find((event) => event.type === "handler-failed");
  assertEquals(event?.update.update_id, 1);
});

Deno.test("run never exceeds the concurrency, from the first batch on", async () => {
  await using server = await startServer();
  pushTexts(server, 100);
  let running = 0, most = 0, handled = 0;
  const done = new Deferred();
  const handle = runBot(server, async () => {
    most = Math.max(most, ++running);
    await sleep(2);
    running--;
    if (++handled === 100) done.resolve();
  }, { sink: { concurrency: 7 } });
  await done.promise;
  await handle.stop();
  assertEquals(most, 7);
});

Deno.test("the concurrency holds with parked and resumed updates", async () => {
  await using server = await startServer();
  for (let i = 0; i < 100; i++) pushTexts(server, 1, i % 3 === 0 ? 1 : i);
  let running = 0, most = 0, handled = 0;
  const done = new Deferred();
  const bot = createBot(server);
  bot.use(sequentialize());
  bot.use(async () => {
    most = Math.max(most, ++running);
    await sleep(1);
    running--;
    if (++handled === 100) done.resolve();
  });
  const handle = run(bot, { sink: { concurrency: 7 } });
  await done.promise;
  await handle.stop();
  assertEquals(most, 7);
});

for (const flood of [1_000, 6_000]) {
  Deno.test(`a chat that floods ${flood} updates does not starve others`, async () => {
    await using server = await startServer();
    const release = new Deferred();
    const others = new Deferred();
    let answered = 0, flooded = 0;
    const order: string[] = [];
    const bot = createBot(server);
    bot.use(sequentialize());
    bot.on("message:text", async (ctx) => {
      if (ctx.chat.id === 1) {
        await release.promise;
        flooded++;
        order.push(ctx.msg.text);
      } else if (++answered === 20) others.resolve();
    });
    const early = Math.min(flood, 5_000);
    pushTexts(server, early);
    for (let chat = 2; chat < 22; chat++) pushTexts(server, 1, chat);
    if (flood > early) {
      for (let i = early; i < flood; i++) {
        server.pushText(`${i}`, { userId: 1, chatId: 1 });
      }
    }
    const handle = run(bot, { sink: { concurrency: 100 } });
    await others.promise; // while none of the flood has ended
    assertEquals(flooded, 0);
    release.resolve();
    await until(() => flooded === flood);
    await handle.stop();
    assertEquals(order, Array.from({ length: flood }, (_, i) => `${i}`));
    assertEquals(server.unconfirmed(), []);
  });
}

Deno.test("a timed-out update frees its chat, aborts its signal, and is counted", async () => {
  await using server = await startServer();
  const bot = createBot(server);
  const timedOut: number[] = [];
  const reasons: unknown[] = [];
  bot.use(sequentialize());
  bot.on("message:text", (ctx) => {
    if (ctx.msg.text !== "0") return ctx.reply("next");
    const signal = abortSignal(ctx);
    return new Promise<void>((resolve) =>
      signal.addEventListener("abort", () => {
        reasons.push(signal.reason.name);
        resolve();
      })
    );
  });
  const handle = run(bot, {
    sink: {
      timeout: {
        milliseconds: 20,
        handler: (update) => timedOut.push(update.update_id),
      },
    },
  });
  pushTexts(server, 2);
  await server.waitForCall("sendMessage");
  await handle.stop();
  assertEquals(timedOut, [1]);
  assertEquals(reasons, ["TimeoutError"]);
  const { handled, failed, timedOut: count } = handle.stats();
  assertEquals([handled, failed, count], [1, 0, 1]);
});

Deno.test("abortSignal never aborts outside a runner", () => {
  assertEquals(abortSignal({ update: {} }).aborted, false);
});

// Stopping.

const STOPS: [
  name: string,
  count: number,
  options: RunOptions<Update>,
  leaves?: boolean,
][] = [
  ["5 updates", 5, {}],
  ["5 updates at concurrency 2 while the source waits", 5, {
    source: { speedTrafficBalance: 1 },
    sink: { concurrency: 2 },
  }, true],
  ["60 updates at concurrency 5", 60, { sink: { concurrency: 5 } }],
  ["300 updates at concurrency 5 and lookahead 10", 300, {
    sink: { concurrency: 5 },
    inbox: createMemoryInbox({ lookahead: 10 }),
  }, true],
];

for (const [name, count, options, leaves] of STOPS) {
  for (const again of [false, true]) {
    const next = again ? "the same handle started again" : "another bot";
    Deno.test(`after a clean stop in the first handler, ${next} gets exactly what was not started: ${name}`, async () => {
      await using server = await startServer();
      // The source waits for longer the longer the first batch has taken.
      if (options.source) server.setLatency(20);
      const pushed = ids(pushTexts(server, count));
      const seen: number[] = [];
      const rest: number[] = [];
      const stopped = new Deferred<void | Promise<void>>();
      let target = seen;
      const handler = async (ctx: Context) => {
        target.push(ctx.update.update_id);
        if (target === seen) stopped.resolve(handle.stop());
        await sleep(1);
      };
      const handle = runBot(server, handler, options);
      await stopped.promise;
      target = rest;
      const left = server.unconfirmed().length;
      if (leaves) assert(left > 0);
      if (again) handle.start();
      const second = again ? handle : runBot(server, handler, options);
      // Telegram sends updates in order, so this one comes after all the others.
      const last = server.pushText("last").update_id;
      await until(() => rest.at(-1) === last);
      await second.stop();
      assertEquals(rest.length, left + 1);
      assertEquals([...seen, ...rest], [...pushed, last]);
      assertEquals(server.unconfirmed(), []);
    });
  }
}

Deno.test("a stop while the source waits confirms all that a durable inbox has stored", async () => {
  await using server = await startServer();
  server.setLatency(20); // the source waits for several times that
  pushTexts(server, 5);
  const inbox = new DurableInbox();
  const stopped = new Deferred<void | Promise<void>>();
  const handle = runBot(server, () => stopped.resolve(handle.stop()), {
    inbox,
    source: { speedTrafficBalance: 1, maxDelayMilliseconds: 60_000 },
    sink: { concurrency: 2 },
  });
  await stopped.promise;
  assertEquals(inbox.stored.size, 3);
  assertEquals(server.unconfirmed(), []);
});

Deno.test("a stop leaves in a durable inbox what a source without confirm has given", async () => {
  const inbox = new DurableInbox();
  let update_id = 0;
  const supply = async () => {
    await sleep(1);
    return Array.from({ length: 100 }, () => ({ update_id: ++update_id }));
  };
  const stopped = new Deferred<void | Promise<void>>();
  const seen: number[] = [];
  const sink = createConcurrentSink<Update>(
    {
      async consume(update) {
        seen.push(update.update_id);
        await until(() => inbox.stored.size >= 300);
        stopped.resolve(handle.stop());
      },
    },
    (error) => Promise.reject(error),
    { concurrency: 5 },
  );
  const handle = createRunner(createSource({ supply }), sink, { inbox });
  handle.start();
  await stopped.promise;
  const kept = [...inbox.stored.keys()];
  assert(seen.length < 20);
  const all = Array.from({ length: update_id }, (_, i) => i + 1);
  assertEquals([...seen, ...kept], all);
});

Deno.test("a handle can be started again before its stop has finished", async () => {
  await using server = await startServer();
  const release = new Deferred();
  const seen: string[] = [];
  const handle = runBot(server, async (ctx) => {
    seen.push(ctx.msg!.text!);
    await release.promise;
  });
  pushTexts(server, 1);
  await until(() => seen.length === 1);
  const stopped = handle.stop();
  assert(!handle.isRunning());
  handle.start();
  assert(handle.isRunning());
  release.resolve();
  await stopped;
  server.pushText("again");
  await until(() => seen.length === 2);
  await handle.stop();
  assertEquals(seen, ["0", "again"]);
});

Deno.test("stop before start resolves, and start on a running runner does nothing", async () => {
  await using server = await startServer();
  const bot = createBot(server);
  const sink = createConcurrentSink<Update>(
    { consume: (update) => bot.handleUpdate(update) },
    () => Promise.resolve(),
  );
  const handle = createRunner(createSource(createUpdateSupplier(bot)), sink);
  assertEquals(handle.stats().state, "idle");
  await handle.stop();
  assertEquals(await handle.stop({ timeout: 5 }), {
    unfinished: [],
    unstarted: [],
  });
  assertEquals(handle.task(), undefined);
  handle.start();
  const task = handle.task();
  handle.start();
  assertEquals(handle.task(), task);
  await Promise.all([
    handle.stop(),
    handle.stop(),
    handle.stop({ timeout: 9 }),
  ]);
  assertEquals(handle.stats().state, "stopped");
});

for (
  const [name, fault] of [
    ["backing off", { status: 502 }],
    ["waiting out a 429", { status: 429, retryAfter: 1000 }],
    ["polling a server that hangs", "hang"],
  ] as const
) {
  Deno.test(`stop ends a runner at once while ${name}`, async () => {
    await using server = await startServer();
    server.fail(fault, { times: Infinity });
    const handle = runBot(server, () => {}, {
      runner: { silent: true, retryInterval: 1e9 },
    });
    await until(() => server.polls().length > 0);
    await sleep(5);
    await handle.stop();
    assertEquals(handle.stats().state, "stopped");
  });
}

Deno.test("stop does not wait for a final confirm that never answers", async () => {
  await using server = await startServer();
  const events: string[] = [];
  const seen = new Deferred();
  const bot = createBot(server);
  bot.use(() => {
    // The poll that would acknowledge the update hangs, too.
    server.fail("hang", { times: Infinity });
    seen.resolve();
  });
  const handle = run(bot, {
    runner: { silent: true, pollGrace: 30 },
    onEvent: (event) => events.push(event.type),
  });
  pushTexts(server, 1);
  await seen.promise;
  await handle.stop();
  assert(events.includes("confirm-failed"));
  assertEquals(events.at(-1), "stopped");
});

Deno.test("a confirm that another request overtakes is sent once more", async () => {
  await using server = await startServer();
  const events: string[] = [];
  const conflict = {
    status: 409,
    description: "Conflict: terminated by other getUpdates request",
  };
  const bot = createBot(server);
  bot.api.config.use((prev, method, payload, signal) => {
    if (method === "getUpdates" && "limit" in payload && payload.limit === 1) {
      if (!events.includes("confirm")) server.fail(conflict);
      events.push("confirm");
    }
    return prev(method, payload, signal);
  });
  const seen = new Deferred();
  bot.use(() => seen.resolve());
  const handle = run(bot, { onEvent: (event) => events.push(event.type) });
  pushTexts(server, 1);
  await seen.promise;
  await handle.stop();
  assertEquals(events.filter((type) => type.startsWith("confirm")), [
    "confirm",
    "confirm",
  ]);
});

Deno.test("stop({ timeout }) reports what it gives up, aborts signals, and confirms", async () => {
  await using server = await startServer();
  const bot = createBot(server);
  const aborted: number[] = [];
  const forever = new Deferred();
  let running = 0;
  bot.use(sequentialize());
  bot.use(async (ctx: Context) => {
    running++;
    const signal = abortSignal(ctx);
    signal.addEventListener("abort", () => aborted.push(ctx.chat!.id));
    await forever.promise;
  });
  const [a, b] = [1, 1, 2].map((chat) => pushTexts(server, 1, chat)[0]);
  const events: string[] = [];
  const handle = run(bot, {
    sink: { concurrency: 2 },
    onEvent: (event) => events.push(event.type),
  });
  await until(() => running === 2);
  const report = await handle.stop({ timeout: 100 });
  assert(!events.includes("confirm-failed"));
  assertEquals(ids(report.unfinished), [a.update_id, 3]);
  assertEquals(ids(report.unstarted), [b.update_id]);
  assertEquals(aborted, [1, 2]);
  assertEquals(server.unconfirmed(), []);
  forever.resolve();
  await until(() => handle.size() === 0);
  assertEquals(running, 2);
});

Deno.test("stop({ timeout }) reports buffered updates, too", async () => {
  await using server = await startServer();
  const pushed = ids(pushTexts(server, 20));
  const forever = new Deferred();
  let running = 0;
  const handle = runBot(server, () => {
    running++;
    return forever.promise;
  }, { sink: { concurrency: 3 } });
  await until(() => running === 3);
  await until(() => server.polls().length === 2);
  const report = await handle.stop({ timeout: 100 });
  assertEquals(ids(report.unfinished), pushed.slice(0, 3));
  assertEquals(ids(report.unstarted), pushed.slice(3));
  forever.resolve();
  await until(() => handle.size() === 0);
});

Deno.test("stop({ timeout }) resolves early when all updates have ended", async () => {
  await using server = await startServer();
  const handle = runBot(server, () => sleep(1));
  pushTexts(server, 3);
  await until(() => handle.stats().handled === 3);
  const report = await handle.stop({ timeout: 1e6 });
  assertEquals(report, { unfinished: [], unstarted: [] });
});

Deno.test("stop refuses a bad timeout", async () => {
  await using server = await startServer();
  const handle = runBot(server, () => {});
  await assertRejects(
    () => handle.stop({ timeout: NaN }),
    RangeError,
    "timeout must be at least 0: received NaN",
  );
  await handle.stop();
});

Deno.test("a fatal error rejects the task, and stop still resolves", async () => {
  await using server = await startServer();
  server.fail({ status: 401, description: "Unauthorized" }, { times: 9 });
  const handle = runBot(server, () => {}, SILENT);
  const error = await assertRejects(() => handle.task()!);
  assertStringIncludes((error as Error).message, "401");
  assert(!handle.isRunning());
  await handle.stop();
  assertEquals(handle.stats().state, "failed");
  assertEquals(handle.stats().lastError, error);
  await assertRejects(() => handle.task()!);
  server.clearFaults();
  handle.start();
  await until(() => handle.stats().polls === 0 && handle.isRunning());
  await handle.stop();
});

Deno.test("a fatal error lets what was received finish", async () => {
  await using server = await startServer();
  const handled: string[] = [];
  const bot = createBot(server);
  bot.on("message:text", async (ctx) => {
    server.fail({ status: 404, description: "Not Found" });
    await sleep(1);
    handled.push(ctx.msg.text);
  });
  const handle = run(bot, { ...SILENT, sink: { concurrency: 2 } });
  pushTexts(server, 5);
  await until(() => handled.length > 0);
  server.pushText("wakes the poll");
  await assertRejects(() => handle.task()!);
  assertEquals(handled.slice(0, 5), ["0", "1", "2", "3", "4"]);
});

Deno.test("a signal stops the runner, and an aborted one keeps it from starting", async () => {
  await using server = await startServer();
  const controller = new AbortController();
  const bot = createBot(server);
  const handle = run(bot, { signal: controller.signal });
  const task = handle.task();
  controller.abort();
  await task;
  assert(!handle.isRunning());
  assert(!run(bot, { signal: AbortSignal.abort() }).isRunning());
});

Deno.test("a handle disposes of itself", async () => {
  await using server = await startServer();
  const handle = runBot(server, () => {});
  {
    await using _ = handle;
  }
  assertEquals(handle.stats().state, "stopped");
});

Deno.test("a slot lets middleware run something at the stop, once", async () => {
  await using server = await startServer();
  const log: string[] = [];
  const close = async () => {
    await sleep(1);
    log.push("closed");
  };
  const handle = runBot(server, (ctx) => {
    slotOf(ctx)!.onStop(close);
    log.push("handled");
  });
  pushTexts(server, 2);
  await until(() => log.length === 2);
  await handle.stop();
  assertEquals(log, ["handled", "handled", "closed"]);
});

/** A supplier that yields a batch once, and waits for the close then. */
function once<Y>(batch: Y[]): (n: number, signal: AbortSignal) => Promise<Y[]> {
  let supplied = false;
  return (_, signal) =>
    new Promise((resolve, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason));
      if (!supplied) resolve(batch);
      supplied = true;
    });
}

Deno.test("stop({ timeout }) gives up the updates of an earlier stop, too", async () => {
  const forever = new Deferred();
  const sink = createConcurrentSink<number>(
    { consume: () => forever.promise },
    () => Promise.resolve(),
  );
  const handle = createRunner(createSource({ supply: once([1]) }), sink);
  handle.start();
  await until(() => handle.size() === 1);
  const first = handle.stop();
  handle.start();
  await sleep(1);
  const report = await handle.stop({ timeout: 10 });
  assertEquals(report.unfinished, [1]);
  await first;
  await handle.stop();
  assertEquals(handle.stats().state, "stopped");
  forever.resolve();
});

Deno.test("stop({ timeout }) reports any number of updates", async () => {
  const forever = new Deferred();
  const sink = createConcurrentSink<number>(
    { consume: () => forever.promise },
    () => Promise.resolve(),
    { concurrency: 5 },
  );
  const batch = Array.from({ length: 300_000 }, (_, i) => i);
  const handle = createRunner(createSource({ supply: once(batch) }), sink);
  handle.start();
  await until(() => handle.size() === 5);
  const report = await handle.stop({ timeout: 10 });
  assertEquals(report.unfinished, batch.slice(0, 5));
  assertEquals(report.unstarted.length, 299_995);
  assertEquals(handle.stats().state, "stopped");
  forever.resolve();
});

Deno.test("a stop hook that never ends holds up a stop with a timeout no longer than that", async () => {
  const sink = createConcurrentSink<number>(
    {
      consume(_, slot) {
        slot!.onStop(() => new Promise(() => {}));
        return Promise.resolve();
      },
    },
    () => Promise.resolve(),
  );
  const handle = createRunner(createSource({ supply: once([1]) }), sink);
  handle.start();
  await until(() => handle.stats().handled === 1);
  await handle.stop({ timeout: 10 });
  await handle.stop();
  assertEquals(handle.stats().state, "stopped");
});

Deno.test("updates that equal one that was given up are handled", async () => {
  const seen: string[] = [];
  const forever = new Deferred();
  const sink = createConcurrentSink<string>(
    { consume: (update) => (seen.push(update), forever.promise) },
    () => Promise.resolve(),
  );
  let supply = once(["ping"]);
  const source = createSource<string>({
    supply: (n, signal) => supply(n, signal),
  });
  const handle = createRunner(source, sink);
  handle.start();
  await until(() => seen.length === 1);
  await handle.stop({ timeout: 5 });
  supply = once(["ping", "pong"]);
  handle.start();
  await until(() => seen.length === 3);
  assertEquals(seen, ["ping", "ping", "pong"]);
  forever.resolve();
  await handle.stop();
});

Deno.test("a memory inbox whose take has an abort error of its own loses nothing", async () => {
  const memory = createMemoryInbox<number>();
  const inbox: UpdateInbox<number> = {
    durable: false,
    open: (run) => memory.open(run),
    append: (updates, signal) => memory.append(updates, signal),
    async take(limit, signal) {
      try {
        return await memory.take(limit, signal);
      } catch {
        throw new DOMException("take was aborted", "AbortError");
      }
    },
    settle() {},
    close: () => memory.close(),
  };
  const seen: number[] = [];
  const sink = createConcurrentSink<number>(
    { consume: (update) => Promise.resolve(void seen.push(update)) },
    () => Promise.resolve(),
  );
  let supplied = 0;
  const source = createSource<number>({
    supply: (_, signal) =>
      supplied++ === 0
        ? Promise.resolve([1])
        : new Promise((resolve) =>
          signal.addEventListener("abort", () => resolve([2]))
        ),
  });
  const handle = createRunner(source, sink, { inbox });
  handle.start();
  await until(() => seen.length === 1);
  await handle.stop();
  assertEquals(seen, [1, 2]);
});

// Observing.

Deno.test("events tell the story of a run", async () => {
  await using server = await startServer();
  const events: RunnerEvent<Update>[] = [];
  const bot = createBot(server);
  bot.catch(() => {});
  bot.on("message:text", async (ctx) => {
    await sleep(5);
    if (ctx.msg.text === "1") throw new Error("oh no");
  });
  server.fail({ status: 500 }, { times: 2 });
  pushTexts(server, 2);
  const handle = run(bot, {
    // Most polls bring nothing.
    runner: { silent: true, retryInterval: 1, fetch: { timeout: 0 } },
    onEvent: (event) => events.push(event),
  });
  await until(() =>
    events.filter((event) => event.type === "ended").length === 2
  );
  await handle.stop();
  const types = events.map((event) => event.type);
  assertEquals(types.filter((type) => type !== "poll" && type !== "ended"), [
    "started",
    "poll-failed",
    "poll-failed",
    "recovered",
    "received",
    "draining",
    "stopped",
  ]);
  const started = events.find((event) => event.type === "started")!;
  assertEquals(started.stats(), handle.stats());
  const received = events.find((event) => event.type === "received")!;
  assertEquals(received.updates.map((update) => update.update_id), [1, 2]);
  const poll = events.find((event) => event.type === "poll")!;
  assertEquals(poll.count, 2);
  const recovered = events.find((event) => event.type === "recovered")!;
  assertEquals(recovered.failures, 2);
  const ends = events.filter((event) => event.type === "ended");
  assertEquals(
    ends.map((end) => [end.update.update_id, end.outcome]).sort(),
    [[1, "handled"], [2, "failed"]],
  );
  for (const end of ends) {
    assert(end.ranMs >= 3 && end.ranMs < 5000);
    assert(end.waitedMs >= 0 && end.waitedMs < 5000);
  }
});

Deno.test("a hook that throws disturbs nothing", async () => {
  await using server = await startServer();
  const handle = runBot(server, (ctx) => ctx.reply("fine"), {
    onEvent() {
      throw new Error("hook broken");
    },
  });
  pushTexts(server, 2);
  await until(() => server.sent().length === 2);
  await handle.stop();
  const other = runBot(server, (ctx) => ctx.reply("fine"), {
    onEvent: () => Promise.reject(new Error("hook broken")),
  });
  pushTexts(server, 2);
  await until(() => server.sent().length === 4);
  await other.stop();
});

Deno.test("nothing is printed while all is well, and nothing at all if silent", async () => {
  await using server = await startServer();
  const printed = await captureErrors(async () => {
    const handle = runBot(server, (ctx) => ctx.reply("fine"));
    pushTexts(server, 2);
    await until(() => server.sent().length === 2);
    await handle.stop();
    server.fail({ status: 500 }, { times: 2 });
    const silent = runBot(server, (ctx) => ctx.reply("fine"), {
      runner: { silent: true, retryInterval: 1 },
    });
    pushTexts(server, 2);
    await until(() => server.sent().length === 4);
    await silent.stop();
  });
  assertEquals(printed, []);
});

Deno.test("stats tell what runs, waits and is buffered", async () => {
  await using server = await startServer();
  const release = new Deferred();
  const bot = createBot(server);
  bot.use(sequentialize());
  bot.use(() => release.promise);
  for (const chat of [1, 1, 2, 3, 4, 5]) pushTexts(server, 1, chat);
  const handle = run(bot, { sink: { concurrency: 3 } });
  await until(() => handle.stats().running === 3);
  const stats = handle.stats();
  assertEquals(stats.state, "polling");
  assertEquals(stats.received, 6);
  assertEquals(stats.parked, 1);
  assertEquals(stats.buffered, 2);
  assertEquals(stats.limits, { running: 3, parked: 5000, buffered: 200 });
  assertEquals(handle.size(), 4);
  const stopped = handle.stop();
  assertEquals(handle.stats().state, "draining");
  release.resolve();
  await stopped;
  assertEquals(handle.stats().handled + server.unconfirmed().length, 6);
});

Deno.test("stats tell when the runner started", async () => {
  await using server = await startServer();
  const bot = createBot(server);
  const before = Date.now();
  const handle = run(bot);
  const { startedAt } = handle.stats();
  assert(startedAt! >= before && startedAt! <= Date.now());
  await handle.stop();
  assertEquals(handle.stats().startedAt, startedAt);
  await until(() => Date.now() > startedAt!);
  handle.start();
  assert(handle.stats().startedAt! > startedAt!);
  await handle.stop();
  const source = createSource({ supply: () => Promise.resolve([]) });
  const sink = createSequentialSink(
    { consume: () => Promise.resolve() },
    () => Promise.resolve(),
  );
  assertEquals(createRunner(source, sink).stats().startedAt, undefined);
});

/** Runs a bot whose handlers end when they are told to. */
function runHeld(server: BotApiServer, concurrency: number) {
  const handlers: Deferred[] = [];
  const bot = createBot(server);
  bot.use(sequentialize());
  bot.use(() => {
    const handler = new Deferred();
    handlers.push(handler);
    return handler.promise;
  });
  return { handlers, handle: run(bot, { sink: { concurrency } }) };
}

Deno.test("stats tell for how long there is no room and nothing ends", async () => {
  await using server = await startServer();
  const { handlers, handle } = runHeld(server, 2);
  pushTexts(server, 1, 1);
  await until(() => handlers.length === 1);
  await sleep(5);
  assertEquals(handle.stats().blockedMs, 0); // there is room for another one
  for (const chat of [2, 3, 4]) pushTexts(server, 1, chat);
  await until(() => handle.stats().blockedMs >= 20);
  const endedAt = Date.now();
  handlers[0].resolve();
  await until(() => handlers.length === 3);
  assert(handle.stats().blockedMs <= Date.now() - endedAt);
  await until(() => handle.stats().blockedMs >= 20);
  handlers[1].resolve();
  handlers[2].resolve();
  await until(() => handlers.length === 4);
  assertEquals(handle.stats().blockedMs, 0);
  handlers[3].resolve();
  await handle.stop();
});

Deno.test("stats tell that an update ended whose slot goes to a parked one", async () => {
  await using server = await startServer();
  const { handlers, handle } = runHeld(server, 2);
  for (const chat of [1, 1, 2, 3]) pushTexts(server, 1, chat);
  await until(() => handle.stats().blockedMs >= 20);
  assertEquals(handle.stats().parked, 1);
  const endedAt = Date.now();
  handlers[0].resolve();
  await until(() => handlers.length === 3);
  assertEquals(handle.stats().parked, 0);
  assert(handle.stats().blockedMs <= Date.now() - endedAt);
  for (const handler of handlers) handler.resolve();
  await until(() => handlers.length === 4);
  handlers[3].resolve();
  await handle.stop();
});

// With a durable inbox.

Deno.test("a durable inbox keeps what a stop left unstarted for the next start", async () => {
  await using server = await startServer();
  const inbox = new DurableInbox();
  const release = new Deferred();
  const seen: number[] = [];
  const handle = runBot(server, async (ctx) => {
    seen.push(ctx.update.update_id);
    await release.promise;
  }, { inbox, sink: { concurrency: 2 } });
  const pushed = ids(pushTexts(server, 10));
  await until(() => seen.length === 2);
  const stopped = handle.stop();
  release.resolve();
  await stopped;
  assertEquals(seen.length, 2);
  assertEquals([...inbox.stored.keys()], pushed.slice(2));
  assertEquals(server.unconfirmed(), []);
  handle.start();
  await until(() => seen.length === 10);
  await handle.stop();
  assertEquals(seen, pushed);
  assertEquals(inbox.stored.size, 0);
});

Deno.test("updates that a stop gives up run again, but not while they still run", async () => {
  await using server = await startServer();
  const inbox = new DurableInbox();
  const releases: Deferred[] = [];
  const handle = runBot(server, async () => {
    const release = new Deferred();
    releases.push(release);
    await release.promise;
  }, { inbox });
  pushTexts(server, 2);
  await until(() => releases.length === 2);
  const report = await handle.stop({ timeout: 20 });
  assertEquals(report.unfinished.length, 2);
  assertEquals(inbox.stored.size, 2);
  releases[0].resolve();
  await until(() => handle.size() === 1);
  handle.start();
  // The first one ended without being settled, the second one is still running.
  await until(() => releases.length === 3);
  releases[2].resolve();
  await until(() => inbox.stored.size === 1);
  assertEquals(releases.length, 3);
  releases[1].resolve();
  await until(() => inbox.stored.size === 0);
  await handle.stop();
  assertEquals(releases.length, 3);
});

Deno.test("a durable inbox that breaks confirms nothing unstored, and what it holds still runs", async () => {
  await using server = await startServer();
  const inbox = new DurableInbox();
  const release = new Deferred();
  const seen: number[] = [];
  const handle = runBot(server, async (ctx) => {
    seen.push(ctx.update.update_id);
    await release.promise;
  }, { ...SILENT, inbox, sink: { concurrency: 2 } });
  const task = assertRejects(() => handle.task()!, Error, "disk full");
  const pushed = ids(pushTexts(server, 10));
  await until(() => seen.length === 2);
  inbox.broken = new Error("disk full");
  const more = ids(pushTexts(server, 3));
  await until(() => !handle.isRunning());
  release.resolve();
  await task;
  assertEquals(seen, pushed);
  assertEquals(ids(server.unconfirmed()), more);
});

// Parts made by others.

Deno.test("a custom sink with the old members gets updates within its room", async () => {
  await using server = await startServer();
  const pushed = ids(pushTexts(server, 20));
  const running = new Set<Update>();
  const seen: number[] = [];
  let most = 0;
  const sink: UpdateSink<Update> = {
    async handle(updates) {
      for (const update of updates) {
        seen.push(update.update_id);
        running.add(update);
        setTimeout(() => running.delete(update), 3);
      }
      most = Math.max(most, updates.length);
      while (running.size >= 4) await sleep(1);
      return 4 - running.size;
    },
    size: () => running.size,
    snapshot: () => [...running],
  };
  const bot = createBot(server);
  const handle = createRunner(createSource(createUpdateSupplier(bot)), sink);
  handle.start();
  await until(() => seen.length === 20);
  await handle.stop();
  assertEquals(running.size, 0);
  assertEquals(seen, pushed);
  assertEquals(handle.stats().handled, 20);
  assertEquals(server.unconfirmed(), []);
});

Deno.test("a custom source with the old members loses nothing at a stop", async () => {
  let open = false;
  let n = 0;
  const source: UpdateSource<number> = {
    async *generator() {
      open = true;
      while (open) {
        await sleep(1);
        yield [n++, n++];
      }
    },
    setGeneratorPace(pace) {
      assert(pace > 0);
    },
    isActive: () => open,
    close: () => void (open = false),
  };
  const seen: number[] = [];
  const sink = createSequentialSink<number>({
    async consume(update) {
      await sleep(1);
      seen.push(update);
    },
  }, () => Promise.resolve());
  const handle = createRunner(source, sink);
  handle.start();
  while (seen.length < 5) await sleep(1);
  await handle.stop();
  assertEquals(seen, Array.from({ length: n }, (_, i) => i));
});

Deno.test("a run that is over leaves the source to the next one", async () => {
  let opened = 0;
  let active = false;
  let push: ((update: number) => void) | undefined;
  const reads = new Set<() => void>();
  // Cannot be interrupted: a read ends with an update, or with the test.
  const source: UpdateSource<number> = {
    async *generator() {
      const session = ++opened;
      active = true;
      while (active && session === opened) {
        const update = await new Promise<number>((resolve) => {
          push = resolve;
          reads.add(() => resolve(-1));
        });
        if (update >= 0) yield [update];
      }
    },
    setGeneratorPace() {},
    isActive: () => active,
    close: () => active = false,
  };
  const seen: number[] = [];
  const sink = createConcurrentSink<number>({
    consume: (update) => Promise.resolve(void seen.push(update)),
  }, () => Promise.resolve());
  const handle = createRunner(source, sink);
  handle.start();
  await until(() => opened === 1);
  await handle.stop({ timeout: 5 });
  handle.start();
  await until(() => opened === 2);
  // For longer than a run waits for a source that it has closed.
  await sleep(1100);
  assert(handle.isRunning());
  assert(active);
  push!(7);
  await until(() => seen.length === 1);
  const stopped = handle.stop();
  for (const end of reads) end();
  await stopped;
});

Deno.test("stop does not hang on a supplier that ignores its signal", async () => {
  const source = createSource({
    supply: () => new Promise<number[]>(() => {}),
  });
  const sink = createConcurrentSink<number>(
    { consume: () => Promise.resolve() },
    () => Promise.resolve(),
  );
  const handle = createRunner(source, sink);
  handle.start();
  await sleep(1);
  await handle.stop();
  assertEquals(handle.stats().state, "stopped");
});

Deno.test("a source that comes to its end ends the runner after the last update", async () => {
  const seen: number[] = [];
  const source: UpdateSource<number> = {
    async *generator() {
      yield [1, 2, 3];
      yield [4];
    },
    setGeneratorPace() {},
    isActive: () => false,
    close() {},
  };
  const sink = createConcurrentSink<number>({
    async consume(update) {
      await sleep(1);
      seen.push(update);
    },
  }, () => Promise.resolve());
  const handle = createRunner(source, sink);
  handle.start();
  await handle.task();
  assertEquals(seen, [1, 2, 3, 4]);
});

for (const step of ["open", "append", "take", "settle", "close"] as const) {
  Deno.test(`an inbox whose ${step} fails ends the runner, and nothing unstored is confirmed`, async () => {
    await using server = await startServer();
    const memory = createMemoryInbox<Update>();
    const inbox: UpdateInbox<Update> = Object.create(memory);
    for (
      const key of [
        "open",
        "append",
        "take",
        "settle",
        "close",
        "stats",
      ] as const
    ) {
      // deno-lint-ignore no-explicit-any
      (inbox as any)[key] = (...args: unknown[]) => {
        if (key === step) return Promise.reject(new Error(`${step} broken`));
        // deno-lint-ignore no-explicit-any
        return (memory as any)[key](...args);
      };
    }
    const seen: number[] = [];
    const handle = runBot(server, (ctx) => {
      seen.push(ctx.update.update_id);
    }, { ...SILENT, inbox });
    const pushed = ids(pushTexts(server, 3));
    const task = handle.task()!;
    if (step === "close") {
      await until(() => seen.length === 3);
      await Promise.all([
        handle.stop(),
        assertRejects(() => task, Error, `${step} broken`),
      ]);
    } else {
      await assertRejects(() => task, Error, `${step} broken`);
    }
    const lost = pushed.filter((id) =>
      !seen.includes(id) && !ids(server.unconfirmed()).includes(id)
    );
    // What was stored, but can no longer be taken, is the inbox's to lose.
    assertEquals(lost, step === "take" ? lost : []);
  });
}

Deno.test("a runner refuses parts that are none", () => {
  const sink = createConcurrentSink<number>(
    { consume: () => Promise.resolve() },
    () => Promise.resolve(),
  );
  // deno-lint-ignore no-explicit-any
  const none = {} as any;
  assertThrows(() => createRunner(none, sink), TypeError, "generator");
  assertThrows(
    () => createRunner(createSource({ supply: none.x ?? (() => none) }), none),
    TypeError,
    "handle",
  );
  assertThrows(() => run(none), TypeError, "api.getUpdates");
  const source = createSource({ supply: () => Promise.resolve([1]) });
  // deno-lint-ignore no-explicit-any
  const bad: [any, string][] = [
    [{ inbox: {} }, "inbox must have a method open: received [object Object]"],
    [{ inbox: null }, "inbox must have a method open: received null"],
    [{ signal: 5 }, "signal must be an AbortSignal: received 5"],
    [{ onEvent: true }, "onEvent must be a function: received true"],
  ];
  for (const [options, message] of bad) {
    assertThrows(() => createRunner(source, sink, options), TypeError, message);
  }
});

Deno.test("run refuses a source that is neither options nor a source", () => {
  const bot = new Bot("123456:token");
  for (const source of ["x", null, 5, true]) {
    const options = { source } as unknown as RunOptions<Update>;
    const error = assertThrows(() => run(bot, options), TypeError);
    assertEquals(
      error.message,
      `Cannot create runner: source must be options or a source: received ${source}`,
    );
  }
});
