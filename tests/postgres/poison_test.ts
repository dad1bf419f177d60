import { assert, assertEquals } from "@std/assert";
import type { Update } from "../../deps.ts";
import { createPostgresInbox } from "../../postgres_inbox.ts";
import { waitUntil, World } from "./_machines.ts";

const MACHINES = 2;
/** A kill can come from outside, so it takes more of them. */
const POISONS: [poison: string, maxAttempts: number, deaths: number][] = [
  ["kill", 1, 2],
  ["exit", 2, 2],
  ["throw", 2, 2],
];

Deno.test("an update that ends every machine is set aside, and all others are handled", async () => {
  await Promise.all(POISONS.map((args) => poisonAll(...args)));
});

async function poisonAll(
  poison: string,
  maxAttempts: number,
  mostDeaths: number,
): Promise<void> {
  await using world = await World.create();
  const healthy = new Set<number>();
  const push = (text: string, chat: number) =>
    world.server.pushText(text, { userId: chat, chatId: chat }).update_id;
  for (let chat = 1; chat <= 50; chat++) healthy.add(push("wait 5", chat));
  const bad = push(poison, 7);
  for (let chat = 1; chat <= 50; chat++) healthy.add(push("wait 5", chat));
  let deaths = -MACHINES;
  await waitUntil(() => {
    while (world.alive().length < MACHINES) {
      world.start(1, 100, maxAttempts);
      deaths++;
    }
    return world.ended().size === healthy.size;
  }, 120);
  assertEquals(world.ended(), healthy);
  assertEquals(deaths, mostDeaths, poison);
  const told = world.entries("error").filter(({ text }) =>
    text.includes(`${bad} is set aside`)
  );
  assertEquals(told.length, 1);

  const inbox = createPostgresInbox<Update>({
    connectionString: world.database,
  });
  const { signal } = new AbortController();
  await inbox.open({ botId: 123456, signal, emit() {} });
  const [{ update, ...rest }, ...others] = await inbox.quarantined();
  assertEquals([update.update_id, rest, others], [bad, { deaths }, []]);
  await inbox.close();
  assert(world.alive().length === MACHINES);
}
