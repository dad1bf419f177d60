/** Stops at moments that a server on the network does not let us choose. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { setImmediate } from "node:timers";
import type { Update } from "../deps.ts";
import {
  createConcurrentSink,
  createMemoryInbox,
  createRunner,
  createSource,
  run,
  type RunnerEvent,
  sequentialize,
  type UpdateInbox,
  type UpdateSink,
} from "../mod.ts";
import { createBot, Deferred, pushTexts, startServer, until } from "./_bot.ts";
import { DurableInbox } from "./_inbox.ts";

function updates(...ids: number[]): Update[] {
  return ids.map((update_id) => ({ update_id }));
}

/** Lets everything run that need not wait, also in fake time. */
function settle(): Promise<void> {
  return new Promise((resolve) => void setImmediate(resolve));
}

/** A runner whose batches come by hand, and a record of what it does. */
function setup(options: {
  inbox?: UpdateInbox<Update>;
  cannotConfirm?: boolean;
  handler?: () => Promise<void>;
  sink?: UpdateSink<Update>;
} = {}) {
  const { inbox, cannotConfirm, handler = () => Promise.resolve() } = options;
  const seen: number[] = [];
  const confirmed: number[] = [];
  const events: RunnerEvent<Update>[] = [];
  let arrive!: (batch: Update[]) => void;
  const source = createSource<Update>({
    // As if what arrives could not be held up any more by an abort.
    supply: () => new Promise((resolve) => arrive = resolve),
    ...!cannotConfirm && {
      // deno-lint-ignore require-await -- as a request would
      confirm: async (offset: number) => void confirmed.push(offset),
    },
  });
  const sink = options.sink ?? createConcurrentSink<Update>(
    {
      consume({ update_id }) {
        seen.push(update_id);
        return handler();
      },
    },
    (error) => Promise.reject(error),
    { concurrency: 2 },
  );
  const handle = createRunner(source, sink, {
    inbox,
    onEvent: (event) => void events.push(event),
    silent: true,
  });
  handle.start();
  return {
    handle,
    sink,
    seen,
    confirmed,
    count: (type: string) => events.filter((e) => e.type === type).length,
    async arrive(...ids: number[]) {
      await settle();
      arrive(updates(...ids));
      await settle();
    },
  };
}

Deno.test("a batch that arrives while the runner stops is left on Telegram", async () => {
  const { handle, seen, confirmed, arrive } = setup();
  await arrive(1, 2);
  const stopped = handle.stop();
  await arrive(3, 4);
  await stopped;
  assertEquals([seen, confirmed], [[1, 2], [3]]);
});

Deno.test("a batch that is being stored while the runner stops is confirmed", async () => {
  const stored = new Deferred();
  class SlowInbox extends DurableInbox {
    override async append(updates: Update[]) {
      await stored.promise;
      await super.append(updates, new AbortController().signal);
    }
  }
  const inbox = new SlowInbox();
  const { handle, confirmed, arrive } = setup({ inbox });
  await arrive(1, 2);
  const stopped = handle.stop();
  stored.resolve();
  await stopped;
  assertEquals(confirmed, [3]);
});

Deno.test("what could not be stored and cannot be fetched again is reported as unstarted", async () => {
  const inbox = new DurableInbox();
  inbox.broken = new Error("The disk is full");
  const { handle, arrive } = setup({ inbox, cannotConfirm: true });
  const task = assertRejects(() => handle.task()!, Error, "The disk is full");
  await arrive(1, 2);
  await task;
  const { unstarted } = await handle.stop({ timeout: 1000 });
  assertEquals(unstarted, updates(1, 2));
});

Deno.test("a stop with a time limit confirms a second before its end, and leaves handlers all of it", async () => {
  using time = new FakeTime();
  const release = new Deferred();
  const { handle, confirmed, arrive } = setup({
    handler: () => release.promise,
  });
  await arrive(1);
  const stopped = handle.stop({ timeout: 10_000 });
  await time.tickAsync(8_999);
  await settle();
  assertEquals(confirmed, []);
  await time.tickAsync(1);
  await settle();
  assertEquals(confirmed, [2]);
  await time.tickAsync(999);
  release.resolve();
  const { unfinished } = await stopped;
  assertEquals(unfinished, []);
});

Deno.test("a second stop changes nothing about the first one", async () => {
  const release = new Deferred();
  const { handle, confirmed, arrive, count } = setup({
    handler: () => release.promise,
  });
  await arrive(1);
  const stops = [handle.stop(), handle.stop()];
  await arrive();
  release.resolve();
  await Promise.all(stops);
  assertEquals([count("draining"), count("stopped")], [1, 1]);
  assertEquals(confirmed, [2]);
  assert(!handle.isRunning());
});

Deno.test("a run waits for the room that another one takes in the same sink", async () => {
  const release = new Deferred();
  const first = setup({ handler: () => release.promise });
  await first.arrive(1, 2);
  const second = setup({ sink: first.sink });
  await second.arrive(3);
  assertEquals(first.seen, [1, 2]);
  release.resolve();
  await settle();
  assertEquals(first.seen, [1, 2, 3]);
  for (const { handle, arrive } of [first, second]) {
    const stopped = handle.stop();
    await arrive();
    await stopped;
  }
});

Deno.test("a run that waits for the room of another one can be given up", async () => {
  using time = new FakeTime();
  const release = new Deferred();
  const first = setup({ handler: () => release.promise });
  await first.arrive(1, 2);
  const second = setup({ sink: first.sink });
  await second.arrive(3);
  const stopped = second.handle.stop({ timeout: 100 });
  await second.arrive();
  for (const ms of [50, 50, 0]) {
    await time.tickAsync(ms);
    await settle();
  }
  const { unfinished, unstarted } = await stopped;
  assertEquals([unfinished, unstarted], [[], []]);
  assertEquals([first.seen, second.confirmed], [[1, 2], [3]]);
  release.resolve();
  const ended = first.handle.stop();
  await first.arrive();
  await ended;
  assertEquals(first.seen, [1, 2]);
});

Deno.test("an update that another process has by now is given up, and no stop waits for it", async () => {
  await using server = await startServer();
  const [first, second] = pushTexts(server, 2).map((u) => u.update_id);
  const settled: number[] = [];
  const inner = createMemoryInbox<Update>();
  const inbox: UpdateInbox<Update> = {
    durable: inner.durable,
    open: (run) => inner.open(run),
    append: (updates, signal) => inner.append(updates, signal),
    take: (limit, signal) => inner.take(limit, signal),
    // What it returns for those that wait has no meaning.
    running: ({ update_id }, running) => running && update_id !== second,
    settle: ({ update_id }) => void settled.push(update_id),
    close: () => inner.close(),
  };
  const bot = createBot(server);
  const errors: unknown[] = [];
  bot.catch((error) => void errors.push(error));
  bot.use(sequentialize());
  const gate = new Deferred();
  const seen: number[] = [];
  bot.use(async (ctx) => {
    seen.push(ctx.update.update_id);
    await gate.promise;
  });
  const handle = run(bot, { inbox });
  await until(() => handle.stats().parked === 1);
  gate.resolve();
  await until(() => handle.size() === 0);
  await handle.stop();
  assertEquals([seen, settled, errors], [[first], [first], []]);
});
