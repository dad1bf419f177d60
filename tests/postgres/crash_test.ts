import { assert, assertEquals } from "@std/assert";
import type { Update } from "../../deps.ts";
import { sleep } from "../_bot.ts";
import { type Machine, waitUntil, World } from "./_machines.ts";

const CHATS = 1000;
const CONCURRENCY = 100;

/** Updates whose handlers take up to 40 ms. */
function push(world: World, count: number): Update[] {
  return Array.from({ length: count }, () => {
    const chatId = 1 + Math.floor(Math.random() * CHATS);
    const text = `wait ${Math.floor(Math.random() * 40)}`;
    return world.server.pushText(text, { userId: chatId, chatId });
  });
}

/** Nothing is lost, chats are in order, and little runs twice. */
function check(world: World, pushed: Update[], mostTwice: number): string {
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
  return `${pushed.length} updates, ${twice} ran twice (at most ${mostTwice})`;
}

/** Milliseconds until an update that one machine has started starts on another. */
function takeover(world: World, machine: Machine, at: number): number {
  const ended = new Set(machine.entries("end").map(({ text }) => text));
  const orphans = new Set(
    machine.entries("start").map(({ text }) => text)
      .filter((id) => !ended.has(id)),
  );
  const again = world.entries("start")
    .filter((entry) => entry.machine !== machine && orphans.has(entry.text));
  return Math.max(...again.map((entry) => entry.at)) - at;
}

async function leader(world: World): Promise<Machine> {
  await waitUntil(() => world.machines.some(({ leads }) => leads));
  return world.machines.find(({ leads }) => leads)!;
}

Deno.test("three machines lose nothing and keep every chat in order, whichever of them dies", async () => {
  await using world = await World.create();
  const pushed = push(world, 20_000);
  const begin = Date.now();
  world.start(3, CONCURRENCY);
  const done = (share: number) =>
    waitUntil(() => world.ended().size >= pushed.length * share, 120);

  await done(0.2);
  const fetching = await leader(world);
  const handling = world.machines.find((machine) => machine !== fetching)!;
  let at = Date.now();
  await handling.end();
  console.log("killed a handling machine", at - begin);
  world.start(1, CONCURRENCY);

  await done(0.5);
  const fetchingAt = Date.now();
  await fetching.end();
  console.log("killed the fetching machine", fetchingAt - begin);
  world.start(1, CONCURRENCY);
  await done(1);
  await sleep(100);
  console.log("done", Date.now() - begin);
  console.log(check(world, pushed, 2 * CONCURRENCY));
  console.log(
    "takeover",
    takeover(world, handling, at),
    takeover(world, fetching, fetchingAt),
  );
  at = world.entries("leads").find((entry) => entry.at > fetchingAt)!.at;
  console.log(`${at - fetchingAt} ms until another machine fetched`);
  console.log(
    world.entries("info", "error").map((e) =>
      e.machine.name + " " + (e.at - begin) + " " + e.what + " " + e.text
    ),
  );
});
