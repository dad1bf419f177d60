import { assert, assertEquals, assertRejects } from "@std/assert";
import { createPostgresInbox } from "../../postgres_inbox.ts";
import { PostgresServer } from "../../scripts/postgres.ts";
import { waitUntil } from "./_machines.ts";
import { Proxy } from "./_proxy.ts";

let postgres: PostgresServer;
Deno.test.beforeAll(async () => void (postgres = await PostgresServer.start()));
Deno.test.afterAll(() => postgres[Symbol.asyncDispose]());

const NEVER = new AbortController().signal;

Deno.test("of two runs that open an inbox at once, one gets it", async () => {
  const connectionString = await postgres.createDatabase();
  const inbox = createPostgresInbox({ connectionString });
  const open = (botId: number) =>
    inbox.open({ botId, signal: NEVER, emit() {} });
  const first = open(1);
  await assertRejects(() => open(2), Error, "it is open already");
  await first;
  await inbox.append([{ update_id: 5 }], NEVER);
  await inbox.close();
  await open(2);
  await inbox.append([{ update_id: 6 }], NEVER);
  await inbox.close();
  assertEquals(
    await postgres.query(
      "SELECT name FROM grammy_runner.job ORDER BY name",
      connectionString,
    ),
    ["bot-1", "bot-2"],
  );
});

Deno.test("an inbox that could not be opened can be opened later", async () => {
  const connectionString = postgres.url("later");
  const inbox = createPostgresInbox({ connectionString });
  const run = { botId: 1, signal: NEVER, emit() {} };
  await assertRejects(() => inbox.open(run), Error, "does not exist");
  await postgres.query("CREATE DATABASE later");
  await inbox.open(run);
  assert(inbox.stats!().running === 0);
  await inbox.close();
});

Deno.test("a stop at any moment of the opening leaves no connection behind", async () => {
  const connectionString = await postgres.createDatabase();
  const inbox = createPostgresInbox({ connectionString });
  const run = { botId: 1, signal: NEVER, emit() {} };
  await inbox.open(run);
  await inbox.close();
  await using proxy = new Proxy(connectionString);
  proxy.latency = 5;
  const inboxes = Array.from({ length: 20 }, () =>
    createPostgresInbox({
      connectionString: proxy.url,
    }));
  const events: unknown[] = [];
  const opened = await Promise.all(inboxes.map(async (inbox, i) => {
    const signal = AbortSignal.timeout(i * 15);
    const emit = (event: unknown) => void events.push(event);
    try {
      await inbox.open({ botId: 1, signal, emit });
    } catch (error) {
      assert(error === signal.reason, `${error}`);
      return false;
    }
    await inbox.close();
    return true;
  }));
  assert(opened.includes(false));
  const connections = () =>
    postgres.query(
      `SELECT query FROM pg_stat_activity
       WHERE application_name LIKE 'grammy%' AND datname = current_database()`,
      connectionString,
    );
  await waitUntil(async () => (await connections()).length === 0, 10);
  assertEquals(events, []);
});

Deno.test("settings that never work end opening with what is wrong", async () => {
  const connectionString = await postgres.createDatabase();
  await postgres.query("CREATE ROLE careful LOGIN PASSWORD 'x'");
  const hba = `${postgres.dir}/pg_hba.conf`;
  const rule = "host all careful 127.0.0.1/32 scram-sha-256\n";
  Deno.writeTextFileSync(hba, rule + Deno.readTextFileSync(hba));
  await postgres.query("SELECT pg_reload_conf()");
  const open = (change: (url: URL) => void) => {
    const url = new URL(connectionString);
    change(url);
    const inbox = createPostgresInbox({ connectionString: url.href });
    return inbox.open({ botId: 1, signal: NEVER, emit() {} });
  };
  await assertRejects(
    () => open((url) => url.username = "careful"),
    Error,
    "the password is missing in connectionString",
  );
  await assertRejects(
    () => open((url) => url.search = "?sslmode=verify-full"),
    Error,
    "connectionString asks for SSL, which the server does not have",
  );
});

Deno.test("a database that cannot store every text is refused", async () => {
  await postgres.query(
    "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0",
  );
  const connectionString = postgres.url("latin");
  const inbox = createPostgresInbox({ connectionString });
  await assertRejects(
    () => inbox.open({ botId: 1, signal: NEVER, emit() {} }),
    RangeError,
    "the encoding of the database must be UTF8: received LATIN1",
  );
});
