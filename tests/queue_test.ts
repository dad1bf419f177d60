import { setImmediate } from "node:timers";
import {
  assert,
  assertEquals,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import fc from "fast-check";
import type { WorkerEvent } from "../events.ts";
import {
  DecayingDeque,
  type Slot,
  type TaskEnd,
  type TaskObserver,
} from "../queue.ts";

/** A promise to settle by hand. */
function deferred(): {
  promise: Promise<void>;
  resolve: () => void;
  reject: (error: unknown) => void;
} {
  let resolve!: () => void;
  let reject!: (error: unknown) => void;
  const promise = new Promise<void>((res, rej) => {
    resolve = res;
    reject = rej;
  });
  return { promise, resolve, reject };
}

/** Lets all microtasks run, also in fake time. */
function settle(): Promise<void> {
  return new Promise((resolve) => void setImmediate(resolve));
}

interface Handlers {
  timeout?: number;
  concurrency?: boolean | number;
  backlog?: number;
  worker?: (elem: number, slot: Slot) => Promise<void>;
  catchError?: (error: unknown, elem: number) => void | Promise<void>;
  catchTimeout?: (elem: number, task: Promise<void>) => void;
}

/** A queue of numbers whose tasks end by hand, and a record of all it does. */
function setup(handlers: Handlers = {}) {
  const log: string[] = [];
  const tasks: ReturnType<typeof deferred>[] = [];
  const slots: Slot[] = [];
  const ends: Record<string, unknown>[] = [];
  const observer: TaskObserver<number> = {
    ended({ elem, outcome, error, parkedMs, ranMs }: TaskEnd<number>) {
      ends.push({ elem, outcome, error, parkedMs, ranMs });
    },
    handlerFailed(error, elem) {
      log.push(`handler failed ${elem}: ${error}`);
    },
    onStop() {},
  };
  const queue = new DecayingDeque<number>(
    handlers.timeout ?? Infinity,
    handlers.worker ?? ((elem, slot) => {
      log.push(`start ${elem}`);
      slots[elem] = slot;
      tasks[elem] = deferred();
      return tasks[elem].promise;
    }),
    handlers.concurrency ?? Infinity,
    handlers.catchError ?? ((error, elem) => {
      log.push(`error ${elem}: ${error}`);
    }),
    handlers.catchTimeout ?? ((elem) => {
      log.push(`timeout ${elem}`);
    }),
    { backlog: handlers.backlog },
  );
  return { queue, log, tasks, slots, ends, observer };
}

/** Fails if a rejection goes unhandled while the function runs. */
async function withoutUnhandled(fn: () => Promise<void>): Promise<void> {
  const unhandled: unknown[] = [];
  const listener = (event: PromiseRejectionEvent) => {
    event.preventDefault();
    unhandled.push(event.reason);
  };
  addEventListener("unhandledrejection", listener);
  try {
    await fn();
    await settle();
    await settle();
  } finally {
    removeEventListener("unhandledrejection", listener);
  }
  assertEquals(unhandled, []);
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

Deno.test("queue starts all elements at once, also beyond its concurrency", () => {
  const { queue, log } = setup({ concurrency: 2 });
  queue.add([0, 1, 2]);
  queue.add([3]);
  assertEquals(log, ["start 0", "start 1", "start 2", "start 3"]);
  assertEquals(queue.pendingTasks(), [0, 1, 2, 3]);
  assertEquals(queue.length, 4);
  assertEquals(queue.room, -2);
});

Deno.test("queue resolves its capacity at the first moment it is positive", async () => {
  const { queue, tasks } = setup({ concurrency: 2 });
  const added = watch(queue.add([0, 1, 2]));
  const capacity = watch(queue.capacity());
  tasks[0].resolve();
  await settle();
  assertEquals(added.state, "pending");
  assertEquals(capacity.state, "pending");
  tasks[1].resolve();
  tasks[2].resolve();
  await settle();
  assertEquals(added, { state: "resolved", value: 1 });
  assertEquals(capacity, { state: "resolved", value: 1 });
  assertEquals(await queue.capacity(), 2);
  assertEquals(await queue.add([]), 2);
});

Deno.test("queue holds a finished task for the reactions of its promise and lets it go one microtask later", async () => {
  let end!: () => void;
  const gate = new Promise<void>((resolve) => end = resolve);
  const { queue } = setup({ concurrency: 1, worker: async () => await gate });
  const log: string[] = [];
  queue.add([7]).then((room) => log.push(`capacity ${room}`));
  end();
  for (let i = 0; i < 5; i++) {
    await null;
    log.push(`${i}: ${queue.length} ${queue.pendingTasks()}`);
  }
  assertEquals(log, [
    "0: 1 7",
    "1: 1 7",
    "2: 0 ",
    "capacity 1",
    "3: 0 ",
    "4: 0 ",
  ]);
});

Deno.test("queue shows a task in the reactions of its own promise", async () => {
  const seen: number[] = [];
  const gate = deferred();
  const { queue } = setup({ worker: () => gate.promise });
  queue.add([1]);
  const reaction = gate.promise.then(() => {
    seen.push(queue.length);
  });
  gate.resolve();
  await reaction;
  assertEquals(seen, [1]);
  assertEquals(queue.length, 0);
});

Deno.test("queue is empty at once without elements, and after the last one left", async () => {
  const { queue, tasks } = setup();
  await queue.empty();
  queue.add([0, 1]);
  const empty = watch(queue.empty());
  tasks[1].resolve();
  await settle();
  assertEquals(queue.pendingTasks(), [0]);
  assertEquals(empty.state, "pending");
  tasks[0].resolve();
  await settle();
  assertEquals(empty.state, "resolved");
});

for (
  const [value, expected] of [
    [false, 1],
    [true, Infinity],
    [0, 1],
    [-3, 1],
    [0.5, 1],
    [1, 1],
    [5, 5],
    [Infinity, Infinity],
  ] as const
) {
  Deno.test(`queue takes concurrency ${value} for ${expected}`, async () => {
    const { queue } = setup({ concurrency: value });
    assertEquals(queue.concurrency, expected);
    assertEquals(await queue.capacity(), expected);
  });
}

for (
  const [handlers, name] of [
    [{ concurrency: NaN }, "concurrency"],
    [{ timeout: NaN }, "taskTimeout"],
    [{ timeout: -1 }, "taskTimeout"],
    [{ backlog: NaN }, "backlog"],
    [{ backlog: -1 }, "backlog"],
  ] as const
) {
  const [[key, value]] = Object.entries(handlers);
  Deno.test(`queue refuses ${key} ${value}`, () => {
    assertThrows(() => setup(handlers), RangeError, name);
    assertThrows(() => setup(handlers), RangeError, `received ${value}`);
  });
}

Deno.test("queue counts all elements of an add while it starts them", async () => {
  const seen: [number, number][] = [];
  const { queue } = setup({
    concurrency: 4,
    worker: () => {
      seen.push([queue.length, queue.room]);
      return Promise.resolve();
    },
  });
  queue.add([0, 1, 2]);
  assertEquals(seen, [[3, 1], [3, 1], [3, 1]]);
  await queue.empty();
});

Deno.test("queue holds a failed element until its error handler has settled", async () => {
  const handling = deferred();
  const { queue, tasks, ends, observer } = setup({
    concurrency: 1,
    catchError: () => handling.promise,
  });
  const added = watch(queue.add([0], observer));
  tasks[0].reject("oh no");
  await settle();
  assertEquals(queue.length, 1);
  assertEquals(added.state, "pending");
  handling.resolve();
  await settle();
  assertEquals(queue.length, 0);
  assertEquals(added, { state: "resolved", value: 1 });
  assertEquals(
    ends,
    [
      { elem: 0, outcome: "failed", error: "oh no", parkedMs: 0, ranMs: 0 },
    ].map((end) => ({ ...end, ranMs: ends[0].ranMs })),
  );
});

Deno.test("queue waits for the thenable of an error handler", async () => {
  let done!: () => void;
  const { queue, tasks } = setup({
    catchError: () =>
      ({ then: (resolve: () => void) => done = resolve }) as never,
  });
  queue.add([0]);
  tasks[0].reject("oh no");
  await settle();
  assertEquals(queue.length, 1);
  done();
  await settle();
  assertEquals(queue.length, 0);
});

Deno.test("queue treats a worker that throws like one that rejects", async () => {
  const { queue, log, ends, observer } = setup({
    worker: (elem) => {
      if (elem === 1) throw new Error("sync");
      return Promise.resolve();
    },
  });
  queue.add([0, 1, 2], observer);
  await queue.empty();
  assertEquals(log, ["error 1: Error: sync"]);
  assertEquals(ends.map((end) => end.outcome), [
    "handled",
    "failed",
    "handled",
  ]);
});

Deno.test("queue accepts workers that return no promise", async () => {
  const { queue, ends, observer } = setup({
    worker: () => undefined as unknown as Promise<void>,
  });
  queue.add([0], observer);
  await queue.empty();
  assertEquals(ends.length, 1);
});

Deno.test("queue calls the timeout handler one by one while the element is pending", async () => {
  using time = new FakeTime();
  const seen: string[] = [];
  const { queue, ends, observer } = setup({
    timeout: 100,
    worker: () => new Promise(() => {}),
    catchTimeout: (elem) => seen.push(`${elem} of ${queue.pendingTasks()}`),
  });
  queue.add([0, 1], observer);
  time.tick(50);
  queue.add([2], observer);
  time.tick(49);
  assertEquals(seen, []);
  time.tick(1);
  assertEquals(seen, ["0 of 0,1,2", "1 of 1,2"]);
  assertEquals(queue.pendingTasks(), [2]);
  time.tick(50);
  assertEquals(seen.at(-1), "2 of 2");
  await queue.empty();
  assertEquals(ends.map((end) => [end.elem, end.outcome, end.ranMs]), [
    [0, "timedOut", 100],
    [1, "timedOut", 100],
    [2, "timedOut", 100],
  ]);
  assertEquals(time.next(), false);
});

Deno.test("queue frees the room of a task that timed out", () => {
  using time = new FakeTime();
  const { queue } = setup({ timeout: 10, concurrency: 1 });
  queue.add([0]);
  assertEquals(queue.room, 0);
  time.tick(10);
  assertEquals(queue.room, 1);
});

Deno.test("queue hands the timeout handler the promise of the worker", async () => {
  using time = new FakeTime();
  const gates = [deferred(), deferred()];
  const seen: Promise<void>[] = [];
  const { queue } = setup({
    timeout: 10,
    worker: (elem) => gates[elem].promise,
    catchTimeout: (_, task) => seen.push(task),
  });
  queue.add([0, 1]);
  time.tick(10);
  const watched = seen.map(watch);
  await settle();
  assertEquals(watched.map((w) => w.state), ["pending", "pending"]);
  gates[0].resolve();
  gates[1].reject("late");
  await settle();
  assertEquals(watched, [
    { state: "resolved", value: undefined },
    { state: "rejected", value: "late" },
  ]);
});

Deno.test("queue ignores rejections after the timeout", async () => {
  using time = new FakeTime();
  await withoutUnhandled(async () => {
    const { queue, log, tasks, ends, observer } = setup({ timeout: 10 });
    queue.add([0], observer);
    time.tick(10);
    tasks[0].reject("late");
    await settle();
    assertEquals(log, ["start 0", "timeout 0"]);
    assertEquals(ends.length, 1);
  });
});

Deno.test("queue reports handlers that fail, and goes on", async () => {
  using time = new FakeTime();
  await withoutUnhandled(async () => {
    for (const rejects of [true, false]) {
      const fail = (what: string) => {
        if (rejects) return Promise.reject(what);
        throw what;
      };
      const { queue, log, tasks, ends, observer } = setup({
        timeout: 10,
        catchError: () => fail("in error handler"),
        catchTimeout: () => fail("in timeout handler"),
      });
      queue.add([0, 1, 2], observer);
      tasks[1].reject("oh no");
      await settle();
      assertEquals(queue.pendingTasks(), [0, 2]);
      time.tick(10);
      await settle();
      assertEquals(queue.length, 0);
      assertEquals(log.slice(3), [
        "handler failed 1: in error handler",
        "handler failed 0: in timeout handler",
        "handler failed 2: in timeout handler",
      ]);
      assertEquals(ends.map((end) => [end.elem, end.outcome]), [
        [1, "failed"],
        [0, "timedOut"],
        [2, "timedOut"],
      ]);
    }
  });
});

Deno.test("queue prints what fails in handlers if nobody observes", async () => {
  const { error } = console;
  const printed: unknown[] = [];
  console.error = (...args) => printed.push(args.at(-1));
  try {
    const { queue, tasks } = setup({
      catchError: () => Promise.reject({ token: "123456:token" }),
    });
    queue.add([0]);
    tasks[0].reject("oh no");
    await settle();
    assertEquals(queue.length, 0);
  } finally {
    console.error = error;
  }
  assertEquals(printed, ["{ token: '123456:<token>' }"]);
});

Deno.test("queue times out an element whose error handler hangs, once", async () => {
  using time = new FakeTime();
  const handling = deferred();
  const { queue, log, tasks, ends, observer } = setup({
    timeout: 10,
    catchError: () => handling.promise,
  });
  queue.add([0], observer);
  tasks[0].reject("oh no");
  await settle();
  time.tick(10);
  assertEquals(log, ["start 0", "timeout 0"]);
  handling.resolve();
  await settle();
  assertEquals(ends.map((end) => [end.outcome, end.error]), [
    ["timedOut", undefined],
  ]);
  assertEquals(queue.length, 0);
});

for (const timeout of [2 ** 31, Infinity]) {
  Deno.test(`queue with a limit of ${timeout} ms sets no timer`, () => {
    using time = new FakeTime();
    const { queue, log } = setup({ timeout });
    queue.add([0]);
    assertEquals(time.next(), false);
    assertEquals(log, ["start 0"]);
  });
}

Deno.test("queue keeps limits up to 2^31 - 1 ms", () => {
  using time = new FakeTime();
  const { queue, log } = setup({ timeout: 2 ** 31 - 1 });
  queue.add([0]);
  time.tick(2 ** 31 - 2);
  assertEquals(log.length, 1);
  time.tick(1);
  assertEquals(log, ["start 0", "timeout 0"]);
});

Deno.test("queue leaves no timer behind, and still measures each task on its own", async () => {
  using time = new FakeTime();
  const { queue, log, tasks, slots } = setup({ timeout: 100 });
  queue.add([0]);
  time.tick(60);
  queue.add([1]);
  tasks[0].resolve();
  await settle();
  time.tick(99);
  assertEquals(log, ["start 0", "start 1"]);
  time.tick(1);
  assertEquals(log.at(-1), "timeout 1");
  queue.add([2, 3]);
  tasks[2].resolve();
  slots[3].park();
  await settle();
  assertEquals(time.next(), false);
});

Deno.test("parked task frees its room and resumes before new elements", async () => {
  const { queue, tasks, slots } = setup({ concurrency: 2 });
  queue.add([0, 1]);
  const turn = watch(slots[0].park());
  assertEquals([queue.running, queue.parked, queue.room], [1, 1, 1]);
  queue.add([2]);
  assertEquals(queue.room, 0);
  slots[0].resume();
  await settle();
  assertEquals(turn.state, "pending");
  assertEquals([queue.running, queue.parked, queue.room], [2, 1, -1]);
  const capacity = watch(queue.capacity());
  tasks[1].resolve();
  await settle();
  assertEquals(turn.state, "resolved");
  assertEquals(capacity.state, "pending");
  assertEquals([queue.running, queue.parked, queue.room], [2, 0, 0]);
  tasks[2].resolve();
  await settle();
  assertEquals(capacity, { state: "resolved", value: 1 });
});

Deno.test("parked tasks get their slots back in the order in which they ask", async () => {
  const { queue, tasks, slots } = setup({ concurrency: 1 });
  const order: number[] = [];
  queue.add([0]);
  for (const i of [0, 1, 2]) {
    slots[i].park().then(() => order.push(i));
    queue.add([i + 1]);
  }
  for (const i of [2, 0, 1]) slots[i].resume();
  for (const i of [3, 2, 0, 1]) {
    tasks[i].resolve();
    await settle();
  }
  assertEquals(order, [2, 0, 1]);
  assertEquals(queue.length, 0);
});

Deno.test("task that resumes while an add starts others waits for the room they take", async () => {
  const slots: Slot[] = [];
  let most = 0;
  let running = 0;
  const gates = [0, 1, 2, 3].map(() => deferred());
  const { queue } = setup({
    concurrency: 2,
    worker: async (elem, slot) => {
      slots[elem] = slot;
      most = Math.max(most, ++running);
      if (elem === 0) {
        running--;
        await slot.park();
        most = Math.max(most, ++running);
      }
      if (elem === 1) slots[0].resume();
      await gates[elem].promise;
      running--;
    },
  });
  queue.add([0]);
  queue.add([1, 2]);
  await settle();
  for (const gate of gates) gate.resolve();
  await queue.empty();
  assertEquals(most, 2);
});

Deno.test("parking twice waits for the same turn; resuming unasked does nothing", async () => {
  const { queue, slots } = setup({ concurrency: 1 });
  queue.add([0]);
  slots[0].resume();
  assertEquals(queue.running, 1);
  const first = slots[0].park();
  assertStrictEquals(slots[0].park(), first);
  slots[0].resume();
  slots[0].resume();
  await first;
  assertEquals([queue.running, queue.parked], [1, 0]);
});

Deno.test("backlog bounds the elements that wait", async () => {
  const { queue, slots, tasks } = setup({ concurrency: 2, backlog: 3 });
  for (let i = 0; i < 5; i++) {
    assertEquals(queue.room, Math.min(2, 5 - i));
    queue.add([i]);
    slots[i].park();
  }
  assertEquals([queue.running, queue.parked, queue.room], [0, 5, 0]);
  const capacity = watch(queue.capacity());
  slots[0].resume();
  await settle();
  assertEquals(capacity.state, "pending");
  tasks[0].resolve();
  await settle();
  assertEquals(capacity, { state: "resolved", value: 1 });
});

Deno.test("pending tasks are listed in the order of their arrival whatever waits", async () => {
  const { queue, slots } = setup({ concurrency: 2 });
  queue.add([0, 1, 2, 3, 4]);
  slots[0].park();
  slots[3].park();
  slots[1].park();
  slots[0].resume();
  assertEquals(queue.pendingTasks(), [0, 1, 2, 3, 4]);
  slots[2].park();
  slots[4].park();
  await settle();
  assertEquals(queue.running, 1);
  assertEquals(queue.pendingTasks(), [0, 1, 2, 3, 4]);
});

Deno.test("parked task that ends without its slot leaves the queue", async () => {
  using time = new FakeTime();
  const { queue, slots, tasks, ends, observer } = setup({ concurrency: 1 });
  queue.add([0], observer);
  time.tick(10);
  slots[0].park();
  time.tick(20);
  tasks[0].resolve();
  await queue.empty();
  assertEquals([ends[0].ranMs, ends[0].parkedMs], [10, 20]);
  slots[0].resume();
  assertEquals(queue.room, 1);
});

Deno.test("time limit stands still while parked and starts afresh on resume", async () => {
  using time = new FakeTime();
  const { queue, log, slots, ends, observer } = setup({
    timeout: 100,
    concurrency: 1,
  });
  queue.add([0], observer);
  time.tick(60);
  slots[0].park();
  time.tick(1000);
  assertEquals(log, ["start 0"]);
  slots[0].resume();
  await settle();
  time.tick(99);
  assertEquals(log, ["start 0"]);
  time.tick(1);
  assertEquals(log, ["start 0", "timeout 0"]);
  assertEquals(ends, [{
    elem: 0,
    outcome: "timedOut",
    error: undefined,
    parkedMs: 1000,
    ranMs: 160,
  }]);
});

Deno.test("waiting for a slot does not eat the time limit either", () => {
  using time = new FakeTime();
  const { queue, log, slots } = setup({ timeout: 100, concurrency: 1 });
  queue.add([0]);
  slots[0].park();
  time.tick(50);
  queue.add([1]);
  slots[0].resume();
  time.tick(99);
  assertEquals(log, ["start 0", "start 1"]);
  time.tick(1); // gives the slot to the first one
  assertEquals(log.at(-1), "timeout 1");
  time.tick(99);
  assertEquals(log.at(-1), "timeout 1");
  time.tick(1);
  assertEquals(log.at(-1), "timeout 0");
});

Deno.test("signal of a slot aborts with a TimeoutError", () => {
  using time = new FakeTime();
  const { queue, slots } = setup({ timeout: 100 });
  queue.add([0, 1]);
  const { signal } = slots[0];
  assertStrictEquals(slots[0].signal, signal);
  time.tick(99);
  assertEquals(signal.aborted, false);
  time.tick(1);
  assertEquals(signal.reason.name, "TimeoutError");
  assertEquals(slots[1].signal.reason.name, "TimeoutError");
});

Deno.test("timeout callbacks are called after the element left, or at once if late", () => {
  using time = new FakeTime();
  const { queue, slots } = setup({ timeout: 100, concurrency: 2 });
  const rooms: number[] = [];
  queue.add([0]);
  slots[0].onTimeout(() => rooms.push(queue.room));
  slots[0].onTimeout(() => rooms.push(queue.room));
  time.tick(99);
  assertEquals(rooms, []);
  time.tick(1);
  assertEquals(rooms, [2, 2]);
  slots[0].onTimeout(() => rooms.push(-1));
  assertEquals(rooms, [2, 2, -1]);
});

Deno.test("timeout callbacks of tasks that end in time are never called", async () => {
  using time = new FakeTime();
  const { queue, slots, tasks } = setup({ timeout: 100 });
  queue.add([0, 1]);
  slots[0].onTimeout(() => assert(false));
  tasks[0].resolve();
  await settle();
  slots[0].onTimeout(() => assert(false));
  time.tick(100);
  assertEquals(queue.length, 0);
});

Deno.test("task that timed out waits for its turn without a place in the queue", async () => {
  using time = new FakeTime();
  const { queue, slots } = setup({ timeout: 100, concurrency: 1 });
  queue.add([0]);
  time.tick(100);
  const turn = watch(slots[0].park());
  assertEquals([queue.length, queue.room], [0, 1]);
  await settle();
  assertEquals(turn.state, "pending");
  slots[0].resume();
  await settle();
  assertEquals(turn.state, "resolved");
  assertEquals([queue.length, queue.room], [0, 1]);
});

const STOP = new DOMException("stop", "AbortError");

Deno.test("abandon aborts running tasks, which stay until they end", async () => {
  const { queue, slots, tasks, ends, observer } = setup();
  queue.add([0, 1], observer);
  const { signal } = slots[0];
  assertEquals(queue.abandon(STOP), { running: [0, 1], parked: [] });
  assertStrictEquals(signal.reason, STOP);
  assertStrictEquals(slots[1].signal.reason, STOP);
  assertEquals(queue.pendingTasks(), [0, 1]);
  assertStrictEquals(await slots[0].park().catch((error) => error), STOP);
  tasks[0].resolve();
  tasks[1].reject(STOP);
  await queue.empty();
  assertEquals(ends.map((end) => end.outcome), ["handled", "failed"]);
});

Deno.test("abandon lets parked and resuming tasks go at once and unheard", async () => {
  const { queue, log, slots, tasks, ends, observer } = setup({
    concurrency: 1,
  });
  queue.add([0, 1, 2], observer);
  const turns = [watch(slots[0].park()), watch(slots[1].park())];
  slots[1].resume();
  assertEquals(queue.abandon(STOP), { running: [2], parked: [0, 1] });
  assertEquals(queue.pendingTasks(), [2]);
  await settle();
  assertEquals(turns, [
    { state: "rejected", value: STOP },
    { state: "rejected", value: STOP },
  ]);
  for (const i of [0, 1]) {
    assertStrictEquals(slots[i].signal.reason, STOP);
    await assertRejects(() => slots[i].park(), DOMException, "stop");
    slots[i].resume();
  }
  tasks[0].resolve();
  tasks[1].reject("too late");
  await settle();
  assertEquals(ends, []);
  assertEquals(log, ["start 0", "start 1", "start 2"]);
  assertEquals(queue.running, 1);
});

Deno.test("abandon does not need anybody to await the turn", async () => {
  await withoutUnhandled(async () => {
    const { queue, slots } = setup();
    queue.add([0]);
    slots[0].park();
    queue.abandon(STOP);
    await queue.empty();
  });
});

Deno.test("abandon gives up the elements of one observer alone", async () => {
  const { queue, slots, observer } = setup({ concurrency: 4 });
  queue.add([0, 1], observer);
  queue.add([2, 3]);
  slots[1].park();
  slots[3].park();
  assertEquals(queue.abandon(STOP, observer), { running: [0], parked: [1] });
  assertEquals(queue.pendingTasks(), [0, 2, 3]);
  assertEquals(slots[2].signal.aborted, false);
  slots[3].resume();
  await settle();
  assertEquals(queue.running, 3);
});

Deno.test("abandon makes room for those who wait", async () => {
  const { queue, slots } = setup({ concurrency: 1, backlog: 0 });
  queue.add([0]);
  slots[0].park();
  const capacity = watch(queue.capacity());
  queue.abandon(STOP);
  await settle();
  assertEquals(capacity, { state: "resolved", value: 1 });
});

Deno.test("oldest running task tells for how long it has had its slot", () => {
  using time = new FakeTime();
  const { queue, slots } = setup();
  assertEquals(queue.oldestRunningMs, 0);
  queue.add([0]);
  time.tick(10);
  queue.add([1]);
  time.tick(5);
  assertEquals(queue.oldestRunningMs, 15);
  slots[0].park();
  assertEquals(queue.oldestRunningMs, 5);
});

Deno.test("without a time limit and an observer, the clock of a task starts with the first look", () => {
  using time = new FakeTime();
  const { queue } = setup();
  queue.add([0]);
  time.tick(10);
  assertEquals(queue.oldestRunningMs, 0);
  time.tick(5);
  assertEquals(queue.oldestRunningMs, 5);
});

Deno.test("observer hears of slots that its tasks give up and get back, and of events", async () => {
  const { queue, tasks, slots, observer } = setup({ concurrency: 1 });
  const heard: unknown[] = [];
  const event: WorkerEvent = {
    type: "worker-started",
    worker: 1,
    durationMs: 5,
  };
  queue.add([0], {
    ...observer,
    parked: (elem) => heard.push(`parked ${elem}`),
    resumed: (elem) => void heard.push(`resumed ${elem}`),
    emit: (event) => heard.push(event),
  });
  slots[0].emit!(event);
  slots[0].park();
  queue.add([1]);
  slots[0].resume();
  assertEquals(heard, [event, "parked 0"]);
  tasks[1].resolve();
  await settle();
  assertEquals(heard, [event, "parked 0", "resumed 0"]);
});

Deno.test("a task whose element somebody else has by now never gets its slot back", async () => {
  const { queue, tasks, slots, observer } = setup({ concurrency: 1 });
  queue.add([0], { ...observer, resumed: () => false });
  queue.add([1]);
  const { signal } = slots[0];
  const waiting = slots[0].park();
  slots[0].resume();
  assertEquals(queue.pendingTasks(), [0, 1]);
  tasks[1].resolve();
  const error = await assertRejects(() => waiting, DOMException);
  assertEquals([error.name, signal.aborted], ["AbortError", true]);
  await settle();
  assertEquals([queue.pendingTasks(), queue.room], [[], 1]);
  // Nobody hears of its end.
  tasks[0].reject(error);
  await settle();
  assertEquals(queue.pendingTasks(), []);
});

Deno.test("no timer is left while all tasks are parked", () => {
  using time = new FakeTime();
  const { queue, slots } = setup({ timeout: 100 });
  queue.add([0]);
  slots[0].park();
  assertEquals(time.next(), false);
});

Deno.test("stop callbacks go to the observer of the element", () => {
  const { queue, slots, observer } = setup();
  const callbacks: unknown[] = [];
  queue.add([0], { ...observer, onStop: (c) => void callbacks.push(c) });
  queue.add([1]);
  const callback = () => {};
  slots[0].onStop(callback);
  slots[1].onStop(callback);
  assertEquals(callbacks, [callback]);
});

Deno.test("property: whatever tasks do, slots are never overdrawn and each element ends once", async () => {
  const step = fc.record({
    ms: fc.integer({ min: 0, max: 30 }),
    parkMs: fc.option(fc.integer({ min: 0, max: 40 }), { nil: undefined }),
    fails: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.array(step, { minLength: 1, maxLength: 4 }), {
        minLength: 1,
        maxLength: 25,
      }),
      fc.integer({ min: 1, max: 4 }),
      fc.integer({ min: 0, max: 5 }),
      fc.option(fc.integer({ min: 1, max: 40 }), { nil: Infinity }),
      async (plans, concurrency, backlog, timeout) => {
        using time = new FakeTime(0);
        const sleep = (ms: number) =>
          new Promise<void>((resolve) => setTimeout(resolve, ms));
        const live = new Set<number>();
        const asked: number[] = [];
        const served: number[] = [];
        const expired = new Set<number>();
        const ended: number[] = [];
        let next = 0;
        const queue = new DecayingDeque<number>(
          timeout,
          async (elem, slot) => {
            live.add(elem);
            for (const { ms, parkMs, fails } of plans[elem]) {
              await sleep(ms);
              if (expired.has(elem)) return;
              if (parkMs !== undefined) {
                const turn = slot.park();
                live.delete(elem);
                setTimeout(() => {
                  asked.push(elem);
                  slot.resume();
                }, parkMs);
                await turn;
                served.push(elem);
                live.add(elem);
                assert(live.size <= concurrency);
              }
              if (fails) throw new Error("planned");
            }
          },
          concurrency,
          () => {},
          (elem) => {
            expired.add(elem);
            live.delete(elem);
          },
          { backlog },
        );
        const observer: TaskObserver<number> = {
          ended({ elem }) {
            ended.push(elem);
            live.delete(elem);
          },
          handlerFailed(error) {
            throw error;
          },
          onStop() {},
        };
        const feed = async () => {
          while (next < plans.length) {
            const room = await queue.capacity();
            if (queue.room < 1) continue;
            const batch = [];
            const most = Math.min(room, queue.room, plans.length - next);
            while (batch.length < most) batch.push(next++);
            queue.add(batch, observer);
            assert(queue.running <= concurrency);
            assert(queue.length <= concurrency + backlog);
          }
        };
        const fed = watch(feed());
        for (let i = 0; i < 10_000; i++) {
          await settle();
          assert(queue.running <= concurrency);
          assert(live.size <= concurrency, `${live.size} > ${concurrency}`);
          const pending = queue.pendingTasks();
          assertEquals(pending, [...pending].sort((a, b) => a - b));
          if (!time.next()) break;
        }
        assertEquals(fed.state, "resolved");
        assertEquals(queue.length, 0);
        assertEquals(served, asked);
        assertEquals(
          ended.sort((a, b) => a - b),
          plans.map((_, i) => i),
        );
      },
    ),
    { numRuns: 300 },
  );
});
