import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import fc from "fast-check";
import process from "node:process";
import type { Update } from "../deps.ts";
import type { RunnerEvent } from "../events.ts";
import {
  createConcurrentSink,
  createRunner,
  createSource,
  run,
} from "../mod.ts";
import { createSqliteInbox, type SqliteInboxOptions } from "../sqlite_inbox.ts";
import {
  createBot,
  Deferred,
  failProcess,
  pushTexts,
  runBot,
  sleep,
  startServer,
  until,
} from "./_bot.ts";

const { DatabaseSync } = process.getBuiltinModule("node:sqlite");
const NEVER = new AbortController().signal;

interface Tiny {
  update_id: number;
  text?: string;
}

/** A directory that goes away at the end of the test. */
function tempDir() {
  const dir = Deno.makeTempDirSync();
  return {
    path: (name = "updates.db") => `${dir}/${name}`,
    [Symbol.dispose]: () => Deno.removeSync(dir, { recursive: true }),
  };
}

function tiny(...ids: number[]): Tiny[] {
  return ids.map((update_id) => ({ update_id }));
}

function ids(updates: Tiny[]): number[] {
  return updates.map((update) => update.update_id);
}

async function openInbox(
  path: string,
  options?: SqliteInboxOptions,
  botId = 1,
) {
  const inbox = createSqliteInbox<Tiny>(path, options);
  const events: RunnerEvent<Tiny>[] = [];
  await inbox.open({
    botId,
    signal: NEVER,
    emit: (event) => events.push(event),
  });
  return Object.assign(inbox, {
    events,
    [Symbol.asyncDispose]: () => inbox.close(),
  });
}

/** What the file looks like to the next process if this one dies now. */
function crash(path: string, to: string): string {
  for (const end of ["", "-wal"]) {
    try {
      Deno.copyFileSync(path + end, to + end);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  return to;
}

function bytesOf(path: string): Record<string, string> {
  const read = (end: string) => {
    try {
      return Deno.readFileSync(path + end).join();
    } catch {
      return "";
    }
  };
  return { file: read(""), wal: read("-wal") };
}

Deno.test("what did not finish comes again, in order, before anything new", async () => {
  using dir = tempDir();
  {
    await using inbox = await openInbox(dir.path());
    await inbox.append(tiny(5, 6, 7, 8), NEVER);
    const taken = await inbox.take(3, NEVER);
    assertEquals(ids(taken), [5, 6, 7]);
    inbox.settle(taken[1]);
    inbox.settle(taken[1]);
  }
  await using inbox = await openInbox(dir.path());
  assertEquals(inbox.stats!(), { buffered: 3, unfinished: 3, quarantined: 0 });
  await inbox.append(tiny(9), NEVER);
  assertEquals(ids(await inbox.take(Infinity, NEVER)), [5, 7, 8, 9]);
});

Deno.test("a crash loses nothing that was appended, and forgets no end after 20 ms", async () => {
  using dir = tempDir();
  await using inbox = await openInbox(dir.path());
  await inbox.append(tiny(1, 2, 3), NEVER);
  const [first] = await inbox.take(2, NEVER);
  inbox.settle(first);
  await sleep(60);
  await using next = await openInbox(crash(dir.path(), dir.path("b")));
  assertEquals(ids(await next.take(9, NEVER)), [2, 3]);
});

Deno.test("an update that the inbox knows does not run twice, finished or not", async () => {
  using dir = tempDir();
  {
    await using inbox = await openInbox(dir.path());
    await inbox.append([...tiny(1, 2, 3, 2), ...tiny(1)], NEVER);
    const taken = await inbox.take(2, NEVER);
    for (const update of taken) inbox.settle(update);
    await inbox.append(tiny(1, 2, 3), NEVER);
    assertEquals(inbox.stats!().buffered, 1);
  }
  await using inbox = await openInbox(dir.path());
  await inbox.append(tiny(1, 2, 3, 4), NEVER);
  assertEquals(ids(await inbox.take(9, NEVER)), [3, 4]);
});

Deno.test("ids may start again lower", async () => {
  using dir = tempDir();
  await using inbox = await openInbox(dir.path());
  await inbox.append(tiny(1000, 3, 4), NEVER);
  assertEquals(ids(await inbox.take(9, NEVER)), [1000, 3, 4]);
});

Deno.test("only the newest tombstones are kept, and whatever has not finished", async () => {
  using dir = tempDir();
  {
    await using inbox = await openInbox(dir.path(), { tombstones: 10 });
    for (let id = 1; id <= 100; id++) {
      await inbox.append(tiny(id), NEVER);
      const [update] = await inbox.take(1, NEVER);
      if (id !== 7) inbox.settle(update);
    }
  }
  await using inbox = await openInbox(dir.path(), { tombstones: 10 });
  await inbox.append(tiny(1, 7, 95, 100), NEVER);
  assertEquals(ids(await inbox.take(9, NEVER)), [7, 1]);
});

Deno.test("whatever mix of appends, ends, stops and crashes: what has not finished comes again in order, and nothing else", async () => {
  const step = fc.oneof(
    fc.record({
      type: fc.constant("append"),
      n: fc.integer({ max: 8, min: 1 }),
    }),
    fc.record({ type: fc.constant("take"), n: fc.integer({ max: 8, min: 1 }) }),
    fc.record({ type: fc.constant("settle"), n: fc.nat(20) }),
    fc.record({ type: fc.constant("stop"), n: fc.constant(0) }),
    fc.record({ type: fc.constant("crash"), n: fc.constant(0) }),
  );
  using time = new FakeTime();
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { maxLength: 60, size: "max" }),
      fc.nat(3),
      async (steps, tombstones) => {
        using dir = tempDir();
        const options = { tombstones, lookahead: 1000, maxAttempts: 1000 };
        let path = dir.path();
        let inbox = await openInbox(path, options);
        let nextId = 1;
        let unfinished: Tiny[] = [];
        let taken: Tiny[] = [];
        const reopen = async () => {
          inbox = await openInbox(path, options);
          taken = [];
        };
        for (const { type, n } of steps) {
          if (type === "append") {
            const updates = tiny(...Array.from({ length: n }, () => nextId++));
            await inbox.append(updates, NEVER);
            unfinished.push(...updates);
          } else if (type === "take" && inbox.stats!().buffered as number > 0) {
            taken.push(...await inbox.take(n, NEVER));
          } else if (type === "settle" && taken.length > 0) {
            const [update] = taken.splice(n % taken.length, 1);
            inbox.settle(update);
            unfinished = unfinished.filter((u) =>
              u.update_id !== update.update_id
            );
          } else if (type === "stop") {
            await inbox.close();
            await reopen();
          } else if (type === "crash") {
            time.tick(20);
            const copy = crash(path, dir.path(`${nextId}-${Math.random()}`));
            await inbox.close();
            path = copy;
            await reopen();
          }
          assertEquals(inbox.stats!().unfinished, unfinished.length);
        }
        await inbox.close();
        await reopen();
        if (unfinished.length > 0) {
          assertEquals(await inbox.take(Infinity, NEVER), unfinished);
        }
        await inbox.close();
      },
    ),
    { numRuns: 60 },
  );
});

Deno.test("append waits while the inbox is full, and stores nothing if it is stopped", async () => {
  using dir = tempDir();
  await using inbox = await openInbox(dir.path(), { lookahead: 2 });
  await inbox.append(tiny(1, 2), NEVER);
  const controller = new AbortController();
  const waiting = inbox.append(tiny(3), controller.signal);
  controller.abort();
  await assertRejects(() => waiting, DOMException);
  let appended = false;
  const later = inbox.append(tiny(4), NEVER).then(() => appended = true);
  await sleep(1);
  assert(!appended);
  await inbox.take(1, NEVER);
  await later;
  assertEquals(ids(await inbox.take(9, NEVER)), [2, 4]);
});

Deno.test("take waits until there is something", async () => {
  using dir = tempDir();
  await using inbox = await openInbox(dir.path());
  const controller = new AbortController();
  const stopped = inbox.take(1, controller.signal);
  controller.abort();
  await assertRejects(() => stopped, DOMException);
  const taken = inbox.take(5, NEVER);
  await inbox.append(tiny(1, 2), NEVER);
  assertEquals(ids(await taken), [1, 2]);
});

Deno.test("bad options and updates are refused", async () => {
  const bad = (options: unknown, path: unknown = "x.db") => () =>
    createSqliteInbox(path as string, options as SqliteInboxOptions);
  for (const name of ["lookahead", "maxAttempts"]) {
    assertThrows(
      bad({ [name]: "5" }),
      TypeError,
      `${name} must be a number: received "5"`,
    );
    for (const value of [0, -1, 1.5, NaN, Infinity]) {
      assertThrows(
        bad({ [name]: value }),
        RangeError,
        `${name} must be an integer of at least 1: received ${value}`,
      );
    }
  }
  assertThrows(bad({ tombstones: -1 }), RangeError, "tombstones");
  assertThrows(bad({ synchronous: "off" }), RangeError, "received off");
  for (const path of ["", ":memory:", "file:updates.db", 5, null]) {
    assertThrows(bad({}, path), TypeError, "path must be");
  }
  using dir = tempDir();
  await using inbox = await openInbox(dir.path());
  await assertRejects(
    () => inbox.append([{} as Tiny], NEVER),
    TypeError,
    "update_id must be an integer: received undefined",
  );
  await assertRejects(
    () =>
      createSqliteInbox(dir.path()).open({
        botId: undefined,
        signal: NEVER,
        emit() {},
      }),
    TypeError,
    "must be known",
  );
});

Deno.test("a file that is in use is refused at once, also by another process", async () => {
  using dir = tempDir();
  await using inbox = await openInbox(dir.path());
  await inbox.append(tiny(1), NEVER);
  // Not in this process, as that would drop its lock.
  const read = async () =>
    (await new Deno.Command("cat", {
      args: [dir.path(), dir.path("updates.db-wal")],
    }).output()).stdout;
  const before = await read();
  await assertRejects(
    () => openInbox(dir.path("./updates.db")),
    Error,
    "must not be in use: another process, or another runner, has it open",
  );
  const script = `
    import { createSqliteInbox } from ${
    JSON.stringify(new URL("../sqlite_inbox.ts", import.meta.url).href)
  };
    const inbox = createSqliteInbox(${JSON.stringify(dir.path())});
    await inbox.open({ botId: 1, signal: new AbortController().signal, emit() {} });`;
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["eval", script],
  }).output();
  assertEquals(code, 1);
  assertStringIncludes(
    new TextDecoder().decode(stderr),
    "must not be in use",
  );
  assertEquals(await read(), before);
});

/** Files that are no inbox of bot 1, and what the error says. */
const STRANGERS: Record<
  string,
  [make: (path: string) => void | Promise<void>, rule: string]
> = {
  "an empty file": [
    (path) => Deno.writeTextFileSync(path, ""),
    "must be an inbox, with application id 1733912942: received a database with application id 0",
  ],
  "a text": [
    (path) => Deno.writeTextFileSync(path, "hello ".repeat(999)),
    "must be an SQLite database: file is not a database",
  ],
  "a directory": [
    (path) => Deno.mkdirSync(path),
    "must be a file: received a directory",
  ],
  "the database of another program": [
    (path) => sql(path, "PRAGMA journal_mode = WAL; CREATE TABLE t (x)"),
    "must be an inbox, with application id 1733912942: received a database with application id 0",
  ],
  "an inbox of another bot": [
    async (path) => {
      await using inbox = await openInbox(path, {}, 99);
      await inbox.append(tiny(1), NEVER);
    },
    "must belong to the bot 1: received the inbox of the bot 99",
  ],
  "an inbox of another bot that has crashed": [
    async (path) => {
      await using inbox = await openInbox(path + "live", {}, 99);
      await inbox.append(tiny(1), NEVER);
      crash(path + "live", path);
    },
    "must belong to the bot 1: received the inbox of the bot 99",
  ],
  "an inbox of a newer version": [
    async (path) => {
      await (await openInbox(path)).close();
      sql(path, "PRAGMA user_version = 2");
    },
    "must be at most 1, update this module: received 2",
  ],
  "a damaged inbox": [
    async (path) => {
      await using inbox = await openInbox(path);
      const text = "x".repeat(1000);
      for (let i = 1; i < 20; i++) {
        await inbox.append([{ update_id: i, text }], NEVER);
      }
      await inbox.close();
      const bytes = Deno.readFileSync(path);
      bytes.fill(0x5a, 4096 * 3, 4096 * 4);
      Deno.writeFileSync(path, bytes);
    },
    "received a corrupt file",
  ],
  "a damaged inbox that has crashed": [
    async (path) => {
      await using inbox = await openInbox(path + "live");
      await inbox.append(tiny(1), NEVER);
      crash(path + "live", path);
      const bytes = Deno.readFileSync(path);
      bytes.fill(0x5a, 100, 4096);
      Deno.writeFileSync(path, bytes);
    },
    "must",
  ],
  "half an inbox": [
    async (path) => {
      await (await openInbox(path)).close();
      Deno.truncateSync(path, 5000);
    },
    "received a corrupt file",
  ],
  "an inbox with an update that is no JSON": [
    async (path) => {
      await (await openInbox(path)).close();
      sql(path, "INSERT INTO batches VALUES (5, '{')");
    },
    "batch 5 is damaged",
  ],
  "an inbox with a batch that is no list": [
    async (path) => {
      await (await openInbox(path)).close();
      sql(path, "INSERT INTO batches VALUES (6, '{}')");
    },
    "batch 6 is damaged",
  ],
};

function sql(path: string, statements: string): void {
  const db = new DatabaseSync(path);
  db.exec(statements);
  db.close();
}

for (const [name, [make, rule]] of Object.entries(STRANGERS)) {
  Deno.test(`${name} is refused and left as it is`, async () => {
    using dir = tempDir();
    await make(dir.path());
    const before = bytesOf(dir.path());
    const error = await assertRejects(() => openInbox(dir.path()), Error, rule);
    assertStringIncludes(error.message, dir.path());
    assertEquals(bytesOf(dir.path()), before);
  });
}

Deno.test("a directory that is not there is named", async () => {
  using dir = tempDir();
  await assertRejects(
    () => openInbox(dir.path("no/such.db")),
    Error,
    "no/such.db must be a file in a directory",
  );
});

Deno.test("after close, the file alone is the inbox", async () => {
  using dir = tempDir();
  {
    await using inbox = await openInbox(dir.path());
    await inbox.append(tiny(1, 2), NEVER);
    inbox.settle((await inbox.take(1, NEVER))[0]);
  }
  Deno.copyFileSync(dir.path(), dir.path("copy.db"));
  const names = [...Deno.readDirSync(dir.path(""))].map((file) => file.name);
  assertEquals(names.sort(), ["copy.db", "updates.db"]);
  await using inbox = await openInbox(dir.path("copy.db"));
  assertEquals(ids(await inbox.take(9, NEVER)), [2]);
});

Deno.test("the file does not grow with the number of updates", async () => {
  using dir = tempDir();
  await using inbox = await openInbox(dir.path(), {
    synchronous: "normal",
    tombstones: 1000,
  });
  const size = () =>
    Deno.statSync(dir.path()).size +
    Deno.statSync(dir.path("updates.db-wal")).size;
  const text = "x".repeat(300);
  let id = 100_000_000;
  const pass = async (count: number) => {
    for (const end = id + count; id < end;) {
      const batch = Array.from({ length: 100 }, () => ({
        update_id: ++id,
        text,
      }));
      await inbox.append(batch, NEVER);
      for (const update of await inbox.take(100, NEVER)) inbox.settle(update);
    }
  };
  await pass(10_000);
  const early = size();
  await pass(90_000);
  // Where the log stood when it was last written back differs by some pages.
  assert(size() <= early * 1.03, `${size()} bytes after ${early}`);
});

// Poison. A death is a copy of the file as it was then.

/** Opens what a process left behind that died just now. */
function lives(dir: ReturnType<typeof tempDir>, options?: SqliteInboxOptions) {
  let n = 0;
  return {
    first: () => openInbox(dir.path("0"), options),
    async next() {
      return await openInbox(
        crash(dir.path(`${n}`), dir.path(`${++n}`)),
        options,
      );
    },
  };
}

Deno.test("an update that kills the process each time is set aside, its neighbours run", async () => {
  using dir = tempDir();
  const life = lives(dir);
  {
    await using inbox = await life.first();
    await inbox.append(tiny(1, 2, 3), NEVER);
    await inbox.take(9, NEVER);
    // Dies at once: nobody could tell the file that they were running.
    await using second = await life.next();
    assertEquals(ids(await second.take(9, NEVER)), [1, 2, 3]);
    await using third = await life.next();
    assertEquals(ids(await third.take(9, NEVER)), [1, 2, 3]);
    // From here on, all three are suspects.
    await using fourth = await life.next();
    const [first] = await fourth.take(9, NEVER);
    assertEquals(first.update_id, 1);
    const alone = fourth.take(9, NEVER);
    await sleep(1);
    fourth.settle(first);
    const [poison] = await alone;
    assertEquals(poison.update_id, 2);
    await using fifth = await life.next();
    assertEquals(ids(await fifth.take(9, NEVER)), [2]);
    await using sixth = await life.next();
    assertEquals(ids(await sixth.take(9, NEVER)), [2]);
    crash(dir.path("5"), dir.path("last"));
  }
  await using inbox = await openInbox(dir.path("last"));
  assertEquals(inbox.quarantined(), [{ update: { update_id: 2 }, deaths: 5 }]);
  const event = inbox.events[0];
  assert(event.type === "inbox" && event.level === "error");
  assertStringIncludes(event.message, "The update 2 is set aside");
  assertEquals(event.update, { update_id: 2 });
  const [last] = await inbox.take(9, NEVER);
  assertEquals(last.update_id, 3);
  inbox.settle(last);
  await inbox.append(tiny(2, 4), NEVER);
  assertEquals(ids(await inbox.take(9, NEVER)), [4]);
  assert(!inbox.release(4));
  assert(inbox.release(2));
  assertEquals(inbox.quarantined(), []);
  assertEquals(ids(await inbox.take(9, NEVER)), [2]);
});

Deno.test("what is set aside can be listed and put back while the inbox is closed", async () => {
  using dir = tempDir();
  await (await openInbox(dir.path())).close();
  sql(
    dir.path(),
    `INSERT INTO quarantine VALUES (1, 7, 3, '{"update_id":7}')`,
  );
  const inbox = createSqliteInbox(dir.path());
  assertEquals(inbox.quarantined(), [{ update: { update_id: 7 }, deaths: 3 }]);
  assert(inbox.release(7));
  assert(!inbox.release(7));
  await using open = await openInbox(dir.path());
  assertEquals(ids(await open.take(9, NEVER)), [7]);
});

/** The process fails twice while all of these run. */
async function failTwice(
  { start, fail }: ReturnType<typeof mortal>,
  ...ids: number[]
): Promise<void> {
  const first = await start();
  await first.append(tiny(...ids), NEVER);
  await first.take(9, NEVER);
  await fail();
  await (await start()).take(9, NEVER);
  await fail();
}

/** Makes the update 1 a suspect, with 2 behind it. */
async function killTwice(
  { start, die }: ReturnType<typeof mortal>,
): Promise<void> {
  const first = await start();
  await first.append(tiny(1), NEVER);
  await first.take(1, NEVER);
  await first.append(tiny(2), NEVER);
  await die();
  await (await start()).take(1, NEVER);
  await die();
}

/** An inbox in a process that dies again and again. */
function mortal(
  dir: ReturnType<typeof tempDir>,
  options?: SqliteInboxOptions,
) {
  let n = 0;
  let inbox: Awaited<ReturnType<typeof openInbox>>;
  async function die() {
    crash(dir.path(`${n}`), dir.path(`${++n}`));
    await inbox.close();
  }
  return {
    start: async () => inbox = await openInbox(dir.path(`${n}`), options),
    die,
    async fail() {
      failProcess();
      await die();
    },
  };
}

for (const [maxAttempts, deaths] of [[5, 5], [3, 3], [2, 2], [1, 2]]) {
  Deno.test(`with ${maxAttempts} attempts, an update that fails the process is set aside after ${deaths}`, async () => {
    using dir = tempDir();
    const life = mortal(dir, { maxAttempts });
    const first = await life.start();
    await first.append(tiny(1, 2, 3), NEVER);
    assertEquals(ids(await first.take(9, NEVER)), [1, 2, 3]);
    await life.fail();
    for (let i = 2; i < deaths; i++) {
      const inbox = await life.start();
      assertEquals(ids(await inbox.take(9, NEVER)), [1, 2, 3]);
      await life.fail();
    }
    const last = await life.start();
    const [innocent] = await last.take(9, NEVER);
    assertEquals(innocent.update_id, 1);
    last.settle(innocent);
    assertEquals(ids(await last.take(9, NEVER)), [2]);
    await life.fail();
    await using inbox = await life.start();
    assertEquals(inbox.quarantined(), [{ update: { update_id: 2 }, deaths }]);
    assertEquals(ids(await inbox.take(9, NEVER)), [3]);
  });
}

Deno.test("a failure that the process lives through is forgotten", async () => {
  using time = new FakeTime();
  using dir = tempDir();
  const { start, die } = mortal(dir);
  await (await start()).append(tiny(1), NEVER);
  await die();
  for (let deaths = 0; deaths < 5; deaths++) {
    const inbox = await start();
    assertEquals(inbox.quarantined(), []);
    assertEquals(ids(await inbox.take(9, NEVER)), [1]);
    failProcess();
    await time.tickAsync(20);
    await die();
  }
});

Deno.test("failures for which an update was set aside count for no other", async () => {
  using dir = tempDir();
  const life = mortal(dir);
  const { start, fail } = life;
  await failTwice(life, 1, 2);
  assertEquals(ids(await (await start()).take(9, NEVER)), [1]);
  await fail();
  for (let deaths = 0; deaths < 3; deaths++) {
    const inbox = await start();
    assertEquals(ids(inbox.quarantined().map(({ update }) => update)), [1]);
    assertEquals(ids(await inbox.take(9, NEVER)), [2]);
    await fail();
  }
  await using inbox = await start();
  assertEquals(ids(inbox.quarantined().map(({ update }) => update)), [1, 2]);
});

Deno.test("a suspect beside which another one goes on is set aside only after three such deaths in a row, and the other one is not", async () => {
  using time = new FakeTime();
  using dir = tempDir();
  const life = mortal(dir);
  const { start, fail } = life;
  await failTwice(life, 1, 2);
  for (let further = 0; further < 3; further++) {
    const inbox = await start();
    assertEquals(inbox.quarantined(), []);
    assertEquals(ids(await inbox.take(9, NEVER)), [1]);
    const next = inbox.take(9, NEVER);
    await time.tickAsync(5000 * 2 ** further);
    assertEquals(ids(await next), [2]);
    await fail();
  }
  await using last = await start();
  assertEquals(ids(last.quarantined().map(({ update }) => update)), [2]);
  assertEquals(ids(await last.take(9, NEVER)), [1]);
});

Deno.test("in a process with several inboxes, one suspect at a time runs by itself", async () => {
  using dirA = tempDir();
  using dirB = tempDir();
  const a = mortal(dirA);
  const b = mortal(dirB);
  const start = () => Promise.all([a.start(), b.start()]);
  const fail = async () => {
    failProcess();
    await b.die();
    await a.die();
  };
  const inboxes = await start();
  await inboxes[0].append(tiny(1, 2, 3), NEVER);
  await inboxes[1].append(tiny(1, 2), NEVER);
  for (const inbox of inboxes) await inbox.take(9, NEVER);
  await fail();
  for (const inbox of await start()) await inbox.take(9, NEVER);
  await fail();
  {
    const [inboxA, inboxB] = await start();
    const [innocentA] = await inboxA.take(9, NEVER);
    const taken = inboxB.take(9, NEVER);
    const poisoned = inboxA.take(9, NEVER);
    inboxA.settle(innocentA);
    const [innocentB] = await taken;
    inboxB.settle(innocentB);
    assertEquals(ids(await poisoned), [2]);
    let isTaken = false;
    inboxB.take(9, NEVER).then(() => isTaken = true);
    await fail();
    assert(!isTaken);
  }
  const [inboxA, inboxB] = await start();
  assertEquals(inboxA.quarantined().map(({ update }) => update), tiny(2));
  assertEquals(inboxB.quarantined(), []);
  assertEquals(ids(await inboxB.take(9, NEVER)), [2]);
  const next = inboxA.take(9, NEVER);
  await inboxB.close();
  assertEquals(ids(await next), [3]);
  await inboxA.close();
});

Deno.test("a suspect that does not end holds up the others for a while, and later deaths are not put down to it", async () => {
  using time = new FakeTime();
  using dir = tempDir();
  const life = mortal(dir);
  const { start, die } = life;
  await killTwice(life);
  for (let deaths = 2; deaths < 11; deaths++) {
    const inbox = await start();
    assertEquals(inbox.quarantined(), []);
    assertEquals(ids(await inbox.take(9, NEVER)), [1]);
    const event = inbox.events.at(-1)!;
    assert(event.type === "inbox");
    assertStringIncludes(event.message, `the process died ${deaths} times`);
    let others: Tiny[] = [];
    const taken = inbox.take(9, NEVER).then((updates) => others = updates);
    await time.tickAsync(5000 * 2 ** Math.min(6, deaths - 2) - 1);
    assertEquals(others, []);
    await time.tickAsync(1);
    await taken;
    assertEquals(others, tiny(2));
    inbox.running!(others[0], false);
    await time.tickAsync(20);
    await die();
  }
});

Deno.test("deaths before a life that went well make no difference", async () => {
  using time = new FakeTime();
  using dir = tempDir();
  const { start, die } = mortal(dir);
  const settleAll = async (inbox: Awaited<ReturnType<typeof start>>) => {
    for (const update of await inbox.take(99, NEVER)) inbox.settle(update);
  };
  const first = await start();
  await first.append(tiny(100), NEVER);
  for (let id = 1; id < 9; id++) {
    const inbox = id === 1 ? first : await start();
    await settleAll(inbox);
    await inbox.append(tiny(id), NEVER);
    await inbox.take(1, NEVER);
    await inbox.append(tiny(id + 100), NEVER);
    await die();
  }
  const long = await start();
  await settleAll(long);
  await time.tickAsync(60_001);
  await long.append(tiny(50), NEVER);
  await long.take(1, NEVER);
  await long.append(tiny(51), NEVER);
  await die();
  let deaths = 1;
  let inbox = await start();
  while (inbox.quarantined().length === 0 && deaths < 99) {
    assertEquals((await inbox.take(1, NEVER))[0].update_id, 50);
    await die();
    deaths++;
    inbox = await start();
  }
  await inbox.close();
  assertEquals(deaths, 5);
});

Deno.test("a death of something else ends the row of a suspect, and takes one death more", async () => {
  using time = new FakeTime();
  using dir = tempDir();
  const life = mortal(dir);
  const { start, die } = life;
  await killTwice(life);
  const runsAtDeath = [1, 1, 2, 1, 1, 1, 1];
  for (const [n, id] of runsAtDeath.entries()) {
    const inbox = await start();
    assertEquals(inbox.quarantined(), []);
    assertEquals((await inbox.take(1, NEVER))[0].update_id, 1);
    if (id === 2) {
      await time.tickAsync(5000 * 2 ** n);
      inbox.running!(tiny(1)[0], false);
      assertEquals(ids(await inbox.take(9, NEVER)), [2]);
    }
    await die();
  }
  await using inbox = await start();
  const [{ update, deaths }] = inbox.quarantined();
  assertEquals([update, deaths], [tiny(1)[0], 8]);
});

Deno.test("nothing is left in the file of suspects that ended well", async () => {
  using dir = tempDir();
  const life = mortal(dir);
  await failTwice(life, 1, 2);
  const inbox = await life.start();
  for (const _ of [1, 2]) inbox.settle((await inbox.take(9, NEVER))[0]);
  await inbox.close();
  const db = new DatabaseSync(dir.path("2"));
  const suspects = db.prepare("SELECT * FROM suspects").all();
  db.close();
  assertEquals(suspects, []);
});

Deno.test("handlers that change their updates change nothing that is stored", async () => {
  using dir = tempDir();
  await using inbox = await openInbox(dir.path(), { tombstones: 0 });
  await inbox.append([{ update_id: 1, text: "as sent" }, ...tiny(2, 3)], NEVER);
  const taken = await inbox.take(9, NEVER);
  Object.assign(taken[0], { text: "changed", self: taken[0], big: 1n });
  // Makes it forget ends, and so write the batch anew.
  inbox.settle(taken[1]);
  await inbox.append(tiny(4), NEVER);
  inbox.settle(taken[2]);
  await inbox.append(tiny(5), NEVER);
  await inbox.append(tiny(6), NEVER);
  await using next = await openInbox(crash(dir.path(), dir.path("b")));
  assertEquals(await next.take(9, NEVER), [
    { update_id: 1, text: "as sent" },
    ...tiny(4, 5, 6),
  ]);
});

Deno.test("deaths while an update is parked, waits or is handed out by no run do not count", async () => {
  using dir = tempDir();
  const life = lives(dir);
  await using first = await life.first();
  await first.append(tiny(1, 2, 3), NEVER);
  for (let i = 0; i < 6; i++) {
    await using inbox = await life.next();
    const taken = await inbox.take(2, NEVER);
    assertEquals(ids(taken), [1, 2]);
    inbox.running!(taken[0], false);
    inbox.running!(taken[1], false);
    await sleep(40);
    await using _other = await life.next();
  }
  await using inbox = await life.next();
  assertEquals(inbox.quarantined(), []);
  assertEquals(ids(await inbox.take(9, NEVER)), [1, 2, 3]);
});

Deno.test("a stop that gives updates up is no death", async () => {
  using dir = tempDir();
  for (let i = 0; i < 6; i++) {
    await using inbox = await openInbox(dir.path());
    await inbox.append(tiny(1, 2), NEVER);
    assertEquals(ids(await inbox.take(9, NEVER)), [1, 2]);
  }
});

Deno.test("an inbox that is opened again knows nothing of what ran before", async () => {
  using dir = tempDir();
  await using inbox = await openInbox(dir.path());
  const open = () => inbox.open({ botId: 1, signal: NEVER, emit() {} });
  await inbox.append(tiny(1, 2), NEVER);
  await inbox.take(9, NEVER);
  await assertRejects(open, Error, "it is open already");
  await inbox.close();
  await open();
  assertEquals(ids(await inbox.take(1, NEVER)), [1]);
  const db = new DatabaseSync(crash(dir.path(), dir.path("b")));
  const [{ running }] = db.prepare("SELECT running FROM bot").all();
  db.close();
  assertEquals(running, "[1]");
});

// Through the runner.

Deno.test("a run with a file handles everything once across stops", async () => {
  using dir = tempDir();
  await using server = await startServer();
  const inbox = createSqliteInbox<Update>(dir.path());
  const release = new Deferred();
  const seen: number[] = [];
  const handle = runBot(server, async (ctx) => {
    seen.push(ctx.update.update_id);
    await release.promise;
  }, { inbox, sink: { concurrency: 3 } });
  pushTexts(server, 10);
  await until(() => seen.length === 3);
  const stopped = handle.stop();
  release.resolve();
  await stopped;
  assertEquals(seen, [1, 2, 3]);
  assertEquals(server.unconfirmed(), []);
  handle.start();
  await until(() => seen.length === 10);
  await handle.stop();
  assertEquals(seen, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  await using left = await openInbox(dir.path(), {}, 123456);
  assertEquals(left.stats!().unfinished, 0);
});

Deno.test("updates that failed or timed out have finished, those that a stop gave up have not", async () => {
  using dir = tempDir();
  await using server = await startServer();
  const path = dir.path();
  const told: string[] = [];
  const release = new Deferred();
  const bot = createBot(server);
  bot.on("message:text", async (ctx) => {
    if (ctx.msg.text === "fails") throw new Error("no");
    if (ctx.msg.text !== "ends") await release.promise;
  });
  bot.catch(({ ctx }) => void told.push(`failed ${ctx.msg?.text}`));
  const inbox = createSqliteInbox<Update>(path);
  const handle = run(bot, {
    inbox,
    sink: {
      timeout: {
        milliseconds: 100,
        handler: (update) =>
          void told.push(`timed out ${update.message?.text}`),
      },
    },
  });
  for (const text of ["fails", "hangs", "ends"]) server.pushText(text);
  await until(() => told.length === 2);
  await until(() => inbox.stats!().unfinished === 0);
  const given = server.pushText("given up");
  await until(() => handle.stats().running === 1);
  const { unfinished } = await handle.stop({ timeout: 0 });
  release.resolve();
  assertEquals(unfinished, [given]);
  assertEquals(told, ["failed fails", "timed out hangs"]);
  await using left = await openInbox(path, {}, 123456);
  assertEquals(ids(await left.take(9, NEVER)), [given.update_id]);
});

Deno.test("what a source without confirm has given is stored at a stop, also in a full inbox", async () => {
  using dir = tempDir();
  const inbox = createSqliteInbox<Tiny>(dir.path(), { lookahead: 1 });
  let id = 0;
  const supply = async () => {
    await sleep(1);
    return tiny(++id);
  };
  const seen: number[] = [];
  const sink = createConcurrentSink<Tiny>(
    {
      async consume({ update_id }) {
        await sleep(5);
        seen.push(update_id);
      },
    },
    () => Promise.resolve(),
    { concurrency: 1 },
  );
  const handle = createRunner(createSource({ supply }), sink, {
    inbox,
    botId: 1,
  });
  handle.start();
  await until(() => id === 5);
  await handle.stop();
  await using left = await openInbox(dir.path());
  const rest = left.stats!().buffered === 0 ? [] : await left.take(9, NEVER);
  assertEquals([...seen, ...ids(rest)], [1, 2, 3, 4, 5]);
});

/** What can happen to a file that is open, and what is said about it. */
const LOSSES: [
  what: string,
  cause: string,
  change: (path: string) => (() => void) | void,
][] = [
  ["disk that is full", "database or disk is full", () => {
    const { exec } = DatabaseSync.prototype;
    DatabaseSync.prototype.exec = function (sql) {
      if (sql === "COMMIT") throw new Error("database or disk is full");
      exec.call(this, sql);
    };
    return () => void (DatabaseSync.prototype.exec = exec);
  }],
  [
    "file that is removed",
    "it has been removed, moved, or replaced",
    (path) => {
      Deno.removeSync(path);
    },
  ],
  ["file that is moved", "it has been removed, moved, or replaced", (path) => {
    Deno.renameSync(path, `${path}.old`);
  }],
  [
    "file that is replaced",
    "it has been removed, moved, or replaced",
    (path) => {
      Deno.copyFileSync(path, `${path}.copy`);
      Deno.renameSync(`${path}.copy`, path);
    },
  ],
];

for (const [what, cause, change] of LOSSES) {
  Deno.test(`a ${what} stops fetching, and what is stored still runs`, async () => {
    using dir = tempDir();
    await using server = await startServer();
    const inbox = createSqliteInbox<Update>(dir.path());
    const release = new Deferred();
    const seen: number[] = [];
    const handle = runBot(server, async (ctx) => {
      seen.push(ctx.update.update_id);
      await release.promise;
    }, { inbox, runner: { silent: true }, sink: { concurrency: 2 } });
    const stored = pushTexts(server, 10).map((update) => update.update_id);
    await until(() => seen.length === 2);
    const task = assertRejects(
      () => handle.task()!,
      Error,
      `Cannot write to inbox: ${dir.path()} must be writable, with space left on the disk: ${cause}`,
    );
    const restore = change(dir.path());
    try {
      const more = pushTexts(server, 3).map((update) => update.update_id);
      await until(() => !handle.isRunning());
      release.resolve();
      await task;
      assertEquals(seen, stored);
      assertEquals(
        server.unconfirmed().map((update) => update.update_id),
        more,
      );
    } finally {
      restore?.();
    }
  });
}
