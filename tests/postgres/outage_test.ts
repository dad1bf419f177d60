import { assert, assertEquals } from "@std/assert";
import { createPostgresInbox } from "../../postgres_inbox.ts";
import { sleep } from "../_bot.ts";
import { waitUntil, World } from "./_machines.ts";
import { PostgresServer } from "../../scripts/postgres.ts";
import { Proxy } from "./_proxy.ts";

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
    const levels = machine.entries("error", "info")
      .filter(({ text }) => text.startsWith("PostgreSQL"))
      .map(({ what }) => what);
    assertEquals(levels, ["error", "info"]);
    await machine.end("SIGTERM");
  }
  assertEquals(world.server.unconfirmed(), []);
  assert(world.entries("fatal").length === 0);
});

Deno.test("after an outage, all machines have time to reconnect before one is taken for dead", async () => {
  await using postgres = await PostgresServer.start();
  const url = await postgres.createDatabase();
  const { signal } = new AbortController();
  const open = async (proxy: Proxy) => {
    const inbox = createPostgresInbox({ connectionString: proxy.url });
    await inbox.open({ botId: 1, signal, emit() {} });
    return inbox;
  };
  await using near = new Proxy(url);
  await using far = new Proxy(url);
  const fast = await open(near);
  const slow = await open(far);
  await slow.append([{ update_id: 1 }], signal);
  const [update] = await slow.take(1, signal);
  // By now, both look after each other.
  await sleep(11_000);
  near.cut();
  far.cut();
  await sleep(10_500);
  near.mend();
  await sleep(4000);
  far.mend();
  await sleep(4000);
  await slow.settle(update);
  await fast.close();
  await slow.close();
  assertEquals(
    await postgres.query(
      "SELECT state, retry_count FROM grammy_runner.job",
      url,
    ),
    ["completed|0"],
  );
});
