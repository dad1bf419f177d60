import { assert, assertEquals, assertLess, assertThrows } from "@std/assert";
import { createMemoryInbox } from "../inbox.ts";
import { testInboxConformance } from "./inbox_conformance.ts";

testInboxConformance({
  name: "memory inbox",
  create: (lookahead) => createMemoryInbox({ lookahead }),
});

const { signal } = new AbortController();

Deno.test("memory inbox holds 100 updates by default", async () => {
  const inbox = createMemoryInbox<number>();
  assertEquals(inbox.lookahead, 100);
  assertEquals(inbox.durable, false);
  await inbox.append(Array(99).fill(0), signal);
  await inbox.append([0], signal);
  let appended = false;
  const append = inbox.append([1], signal).then(() => appended = true);
  await new Promise((resolve) => setTimeout(resolve));
  assertEquals(appended, false);
  await inbox.take(1, signal);
  await append;
  assertEquals(inbox.stats!(), { buffered: 100 });
});

Deno.test("memory inbox holds whatever it is given, as often as it is given", async () => {
  const inbox = createMemoryInbox<unknown>();
  const things = [undefined, null, 0, "", "a", "a", {}, []];
  await inbox.append(things, signal);
  assertEquals(await inbox.take(Infinity, signal), things);
});

Deno.test("memory inbox keeps its memory constant under a large flow", async () => {
  const inbox = createMemoryInbox<number[]>({ lookahead: 100 });
  const heap = () => Deno.memoryUsage().heapUsed;
  let next = 0;
  const flow = async (rounds: number) => {
    for (let i = 0; i < rounds; i++) {
      const batch = Array.from({ length: 50 }, () => Array(30).fill(next++));
      await inbox.append(batch, signal);
      await inbox.take(50, signal);
    }
  };
  // It is never empty, so that what was taken has to be dropped in between.
  await inbox.append([[], [], []], signal);
  await flow(1_000);
  const before = heap();
  await flow(20_000);
  // A million updates of some 250 bytes each have passed.
  assertLess(heap() - before, 80e6);
  assertEquals(inbox.stats!(), { buffered: 3 });
});

// deno-lint-ignore no-explicit-any
const bad: [any, typeof RangeError | typeof TypeError][] = [
  [0, RangeError],
  [-1, RangeError],
  [1.5, RangeError],
  [NaN, RangeError],
  [Infinity, RangeError],
  ["100", TypeError],
  [null, TypeError],
  [true, TypeError],
];
for (const [lookahead, type] of bad) {
  Deno.test(`memory inbox refuses lookahead ${typeof lookahead} ${lookahead}`, () => {
    const error = assertThrows(
      () => createMemoryInbox({ lookahead }),
      type,
      "lookahead must be ",
    );
    const received = typeof lookahead === "string"
      ? JSON.stringify(lookahead)
      : lookahead;
    assert(error.message.endsWith(`received ${received}`), error.message);
  });
}
