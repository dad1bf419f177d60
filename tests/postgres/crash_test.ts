import { assert, assertEquals } from "@std/assert";
import type { Update } from "../../deps.ts";
import { sleep } from "../_bot.ts";
import { type Machine, waitUntil, World } from "./_machines.ts";

/** Updates for each of the four incidents. */
const COUNT = 5000;
const CHATS = 1000;
const CONCURRENCY = 100;

/** Updates whose handlers take up to 200 ms. */
function push(world: World, count: number): Update[] {
  return Array.from({ length: count }, () => {
    const chatId = 1 + Math.floor(Math.random() * CHATS);
    const text = `wait ${Math.floor(Math.random() * 200)}`;
    return world.server.pushText(text, { userId: chatId, chatId });
  });
}

/** Pushes updates, and waits until some of them have ended. */
async function keepBusy(world: World): Promise<Update[]> {
  const pushed = push(world, COUNT);
  const target = world.ended().size + COUNT / 10;
  await waitUntil(() => world.ended().size >= target);
  return pushed;
}

/** A machine that fetches, or only handles, with some updates running. */
async function busy(world: World, leads: boolean): Promise<Machine> {
  let found: Machine | undefined;
  await waitUntil(() => {
    found = world.alive().find((machine) =>
      machine.leads === leads && machine.running().size >= 5
    );
    return found !== undefined;
  });
  return found!;
}

/** Milliseconds until the last of the updates of a machine ran elsewhere. */
async function takeover(world: World, machine: Machine, orphans: Set<string>) {
  const at = Date.now();
  const again = () =>
    world.entries("start").filter((entry) =>
      entry.machine !== machine && orphans.has(entry.text) && entry.at >= at
    );
  await waitUntil(() =>
    new Set(again().map(({ text }) => text)).size === orphans.size
  );
  return Math.max(...again().map((entry) => entry.at)) - at;
}

/**
 * How many updates may run a second time after a machine has died: those that ran,
 * and those that had just ended, which the database may not know yet.
 */
function atRisk(machine: Machine): number {
  const last = machine.entries().at(-1)!.at;
  const ended = machine.entries("end").filter(({ at }) => at > last - 250);
  return machine.running().size + ended.length;
}

/** Nothing is lost, chats are in order, and little runs twice. */
function check(world: World, pushed: Update[], mostTwice: number): number {
  const expected = new Set(pushed.map(({ update_id }) => update_id));
  assertEquals(world.ended().size, expected.size);
  assertEquals(world.ended(), expected);
  const chats = new Map(pushed.map((u) => [u.update_id, u.message!.chat.id]));
  const last = new Map<number, number>();
  const started = new Set<number>();
  let twice = 0;
  for (const { text } of world.entries("start")) {
    const id = +text;
    if (started.has(id)) {
      twice++;
      continue;
    }
    started.add(id);
    const chat = chats.get(id)!;
    assert(id > (last.get(chat) ?? 0), `${id} started out of order in ${chat}`);
    last.set(chat, id);
  }
  assert(twice <= mostTwice, `${twice} ran twice, more than ${mostTwice}`);
  assertEquals(world.entries("fatal"), []);
  return twice;
}

Deno.test("three machines lose nothing and keep every chat in order, whatever dies", async () => {
  await using world = await World.create();
  world.start(3, CONCURRENCY);
  const pushed = await keepBusy(world);

  const handling = await busy(world, false);
  await handling.end();
  let orphans = handling.running();
  let ms = await takeover(world, handling, orphans);
  console.log(
    `handling machine killed: ${orphans.size} updates ran elsewhere after ${ms} ms`,
  );
  let mostTwice = atRisk(handling);
  world.start(1, CONCURRENCY);
  pushed.push(...await keepBusy(world));

  const fetching = await busy(world, true);
  const killedAt = Date.now();
  await fetching.end();
  orphans = fetching.running();
  await waitUntil(() => world.alive().some(({ leads }) => leads));
  console.log(
    `fetching machine killed: another one fetches after ${
      Date.now() - killedAt
    } ms`,
  );
  ms = await takeover(world, fetching, orphans);
  console.log(
    `... and its ${orphans.size} updates ran elsewhere after ${ms} ms`,
  );
  mostTwice += atRisk(fetching);
  world.start(1, CONCURRENCY);
  pushed.push(...await keepBusy(world));

  const paused = await busy(world, true);
  paused.signal("SIGSTOP");
  await sleep(50);
  orphans = paused.running();
  // What it had claimed and not started can start when it goes on.
  mostTwice += atRisk(paused) + CONCURRENCY;
  ms = await takeover(world, paused, orphans);
  console.log(
    `fetching machine paused: ${orphans.size} updates ran elsewhere after ${ms} ms`,
  );
  await waitUntil(() => world.alive().some((m) => m !== paused && m.leads));
  paused.signal("SIGCONT");
  await waitUntil(() => !paused.leads);
  pushed.push(...await keepBusy(world));

  const before = world.ended().size;
  await world.postgres.kill("SIGKILL");
  await sleep(1000);
  await world.postgres.restart();
  const backAt = Date.now();
  await waitUntil(() => world.ended().size > before + 3 * CONCURRENCY);
  console.log(
    `database killed: it goes on ${Date.now() - backAt} ms after it is back`,
  );
  // All machines could tell that they are alive.
  await waitUntil(() => world.ended().size === pushed.length, 60);
  for (const machine of world.alive()) await machine.end("SIGTERM");
  assertEquals(world.server.unconfirmed(), []);
  for (const news of ["Updates run again", "This machine fetches now"]) {
    assert(world.entries("info").some(({ text }) => text.startsWith(news)));
  }
  const twice = check(world, pushed, mostTwice);
  console.log(
    `${pushed.length} updates: ${twice} ran twice, of ${mostTwice} that may`,
  );
});

Deno.test("machines that are stopped one after another lose nothing and run nothing twice", async () => {
  await using world = await World.create();
  world.start(3, CONCURRENCY);
  const pushed: Update[] = [];
  for (const machine of [...world.machines]) {
    pushed.push(...await keepBusy(world));
    const at = Date.now();
    await machine.end("SIGTERM");
    console.log(`stopped after ${Date.now() - at} ms`);
    world.start(1, CONCURRENCY);
  }
  await waitUntil(() => world.ended().size === pushed.length);
  for (const machine of world.alive()) await machine.end("SIGTERM");
  assertEquals(check(world, pushed, 0), 0);
  assertEquals(world.entries("error"), []);
  assertEquals(world.server.unconfirmed(), []);
});
