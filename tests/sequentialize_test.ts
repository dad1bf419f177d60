import {
  assert,
  assertEquals,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import fc from "fast-check";
import { setImmediate } from "node:timers";
import { linkSlot } from "../_slot.ts";
import type { TaskObserver } from "../queue.ts";
import {
  ConstraintMap,
  sequentialize,
  sequentializeWith,
} from "../sequentialize.ts";
import { createConcurrentSink } from "../sink.ts";

type Constraint = string | (string | undefined)[] | null | undefined;
interface Ctx {
  update: { update_id: number; keys: Constraint };
}

/** Lets all microtasks run, also in fake time. */
function settle(): Promise<void> {
  return new Promise((resolve) => void setImmediate(resolve));
}

/** Middleware whose updates end by hand, and a record of what they do. */
function setup() {
  const map = new ConstraintMap();
  const middleware = sequentializeWith<Ctx>(map, (ctx) => ctx.update.keys);
  const log: string[] = [];
  const end: ((error?: unknown) => void)[] = [];
  let id = 0;
  const handle = (keys: Constraint): Promise<void> => {
    const update_id = id++;
    return middleware({ update: { update_id, keys } }, () => {
      log.push(`start ${update_id}`);
      return new Promise<void>((resolve, reject) => {
        end[update_id] = (error) => error ? reject(error) : resolve();
      }).then(() => void log.push(`end ${update_id}`));
    });
  };
  return { map, log, end, handle };
}

Deno.test("update without a predecessor starts synchronously", () => {
  const { log, handle } = setup();
  for (const keys of ["a", ["b", "c"], undefined, "d"]) handle(keys);
  assertEquals(log, ["start 0", "start 1", "start 2", "start 3"]);
});

Deno.test("updates that share a constraint run in the order of arrival", async () => {
  const { map, log, end, handle } = setup();
  const all = [handle("a"), handle(["a"]), handle("a")];
  for (let i = 0; i < 3; i++) {
    assertEquals(log.at(-1), `start ${i}`);
    end[i]();
    await settle();
  }
  await Promise.all(all);
  assertEquals(log.length, 6);
  assertEquals(map.size, 0);
});

Deno.test("update with several constraints waits for all of its predecessors", async () => {
  const { map, log, end, handle } = setup();
  handle("a");
  handle("b");
  handle(["a", "b"]);
  handle("a");
  handle("c");
  assertEquals(log, ["start 0", "start 1", "start 4"]);
  end[0]();
  await settle();
  assertEquals(log.at(-1), "end 0");
  end[1]();
  await settle();
  assertEquals(log.slice(-2), ["end 1", "start 2"]);
  end[2]();
  await settle();
  assertEquals(log.slice(-2), ["end 2", "start 3"]);
  end[3]();
  end[4]();
  await settle();
  assertEquals(map.size, 0);
});

Deno.test("each successor of an update waits for its other predecessors, too", async () => {
  const { map, log, end, handle } = setup();
  handle("c");
  handle(["a", "b", "d"]);
  handle("a");
  handle(["b", "c"]);
  handle(["c", "d"]);
  end[1]();
  await settle();
  assertEquals(log, ["start 0", "start 1", "end 1", "start 2"]);
  end[2]();
  end[0]();
  await settle();
  assertEquals(log.slice(4), ["end 2", "end 0", "start 3"]);
  end[3]();
  await settle();
  assertEquals(log.at(-1), "start 4");
  end[4]();
  await settle();
  assertEquals(map.size, 0);
});

Deno.test("repeated constraints count once", async () => {
  const { map, log, end, handle } = setup();
  handle(["a", "a", "b", "a"]);
  handle(["b", "a", "b"]);
  assertEquals(log, ["start 0"]);
  end[0]();
  await settle();
  end[1]();
  await settle();
  assertEquals(log, ["start 0", "end 0", "start 1", "end 1"]);
  assertEquals(map.size, 0);
});

Deno.test("empty and undefined constraints are ignored", () => {
  const { map, log, handle } = setup();
  const values: Constraint[] = ["", undefined, null, [], [""], [undefined, ""]];
  for (const keys of values) handle(keys);
  for (const keys of values) handle(keys);
  assertEquals(log.length, 2 * values.length);
  assertEquals(map.size, 0);
  handle(["", "a", undefined]);
  assertEquals(map.size, 1);
});

for (
  const bad of [1, 0, true, false, {}, new Set(["a"]), [1], ["a", {}], [true]]
) {
  Deno.test(`constraints ${Deno.inspect(bad)} reject with a TypeError`, async () => {
    const { map, log, handle } = setup();
    await assertRejects(
      () => handle(bad as never),
      TypeError,
      "constraints must be strings: received",
    );
    assertEquals(log, []);
    assertEquals(map.size, 0);
  });
}

Deno.test("constraint must be a function", () => {
  for (const bad of [null, "chat", 1, {}]) {
    assertThrows(
      () => sequentialize(bad as never),
      TypeError,
      "constraint must be a function: received",
    );
  }
});

Deno.test("middleware returns a promise whatever throws", async () => {
  const fail = () => {
    throw new Error("oh no");
  };
  const map = new ConstraintMap();
  const results = [
    sequentializeWith(map, fail)({}, () => {}),
    sequentializeWith(map, () => "a")({}, fail),
    sequentializeWith(map, () => undefined)({}, fail),
    sequentialize()({ update: undefined as never }, () => {}),
  ];
  for (const result of results) {
    assert(result instanceof Promise);
    await assertRejects(() => result);
  }
  const next = () => undefined;
  assert(sequentializeWith(map, () => "")({}, next) instanceof Promise);
  assert(sequentializeWith(map, () => "a")({}, next) instanceof Promise);
  await settle();
  assertEquals(map.size, 0);
});

Deno.test("update that fails rejects with its error and lets the next one go", async () => {
  const { map, log, end, handle } = setup();
  const failing = handle("a");
  const next = handle("a");
  const error = new Error("oh no");
  end[0](error);
  assertStrictEquals(await failing.catch((e) => e), error);
  assertEquals(log, ["start 0", "start 1"]);
  end[1]();
  await next;
  assertEquals(map.size, 0);
});

Deno.test("updates are ordered by the key rule without an argument", async () => {
  const middleware = sequentialize();
  const log: unknown[] = [];
  const handle = (update: object) =>
    middleware({ update }, () => {
      log.push(update);
      return settle();
    });
  const chat = (id: number) => ({ message: { chat: { id } } });
  const updates = [
    chat(1),
    chat(1),
    chat(2),
    { update_id: 1, poll: {} },
    { update_id: 2, poll: {} },
  ];
  const all = updates.map(handle);
  assertEquals(log, [0, 2, 3, 4].map((i) => updates[i]));
  await Promise.all(all);
  assertEquals(log.at(-1), updates[1]);
});

Deno.test("a million keys leave nothing behind", async () => {
  const map = new ConstraintMap();
  const middleware = sequentializeWith<string>(map, (key) => key);
  const next = () => Promise.resolve();
  for (let i = 0; i < 1000; i++) {
    const batch = [];
    for (let j = 0; j < 1000; j++) batch.push(middleware(`${i}:${j}`, next));
    await Promise.all(batch);
    assertEquals(map.size, 0);
  }
});

interface Plan {
  keys: string[];
  ms: number;
  fails?: boolean;
}

/** A sink that runs plans behind the middleware, with its slots linked. */
function setupSink(options: {
  concurrency: number;
  backlog?: number;
  timeout?: number;
}) {
  const { concurrency, backlog, timeout } = options;
  const map = new ConstraintMap();
  const middleware = sequentializeWith<{ update: Plan }>(
    map,
    (ctx) => ctx.update.keys,
  );
  const started: Plan[] = [];
  const live = new Set<Plan>();
  const timedOut: Plan[] = [];
  const outcomes = new Map<Plan, string>();
  const observer: TaskObserver<Plan> = {
    ended({ elem, outcome }) {
      assert(!outcomes.has(elem));
      outcomes.set(elem, outcome);
    },
    handlerFailed(error) {
      throw error;
    },
    onStop() {},
  };
  const sink = createConcurrentSink<Plan>(
    {
      consume(update, slot) {
        linkSlot(update, slot);
        return middleware({ update }, async () => {
          for (const other of live) {
            const shared = other.keys.find((k) => update.keys.includes(k));
            assertEquals(shared, undefined, "two holders of one constraint");
          }
          started.push(update);
          live.add(update);
          assert(live.size <= concurrency, "more than the concurrency");
          await new Promise((resolve) => setTimeout(resolve, update.ms));
          live.delete(update);
          if (update.fails) throw new Error("planned");
        });
      },
    },
    (error) => error === plannedStop ? Promise.resolve() : check(error),
    {
      concurrency,
      backlog,
      timeout: timeout === undefined ? undefined : {
        milliseconds: timeout,
        handler(update) {
          timedOut.push(update);
          live.delete(update);
        },
      },
    },
  );
  return { map, sink, observer, started, live, timedOut, outcomes };
}

const plannedStop = new DOMException("stop", "AbortError");
const unexpected: unknown[] = [];
function check(error: unknown): Promise<void> {
  if ((error as Error).message !== "planned") unexpected.push(error);
  return Promise.resolve();
}

async function runAll(time: FakeTime): Promise<void> {
  do await settle(); while (time.next());
}

Deno.test("update that times out frees its chat", async () => {
  using time = new FakeTime();
  const { map, sink, started, timedOut } = setupSink({
    concurrency: 5,
    timeout: 100,
  });
  const slow = { keys: ["a", "b"], ms: 1000 };
  const next = { keys: ["a"], ms: 50 };
  sink.handle([slow, next]);
  time.tick(99);
  await settle();
  assertEquals(started, [slow]);
  time.tick(1);
  await settle();
  assertEquals(timedOut, [slow]);
  assertEquals(started, [slow, next]);
  time.tick(50);
  await settle();
  assertEquals(map.size, 0);
  assertEquals(sink.size(), 0);
  await runAll(time);
  assertEquals(timedOut, [slow]);
});

Deno.test("update that arrives after its time is up holds nothing", async () => {
  using time = new FakeTime();
  const map = new ConstraintMap();
  const middleware = sequentializeWith<{ update: object }>(map, () => "a");
  let arrive!: () => void;
  const sink = createConcurrentSink<object>(
    {
      async consume(update, slot) {
        linkSlot(update, slot);
        await new Promise<void>((resolve) => arrive = resolve);
        await middleware({ update }, () => new Promise(() => {}));
      },
    },
    () => Promise.resolve(),
    { timeout: { milliseconds: 10, handler: () => {} } },
  );
  sink.handle([{}]);
  time.tick(10);
  arrive();
  await settle();
  assertEquals(map.size, 0);
});

Deno.test("flood of one chat does not hold up the others, and its wait is free", async () => {
  using time = new FakeTime();
  const { map, sink, started, outcomes, observer } = setupSink({
    concurrency: 10,
    timeout: 100,
  });
  const flood = Array.from({ length: 200 }, () => ({ keys: ["a"], ms: 99 }));
  for (const update of flood) {
    assert(sink.room!() > 0);
    sink.handle([update], observer);
  }
  assertEquals(sink.stats!(), {
    running: 1,
    parked: 199,
    limits: { running: 10, parked: 5000 },
    oldestRunningMs: 0,
  });
  const other = { keys: ["b"], ms: 1 };
  sink.handle([other], observer);
  assertEquals(started, [flood[0], other]);
  await runAll(time);
  assertEquals(started.filter((update) => update !== other), flood);
  assertEquals(new Set(outcomes.values()), new Set(["handled"]));
  assertEquals(map.size, 0);
});

Deno.test("stop gives up thousands of waiting updates, and nothing remains", async () => {
  using time = new FakeTime();
  const { map, sink, started, outcomes, observer } = setupSink({
    concurrency: 10,
    backlog: 10_000,
  });
  const updates = Array.from({ length: 6001 }, () => ({ keys: ["a"], ms: 9 }));
  for (const update of updates) sink.handle([update], observer);
  const given = sink.abandon!(plannedStop, observer);
  assertEquals([given.running.length, given.parked.length], [1, 6000]);
  await settle();
  assertEquals(sink.size(), 1);
  const late = { keys: ["a"], ms: 1 };
  sink.handle([late]);
  await settle();
  assertEquals(started.length, 1);
  await runAll(time);
  assertEquals(started, [updates[0], late]);
  assertEquals([...outcomes.keys()], [updates[0]]);
  assertEquals(map.size, 0);
});

Deno.test("update that is given up keeps the order of those behind it", async () => {
  using time = new FakeTime();
  const { map, sink, started, observer } = setupSink({ concurrency: 10 });
  const first = { keys: ["a"], ms: 10 };
  const second = { keys: ["b"], ms: 20 };
  const given = { keys: ["a", "b"], ms: 5 };
  const afterA = { keys: ["a"], ms: 5 };
  const afterB = { keys: ["b"], ms: 5 };
  sink.handle([first, second]);
  sink.handle([given], observer);
  sink.handle([afterA, afterB]);
  sink.abandon!(plannedStop, observer);
  await settle();
  assertEquals(started, [first, second]);
  await runAll(time);
  assertEquals(started, [first, second, afterA, afterB]);
  assertEquals(map.size, 0);
});

Deno.test("entries that are given up pass their turn on, whether it has come or not", () => {
  const map = new ConstraintMap();
  const log: string[] = [];
  const acquire = (name: string, ...keys: string[]) => {
    const entry = map.acquire(keys);
    entry.proceed = () => log.push(name);
    return entry;
  };
  const first = acquire("first", "a", "b");
  const a = acquire("a", "a");
  const b = acquire("b", "b");
  const afterA = acquire("after a", "a");
  const afterB = acquire("after b", "b");
  map.cancel(b);
  map.release(first);
  assertEquals(log, ["a", "after b"]);
  map.cancel(a);
  assertEquals(log, ["a", "after b", "after a"]);
  map.release(afterA);
  map.release(afterB);
  assertEquals(map.size, 0);
});

Deno.test("branches of one update that share its slot each wait for their own turn", async () => {
  const map = new ConstraintMap();
  const middleware = sequentializeWith<{ update: object; key: string }>(
    map,
    (ctx) => ctx.key,
  );
  const log: string[] = [];
  const release: Record<string, () => void> = {};
  const hold = (key: string) =>
    middleware(
      { update: {}, key },
      () => new Promise((resolve) => release[key] = resolve),
    );
  hold("a");
  hold("b");
  const sink = createConcurrentSink<object>({
    async consume(update, slot) {
      linkSlot(update, slot);
      await Promise.all(
        ["a", "b"].map((key) =>
          middleware({ update, key }, () => void log.push(key))
        ),
      );
    },
  }, (error) => Promise.reject(error));
  sink.handle([{}]);
  release.b();
  await settle();
  assertEquals(log, ["b"]);
  release.a();
  await settle();
  assertEquals(log, ["b", "a"]);
  assertEquals([map.size, sink.size()], [0, 0]);
});

Deno.test("property: any mix of constraints, durations, failures and timeouts keeps order, exclusion, concurrency, and comes to an end", async () => {
  const plan: fc.Arbitrary<Plan> = fc.record({
    keys: fc.array(fc.constantFrom("a", "b", "c", "d"), { maxLength: 5 }),
    ms: fc.integer({ min: 0, max: 60 }),
    fails: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.array(plan, { minLength: 1, maxLength: 40 }),
      fc.integer({ min: 1, max: 6 }),
      fc.integer({ min: 0, max: 12 }),
      fc.option(fc.integer({ min: 1, max: 60 }), { nil: undefined }),
      fc.integer({ min: 1, max: 10 }),
      async (plans, concurrency, backlog, timeout, most) => {
        using time = new FakeTime(0);
        unexpected.length = 0;
        const { map, sink, observer, started, live, timedOut, outcomes } =
          setupSink({ concurrency, backlog, timeout });
        const rest = [...plans];
        let fed = false;
        (async () => {
          while (rest.length > 0) {
            await sink.handle([]);
            const room = Math.min(sink.room!(), most);
            if (room > 0) sink.handle(rest.splice(0, room), observer);
          }
          fed = true;
        })();
        do {
          await settle();
          assert(sink.stats!().running <= concurrency);
          assert(sink.size() <= concurrency + backlog);
        } while (time.next());
        assertEquals(unexpected, []);
        assert(fed, "deadlock");
        assertEquals(sink.size(), 0);
        assertEquals(live.size, 0);
        assertEquals(map.size, 0);
        assertEquals(outcomes.size, plans.length);
        for (const key of ["a", "b", "c", "d"]) {
          const holds = (update: Plan) => update.keys.includes(key);
          assertEquals(
            started.filter(holds).map((update) => plans.indexOf(update)),
            plans.filter(holds).map((update) => plans.indexOf(update)),
          );
        }
        for (const update of plans) {
          assertEquals(
            outcomes.get(update),
            timedOut.includes(update)
              ? "timedOut"
              : update.fails
              ? "failed"
              : "handled",
          );
          if (timeout === undefined || update.ms < timeout) {
            assert(!timedOut.includes(update), "waiting ate the time limit");
          }
        }
      },
    ),
    { numRuns: 500 },
  );
});
