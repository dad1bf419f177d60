import { assert, assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { Isolation } from "../_suspect.ts";

/** An isolation that notes when it wakes, and what outlives its time. */
function isolate() {
  const log: string[] = [];
  const isolation = new Isolation<string>(
    () => log.push("woken"),
    (suspect) => log.push(`outlived ${suspect}`),
  );
  return { isolation, log };
}

Deno.test("a suspect may run when nothing dangerous runs", () => {
  const { isolation } = isolate();
  assert(isolation.canAccuse());
  isolation.add("a");
  isolation.add("b");
  isolation.delete("a");
  assert(!isolation.canAccuse());
  isolation.delete("b");
  assert(isolation.canAccuse());
});

Deno.test("a suspect runs by itself until it ends", () => {
  using time = new FakeTime();
  const { isolation, log } = isolate();
  isolation.accuse("a", 0);
  assertEquals(isolation.suspect, "a");
  assert(!isolation.canAccuse());
  isolation.delete("b");
  assertEquals(isolation.suspect, "a");
  isolation.delete("a");
  assertEquals(isolation.suspect, undefined);
  assert(isolation.canAccuse());
  time.tick(10_000);
  assertEquals(log, []);
});

Deno.test("a suspect that ends no longer runs by itself, even if something else has started", () => {
  using time = new FakeTime();
  const { isolation, log } = isolate();
  isolation.accuse("a", 3);
  isolation.add("b");
  isolation.delete("a");
  assertEquals(isolation.suspect, undefined);
  assert(!isolation.canAccuse());
  time.tick(100_000);
  assertEquals(log, []);
  isolation.delete("b");
  assert(isolation.canAccuse());
});

Deno.test("a suspect that does not end runs by itself for longer after each further death", () => {
  using time = new FakeTime();
  const { isolation, log } = isolate();
  for (
    const [deaths, ms] of [[0, 5000], [1, 10_000], [6, 320_000], [7, 320_000]]
  ) {
    isolation.accuse("a", deaths);
    time.tick(ms - 1);
    assertEquals(log, []);
    assertEquals(isolation.suspect, "a");
    time.tick(1);
    assertEquals(log.splice(0), ["outlived a"]);
    assertEquals(isolation.suspect, undefined);
    assert(isolation.canAccuse());
  }
});

Deno.test("a suspect waits for what runs for a while at most", () => {
  using time = new FakeTime();
  const { isolation, log } = isolate();
  isolation.add("a");
  isolation.wait();
  time.tick(3000);
  isolation.wait(); // does not begin anew
  time.tick(1999);
  assert(!isolation.canAccuse());
  time.tick(1);
  assert(isolation.canAccuse());
  time.tick(10_000);
  assertEquals(log, ["outlived undefined"]);
});

Deno.test("a suspect that need not wait any longer gets all of its time", () => {
  using time = new FakeTime();
  const { isolation, log } = isolate();
  isolation.add("a");
  isolation.wait();
  isolation.wait();
  time.tick(4999);
  isolation.delete("a");
  isolation.accuse("b", 0);
  time.tick(4999);
  assertEquals(log, []);
  time.tick(1);
  assertEquals(log, ["outlived b"]);
});

Deno.test("a suspect that waited for another inbox gets all of its time", () => {
  using time = new FakeTime();
  const first = isolate();
  const second = isolate();
  first.isolation.accuse("a", 0);
  second.isolation.wait();
  second.isolation.delete("ended before");
  time.tick(4000);
  first.isolation.delete("a");
  second.isolation.accuse("b", 0);
  time.tick(4999);
  assertEquals(second.log, []);
  time.tick(1);
  assertEquals(second.log, ["outlived b"]);
});

Deno.test("a suspect that waits for another inbox does so for a while at most", () => {
  using time = new FakeTime();
  const first = isolate();
  const second = isolate();
  first.isolation.accuse("a", 6);
  second.isolation.wait();
  second.isolation.delete("ended before");
  time.tick(5000);
  assertEquals(second.log, ["outlived undefined"]);
  first.isolation.clear();
});

Deno.test("of several inboxes, one accuses at a time, and the others hear when it is over", () => {
  using time = new FakeTime();
  const first = isolate();
  const second = isolate();
  first.isolation.accuse("a", 0);
  second.isolation.add("x");
  second.isolation.delete("x");
  assert(!second.isolation.canAccuse());
  assertEquals(second.log, []);
  second.isolation.acquit(); // of nothing
  assert(!second.isolation.canAccuse());
  first.isolation.delete("a");
  assertEquals(second.log, ["woken"]);
  assert(second.isolation.canAccuse());
  second.isolation.accuse("b", 0);
  assert(!first.isolation.canAccuse());
  time.tick(5000);
  assertEquals(first.log, ["woken"]);
  assertEquals(second.log, ["woken", "outlived b"]);
});

Deno.test("an inbox that is closed accuses nobody, and waits for nothing", () => {
  using time = new FakeTime();
  const { isolation, log } = isolate();
  isolation.accuse("a", 0);
  isolation.clear();
  assert(isolate().isolation.canAccuse());
  assert(isolation.canAccuse());
  time.tick(10_000);
  assertEquals(log, []);
});
