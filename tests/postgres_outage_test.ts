import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { isPassing, Outage } from "../_postgres_outage.ts";
import { checkNode } from "../_postgres_runtime.ts";

const NEVER = new AbortController().signal;

function sqlError(code: string): Error {
  return Object.assign(new Error(code), { code });
}

function createOutage() {
  const told: string[] = [];
  const outage = new Outage((event) => {
    assert(event.type === "inbox");
    told.push(`${event.level}: ${event.message}`);
  });
  return { outage, told };
}

for (
  const [what, error] of [
    ["a refused connection", sqlError("ECONNREFUSED")],
    ["a broken pipe", sqlError("EPIPE")],
    ["a connection that ends", new Error("Connection terminated")],
    ["an address with several hosts", new AggregateError([], "all failed")],
    ["a deadline", new DOMException("late", "TimeoutError")],
    ["a lost connection", sqlError("08006")],
    ["too many connections", sqlError("53300")],
    ["a server that ends", sqlError("57P01")],
    ["a server that starts", sqlError("57P03")],
    ["a full disk", sqlError("53100")],
    ["a deadlock", sqlError("40P01")],
    ["a standby", sqlError("25006")],
  ] as const
) {
  Deno.test(`${what} passes by itself`, () => assert(isPassing(error)));
}

for (
  const [what, error] of [
    ["a wrong password", sqlError("28P01")],
    ["a database that does not exist", sqlError("3D000")],
    ["a table that does not exist", sqlError("42P01")],
    ["a bug", new TypeError("x is not a function")],
    ["nothing", undefined],
  ] as const
) {
  Deno.test(`${what} does not pass by itself`, () => {
    assert(!isPassing(error));
  });
}

Deno.test("an outage is told once, and so is its end", async () => {
  using time = new FakeTime();
  const { outage, told } = createOutage();
  let failures = 20;
  const done = outage.retry(() => {
    return failures-- > 0
      ? Promise.reject(sqlError("57P03"))
      : Promise.resolve("result");
  }, NEVER);
  while (failures >= 0) await time.nextAsync();
  assertEquals(await done, "result");
  assertEquals(told.length, 2);
  assert(told[0].startsWith("error: PostgreSQL cannot be reached"));
  assert(told[1].startsWith("info: PostgreSQL can be used again after"));
});

Deno.test("a server that is read-only is called so", () => {
  const { outage, told } = createOutage();
  outage.failed(sqlError("25006"));
  assert(told[0].startsWith("error: PostgreSQL is read-only"), told[0]);
});

Deno.test("an outage is not over while some things still fail", () => {
  using time = new FakeTime();
  const { outage, told } = createOutage();
  outage.failed(sqlError("57P01"));
  outage.passed();
  assertEquals(told.length, 1);
  time.tick(900);
  outage.failed(sqlError("57P01"));
  time.tick(900);
  outage.passed();
  assertEquals(told.length, 1);
  time.tick(100);
  outage.passed();
  outage.passed();
  assertEquals(told.length, 2);
  assert(told[1].endsWith("after 1.9 s"), told[1]);
});

Deno.test("waits between tries are at most 5 s", async () => {
  using time = new FakeTime();
  const { outage } = createOutage();
  const controller = new AbortController();
  let tries = 0;
  const done = outage.retry(() => {
    tries++;
    return Promise.reject(sqlError("57P03"));
  }, controller.signal);
  while (tries < 30) await time.nextAsync();
  const at = time.now;
  while (tries < 50) await time.nextAsync();
  const waited = (time.now - at) / 20;
  assert(waited > 2500 && waited <= 5000, `${waited} ms`);
  controller.abort();
  await assertRejects(() => done, DOMException);
});

Deno.test("trying ends with the signal, and with an error that stays", async () => {
  const { outage, told } = createOutage();
  const reason = new Error("stop");
  const tries = () => Promise.reject(sqlError("42P01"));
  await assertRejects(() => outage.retry(tries, NEVER), Error, "42P01");
  const error = await assertRejects(() =>
    outage.retry(tries, AbortSignal.abort(reason))
  );
  assert(error === reason);
  assertEquals(told, []);
});

Deno.test("versions of Node that pg-boss does not run on are refused", () => {
  for (const version of ["22.12.0", "22.23.3", "23.0.0", "24.1.0"]) {
    checkNode(version);
  }
  for (const version of ["18.20.0", "20.19.0", "22.11.9"]) {
    assertThrows(
      () => checkNode(version),
      Error,
      `needs Node >= 22.12, as pg-boss does: this is Node ${version}`,
    );
  }
});
