import { assert, assertEquals } from "@std/assert";
import type { Update } from "../deps.ts";
import { createSqliteInbox } from "../sqlite_inbox.ts";
import { type BotApiServer, startBotApiServer } from "../testing.ts";
import { createBot, sleep, startServer } from "./_bot.ts";

const CONCURRENCY = 200;
/** The flush interval, and some room for a busy machine. */
const FLUSH_MS = 20 + 40;

/** One life of the child, from its own records. */
interface Life {
  starts: { id: number; at: number }[];
  ends: { id: number; at: number }[];
}

/** Starts, watches and kills the child. */
class Nursery {
  readonly dir = Deno.makeTempDirSync();
  readonly inbox: string;
  readonly lives: Life[] = [];
  #child: Deno.ChildProcess | undefined;

  constructor(
    readonly server: BotApiServer,
    inbox?: "memory",
    readonly webhookPort?: number,
  ) {
    this.inbox = inbox ?? `${this.dir}/updates.db`;
  }

  start(): void {
    this.#child = new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "-A", "--no-check", "--quiet"],
        new URL("crash_child.ts", import.meta.url).href,
        ...[this.server.url, this.server.token, this.#log, this.inbox],
        ...(this.webhookPort === undefined ? [] : [`${this.webhookPort}`]),
      ],
      stdout: "null",
    }).spawn();
  }

  get #log(): string {
    return `${this.dir}/${this.lives.length}.log`;
  }

  /** What the current life has recorded so far. */
  read(): Life {
    const life: Life = { starts: [], ends: [] };
    let text = "";
    try {
      text = Deno.readTextFileSync(this.#log);
    } catch {
      // It has not got that far.
    }
    for (const line of text.split("\n")) {
      const [what, id, at] = line.split(" ");
      if (what === "start") life.starts.push({ id: +id, at: +at });
      if (what === "end") life.ends.push({ id: +id, at: +at });
    }
    return life;
  }

  /** Waits for the child to die, by our hand or by its own. */
  async end(signal?: Deno.Signal): Promise<Life> {
    if (signal) this.#child!.kill(signal);
    await this.#child!.status;
    const life = this.read();
    this.lives.push(life);
    return life;
  }

  /** Whether the child ended by itself within some time. */
  async died(ms: number): Promise<boolean> {
    let timer!: ReturnType<typeof setTimeout>;
    const late = new Promise<false>((resolve) => {
      timer = setTimeout(() => resolve(false), ms);
    });
    const died = await Promise.race([
      this.#child!.status.then(() => true),
      late,
    ]);
    clearTimeout(timer);
    return died;
  }

  ended(): Set<number> {
    return new Set(
      [...this.lives, this.read()].flatMap(({ ends }) =>
        ends.map(({ id }) => id)
      ),
    );
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.dir, { recursive: true });
  }
}

function running({ starts, ends }: Life): Set<number> {
  const ids = new Set(starts.map(({ id }) => id));
  for (const { id } of ends) ids.delete(id);
  return ids;
}

async function waitUntil(condition: () => boolean): Promise<void> {
  for (const until = Date.now() + 15_000; !condition();) {
    assert(Date.now() < until, `Waited 30 s in vain for ${condition}`);
    await sleep(2);
  }
}

const CHATS = 500;

/** Updates whose handlers take 0 to 60 ms. */
function push(server: BotApiServer, count: number): Update[] {
  return Array.from({ length: count }, () => {
    const chatId = 1 + Math.floor(Math.random() * CHATS);
    const text = `wait ${Math.floor(Math.random() * 60)}`;
    return server.pushText(text, { userId: chatId, chatId });
  });
}

/** Kills the child at random moments at which updates are running. */
async function killOften(
  nursery: Nursery,
  times: number,
  pushed: Update[],
): Promise<void> {
  const { server } = nursery;
  for (let kills = 0; kills < times;) {
    // There is always something left to do.
    if (server.unconfirmed().length < 1000) pushed.push(...push(server, 1000));
    nursery.start();
    await waitUntil(() => nursery.read().starts.length > 0);
    await sleep(20 + Math.random() * 230);
    const life = await nursery.end("SIGKILL");
    if (running(life).size > 0) kills++;
  }
}

async function drain(nursery: Nursery, done: () => boolean): Promise<void> {
  nursery.start();
  try {
    await waitUntil(done);
  } catch (error) {
    await nursery.end("SIGKILL");
    console.log(
      "Left in the inbox:",
      await inspect(nursery.inbox),
      nursery.ended().size,
      nursery.server.stats(),
    );
    throw error;
  }
  await nursery.end("SIGTERM");
}

async function inspect(path: string) {
  const inbox = createSqliteInbox<Update>(path);
  const { signal } = new AbortController();
  await inbox.open({ botId: 123456, signal, emit() {} });
  const { unfinished } = inbox.stats!();
  const setAside = inbox.quarantined().map(({ update }) => update.update_id);
  await inbox.close();
  return { unfinished, setAside };
}

async function killAndCheck(nursery: Nursery): Promise<void> {
  const { server } = nursery;
  const pushed = push(server, 3000);
  await killOften(nursery, 20, pushed);
  await drain(nursery, () => nursery.ended().size === pushed.length);

  // Every update was handled.
  assertEquals(nursery.ended(), new Set(pushed.map((u) => u.update_id)));
  assertEquals(await inspect(nursery.inbox), { unfinished: 0, setAside: [] });

  // In each chat, they were in order.
  const chats = new Map(pushed.map((u) => [u.update_id, u.message!.chat.id]));
  const seen = new Set<number>();
  const last = new Map<number, number>();
  for (const { id } of nursery.lives.flatMap((life) => life.ends)) {
    if (seen.has(id)) continue;
    seen.add(id);
    const chat = chats.get(id)!;
    assert(id > (last.get(chat) ?? 0), `${id} is out of order in ${chat}`);
    last.set(chat, id);
  }

  // Only what was running or had just finished at a kill ran again.
  let again = 0;
  let most = 0;
  let kills = 0;
  const allowed = new Set<number>();
  const started = new Set<number>();
  for (const life of nursery.lives) {
    const repeated = life.starts.filter(({ id }) => started.has(id));
    for (const { id } of repeated) {
      assert(allowed.has(id), `${id} ran again without a reason`);
    }
    again += repeated.length;
    most = Math.max(most, repeated.length);
    const events = [...life.starts, ...life.ends];
    const end = Math.max(...events.map(({ at }) => at));
    for (const { id } of life.starts) {
      started.add(id);
      allowed.delete(id);
    }
    for (const id of running(life)) allowed.add(id);
    for (const { id, at } of life.ends) {
      if (at < end - FLUSH_MS) continue;
      allowed.add(id);
    }
    assert(running(life).size <= CONCURRENCY);
    if (running(life).size > 0) kills++;
  }
  assert(kills >= 20);
  console.log(
    `${pushed.length} updates, ${kills} kills while some were running: ${again} handled again, at most ${most} after a kill`,
  );
}

Deno.test("killed 20 times, a bot with an SQLite inbox handles everything, each chat in order", async () => {
  await using server = await startServer();
  using nursery = new Nursery(server);
  await killAndCheck(nursery);
});

Deno.test("killed 20 times, a bot on a webhook does so, too", async () => {
  await using server = await startBotApiServer({
    webhookRetryMilliseconds: 10,
  });
  const port = freePort();
  using nursery = new Nursery(server, undefined, port);
  await createBot(server).api.setWebhook(`http://127.0.0.1:${port}/`);
  await killAndCheck(nursery);
});

/** The process on this port dies and comes back, so it cannot choose one. */
function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

Deno.test("killed as often, a bot with the memory inbox loses updates", async () => {
  await using server = await startServer();
  using nursery = new Nursery(server, "memory");
  const pushed = push(server, 3000);
  await killOften(nursery, 5, pushed);
  await drain(nursery, () => server.unconfirmed().length === 0);
  const lost = pushed.length - nursery.ended().size;
  console.log(`${pushed.length} updates, 5 kills: ${lost} lost`);
  assert(lost > 0);
});

/** A kill can come from outside, so it takes more of them. */
const POISONS: [poison: string, leastDeaths: number, mostDeaths: number][] = [
  ["kill", 5, 6],
  ["late-kill 5", 5, 6],
  ["exit", 3, 3],
  ["late-exit 5", 3, 3],
  ["throw", 3, 3],
  ["reject", 3, 3],
];

for (const [poison, least, most] of POISONS) {
  Deno.test(`${poison}: an update that ends the process is set aside after ${most} deaths, and all others are handled`, async () => {
    await using server = await startServer();
    using nursery = new Nursery(server);
    const healthy: number[] = [];
    let bad = 0;
    for (let i = 0; i < 200; i++) {
      const chatId = i + 1;
      const text = i === 70 ? poison : `wait ${Math.floor(Math.random() * 50)}`;
      const { update_id } = server.pushText(text, { userId: chatId, chatId });
      if (i === 70) bad = update_id;
      else healthy.push(update_id);
    }
    let deaths = 0;
    for (;; deaths++) {
      assert(deaths < 10, "It is not set aside");
      nursery.start();
      let died = false;
      const done = () => nursery.ended().size === healthy.length;
      while (!(died = await nursery.died(50)) && !done());
      if (!died) break;
      await nursery.end();
    }
    await nursery.end("SIGTERM");
    assertEquals([...nursery.ended()].sort((a, b) => a - b), healthy);
    assertEquals(await inspect(nursery.inbox), {
      unfinished: 0,
      setAside: [bad],
    });
    assert(least <= deaths && deaths <= most, `It took ${deaths} deaths`);
  });
}
