import {
  assert,
  assertEquals,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { setImmediate } from "node:timers";
import type { TaskObserver } from "../queue.ts";
import {
  completeSink,
  createBatchSink,
  createConcurrentSink,
  createSequentialSink,
  type SinkOptions,
  type UpdateSink,
} from "../sink.ts";

/** Lets all microtasks run, also in fake time. */
function settle(): Promise<void> {
  return new Promise((resolve) => void setImmediate(resolve));
}

type Create = typeof createConcurrentSink;

/** A sink whose updates end by hand, and a record of what it does. */
function setup(create: Create, options?: SinkOptions<number>) {
  const log: string[] = [];
  const end: ((error?: unknown) => void)[] = [];
  const sink = create<number>(
    {
      consume(update) {
        log.push(`start ${update}`);
        return new Promise<void>((resolve, reject) => {
          end[update] = (error) => error ? reject(error) : resolve();
        });
      },
    },
    (error) => {
      log.push(`error ${error}`);
      return Promise.resolve();
    },
    options,
  );
  return { sink, log, end };
}

/** Hears of the ends of numbers. */
function observe() {
  const ended: number[] = [];
  const observer: TaskObserver<number> = {
    ended: ({ elem }) => void ended.push(elem),
    handlerFailed() {},
    onStop() {},
  };
  return { ended, observer };
}

/** Says of a promise whether it has settled, and how. */
function watch<T>(promise: Promise<T>): { state: string; value?: unknown } {
  const watched: { state: string; value?: unknown } = { state: "pending" };
  promise.then(
    (value) => Object.assign(watched, { state: "resolved", value }),
    (value) => Object.assign(watched, { state: "rejected", value }),
  );
  return watched;
}

Deno.test("sequential sink runs one update at a time and has room when all are done", async () => {
  const { sink, log, end } = setup(createSequentialSink);
  assertEquals(sink.room!(), 1);
  const handled = watch(sink.handle([0, 1]));
  assertEquals(log, ["start 0"]);
  assertEquals([sink.room!(), sink.size(), ...sink.snapshot()], [0, 1, 0]);
  end[0]("oh no");
  await settle();
  assertEquals(log, ["start 0", "error oh no", "start 1"]);
  assertEquals(handled.state, "pending");
  end[1]();
  await settle();
  assertEquals(handled, { state: "resolved", value: Infinity });
  assertEquals([sink.room!(), sink.size()], [1, 0]);
  assertEquals(await sink.handle([]), Infinity);
});

Deno.test("sequential sink never runs two updates at once, also in overlapping calls", async () => {
  const { sink, log, end } = setup(createSequentialSink);
  const all = [sink.handle([0, 1, 2]), sink.handle([3, 4]), sink.handle([5])];
  const ended = new Set<number>();
  for (let i = 0; i < 6; i++) {
    assertEquals(log.length, i + 1);
    assertEquals(sink.size(), 1);
    const [running] = sink.snapshot();
    ended.add(running);
    end[running]();
    await settle();
  }
  assertEquals(ended.size, 6);
  assertEquals(await Promise.all(all), [Infinity, Infinity, Infinity]);
});

Deno.test("sequential sink goes on after a timeout", async () => {
  using time = new FakeTime();
  const timedOut: number[] = [];
  const { sink, log } = setup(createSequentialSink, {
    timeout: { milliseconds: 10, handler: (u) => void timedOut.push(u) },
  });
  const handled = watch(sink.handle([0, 1]));
  time.tick(10);
  await settle();
  assertEquals(log, ["start 0", "start 1"]);
  time.tick(10);
  await settle();
  assertEquals(timedOut, [0, 1]);
  assertEquals(handled.value, Infinity);
});

Deno.test("sequential sink waits for parked updates, too", async () => {
  let resume!: () => void;
  const log: number[] = [];
  const sink = createSequentialSink<number>({
    async consume(update, slot) {
      log.push(update);
      if (update === 0) {
        resume = () => slot!.resume();
        await slot!.park();
        log.push(-1);
      }
    },
  }, (error) => Promise.reject(error));
  const handled = sink.handle([0, 1]);
  await settle();
  assertEquals([log, sink.room!()], [[0], 0]);
  resume();
  assertEquals(await handled, Infinity);
  assertEquals(log, [0, -1, 1]);
});

Deno.test("batch sink runs a batch concurrently and has room when all of it is done", async () => {
  const { sink, log, end } = setup(createBatchSink);
  assertEquals(sink.room!(), Infinity);
  const handled = watch(sink.handle([0, 1, 2]));
  assertEquals(log, ["start 0", "start 1", "start 2"]);
  assertEquals([sink.room!(), sink.size()], [0, 3]);
  end[1]();
  end[2]();
  await settle();
  assertEquals(sink.snapshot(), [0]);
  assertEquals([handled.state, sink.room!()], ["pending", 0]);
  end[0]();
  await settle();
  assertEquals(handled, { state: "resolved", value: Infinity });
  assertEquals(sink.room!(), Infinity);
  assertEquals(await sink.handle([]), Infinity);
});

Deno.test("concurrent sink has room for what its concurrency leaves", async () => {
  const { sink, log, end } = setup(createConcurrentSink, { concurrency: 3 });
  assertEquals(await sink.handle([]), 3);
  assertEquals(await sink.handle([0, 1]), 1);
  const handled = watch(sink.handle([2, 3]));
  assertEquals(log.length, 4);
  assertEquals(sink.room!(), 0);
  end[2]();
  await settle();
  assertEquals(handled.state, "pending");
  end[0]();
  await settle();
  assertEquals(handled, { state: "resolved", value: 1 });
  assertEquals(sink.snapshot(), [1, 3]);
  assertEquals(sink.stats!().running, 2);
});

Deno.test("concurrent sink runs 500 updates and lets 5,000 wait by default", async () => {
  const sink = createConcurrentSink<number>(
    { consume: (_, slot) => slot!.park() },
    () => Promise.resolve(),
  );
  assertEquals(await sink.handle([]), 500);
  sink.handle(Array.from({ length: 5400 }, (_, i) => i));
  assertEquals(sink.room!(), 100);
});

for (
  const create of [
    createSequentialSink,
    createBatchSink,
    createConcurrentSink,
  ] as Create[]
) {
  Deno.test(`${create.name} calls consumer and timeout handler on their objects`, async () => {
    using time = new FakeTime();
    class Consumer {
      #log: unknown[] = [];
      consume(update: number) {
        this.#log.push(update);
        return update === 0 ? Promise.resolve() : new Promise<void>(() => {});
      }
      milliseconds = 10;
      handler(update: number, task: Promise<void>) {
        this.#log.push(-update, task instanceof Promise);
      }
      get log() {
        return this.#log;
      }
    }
    const object = new Consumer();
    const sink = create(object, (error) => Promise.reject(error), {
      timeout: object,
    });
    await sink.handle([0]);
    await settle();
    sink.handle([1]);
    time.tick(10);
    await settle();
    assertEquals(object.log, [0, 1, -1, true]);
  });

  Deno.test(`${create.name} tells the observer of a call how its updates end`, async () => {
    const { sink, end } = setup(create);
    const [a, b] = [observe(), observe()];
    sink.handle([0], a.observer);
    end[0]();
    await settle();
    sink.handle([1], b.observer);
    end[1]("oh no");
    await settle();
    assertEquals([a.ended, b.ended], [[0], [1]]);
  });

  const bad: [SinkOptions<number>, ErrorConstructor, string][] = [];
  const badCount = (value: unknown) =>
    typeof value === "number" ? RangeError : TypeError;
  for (const value of [NaN, -1, 0.5, -Infinity, "5", null, {}, true, 5n]) {
    for (const name of ["concurrency", "backlog"]) {
      bad.push([{ [name]: value }, badCount(value), name]);
    }
  }
  bad.push([{ concurrency: 0 }, RangeError, "concurrency"]);
  const handler = () => {};
  for (const milliseconds of [NaN, -1, 0, "5", null, {}]) {
    bad.push([
      { timeout: { milliseconds, handler } } as never,
      badCount(milliseconds),
      "timeout.milliseconds",
    ]);
  }
  for (const handler of [null, 1, "f", {}]) {
    bad.push([
      { timeout: { milliseconds: 5, handler } } as never,
      TypeError,
      "timeout.handler",
    ]);
  }
  for (const timeout of [null, 5, "5", true, () => {}]) {
    bad.push([{ timeout } as never, TypeError, "timeout"]);
  }
  for (const [options, type, name] of bad) {
    Deno.test(`${create.name} refuses ${Deno.inspect(options)}`, () => {
      const error = assertThrows(
        () => setup(create, options),
        type,
        `Cannot create sink: ${name} must be`,
      );
      const value = name.split(".").reduce<unknown>(
        (object, key) => (object as Record<string, unknown>)[key],
        options,
      );
      assert(error.message.endsWith(`: received ${value}`), error.message);
    });
  }

  Deno.test(`${create.name} refuses what is no consumer or no error handler`, () => {
    const handler = () => Promise.resolve();
    for (const consumer of [undefined, null, {}, handler, { consume: 1 }]) {
      assertThrows(() => create(consumer as never, handler), TypeError);
    }
    for (const bad of [undefined, null, {}, "f"]) {
      assertThrows(
        () => create({ consume: handler }, bad as never),
        TypeError,
      );
    }
  });

  Deno.test(`${create.name} accepts the bounds of its options`, () => {
    for (
      const options of [
        {},
        { concurrency: 1, backlog: 0 },
        { concurrency: Infinity, backlog: Infinity },
        { concurrency: undefined, backlog: undefined, timeout: undefined },
        { timeout: { milliseconds: Infinity, handler } },
        { timeout: { milliseconds: 0.5, handler } },
      ]
    ) setup(create, options);
  });
}

Deno.test("timeout without a handler or without a limit is taken as in 2.0.3", async () => {
  using time = new FakeTime();
  for (const timeout of [{ milliseconds: 10 }, { handler() {} }]) {
    const { sink } = setup(createConcurrentSink, { timeout } as never);
    sink.handle([0]);
    time.tick(10);
    await settle();
    assertEquals(sink.size(), "milliseconds" in timeout ? 0 : 1);
  }
});

Deno.test("a million updates leave the heap where it was", async () => {
  const sink = createConcurrentSink<{ id: number }>(
    { consume: () => Promise.resolve() },
    (error) => Promise.reject(error),
    { timeout: { milliseconds: 60_000, handler() {} } },
  );
  const pass = async (count: number) => {
    for (let id = 0; id < count; id += 100) {
      const batch = [];
      for (let i = 0; i < 100; i++) batch.push({ id: id + i });
      await sink.handle(batch);
    }
    await settle();
    const { gc } = globalThis as { gc?: () => void };
    gc?.();
    return Deno.memoryUsage().heapUsed;
  };
  const before = await pass(100_000);
  const after = await pass(1_000_000);
  assertEquals(sink.size(), 0);
  const grown = (after - before) / 2 ** 20;
  assert(grown < 20, `${grown} MB`);
});

/** A sink that has only the members of old. */
function legacy() {
  const running: number[] = [];
  const handled: ((room: number) => void)[] = [];
  const sink = {
    handle(updates: number[]) {
      running.push(...updates);
      return new Promise<number>((resolve) => handled.push(resolve));
    },
    size: () => running.length,
    snapshot: () => [...running],
  };
  const end = (update: number) => running.splice(running.indexOf(update), 1);
  return { sink, running, handled, end };
}

Deno.test("sink that has all members is used as it is", () => {
  const { sink } = setup(createConcurrentSink);
  assertStrictEquals<UpdateSink<number>>(completeSink(sink), sink);
});

Deno.test("legacy sink has the room that it resolved with last", async () => {
  const { sink, handled } = legacy();
  const complete = completeSink(sink);
  assertEquals(complete.room(), Infinity);
  const result = complete.handle([1]);
  assertEquals(complete.room(), 0);
  handled[0](3);
  assertEquals(await result, 3);
  assertEquals(complete.room(), 3);
  assertEquals([complete.size(), complete.snapshot()], [1, [1]]);
});

Deno.test("update of a legacy sink has ended when the snapshot no longer lists it", async () => {
  using time = new FakeTime();
  const { sink, handled, end } = legacy();
  const complete = completeSink(sink);
  const { ended, observer } = observe();
  complete.handle([1, 2, 3], observer);
  handled[0](5);
  await settle();
  assertEquals(ended, []);
  end(2);
  time.tick(20);
  assertEquals(ended, [2]);
  end(3);
  end(1);
  time.tick(20);
  assertEquals(ended, [2, 1, 3]);
  assertEquals(time.next(), false);
});

Deno.test("equal updates of a legacy sink end one by one", async () => {
  using time = new FakeTime();
  const { sink, handled, end } = legacy();
  const complete = completeSink(sink);
  const { ended, observer } = observe();
  complete.handle([7, 7], observer);
  handled[0](5);
  await settle();
  end(7);
  time.tick(20);
  assertEquals(ended, [7]);
  end(7);
  time.tick(20);
  assertEquals(ended, [7, 7]);
});

Deno.test("update that a legacy sink has yet to list has not ended", async () => {
  using time = new FakeTime();
  const running: number[] = [];
  let go!: () => void;
  const complete = completeSink<number>({
    async handle(updates) {
      await new Promise<void>((resolve) => go = resolve);
      running.push(...updates);
      return 1;
    },
    size: () => running.length,
    snapshot: () => [...running],
  });
  const { ended, observer } = observe();
  complete.handle([1], observer);
  await settle();
  time.tick(100);
  assertEquals(ended, []);
  go();
  await settle();
  assertEquals(ended, []);
  running.pop();
  time.tick(20);
  assertEquals(ended, [1]);
});

Deno.test("legacy sink that lists nothing ends its updates when its size is 0", async () => {
  using time = new FakeTime();
  let size = 0;
  const complete = completeSink<number>({
    handle: () => Promise.resolve(++size),
    size: () => size,
    snapshot: () => [],
  });
  const { ended, observer } = observe();
  await complete.handle([1], observer);
  time.tick(100);
  assertEquals(ended, []);
  size = 0;
  time.tick(20);
  assertEquals(ended, [1]);
  assertEquals(time.next(), false);
});

Deno.test("legacy sink that handles synchronously ends its updates with the call", async () => {
  const seen: number[][] = [];
  const complete = completeSink<number>({
    handle(updates) {
      seen.push(updates);
      return Promise.resolve(9);
    },
    size: () => 0,
    snapshot: () => [],
  });
  const { ended, observer } = observe();
  assertEquals(await complete.handle([1, 2], observer), 9);
  assertEquals([seen, ended], [[[1, 2]], [1, 2]]);
});

Deno.test("legacy sink that fails passes its error on and leaves no timer", async () => {
  using time = new FakeTime();
  for (const sync of [true, false]) {
    const complete = completeSink<number>({
      handle() {
        if (sync) throw "oh no";
        return Promise.reject("oh no");
      },
      size: () => 0,
      snapshot: () => [],
    });
    const { ended, observer } = observe();
    const handled = watch(complete.handle([1], observer));
    await settle();
    assertEquals(handled, { state: "rejected", value: "oh no" });
    assertEquals(ended, [1]);
    assertEquals(time.next(), false);
  }
});

Deno.test("legacy sink that is given up is not polled until the next run asks for room", async () => {
  using time = new FakeTime();
  const { sink, handled, end } = legacy();
  const complete = completeSink(sink);
  const { ended, observer } = observe();
  complete.handle([1, 2, 3], observer);
  handled[0](5);
  await settle();
  end(2);
  const reason = new DOMException("stop", "AbortError");
  assertEquals(complete.abandon!(reason, observer), {
    running: [1, 3],
    parked: [],
  });
  assertEquals(ended, [2]);
  assertEquals(time.next(), false);
  assertEquals(complete.room(), 5);
  end(1);
  end(3);
  time.tick(20);
  assertEquals(ended, [2, 1, 3]);
  assertEquals(time.next(), false);
});

for (const room of [0, -1, undefined, NaN, null]) {
  Deno.test(`legacy sink that resolves with ${room} has room for one update`, async () => {
    const complete = completeSink<number>({
      handle: () => Promise.resolve(room as number),
      size: () => 0,
      snapshot: () => [],
    });
    assertEquals(await complete.handle([]), 1);
    assertEquals(complete.room(), 1);
  });
}

Deno.test("legacy sink that lists copies ends its updates when its size is 0", async () => {
  using time = new FakeTime();
  const running: { id: number }[] = [];
  const complete = completeSink<{ id: number }>({
    handle(updates) {
      running.push(...updates);
      return Promise.resolve(5);
    },
    size: () => running.length,
    snapshot: () => running.map((update) => ({ ...update })),
  });
  const ended: number[] = [];
  await complete.handle([{ id: 1 }, { id: 2 }], {
    ended: ({ elem }) => void ended.push(elem.id),
    handlerFailed() {},
    onStop() {},
  });
  time.tick(100);
  running.pop();
  time.tick(100);
  assertEquals(ended, []);
  running.pop();
  time.tick(20);
  assertEquals(ended, [1, 2]);
  assertEquals(time.next(), false);
});

Deno.test("updates of two runners that share a legacy sink end one by one", async () => {
  using time = new FakeTime();
  const { sink, handled, end } = legacy();
  const [a, b] = [observe(), observe()];
  completeSink(sink).handle([1], a.observer);
  completeSink(sink).handle([2, 3], b.observer);
  // Never listed while somebody looks.
  end(3);
  for (const resolve of handled) resolve(5);
  await settle();
  time.tick(20);
  assertEquals([a.ended, b.ended], [[], [3]]);
  end(1);
  time.tick(20);
  assertEquals([a.ended, b.ended], [[1], [3]]);
  end(2);
  time.tick(20);
  assertEquals([a.ended, b.ended], [[1], [3, 2]]);
  assertEquals(time.next(), false);
});

Deno.test("updates of a legacy sink that were given up do not keep the process alive", async () => {
  const { sink, handled, end } = legacy();
  const complete = completeSink(sink);
  const timers: { hasRef(): boolean }[] = [];
  const real = globalThis.setInterval;
  globalThis.setInterval = ((callback: () => void, ms: number) => {
    const timer = real(callback, ms);
    timers.push(timer as never);
    return timer;
  }) as typeof setInterval;
  try {
    const { ended, observer } = observe();
    complete.handle([1], observer);
    handled[0](5);
    await settle();
    assert(timers.at(-1)!.hasRef());
    complete.abandon!(new DOMException("stop", "AbortError"), observer);
    complete.room();
    assertEquals(timers.length, 2);
    assert(!timers.at(-1)!.hasRef());
    const next = observe();
    complete.handle([2], next.observer);
    handled[1](5);
    assert(timers.at(-1)!.hasRef());
    end(2);
    while (next.ended.length === 0) await new Promise((r) => setTimeout(r, 5));
    assert(!timers.at(-1)!.hasRef());
    end(1);
    complete.abandon!(new DOMException("stop", "AbortError"), observer);
    assertEquals(ended, [1]);
  } finally {
    globalThis.setInterval = real;
    for (const timer of timers) clearInterval(timer as never);
  }
});

Deno.test("legacy sink is not looked at for each call", async () => {
  using time = new FakeTime();
  const running: number[] = [];
  let looks = 0;
  const complete = completeSink<number>({
    handle(updates) {
      running.push(...updates);
      return Promise.resolve(1);
    },
    size: () => running.length,
    snapshot() {
      looks++;
      return [...running];
    },
  });
  const { ended, observer } = observe();
  for (let i = 0; i < 100; i++) await complete.handle([i], observer);
  assertEquals(looks, 0);
  time.tick(20);
  assertEquals(looks, 1);
  running.length = 0;
  time.tick(20);
  assertEquals([looks, ended.length], [2, 100]);
});

Deno.test("updates that a legacy sink failed to take in have failed", async () => {
  using time = new FakeTime();
  const running: number[] = [];
  const complete = completeSink<number>({
    async handle(updates) {
      running.push(updates[0]);
      await Promise.resolve();
      throw "oh no";
    },
    size: () => running.length,
    snapshot: () => [...running],
  });
  const ended: unknown[] = [];
  const handled = watch(complete.handle([1, 2], {
    ended: ({ elem, outcome, error }) => void ended.push(elem, outcome, error),
    handlerFailed() {},
    onStop() {},
  }));
  await settle();
  assertEquals(handled, { state: "rejected", value: "oh no" });
  assertEquals(ended, [2, "failed", "oh no"]);
  running.pop();
  time.tick(20);
  assertEquals(ended, [2, "failed", "oh no", 1, "handled", undefined]);
  assertEquals(time.next(), false);
});
