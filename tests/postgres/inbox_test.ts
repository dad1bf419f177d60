import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
// deno-lint-ignore no-import-prefix -- as the inbox does
import pg from "npm:pg@^8.16";
import { Leadership } from "../../_postgres_lead.ts";
import {
  createPostgresInbox,
  type PostgresInboxOptions,
} from "../../postgres_inbox.ts";
import type { RunnerEvent } from "../../events.ts";
import { run, sequentialize } from "../../mod.ts";
import {
  createBot,
  Deferred,
  pushTexts,
  runBot,
  sleep,
  startServer,
} from "../_bot.ts";
import {
  ids,
  levels,
  NEVER,
  openInbox,
  pause,
  postgres,
  takeAll,
  type Tiny,
  tiny,
} from "./_inbox.ts";
import { waitUntil } from "./_machines.ts";
import { Proxy } from "./_proxy.ts";

Deno.test("bad options are refused with what is wrong about them", () => {
  const connectionString = "postgres://127.0.0.1/x";
  const create = (options: unknown) => () =>
    createPostgresInbox(options as PostgresInboxOptions<Tiny>);
  for (const bad of [undefined, null, 5, "", "mysql://x"]) {
    assertThrows(
      create({ connectionString: bad }),
      TypeError,
      "connectionString must start with postgres:// or postgresql://",
    );
  }
  assertThrows(
    create({ connectionString: undefined }),
    TypeError,
    "received undefined, is the environment variable set?",
  );
  for (const none of [undefined, null]) {
    assertThrows(create(none), TypeError, "received undefined");
  }
  assertThrows(create({ connectionString, key: "chat" }), TypeError, "key");
  assertThrows(
    create({ connectionString: new URL("postgres://me:secret@127.0.0.1/x") }),
    TypeError,
    "received something of the type object",
  );
  assertThrows(
    create({ connectionString: `${connectionString}?sslrootcert=/none.pem` }),
    TypeError,
    "connectionString must name files that can be read: ENOENT",
  );
  for (const name of ["maxBacklog", "maxAttempts"]) {
    assertThrows(
      create({ connectionString, [name]: "5" }),
      TypeError,
      `${name} must be a number: received "5"`,
    );
  }
  for (const bad of [0, -1, 1.5, NaN, Infinity]) {
    for (const name of ["maxBacklog", "maxAttempts"]) {
      assertThrows(
        create({ connectionString, [name]: bad }),
        RangeError,
        `${name} must be an integer of at least 1: received ${bad}`,
      );
    }
  }
});

Deno.test("no error tells the password", async () => {
  for (
    const connectionString of [
      "my:secret",
      "postgres://user:p#secret@127.0.0.1/x",
      "postgres://user:5#secret@127.0.0.1/x",
      "postgres://user:5/secret@127.0.0.1/x",
      "postgres://user:secret@127.0.0.1:99999/x",
    ]
  ) {
    const error = assertThrows(
      () => createPostgresInbox({ connectionString }),
      TypeError,
      "connectionString must",
    );
    assert(!Deno.inspect(error).includes("secret"));
  }
  const url = new URL(postgres.url("nowhere"));
  url.password = "secret@/#";
  const error = await assertRejects(() => openInbox(url.href), Error);
  assert(!Deno.inspect(error).includes("secret"));
});

Deno.test("an inbox is opened once, for a bot that is known, with updates that have ids", async () => {
  const url = await postgres.createDatabase();
  const inbox = createPostgresInbox<Tiny>({ connectionString: url });
  const run = { botId: undefined, signal: NEVER, emit() {} };
  await assertRejects(() => inbox.open(run), TypeError, "botId");
  await assertRejects(() => inbox.append(tiny(1), NEVER), Error, "be open");
  await using open = await openInbox(url);
  await assertRejects(
    () => open.open({ ...run, botId: 1 }),
    Error,
    "open already",
  );
  for (const bad of [{}, { update_id: -1 }, { update_id: 1.5 }, null]) {
    await assertRejects(
      () => open.append([bad as Tiny], NEVER),
      TypeError,
      "update_id must be an integer of at least 0",
    );
  }
  await using wrong = await openInbox(url, { key: () => 7 as never }, 2);
  await assertRejects(
    () => wrong.append(tiny(1), NEVER),
    TypeError,
    "key must return a string or undefined: received 7",
  );
});

Deno.test("errors that do not pass by themselves end opening", async () => {
  const wrong = postgres.url("nowhere");
  await assertRejects(
    () => openInbox(wrong),
    Error,
    'must lead to a database that can be used: database "nowhere" does not exist',
  );
});

Deno.test("updates come back as they were, whatever is in them", async () => {
  await using inbox = await openInbox(await postgres.createDatabase());
  const text = "\u0000 \ud800 \\u0000 ' \" 😀";
  const update = { zulu: 1, update_id: 2 ** 53 - 1, text, alpha: [0.1, -0] };
  await inbox.append([update], NEVER);
  const [taken] = await inbox.take(1, NEVER);
  assertEquals(JSON.stringify(taken), JSON.stringify(update));
});

Deno.test("updates with the same key run one after another, on whichever machine", async () => {
  const url = await postgres.createDatabase();
  await using a = await openInbox(url);
  await using b = await openInbox(url);
  await a.append([
    { update_id: 5, key: "x" },
    { update_id: 6, key: "x" },
    { update_id: 7, key: "y" },
    { update_id: 3, key: "x" },
  ], NEVER);
  // The order of arrival within a batch is the order of the ids.
  const first = await takeAll(a, 2);
  assertEquals(ids(first), [3, 7]);
  const next = b.take(9, NEVER);
  await sleep(300);
  a.settle(first[0]);
  assertEquals(ids(await next), [5]);
  a.settle(first[1]);
  const last = a.take(9, NEVER);
  b.settle((await next)[0]);
  assertEquals(ids(await last), [6]);
});

Deno.test("bots share a database, and inboxes a process", async () => {
  const url = await postgres.createDatabase();
  await using one = await openInbox(url, {}, 1);
  await using two = await openInbox(url, {}, 2);
  await one.append(tiny(1, 2), NEVER);
  await two.append(tiny(2, 3), NEVER);
  assertEquals(ids(await takeAll(one, 2)), [1, 2]);
  assertEquals(ids(await takeAll(two, 2)), [2, 3]);
  assertEquals(one.stats!().leading, true);
  assertEquals(two.stats!().leading, true);
});

Deno.test("one machine leads, and when it resigns, another one does", async () => {
  const url = await postgres.createDatabase();
  await using a = await openInbox(url);
  await using b = await openInbox(url);
  const term = await a.lead!(NEVER);
  let leads = false;
  const next = b.lead!(NEVER).then(() => leads = true);
  await sleep(1200);
  assert(!leads);
  assertEquals([a.stats!().leading, b.stats!().leading], [true, false]);
  a.resign!();
  assert(term.aborted);
  await next;
  assertEquals([a.stats!().leading, b.stats!().leading], [false, true]);
});

Deno.test("a leader whose connection ends leads no more, and stores nothing", async () => {
  const url = await postgres.createDatabase();
  await using a = await openInbox(url);
  await using b = await openInbox(url);
  const term = await a.lead!(NEVER);
  const lost = new Promise((resolve) =>
    term.addEventListener("abort", resolve)
  );
  await postgres.query(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'grammy_runner lead'",
    url,
  );
  await lost;
  await b.lead!(NEVER);
  const append = a.append(tiny(1), term);
  await assertRejects(() => append, DOMException, "fetches no more");
  assertEquals(b.stats!().buffered, 0);
  // Waits for the lead.
  const controller = new AbortController();
  const waiting = a.append(tiny(1), controller.signal);
  await sleep(300);
  assertEquals(
    await postgres.query(
      "SELECT count(*) FROM grammy_runner.job",
      url,
    ),
    ["0"],
  );
  controller.abort();
  await assertRejects(() => waiting, DOMException);
});

Deno.test("the server takes the lead away from a machine that is silent", async () => {
  const url = await postgres.createDatabase();
  const leadership = new Leadership(url, "test", (run) => run(0));
  await leadership.acquire(NEVER);
  const { rows } = await leadership.write((db) =>
    db.executeSql("SHOW idle_session_timeout")
  );
  assertEquals(rows, [{ idle_session_timeout: "15s" }]);
  await leadership.close();
});

Deno.test("the server takes the lead away from a machine that is silent in the middle of storing", async () => {
  const url = await postgres.createDatabase();
  await using _paused = await pause(
    `import { Leadership } from "~/_postgres_lead.ts";
    const leadership = new Leadership(Deno.args[0], "test", (run) => run(0));
    await leadership.acquire(new AbortController().signal);
    await leadership.write(() => Deno.kill(Deno.pid, "SIGSTOP"));`,
    url,
  );
  const other = new Leadership(url, "test", (run) => run(0));
  await other.acquire(NEVER);
  await other.close();
});

Deno.test("a machine that is paused while it sets an update aside keeps nothing from the others", async () => {
  const url = await postgres.createDatabase();
  await using busy = await openInbox(url);
  await busy.append(tiny(1, 2), NEVER);
  const running = await takeAll(busy, 2);
  await postgres.query(
    `UPDATE grammy_runner.job SET data = data || '{"failures":1}'`,
    url,
  );
  await busy.append(tiny(3), NEVER);
  await using _paused = await pause(
    `import { PostgresQueue } from "~/_postgres_queue.ts";
    import pg from "npm:pg@^8.16";
    const queue = new PostgresQueue(Deno.args[0], 1, { error() {}, warning() {} });
    await queue.open();
    const [job] = await queue.fetch(1);
    const { query } = pg.Client.prototype;
    pg.Client.prototype.query = function (...args) {
      if (args[0] === "COMMIT") Deno.kill(Deno.pid, "SIGSTOP");
      return query.apply(this, args);
    };
    await queue.setAside(job, "key");`,
    url,
  );
  await using other = await openInbox(url);
  assertEquals(ids(await takeAll(other, 1)), [3]);
  for (const update of running) await busy.settle(update);
  assertEquals(busy.events, []);
});

Deno.test("a pooler in transaction mode is told by two connections with one session", async () => {
  const url = await postgres.createDatabase();
  // What such a pooler does: the same session is behind all connections.
  const leadership = new Leadership(url, "test", async (run) => {
    const [pid] = await postgres.query(
      "SELECT pid FROM pg_stat_activity WHERE application_name = 'grammy_runner lead'",
      url,
    );
    await run(Number(pid));
  });
  await assertRejects(
    () => leadership.acquire(NEVER),
    TypeError,
    "pooler in session mode",
  );
  await leadership.close();
});

for (
  const [what, sql] of [
    ["another session", "SELECT pg_advisory_unlock_all()"],
    [
      "a session that others have used",
      "SELECT set_config('grammy_runner.session', 'other', false)",
    ],
  ]
) {
  Deno.test(`a leader that a pooler has put ${what} behind stores nothing`, async () => {
    const url = await postgres.createDatabase();
    const leadership = new Leadership(url, "test", (run) => run(0));
    const term = await leadership.acquire(NEVER);
    await leadership.write((db) => db.executeSql(sql));
    await assertRejects(
      () => leadership.write(() => Promise.reject("written")),
      TypeError,
      "received a pooler in transaction mode",
    );
    assert(term.aborted);
    await leadership.close();
  });
}

Deno.test("what was taken and not started is free for others at once", async () => {
  const url = await postgres.createDatabase();
  await using a = await openInbox(url);
  await using b = await openInbox(url);
  await a.append(tiny(1, 2, 3, 4), NEVER);
  const taken = await takeAll(a, 4);
  assertEquals(b.stats!().buffered, 0);
  const at = Date.now();
  const next = takeAll(b, 2);
  a.giveBack!(taken.slice(2));
  assertEquals(ids(await next), [3, 4]);
  const rest = takeAll(b, 2);
  await a.close();
  assertEquals(ids(await rest), [1, 2]);
  assert(Date.now() - at < 9000, `took ${Date.now() - at} ms`);
  // Nobody has died.
  assertEquals(
    await postgres.query("SELECT max(retry_count) FROM grammy_runner.job", url),
    ["0"],
  );
});

Deno.test("what was given back without an answer is not given back again, as others have it", async () => {
  const url = await postgres.createDatabase();
  await using a = await openInbox(url);
  await using b = await openInbox(url);
  await a.append(tiny(1), NEVER);
  const taken = await a.take(1, NEVER);
  const next = b.take(1, NEVER);
  const { query } = pg.Client.prototype;
  let isLost = false;
  pg.Client.prototype.query = async function (...args: unknown[]) {
    const result = await Reflect.apply(query, this, args);
    if (args[0] !== "COMMIT") return result;
    isLost = true;
    throw new Error("The answer was lost");
  };
  try {
    a.giveBack!(taken);
    assertEquals(ids(await next), [1]);
  } finally {
    pg.Client.prototype.query = query;
  }
  assert(isLost);
  // Long enough to try again.
  await sleep(1000);
  assertEquals(
    await postgres.query("SELECT state FROM grammy_runner.job", url),
    ["active"],
  );
});

Deno.test("what was claimed for a take that was aborted is free for others at once", async () => {
  const url = await postgres.createDatabase();
  await using proxy = new Proxy(url);
  proxy.latency = 10;
  await using a = await openInbox(proxy.url);
  await using b = await openInbox(url);
  const at = Date.now();
  for (let id = 1; id <= 40; id++) {
    const controller = new AbortController();
    const take = a.take(9, controller.signal);
    await b.append(tiny(id), NEVER);
    // Sooner or later, this is while the answer is on its way.
    await sleep(id * 2);
    controller.abort();
    const taken = await take.catch((): Tiny[] => []);
    if (taken.length === 0) taken.push(...await b.take(9, NEVER));
    assertEquals(ids(taken), [id]);
  }
  // None of them was free only after the heartbeats had ended.
  assert(Date.now() - at < 9000, `took ${Date.now() - at} ms`);
});

Deno.test("keys can be any strings", async () => {
  await using inbox = await openInbox(await postgres.createDatabase());
  const long = Array.from({ length: 9000 }, () => Math.random()).join();
  const keys = ["a\0b", "чат", "a\0b", long, long, "\ud800", "plain"];
  const updates = keys.map((key, i) => ({ update_id: i + 1, key }));
  await inbox.append(updates, NEVER);
  const first = await takeAll(inbox, 5);
  assertEquals(ids(first), [1, 2, 4, 6, 7]);
  for (const update of first) await inbox.settle(update);
  assertEquals(ids(await takeAll(inbox, 2)), [3, 5]);
});

Deno.test("ids that cannot be ones are not released", async () => {
  await using inbox = await openInbox(await postgres.createDatabase());
  for (const bad of [1.5, -1, NaN, 2 ** 60]) {
    await assertRejects(
      () => inbox.release(bad),
      RangeError,
      `id must be an integer of at least 0: received ${bad}`,
    );
  }
  for (const bad of ["7", undefined]) {
    await assertRejects(
      () => inbox.release(bad as never),
      TypeError,
      `id must be a number: received ${JSON.stringify(bad)}`,
    );
  }
});

/** The sessions that are kept for leaving word. */
function hotlines({ pathname }: URL): Promise<string[]> {
  return postgres.query(
    `SELECT pid FROM pg_stat_activity WHERE datname = '${pathname.slice(1)}'
     AND application_name = 'grammy_runner hotline'`,
  );
}

Deno.test("the connection for leaving word stays, however long it is idle", async () => {
  const url = new URL(await postgres.createDatabase());
  await postgres.query(
    `ALTER DATABASE ${url.pathname.slice(1)} SET idle_session_timeout = 500`,
  );
  await using _inbox = await openInbox(url.href);
  const before = await hotlines(url);
  assertEquals(before.length, 1);
  await sleep(1500);
  assertEquals(await hotlines(url), before);
});

Deno.test("a server that ends all connections while an inbox is closed does no harm", async () => {
  const url = await postgres.createDatabase();
  await using proxy = new Proxy(url);
  for (let ms = 0; ms <= 200; ms += 20) {
    proxy.latency = 1;
    const inbox = await openInbox(proxy.url);
    await inbox.lead!(NEVER);
    proxy.latency = 30;
    const closed = inbox.close();
    await sleep(ms);
    await postgres.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
       WHERE datname = '${new URL(url).pathname.slice(1)}'`,
    );
    await closed;
  }
});

Deno.test("an inbox works where there is no connection left for leaving word", async () => {
  const url = new URL(await postgres.createDatabase());
  const name = url.pathname.slice(1);
  await postgres.query(`CREATE ROLE few LOGIN CONNECTION LIMIT 2`);
  await postgres.query(`GRANT CREATE ON DATABASE ${name} TO few`);
  url.username = "few";
  await using inbox = await openInbox(url.href);
  assertEquals(levels(inbox.events), ["info"]);
  await postgres.query("ALTER ROLE few CONNECTION LIMIT 9");
  await waitUntil(async () => (await hotlines(url)).length === 1);
  await inbox.append(tiny(1), NEVER);
  assertEquals(ids(await inbox.take(1, NEVER)), [1]);
  assertEquals(levels(inbox.events), ["info"]);
});

Deno.test("as long as the database is full, updates stay on Telegram", async () => {
  await using server = await startServer();
  const connectionString = await postgres.createDatabase();
  const running = new Deferred();
  const inbox = createPostgresInbox<never>({
    connectionString,
    maxBacklog: 50,
  });
  const handle = runBot(server, () => running.promise, {
    inbox,
    sink: { concurrency: 5 },
  });
  for (let chat = 1; chat <= 500; chat++) pushTexts(server, 1, chat);
  await waitUntil(() => handle.stats().running === 5);
  await sleep(500);
  const { buffered } = handle.stats();
  assert(buffered >= 50 && buffered < 200, `${buffered} are stored`);
  assert(server.stats().unconfirmed >= 250);
  running.resolve();
  await waitUntil(() => handle.stats().handled === 500);
  await handle.stop();
  assertEquals(server.stats().unconfirmed, 0);
});

Deno.test("two machines handle everything once, with sequentialize or without", async () => {
  await using server = await startServer();
  const connectionString = await postgres.createDatabase();
  const seen: number[] = [];
  const running = new Set<number>();
  const busy = new Set<number>();
  const both = new Deferred();
  const machines = [1, 2].map((machine) => {
    const bot = createBot(server);
    bot.use(sequentialize());
    bot.use(async (ctx) => {
      if (busy.add(machine).size === 2) both.resolve();
      await both.promise;
      const chat = ctx.chat!.id;
      assert(!running.has(chat), "two at once");
      running.add(chat);
      await sleep(2);
      running.delete(chat);
      seen.push(ctx.update.update_id);
    });
    return run(bot, {
      inbox: createPostgresInbox({ connectionString }),
      sink: { concurrency: 5 },
    });
  });
  const pushed: number[] = [];
  for (let i = 0; i < 20; i++) {
    for (let chat = 1; chat <= 20; chat++) {
      pushed.push(...ids(pushTexts(server, 1, chat)));
    }
  }
  await waitUntil(() => seen.length >= pushed.length);
  await Promise.all(machines.map((machine) => machine.stop()));
  assertEquals(seen.toSorted((a, b) => a - b), pushed);
  for (const machine of machines) assertEquals(machine.stats().failed, 0);
});

Deno.test("a machine that stops finishes what runs, and the other one takes over at once", async () => {
  await using server = await startServer();
  const connectionString = await postgres.createDatabase();
  const slow = new Deferred();
  const first = runBot(server, () => slow.promise, {
    inbox: createPostgresInbox({ connectionString }),
    sink: { concurrency: 3 },
  });
  for (let chat = 1; chat <= 10; chat++) pushTexts(server, 1, chat);
  await waitUntil(() => first.stats().running === 3);
  const second = runBot(server, () => {}, {
    inbox: createPostgresInbox({ connectionString }),
  });
  await waitUntil(() => second.stats().handled === 7);
  const at = Date.now();
  const stop = first.stop();
  pushTexts(server, 5, 20);
  await waitUntil(() => second.stats().handled === 12);
  assert(Date.now() - at < 9000, `took ${Date.now() - at} ms`);
  assertEquals(first.stats().running, 3);
  slow.resolve();
  await stop;
  assertEquals(first.stats().handled, 3);
  await second.stop();
});

Deno.test("a stop that runs out of time loses nothing", async () => {
  await using server = await startServer();
  const connectionString = await postgres.createDatabase();
  const slow = new Deferred();
  const first = runBot(server, () => slow.promise, {
    inbox: createPostgresInbox({ connectionString }),
  });
  const pushed = ids(pushTexts(server, 1));
  await waitUntil(() => first.stats().running === 1);
  const { unfinished, unstarted } = await first.stop({ timeout: 50 });
  assertEquals([ids(unfinished), unstarted], [pushed, []]);
  const second = runBot(server, () => {}, {
    inbox: createPostgresInbox({ connectionString }),
  });
  await waitUntil(() => second.stats().handled === 1);
  await second.stop();
  slow.resolve();
  await first.stop(); // it may still be closing the inbox
});

Deno.test("a bot waits for a database that is down at its start", async () => {
  await using server = await startServer();
  await using proxy = new Proxy(await postgres.createDatabase());
  proxy.cut();
  const events: RunnerEvent<never>[] = [];
  const handle = runBot(server, () => {}, {
    inbox: createPostgresInbox({ connectionString: proxy.url }),
    onEvent: (event) => events.push(event as RunnerEvent<never>),
    runner: { silent: true },
  });
  pushTexts(server, 3);
  await sleep(500);
  assertEquals(server.stats().polls, 0);
  assertEquals(levels(events), ["error"]);
  proxy.mend();
  await waitUntil(() => handle.stats().handled === 3);
  await handle.stop();
});

Deno.test("a bot can be stopped while it waits for a database that is down", async () => {
  await using server = await startServer();
  await using proxy = new Proxy(await postgres.createDatabase());
  proxy.cut();
  const handle = runBot(server, () => {}, {
    inbox: createPostgresInbox({ connectionString: proxy.url }),
    runner: { silent: true },
  });
  await sleep(300);
  await handle.stop();
  await sleep(100);
});

Deno.test("while the database is lost, handlers go on, and nothing is fetched or confirmed", async () => {
  await using server = await startServer();
  await using proxy = new Proxy(await postgres.createDatabase());
  const events: RunnerEvent<never>[] = [];
  const gate = new Deferred();
  const seen: number[] = [];
  const handle = runBot(server, async (ctx) => {
    await gate.promise;
    seen.push(ctx.update.update_id);
  }, {
    inbox: createPostgresInbox({ connectionString: proxy.url }),
    onEvent: (event) => events.push(event as RunnerEvent<never>),
    runner: { silent: true },
  });
  const pushed = ids(pushTexts(server, 1));
  await waitUntil(() => handle.stats().running === 1);
  proxy.cut();
  await waitUntil(() => !handle.stats().inbox.leading);
  pushed.push(...ids(pushTexts(server, 5)));
  gate.resolve();
  await waitUntil(() => handle.stats().handled === 1);
  await sleep(300);
  assertEquals(ids(server.unconfirmed()), pushed.slice(1));
  assertEquals(handle.stats().handled, 1);
  assert(handle.isRunning());
  proxy.mend();
  await waitUntil(() => handle.stats().handled === 6);
  await waitUntil(() => levels(events).at(-1) === "info");
  await handle.stop();
  assertEquals(seen, pushed);
  assertEquals(server.unconfirmed(), []);
  assertEquals(levels(events), ["error", "info"]);
});

Deno.test("a database that is slow only makes the bot slow", async () => {
  await using server = await startServer();
  await using proxy = new Proxy(await postgres.createDatabase());
  proxy.latency = 20;
  const handle = runBot(server, () => {}, {
    inbox: createPostgresInbox({ connectionString: proxy.url }),
  });
  const pushed = ids(pushTexts(server, 5));
  for (let chat = 2; chat < 100; chat++) {
    pushed.push(...ids(pushTexts(server, 1, chat)));
  }
  await waitUntil(() => handle.stats().handled === pushed.length);
  await handle.stop();
  assertEquals(server.unconfirmed(), []);
});

Deno.test("a stop does not wait for ever for a database that does not answer", async () => {
  await using server = await startServer();
  await using proxy = new Proxy(await postgres.createDatabase());
  const events: RunnerEvent<never>[] = [];
  const gate = new Deferred();
  const handle = runBot(server, () => gate.promise, {
    inbox: createPostgresInbox({ connectionString: proxy.url }),
    onEvent: (event) => events.push(event as RunnerEvent<never>),
    runner: { silent: true },
  });
  pushTexts(server, 2);
  await waitUntil(() => handle.stats().running === 1);
  const follower = runBot(server, () => {}, {
    inbox: createPostgresInbox({ connectionString: proxy.url }),
    runner: { silent: true },
  });
  await sleep(500);
  proxy.hang();
  // By now, the other one has asked for the lead in vain.
  await sleep(1200);
  gate.resolve();
  await waitUntil(() => handle.stats().handled === 1);
  const at = Date.now();
  await Promise.all([handle.stop(), follower.stop()]);
  assert(Date.now() - at < 14_000, `took ${Date.now() - at} ms`);
  assertEquals(levels(events), ["error"]);
  proxy.flow();
  await sleep(200);
});
