import {
  assert,
  assertEquals,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { Bot } from "grammy";
import type { PollEvent } from "../events.ts";
import { createUpdateSupplier } from "../fetcher.ts";
import { createSource, type SourceOptions } from "../source.ts";
import { startBotApiServer } from "../testing.ts";

// deno-lint-ignore no-explicit-any
type Loose = any;

/** A supplier whose batches arrive when the test says so. */
class Manual {
  readonly sizes: number[] = [];
  readonly signals: AbortSignal[] = [];
  arrive: (batch: number[]) => void = () => {};
  fail: (error: unknown) => void = () => {};

  supply = (size: number, signal: AbortSignal) => {
    this.sizes.push(size);
    this.signals.push(signal);
    return new Promise<number[]>((resolve, reject) => {
      this.arrive = resolve;
      this.fail = reject;
    });
  };
}

/** One that fails when its signal aborts, as it should. */
class Heeding extends Manual {
  override supply = (size: number, signal: AbortSignal) => {
    this.sizes.push(size);
    this.signals.push(signal);
    return new Promise<number[]>((resolve, reject) => {
      this.arrive = resolve;
      signal.addEventListener("abort", () => reject(signal.reason));
    });
  };
}

Deno.test("source is active from the first request until it is closed", async () => {
  const supplier = new Heeding();
  const source = createSource(supplier);
  assertEquals(source.isActive(), false);
  const generator = source.generator();
  assertEquals(source.isActive(), false);
  const first = generator.next();
  assertEquals(source.isActive(), true);
  supplier.arrive([1]);
  assertEquals(await first, { done: false, value: [1] });
  assertEquals(source.isActive(), true);
  source.close();
  assertEquals(source.isActive(), false);
  assertEquals(await generator.next(), { done: true, value: undefined });
  assertEquals(supplier.sizes.length, 1, "nothing is asked for after close");
});

Deno.test("source is not active after its loop was left", async () => {
  const source = createSource({ supply: () => Promise.resolve([1]) });
  for await (const _ of source.generator()) {
    assertEquals(source.isActive(), true);
    break;
  }
  assertEquals(source.isActive(), false);
});

Deno.test("source is not active after its supplier has failed", async () => {
  const source = createSource({ supply: () => Promise.reject("broken") });
  await source.generator().next().catch(() => {});
  assertEquals(source.isActive(), false);
});

Deno.test("source interrupts the request when it is closed", async () => {
  const supplier = new Heeding();
  const source = createSource(supplier);
  const generator = source.generator();
  const next = generator.next();
  source.close();
  assert(supplier.signals[0].aborted);
  assertEquals(await next, { done: true, value: undefined });
});

Deno.test("source can be closed at any time and repeatedly", async () => {
  const source = createSource({ supply: () => Promise.resolve([1]) });
  source.close();
  source.close();
  assertEquals(source.isActive(), false);
  const generator = source.generator();
  assertEquals((await generator.next()).value, [1]);
  source.close();
  source.close();
  assertEquals((await generator.next()).done, true);
});

Deno.test("source can be opened again after it was closed", async () => {
  const supplier = new Heeding();
  const source = createSource(supplier);
  const first = source.generator().next();
  source.close();
  await first;
  const second = source.generator().next();
  assertEquals(source.isActive(), true);
  assertEquals(supplier.signals[1].aborted, false);
  supplier.arrive([2]);
  assertEquals((await second).value, [2]);
  source.close();
});

Deno.test("source that was opened again is not closed by its old loop", async () => {
  const supplier = new Manual();
  const source = createSource(supplier);
  const old = source.generator().next();
  const finishOld = supplier.fail;
  source.close();
  const fresh = source.generator().next();
  finishOld(new Error("interrupted"));
  assertEquals((await old).done, true);
  assertEquals(source.isActive(), true);
  supplier.arrive([2]);
  assertEquals((await fresh).value, [2]);
});

Deno.test("source yields a batch that arrives although it was closed", async () => {
  const supplier = new Manual();
  const source = createSource(supplier);
  const generator = source.generator();
  const next = generator.next();
  source.close();
  supplier.arrive([1, 2]);
  assertEquals(await next, { done: false, value: [1, 2] });
  assertEquals(await generator.next(), { done: true, value: undefined });
  assertEquals(supplier.sizes.length, 1);
});

Deno.test("source passes on what its supplier fails with", async () => {
  for (const sync of [false, true]) {
    const error = new Error("broken");
    const source = createSource({
      supply: () => {
        if (sync) throw error;
        return Promise.reject(error);
      },
    });
    const generator = source.generator();
    assertStrictEquals(await assertRejects(() => generator.next()), error);
    assertEquals((await generator.next()).done, true);
  }
});

Deno.test("source ends without error when it fails after being closed", async () => {
  const supplier = new Manual();
  const source = createSource(supplier);
  const next = source.generator().next();
  source.close();
  supplier.fail(new Error("whatever"));
  assertEquals((await next).done, true);
});

Deno.test("source asks for as many updates as its pace allows", async () => {
  const sizes: number[] = [];
  const source = createSource({
    supply: (size) => {
      sizes.push(size);
      return Promise.resolve([1]);
    },
  });
  const generator = source.generator();
  await generator.next();
  for (const pace of [7, 1, Infinity, 42]) {
    source.setGeneratorPace(pace);
    await generator.next();
  }
  assertEquals(sizes, [Infinity, 7, 1, Infinity, 42]);
  await generator.return(undefined);
});

Deno.test("source asks for the next batch only when it is asked for one", async () => {
  const supplier = new Manual();
  const source = createSource(supplier);
  const generator = source.generator();
  const next = generator.next();
  supplier.arrive([1]);
  await next;
  assertEquals(supplier.sizes.length, 1);
  source.close();
});

Deno.test("source calls its supplier on its object", async () => {
  class Supplier {
    #id = 5;
    supply() {
      return Promise.resolve([this.#id]);
    }
    confirm(offset: number) {
      this.#id = offset;
      return Promise.resolve();
    }
    acknowledged() {
      return this.#id;
    }
  }
  const source = createSource(new Supplier());
  const generator = source.generator();
  assertEquals((await generator.next()).value, [5]);
  assertEquals(source.acknowledged!(), 5);
  await source.confirm!(8, new AbortController().signal);
  assertEquals(source.acknowledged!(), 8);
  assertEquals((await generator.next()).value, [8]);
  await generator.return(undefined);
});

Deno.test("source of an old supplier can neither confirm nor tell what is acknowledged", () => {
  const source = createSource({ supply: () => Promise.resolve([]) });
  assertEquals(source.confirm, undefined);
  assertEquals(source.acknowledged, undefined);
});

Deno.test("source passes the observer of its generator to the supplier", async () => {
  const event: PollEvent = { type: "poll", durationMs: 1, count: 0 };
  const source = createSource({
    supply: (_size, _signal, emit) => {
      emit?.(event);
      return Promise.resolve([]);
    },
  });
  const events: PollEvent[] = [];
  await source.generator((event) => events.push(event)).next();
  assertEquals(events, [event]);
  source.close();
  await source.generator().next();
  source.close();
});

/**
 * Times between the requests of a source whose batches take `tookMs` to arrive.
 */
async function gaps(
  options: SourceOptions,
  batches: number[],
  tookMs: number,
  pace = Infinity,
): Promise<number[]> {
  using time = new FakeTime();
  const starts: number[] = [];
  const source = createSource({
    supply: () => {
      starts.push(Date.now());
      const batch = Array<number>(batches[starts.length - 1] ?? 0).fill(0);
      return new Promise<number[]>((resolve) =>
        setTimeout(() => resolve(batch), tookMs)
      );
    },
  }, options);
  source.setGeneratorPace(pace);
  const generator = source.generator();
  const consumed = (async () => {
    for (const _ of batches) await generator.next();
    await generator.next();
    source.close();
    await generator.next();
  })();
  let done = false;
  consumed.then(() => done = true);
  while (!done) {
    await time.nextAsync();
    await time.runMicrotasks();
  }
  assertEquals(time.next(), false, "no timer is left");
  return starts.slice(1).map((at, i) => at - starts[i] - tookMs);
}

const balances: [string, SourceOptions, number[], number, number, number[]][] =
  [
    ["never waits by default", {}, [1, 50, 0, 100], 40, Infinity, [0, 0, 0, 0]],
    [
      "never waits at 0",
      { speedTrafficBalance: 0, maxDelayMilliseconds: 9 },
      [1, 50],
      40,
      Infinity,
      [0, 0],
    ],
    [
      "waits for a full batch at 1",
      { speedTrafficBalance: 1 },
      [50],
      40,
      Infinity,
      [40],
    ],
    [
      "takes its own waits into account",
      { speedTrafficBalance: 1 },
      [50, 50],
      40,
      Infinity,
      // The second batch took 40 ms of waiting and 40 ms of polling.
      [40, 80],
    ],
    ["waits less at 0.5", { speedTrafficBalance: 0.5 }, [50], 40, Infinity, [
      20,
    ]],
    [
      "waits for maxDelayMilliseconds at most",
      { speedTrafficBalance: 1, maxDelayMilliseconds: 300 },
      [1, 1],
      40,
      Infinity,
      [300, 300],
    ],
    [
      "waits for 500 ms at most by default",
      { speedTrafficBalance: 1 },
      [1],
      40,
      Infinity,
      [500],
    ],
    [
      "never waits with a longest delay of 0",
      { speedTrafficBalance: 1, maxDelayMilliseconds: 0 },
      [1],
      40,
      Infinity,
      [0],
    ],
    [
      "does not wait after full and empty batches",
      { speedTrafficBalance: 1 },
      [100, 0, 100],
      40,
      Infinity,
      [0, 0, 0],
    ],
    [
      "takes the pace for a full batch",
      { speedTrafficBalance: 1 },
      [10, 5],
      40,
      10,
      [0, 40],
    ],
  ];
for (const [name, options, batches, tookMs, pace, expected] of balances) {
  Deno.test(`source ${name}`, async () => {
    assertEquals(await gaps(options, batches, tookMs, pace), expected);
  });
}

Deno.test("source ends its wait at once when it is closed", async () => {
  using time = new FakeTime();
  let requests = 0;
  const source = createSource({
    supply: () => {
      requests++;
      return new Promise<number[]>((resolve) =>
        setTimeout(() => resolve([1]), 100)
      );
    },
  }, { speedTrafficBalance: 1 });
  const generator = source.generator();
  const first = generator.next();
  await time.runMicrotasks();
  time.tick(100);
  await first;
  const second = generator.next();
  await time.runMicrotasks();
  source.close();
  assertEquals(await second, { done: true, value: undefined });
  assertEquals(requests, 1);
  assertEquals(time.next(), false, "no timer is left");
});

const bad: [Loose, typeof RangeError | typeof TypeError, string][] = [
  [{ speedTrafficBalance: NaN }, RangeError, "NaN"],
  [{ speedTrafficBalance: -0.1 }, RangeError, "-0.1"],
  [{ speedTrafficBalance: 1.1 }, RangeError, "1.1"],
  [{ speedTrafficBalance: Infinity }, RangeError, "Infinity"],
  [{ speedTrafficBalance: "0.5" }, TypeError, "0.5"],
  [{ speedTrafficBalance: null }, TypeError, "null"],
  [{ speedTrafficBalance: true }, TypeError, "true"],
  [{ maxDelayMilliseconds: NaN }, RangeError, "NaN"],
  [{ maxDelayMilliseconds: -1 }, RangeError, "-1"],
  [{ maxDelayMilliseconds: "500" }, TypeError, "500"],
  [{ maxDelayMilliseconds: null }, TypeError, "null"],
];
for (const [options, type, received] of bad) {
  const [name] = Object.keys(options);
  Deno.test(`source refuses ${name} ${typeof options[name]} ${received}`, () => {
    const supplier = { supply: () => Promise.resolve([]) };
    const error = assertThrows(
      () => createSource(supplier, options),
      type,
      `${name} must be `,
    );
    assert(error.message.endsWith(`received ${received}`), error.message);
  });
}

Deno.test("source refuses what cannot supply", () => {
  for (const supplier of [undefined, null, {}, { supply: 1 }]) {
    assertThrows(() => createSource(supplier as Loose), TypeError, "supply");
  }
});

Deno.test("source and bot fetch everything over HTTP across a close", async () => {
  await using server = await startBotApiServer({ quirks: false });
  const bot = new Bot(server.token, { client: { apiRoot: server.url } });
  const source = createSource(createUpdateSupplier(bot));
  for (let i = 0; i < 250; i++) server.pushText(`${i}`);
  const ids: number[] = [];
  for await (const batch of source.generator()) {
    ids.push(...batch.map((update) => update.update_id));
    if (ids.length >= 200) source.close();
  }
  assertEquals(ids.length, 200);
  const polling = source.generator();
  ids.push(...(await polling.next()).value!.map((u: Loose) => u.update_id));
  const last = polling.next();
  await server.waitFor(() => server.polls().at(-1)?.outcome === "waiting");
  source.close();
  assertEquals((await last).done, true);
  assertEquals(ids, Array.from({ length: 250 }, (_, i) => i + 1));
  assertEquals(server.unconfirmed(), []);
});
