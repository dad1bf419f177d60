import { assertEquals } from "@std/assert";
import { waitUntil, World } from "./_machines.ts";

Deno.test("updates that wait in sequentialize when machines die do not pay for it", async () => {
  await using world = await World.create();
  const attempts = 2;
  const [first] = world.start(1, 100, attempts);
  const push = (text: string, chat: number) =>
    world.server.pushText(text, { userId: chat, chatId: chat }).update_id;
  const holder = push("lock wait 2000", 1);
  await waitUntil(() => first.running().size === 1);
  const healthy = new Set([holder]);
  for (let chat = 2; chat <= 21; chat++) healthy.add(push("lock wait 1", chat));
  await waitUntil(async () => {
    const [parked] = await world.postgres.query(
      "SELECT count(*) FROM grammy_runner.job WHERE data->>'parked' = '1'",
      world.database,
    );
    return parked === "20";
  });
  const poison = push("exit", 30);

  await waitUntil(() => {
    if (world.alive().length === 0) world.start(1, 100, attempts);
    return world.ended().size === healthy.size &&
      world.entries("error").length === 1;
  });
  const deaths = world.machines.length - 1;
  assertEquals(deaths, attempts);
  assertEquals(world.ended(), healthy);
  const idsOf = (what: string) =>
    world.entries(what).flatMap(({ text }) =>
      /The update (\d+) (runs by itself|is set aside)/.exec(text)?.[1] ?? []
    ).map(Number);
  assertEquals(new Set(idsOf("info")), new Set([holder, poison]));
  assertEquals(idsOf("error"), [poison]);
});
