import {
  assert,
  assertEquals,
  assertGreaterOrEqual,
  assertLessOrEqual,
  assertNotEquals,
  assertRejects,
  assertStrictEquals,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { backoff, type RetryInterval, sleep, withDeadline } from "../_time.ts";
import { listenersOf } from "./_listeners.ts";

/** A signal that knows how many listen to it. */
function countListeners() {
  const controller = new AbortController();
  const { signal } = controller;
  return { controller, signal, listeners: listenersOf(signal) };
}

/** Whether a promise is pending, resolved, or rejected. */
async function stateOf(time: FakeTime, promise: Promise<unknown>) {
  let state = "pending";
  promise.then(() => state = "resolved", () => state = "rejected");
  await time.runMicrotasks();
  return state;
}

Deno.test("sleep resolves after its time and not before", async () => {
  using time = new FakeTime();
  const { signal, listeners } = countListeners();
  const promise = sleep(100, signal);
  assertEquals(listeners.size, 1);
  time.tick(99);
  assertEquals(await stateOf(time, promise), "pending");
  time.tick(1);
  assertEquals(await stateOf(time, promise), "resolved");
  assertEquals(listeners.size, 0);
});

Deno.test("sleep ends with the reason of its signal and clears its timer", async () => {
  using time = new FakeTime();
  const controller = new AbortController();
  const promise = sleep(100, controller.signal);
  const reason = new Error("stop");
  controller.abort(reason);
  assertStrictEquals(await assertRejects(() => promise), reason);
  assertEquals(time.next(), false);
});

Deno.test("sleep does not begin once its signal has aborted", async () => {
  using time = new FakeTime();
  await assertRejects(() => sleep(100, AbortSignal.abort()), DOMException);
  assertEquals(time.next(), false);
});

for (const ms of [2 ** 31, 1e12, Infinity]) {
  Deno.test(`sleep does not fire at once for ${ms} ms`, async () => {
    using time = new FakeTime();
    const controller = new AbortController();
    const promise = sleep(ms, controller.signal);
    time.tick(2 ** 31 - 2);
    assertEquals(await stateOf(time, promise), "pending");
    controller.abort();
    await assertRejects(() => promise, DOMException);
  });

  Deno.test(`deadline does not pass at once for ${ms} ms`, async () => {
    using time = new FakeTime();
    const controller = new AbortController();
    const { signal } = controller;
    const promise = withDeadline(() => new Promise(() => {}), ms, "", signal);
    time.tick(2 ** 31 - 2);
    assertEquals(await stateOf(time, promise), "pending");
    controller.abort();
    await assertRejects(() => promise, DOMException);
  });
}

Deno.test("deadline passes on what the call resolves with", async () => {
  using time = new FakeTime();
  const { signal, listeners } = countListeners();
  const result = await withDeadline(() => Promise.resolve(7), 10, "", signal);
  assertEquals(result, 7);
  assertEquals(listeners.size, 0);
  assertEquals(time.next(), false);
});

Deno.test("deadline passes on what the call returns without a promise", async () => {
  const { signal } = new AbortController();
  const call = (() => 7) as unknown as () => Promise<number>;
  assertEquals(await withDeadline(call, 1000, "", signal), 7);
});

for (const how of ["rejects", "throws"]) {
  Deno.test(`deadline passes on what the call ${how}`, async () => {
    using time = new FakeTime();
    const { signal, listeners } = countListeners();
    const error = new Error("broken");
    const call = () => {
      if (how === "throws") throw error;
      return Promise.reject(error);
    };
    const promise = withDeadline(call, 10, "", signal);
    assertStrictEquals(await assertRejects(() => promise), error);
    assertEquals(listeners.size, 0);
    assertEquals(time.next(), false);
  });
}

Deno.test("deadline rejects at its moment although the call goes on", async () => {
  using time = new FakeTime();
  const { signal, listeners } = countListeners();
  let inner: AbortSignal | undefined;
  const promise = withDeadline(
    (signal) => {
      inner = signal;
      return new Promise(() => {});
    },
    10,
    "too slow",
    signal,
  );
  time.tick(9);
  assertEquals(await stateOf(time, promise), "pending");
  assertEquals(inner?.aborted, false);
  time.tick(1);
  const error = await assertRejects(() => promise, DOMException, "too slow");
  assertEquals(error.name, "TimeoutError");
  assertStrictEquals(inner?.reason, error);
  assertEquals(signal.aborted, false, "only the call is aborted");
  assertEquals(listeners.size, 0);
});

Deno.test("deadline ends together with its signal although the call goes on", async () => {
  using time = new FakeTime();
  const { controller, signal, listeners } = countListeners();
  let inner: AbortSignal | undefined;
  const promise = withDeadline(
    (signal) => {
      inner = signal;
      return new Promise(() => {});
    },
    10,
    "",
    signal,
  );
  const reason = new Error("stop");
  controller.abort(reason);
  assertStrictEquals(await assertRejects(() => promise), reason);
  assertStrictEquals(inner?.reason, reason);
  assertEquals(listeners.size, 0);
  assertEquals(time.next(), false);
});

Deno.test("deadline calls nothing once its signal has aborted", async () => {
  let calls = 0;
  const call = () => Promise.resolve(calls++);
  const signal = AbortSignal.abort();
  await assertRejects(() => withDeadline(call, 10, "", signal), DOMException);
  assertEquals(calls, 0);
});

Deno.test("deadline swallows a rejection that comes after it", async () => {
  using time = new FakeTime();
  const { signal } = new AbortController();
  let fail = (_error: Error) => {};
  const call = () => new Promise((_, reject) => fail = reject);
  const promise = withDeadline(call, 10, "too slow", signal);
  time.tick(10);
  await assertRejects(() => promise, DOMException, "too slow");
  fail(new Error("late")); // would fail the test as an unhandled rejection
  await time.runMicrotasks();
});

const waits: [RetryInterval, number, number[]][] = [
  ["exponential", Infinity, [100, 200, 400, 800, 1600, 3200]],
  ["exponential", 500, [100, 200, 400, 500, 500, 500]],
  ["quadratic", Infinity, [100, 400, 900, 1600, 2500, 3600]],
  ["quadratic", 500, [100, 400, 500, 500, 500, 500]],
  ["exponential", 30, [30, 30]],
];
for (const [interval, cap, expected] of waits) {
  Deno.test(`backoff grows as ${interval} up to ${cap}`, () => {
    const random = Math.random;
    try {
      for (const share of [0, 0.5, 1 - Number.EPSILON]) {
        Math.random = () => share;
        expected.forEach((ms, i) => {
          assertEquals(backoff(interval, i + 1, cap), ms * (1 - share / 2));
        });
      }
    } finally {
      Math.random = random;
    }
  });
}

Deno.test("backoff stays between half of a wait and all of it", () => {
  const seen = new Set<number>();
  for (let i = 0; i < 1000; i++) {
    const ms = backoff("exponential", 4, Infinity);
    assertGreaterOrEqual(ms, 400);
    assertLessOrEqual(ms, 800);
    seen.add(ms);
  }
  assertNotEquals(seen.size, 1);
});

Deno.test("backoff stays finite after any number of failures", () => {
  for (const interval of ["exponential", "quadratic"] as const) {
    for (const failures of [100, 2_000, 1e9]) {
      const ms = backoff(interval, failures, 30_000);
      assert(ms >= 15_000 && ms <= 30_000, `${ms}`);
    }
  }
});

Deno.test("backoff takes a number as it is", () => {
  for (const failures of [1, 2, 50]) {
    assertEquals(backoff(70_000, failures, 30_000), 70_000);
    assertEquals(backoff(3, failures, 30_000), 3);
  }
});
