/** What the inbox makes of the deaths of machines. */
import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { PostgresQueue, suspicionOf } from "../../_postgres_queue.ts";
import { failProcess, sleep } from "../_bot.ts";
import {
  ids,
  levels,
  NEVER,
  openInbox,
  postgres,
  runElsewhere,
  takeAll,
  tiny,
} from "./_inbox.ts";
import { waitUntil } from "./_machines.ts";
import { Proxy } from "./_proxy.ts";

/** Makes PostgreSQL believe that machines have died while an update ran. */
async function recordDeaths(url: string, id: number, deaths: number) {
  await postgres.query(
    `UPDATE grammy_runner.job SET state = 'retry', started_on = now(), retry_count = ${
      deaths - 1
    } WHERE id::text LIKE '%${
      id.toString(16).padStart(12, "0")
    }' AND name = 'bot-1'`,
    url,
  );
}

Deno.test("an update that machines have died of runs alone", async () => {
  const url = await postgres.createDatabase();
  await using inbox = await openInbox(url);
  await inbox.append(tiny(1, 2, 3), NEVER);
  await recordDeaths(url, 2, 2);
  const healthy = await takeAll(inbox, 2);
  assertEquals(ids(healthy), [1, 3]);
  const suspect = inbox.take(9, NEVER);
  await inbox.append(tiny(4), NEVER);
  await inbox.settle(healthy[0]);
  let alone = false;
  suspect.then(() => alone = true);
  await sleep(300);
  assert(!alone);
  await inbox.settle(healthy[1]);
  assertEquals(ids(await suspect), [2]);
  const others = inbox.take(9, NEVER);
  others.then(() => alone = false);
  await sleep(4000);
  assert(alone);
  await inbox.settle((await suspect)[0]);
  assertEquals(ids(await others), [4]);
});

Deno.test("an update that machines have died of is not waited for, and does not wait, for ever", async () => {
  const url = await postgres.createDatabase();
  await using inbox = await openInbox(url);
  await inbox.append(tiny(1), NEVER);
  const [long] = await takeAll(inbox, 1);
  await inbox.append(tiny(2), NEVER);
  await recordDeaths(url, 2, 2);
  const taking = inbox.take(9, NEVER);
  await sleep(1500);
  await inbox.append(tiny(3, 4), NEVER);
  // The first one does not end.
  const [suspect, ...others] = await taking;
  assertEquals([suspect.update_id, others], [2, []]);
  // Neither does this one, and so it is not what machines die of.
  assertEquals(ids(await takeAll(inbox, 2)), [3, 4]);
  const spared = `SELECT data->>'spared' FROM grammy_runner.job
    WHERE data->>'json' = '{"update_id":2}'`;
  await waitUntil(async () => (await postgres.query(spared, url))[0] === "1");
  inbox.settle(suspect);
  await inbox.settle(long);
});

Deno.test("a machine that is busy goes on when another one has run the update that machines died of", async () => {
  const url = await postgres.createDatabase();
  await using a = await openInbox(url);
  await using b = await openInbox(url);
  await a.append(tiny(1), NEVER);
  assertEquals(ids(await a.take(9, NEVER)), [1]);
  await a.append(tiny(2), NEVER);
  await recordDeaths(url, 2, 2);
  const next = a.take(9, NEVER);
  await sleep(300);
  const suspect = await b.take(9, NEVER);
  assertEquals(ids(suspect), [2]);
  await b.settle(suspect[0]);
  await a.append(tiny(3), NEVER);
  assertEquals(ids(await next), [3]);
});

Deno.test("deaths at which an update had outlived its time alone do not count", async () => {
  const url = await postgres.createDatabase();
  await using inbox = await openInbox(url);
  await inbox.append(tiny(1, 2), NEVER);
  await postgres.query(
    `UPDATE grammy_runner.job SET data = data || '{"spared":2}' WHERE name = 'bot-1'`,
    url,
  );
  await recordDeaths(url, 1, 6);
  await recordDeaths(url, 2, 7);
  assertEquals(ids(await inbox.take(9, NEVER)), [1]);
  await waitUntil(() => inbox.stats!().quarantined === 1);
  const [{ update }] = await inbox.quarantined();
  assertEquals(update.update_id, 2);
});

/** The deaths of machines, and at how many of them an update was parked. */
function parked(url: string): Promise<string[]> {
  return postgres.query(
    `SELECT retry_count, coalesce((data->>'parked')::int, 0)
     FROM grammy_runner.job WHERE name = 'bot-1' ORDER BY id`,
    url,
  );
}

/** The claims of a machine are taken away as if it had died. */
async function loseClaims(url: string): Promise<void> {
  await postgres.query(
    "UPDATE grammy_runner.job SET state = 'retry' WHERE state = 'active'",
    url,
  );
}

Deno.test("deaths while an update is parked do not count", async () => {
  const url = await postgres.createDatabase();
  for (let deaths = 0; deaths < 5; deaths++) {
    await using inbox = await openInbox(url);
    if (deaths === 0) await inbox.append(tiny(1), NEVER);
    const [update] = await inbox.take(9, NEVER);
    inbox.running!(update, false);
    await waitUntil(async () =>
      `${await parked(url)}` === `${deaths}|${deaths + 1}`
    );
    await loseClaims(url);
  }
  await using inbox = await openInbox(url);
  await inbox.append(tiny(2), NEVER);
  assertEquals(ids(await inbox.take(9, NEVER)), [1, 2]);
});

Deno.test("an update that goes on after it was parked counts deaths again", async () => {
  const url = await postgres.createDatabase();
  for (let deaths = 0; deaths < 2; deaths++) {
    await using inbox = await openInbox(url);
    if (deaths === 0) await inbox.append(tiny(1), NEVER);
    const [update] = await inbox.take(9, NEVER);
    inbox.running!(update, false);
    await waitUntil(async () => `${await parked(url)}` === `${deaths}|1`);
    inbox.running!(update, true);
    await waitUntil(async () => `${await parked(url)}` === `${deaths}|0`);
    await loseClaims(url);
  }
  await using inbox = await openInbox(url);
  await inbox.append(tiny(2), NEVER);
  const [suspect, ...others] = await takeAll(inbox, 1);
  assertEquals([suspect.update_id, others], [2, []]);
});

Deno.test("an update that was parked at very many deaths runs alone, and is set aside if it kills machines then", async () => {
  const url = await postgres.createDatabase();
  await using inbox = await openInbox(url);
  await inbox.append(tiny(1, 2, 3), NEVER);
  await postgres.query(
    `UPDATE grammy_runner.job SET data = data || '{"parked":9}' WHERE name = 'bot-1'`,
    url,
  );
  for (const [id, deaths] of [[1, 6], [2, 7], [3, 14]]) {
    await recordDeaths(url, id, deaths);
  }
  const [healthy, ...others] = await inbox.take(9, NEVER);
  assertEquals([healthy.update_id, others], [1, []]);
  await waitUntil(() => inbox.stats!().quarantined === 1);
  assertEquals(await inbox.quarantined(), [{
    update: { update_id: 3 },
    deaths: 5,
  }]);
  await inbox.settle(healthy);
  assertEquals(ids(await inbox.take(9, NEVER)), [2]);
});

Deno.test("suspects are counted by the deaths at which they ran, as they are told when they are claimed", async () => {
  const url = await postgres.createDatabase();
  await using inbox = await openInbox(url);
  const queue = new PostgresQueue(url, 1, { error() {}, warning() {} });
  await queue.open();
  // Deaths, how many of them while it was parked, and those that are left.
  const cases = [[1, 0, 1], [2, 0, 2], [2, 1, 1], [4, 4, 0], [6, 9, 1], [
    7,
    9,
    2,
  ]];
  for (const [i, [deaths, parked]] of cases.entries()) {
    await inbox.append([{ update_id: i, key: `${i}` }], NEVER);
    await postgres.query(
      `UPDATE grammy_runner.job SET data = data || '{"parked":${parked}}'
       WHERE data->>'json' LIKE '{"update_id":${i},%'`,
      url,
    );
    await recordDeaths(url, i, deaths);
  }
  for (const least of [1, 2]) {
    const expected = cases.filter(([, , left]) => left >= least).length;
    assertEquals((await queue.count(least)).suspects, expected);
  }
  const jobs = await queue.fetch(99);
  assertEquals(
    jobs.map(suspicionOf),
    cases.map(([, , left]) => left),
  );
  await queue.close();
});

Deno.test("a stop that gives up an update that is parked is no death", async () => {
  const url = await postgres.createDatabase();
  {
    await using inbox = await openInbox(url);
    await inbox.append(tiny(1), NEVER);
    const [update] = await inbox.take(9, NEVER);
    inbox.running!(update, false);
    await waitUntil(async () => `${await parked(url)}` === "0|1");
  }
  assertEquals(await parked(url), ["0|0"]);
});

/** Opens the inbox of the tests in another process. */
const OPEN = `
  import { createPostgresInbox } from "~/postgres_inbox.ts";
  const { signal } = new AbortController();
  const connectionString = Deno.args[0];
  const inbox = createPostgresInbox({ connectionString, key() {} });
  await inbox.open({ botId: 1, signal, emit() {} });
`;

Deno.test("what has just been parked when a machine fails does not count that death", async () => {
  const url = await postgres.createDatabase();
  {
    await using inbox = await openInbox(url);
    await inbox.append(tiny(1, 2), NEVER);
  }
  const { code } = await runElsewhere(
    `${OPEN}
    const [parked] = await inbox.take(2, signal);
    inbox.running(parked, false);
    Deno.exit(1);`,
    url,
  ).status;
  assertEquals(code, 1);
  await waitUntil(async () => await readFailures(url) === "none,1");
  assertEquals(await parked(url), ["0|1", "0|0"]);
});

Deno.test("what goes on and kills its machine at once, as it may have done before, counts that death", async () => {
  const url = await postgres.createDatabase();
  {
    await using inbox = await openInbox(url);
    await inbox.append(tiny(1), NEVER);
  }
  await recordDeaths(url, 1, 1);
  const child = runElsewhere(
    `${OPEN}
    const [update] = await inbox.take(1, signal);
    inbox.running(update, false);
    setTimeout(() => {
      inbox.running(update, true);
      Deno.kill(Deno.pid, "SIGKILL");
    }, 500);`,
    url,
  );
  await waitUntil(async () => `${await parked(url)}` === "1|1");
  await child.status;
  await waitUntil(async () => `${await parked(url)}` === "1|0");
});

Deno.test("neither a suspect that is parked nor what then runs by itself counts as running alone", async () => {
  const url = await postgres.createDatabase();
  await using inbox = await openInbox(url, { maxAttempts: 1 });
  await inbox.append(tiny(1), NEVER);
  await recordDeaths(url, 1, 1);
  const [suspect] = await inbox.take(9, NEVER);
  const next = inbox.take(9, NEVER);
  await inbox.append(tiny(2), NEVER);
  await sleep(300);
  inbox.running!(suspect, false);
  // As it waits, the others need not.
  assertEquals(ids(await next), [2]);
  failProcess();
  const read = () =>
    postgres.query(
      `SELECT data->'parked', data->'spared', data->'failures', data->'alone'
       FROM grammy_runner.job WHERE name = 'bot-1' ORDER BY id`,
      url,
    );
  await waitUntil(async () => `${await read()}` === "1|0||,0|0|1|false");
});

Deno.test("an inbox does not wait for ever for the suspect of another one in its process", async () => {
  const urls = [
    await postgres.createDatabase(),
    await postgres.createDatabase(),
  ];
  await using first = await openInbox(urls[0]);
  await using second = await openInbox(urls[1]);
  await first.append(tiny(1), NEVER);
  await recordDeaths(urls[0], 1, 4);
  const [suspect] = await first.take(9, NEVER);
  await second.append(tiny(1), NEVER);
  await recordDeaths(urls[1], 1, 2);
  const next = second.take(9, NEVER);
  await sleep(300);
  await second.append(tiny(2), NEVER);
  assertEquals(ids(await next), [2]);
  // It still runs by itself.
  const waits = second.take(9, NEVER);
  await first.settle(suspect);
  await second.settle((await next)[0]);
  assertEquals(ids(await waits), [1]);
});

Deno.test("heartbeats do not wait for what is locked", async () => {
  const url = await postgres.createDatabase();
  await using inbox = await openInbox(url);
  await inbox.append(tiny(1, 2), NEVER);
  await takeAll(inbox, 2);
  const read = async () => (await postgres.query(
    "SELECT heartbeat_on FROM grammy_runner.job WHERE name = 'bot-1' ORDER BY id",
    url,
  ));
  const before = await read();
  const lock = postgres.query(
    `BEGIN; SELECT FROM grammy_runner.job WHERE data->>'json' LIKE '%:1}' FOR UPDATE;
     SELECT pg_sleep(4); COMMIT`,
    url,
  );
  await waitUntil(async () => (await read())[1] !== before[1]);
  assertEquals((await read())[0], before[0]);
  await lock;
  await waitUntil(async () => (await read())[0] !== before[0]);
});

Deno.test("what waits on a machine that was taken for dead does not start there", async () => {
  const url = await postgres.createDatabase();
  await using inbox = await openInbox(url);
  await inbox.append(tiny(1, 2), NEVER);
  const [lost, held] = await takeAll(inbox, 2);
  for (const update of [lost, held]) inbox.running!(update, false);
  await postgres.query(
    `UPDATE grammy_runner.job SET state = 'retry' WHERE data->>'json' LIKE '%:1}'`,
    url,
  );
  await waitUntil(() => levels(inbox.events).includes("error"));
  assertEquals(inbox.running!(lost, true), false);
  assertEquals(inbox.running!(held, true), true);
  // It can start anew here as well as elsewhere.
  assertEquals(ids(await takeAll(inbox, 1)), [1]);
});

Deno.test("what waits on a machine that was silent for too long does not start there before it is free for others", async () => {
  const url = await postgres.createDatabase();
  await using proxy = new Proxy(url);
  await using inbox = await openInbox(proxy.url);
  await inbox.append(tiny(1), NEVER);
  const [update] = await inbox.take(1, NEVER);
  inbox.running!(update, false);
  proxy.cut();
  await sleep(10_500);
  assertEquals(inbox.running!(update, true), false);
  proxy.mend();
  assertEquals(ids(await takeAll(inbox, 1)), [1]);
  // Nobody has died.
  assertEquals(await parked(url), ["0|0"]);
});

Deno.test("a machine that was taken for dead tells again what is parked", async () => {
  const url = await postgres.createDatabase();
  await using inbox = await openInbox(url);
  await inbox.append(tiny(1), NEVER);
  const [update] = await inbox.take(9, NEVER);
  inbox.running!(update, false);
  await waitUntil(async () => `${await parked(url)}` === "0|1");
  await loseClaims(url);
  const next = inbox.take(9, NEVER);
  await waitUntil(async () => `${await parked(url)}` === "1|2");
  inbox.running!(update, true);
  await waitUntil(async () => `${await parked(url)}` === "1|1");
  await inbox.settle(update);
  await inbox.append(tiny(2), NEVER);
  assertEquals(ids(await next), [2]);
});

Deno.test("a stop while a suspect is being claimed leaves nothing behind", async () => {
  const url = await postgres.createDatabase();
  await using proxy = new Proxy(url);
  const inbox = await openInbox(proxy.url);
  await inbox.append(tiny(1), NEVER);
  await recordDeaths(url, 1, 2);
  proxy.latency = 50;
  const controller = new AbortController();
  const taking = inbox.take(9, controller.signal);
  // It is claimed once to be given back, and once to run alone.
  await sleep(75);
  controller.abort();
  await assertRejects(() => taking, DOMException);
  await inbox.close();
  await using other = await openInbox(url);
  assertEquals(ids(await other.take(9, NEVER)), [1]);
});

Deno.test("an update that machines keep dying of is set aside, and its chat goes on", async () => {
  const url = await postgres.createDatabase();
  await using inbox = await openInbox(url);
  const [bad, next] = [7, 8].map((update_id) => ({ update_id, key: "chat" }));
  await inbox.append([bad, next], NEVER);
  await recordDeaths(url, 7, 5);
  const [taken] = await inbox.take(9, NEVER);
  assertEquals(taken, next);
  assertEquals(await inbox.quarantined(), [{ update: bad, deaths: 5 }]);
  assertEquals(inbox.stats!().quarantined, 1);
  const event = inbox.events.at(-1);
  assert(event?.type === "inbox" && event.level === "error");
  assertStringIncludes(event.message, "The update 7 is set aside");
  assertEquals(event.update, bad);
  // Telegram may send it again.
  await inbox.append([bad], NEVER);
  assertEquals(inbox.stats!().buffered, 0);

  assertEquals(await inbox.release(99), false);
  const released = await Promise.all([inbox.release(7), inbox.release(7)]);
  assertEquals(released.toSorted(), [false, true]);
  assertEquals(await inbox.release(7), false);
  assertEquals(await inbox.quarantined(), []);
  const again = inbox.take(9, NEVER);
  await inbox.settle(taken);
  assertEquals(await again, [bad]);
});

/** What PostgreSQL knows of the failures of machines, by update. */
async function readFailures(url: string): Promise<string> {
  const rows = await postgres.query(
    `SELECT coalesce(data->>'failures', 'none') FROM grammy_runner.job
     WHERE name = 'bot-1' AND state < 'completed' ORDER BY id`,
    url,
  );
  return rows.join();
}

Deno.test("a machine that fails leaves word of what runs, and takes it back if it lives on", async () => {
  const url = await postgres.createDatabase();
  await using inbox = await openInbox(url);
  await inbox.append(tiny(1, 2, 3, 4), NEVER);
  const [ended, parked] = await takeAll(inbox, 4);
  await inbox.settle(ended);
  inbox.running!(parked, false);
  failProcess();
  failProcess();
  await waitUntil(async () => await readFailures(url) === "none,1,1");
  await waitUntil(async () => await readFailures(url) === "none,0,0");
});

Deno.test("an update that machines have failed of while it ran alone is set aside, and no other pays for it", async () => {
  const url = await postgres.createDatabase();
  await using inbox = await openInbox(url);
  await inbox.append(tiny(1, 2, 3), NEVER);
  const fail = (id: number, failures: number, alone: boolean) =>
    postgres.query(
      `UPDATE grammy_runner.job SET data = data || '{"failures":${failures},"alone":${alone}}'
       WHERE name = 'bot-1' AND data->>'json' = '{"update_id":${id}}'`,
      url,
    );
  for (const id of [1, 2, 3]) await recordDeaths(url, id, 3);
  await fail(1, 3, true);
  await fail(2, 3, false);
  await fail(3, 2, true);
  assertEquals(ids(await inbox.take(9, NEVER)), [2]);
  await waitUntil(() => inbox.stats!().quarantined === 1);
  const [{ update, deaths }, ...others] = await inbox.quarantined();
  assertEquals([update, deaths, others], [tiny(1)[0], 3, []]);
  assertEquals(await readFailures(url), "none,none");
});

Deno.test("a suspect beside which another one goes on does not run alone", async () => {
  const url = await postgres.createDatabase();
  await using inbox = await openInbox(url);
  await inbox.append(tiny(1, 2), NEVER);
  await recordDeaths(url, 1, 2);
  await recordDeaths(url, 2, 2);
  assertEquals(ids(await inbox.take(9, NEVER)), [1]);
  assertEquals(ids(await inbox.take(9, NEVER)), [2]);
  failProcess();
  const readAlone = () =>
    postgres.query(
      `SELECT data->>'alone' FROM grammy_runner.job
       WHERE name = 'bot-1' AND data->>'failures' = '1' ORDER BY id`,
      url,
    );
  await waitUntil(async () => (await readAlone()).length === 2);
  assertEquals(await readAlone(), ["false", "false"]);
});

Deno.test("in a process with several inboxes, one suspect at a time runs by itself", async () => {
  const urls = [
    await postgres.createDatabase(),
    await postgres.createDatabase(),
  ];
  await using first = await openInbox(urls[0]);
  await using second = await openInbox(urls[1]);
  for (const [i, inbox] of [first, second].entries()) {
    await inbox.append(tiny(1), NEVER);
    await recordDeaths(urls[i], 1, 2);
  }
  const [suspect] = await first.take(9, NEVER);
  let isTaken = false;
  const next = second.take(9, NEVER);
  next.then(() => isTaken = true);
  await sleep(1500);
  assert(!isTaken);
  await first.settle(suspect);
  assertEquals(ids(await next), [1]);
});

Deno.test("a machine that fails and is then stopped takes its word back", async () => {
  const url = await postgres.createDatabase();
  {
    await using inbox = await openInbox(url);
    await inbox.append(tiny(1), NEVER);
    await inbox.take(1, NEVER);
    failProcess();
    await waitUntil(async () => await readFailures(url) === "1");
  }
  assertEquals(await readFailures(url), "0");
});

Deno.test("a failure of which no word could be left is not taken back", async () => {
  const url = await postgres.createDatabase();
  await using inbox = await openInbox(url);
  await inbox.append(tiny(1), NEVER);
  await inbox.take(1, NEVER);
  await postgres.query(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'grammy_runner hotline'",
    url,
  );
  await sleep(100);
  failProcess();
  await sleep(3000);
  assertEquals(await readFailures(url), "none");
  // By now there is a connection again.
  failProcess();
  await waitUntil(async () => await readFailures(url) === "1");
  await waitUntil(async () => await readFailures(url) === "0");
});

Deno.test("word is left of each failure, also if the machine has just lived through another", async () => {
  const url = await postgres.createDatabase();
  await using inbox = await openInbox(url);
  await inbox.append(tiny(1, 2), NEVER);
  await inbox.take(1, NEVER);
  failProcess();
  await waitUntil(async () => await readFailures(url) === "1,none");
  await takeAll(inbox, 1);
  failProcess();
  await waitUntil(async () => await readFailures(url) === "1,1");
  await waitUntil(async () => await readFailures(url) === "0,0");
});
