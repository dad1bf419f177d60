import { assert, assertEquals } from "@std/assert";
import { sleep } from "../_bot.ts";
import { waitUntil, World } from "./_machines.ts";

Deno.test("nothing runs twice although the database is down for longer than a dead machine is waited for", async () => {
  await using world = await World.create();
  world.start(2);
  await waitUntil(() => world.entries("leads").length > 0);
  const pushed = new Set<number>();
  const push = (text: string) => {
    for (let chat = 1; chat <= 20; chat++) {
      const { update_id } = world.server.pushText(text, { userId: chat });
      pushed.add(update_id);
    }
  };
  push("wait 15000");
  push("wait 10");
  await waitUntil(() => world.entries("start").length === 20);
  await world.postgres.kill("SIGKILL");
  // These stay on Telegram.
  push("wait 10");
  await sleep(12_000);
  assertEquals(world.server.stats().unconfirmed, 20);
  await world.postgres.restart();
  await waitUntil(() => world.ended().size === pushed.size);
  assertEquals(world.ended(), pushed);
  // Long enough for a claim that was taken away to run again.
  await sleep(3000);
  assertEquals(world.entries("start").length, pushed.size);
  for (const machine of world.machines) {
    const levels = machine.entries("error", "info").map(({ what }) => what);
    assertEquals(levels, ["error", "info"]);
    await machine.end("SIGTERM");
  }
  assertEquals(world.server.unconfirmed(), []);
  assert(world.entries("fatal").length === 0);
});
