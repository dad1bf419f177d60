import { assert, assertEquals } from "@std/assert";
import type { Update } from "../deps.ts";
import {
  createConcurrentSink,
  createMemoryInbox,
  createRunner,
  createSource,
  type RunnerEvent,
  type UpdateInbox,
} from "../mod.ts";
import { wait } from "../inbox.ts";
import {
  Deferred,
  pushTexts,
  runBot,
  sleep,
  startServer,
  until,
} from "./_bot.ts";

/** What several processes share: who may fetch, and what has been stored. */
class Shared {
  readonly stored: number[] = [];
  readonly stayed: number[][] = [];
  #leader: SharedInbox | undefined;
  readonly waiting = new Set<() => void>();

  get leader(): SharedInbox | undefined {
    return this.#leader;
  }

  /** Makes one of them lead, or none. */
  appoint(inbox: SharedInbox | undefined): void {
    const former = this.#leader;
    this.#leader = inbox;
    former?.term.abort(new DOMException("Leads no more", "AbortError"));
    if (inbox) inbox.term = new AbortController();
    for (const wake of [...this.waiting]) wake();
  }
}

/** The memory inbox as one of many that share what was stored. */
class SharedInbox implements UpdateInbox<Update> {
  readonly durable = true;
  term = new AbortController();
  /** Holds up what is about to be stored. */
  gate: Promise<void> = Promise.resolve();
  appending = 0;
  readonly #shared: Shared;
  readonly #inner = createMemoryInbox<Update>();

  constructor(shared: Shared) {
    this.#shared = shared;
  }

  open = () => this.#inner.open({} as never);
  settle = () => {};
  close = () => this.#inner.close();

  async lead(signal: AbortSignal): Promise<AbortSignal> {
    while (this.#shared.leader !== this) {
      await wait(signal, (wake) => this.#shared.waiting.add(wake));
    }
    return this.term.signal;
  }

  resign(): void {
    if (this.#shared.leader === this) this.#shared.appoint(undefined);
  }

  async append(updates: Update[], signal: AbortSignal): Promise<void> {
    this.appending++;
    await Promise.race([this.gate, wait(signal, () => {})]);
    signal.throwIfAborted();
    assert(this.#shared.leader === this, "appended without the lead");
    const { stored } = this.#shared;
    const fresh = updates.filter((update) =>
      !stored.includes(update.update_id)
    );
    for (const { update_id } of fresh) stored.push(update_id);
    await this.#inner.append(fresh, signal);
  }

  take(limit: number, signal: AbortSignal): Promise<Update[]> {
    return this.#inner.take(limit, signal);
  }

  stats() {
    return this.#inner.stats!();
  }

  giveBack(updates: Update[]): void {
    this.#shared.stayed.push(updates.map((update) => update.update_id));
  }
}

function ids(updates: Update[]): number[] {
  return updates.map((update) => update.update_id);
}

function createShared() {
  const shared = new Shared();
  return { shared, a: new SharedInbox(shared), b: new SharedInbox(shared) };
}

Deno.test("a run that loses the lead aborts its poll, and the next leader goes on", async () => {
  await using server = await startServer();
  const { shared, a, b } = createShared();
  const events: RunnerEvent[] = [];
  const onEvent = (event: RunnerEvent) => void events.push(event);
  await using first = runBot(server, () => {}, { inbox: a, onEvent });
  await using second = runBot(server, () => {}, { inbox: b, onEvent });
  await sleep(20);
  assertEquals(server.stats().polls, 0);
  shared.appoint(a);
  const old = ids(pushTexts(server, 3));
  await until(() => first.stats().handled === 3);
  await server.waitFor(() => server.stats().unconfirmed === 0);
  shared.appoint(b);
  const fresh = ids(pushTexts(server, 3));
  await until(() => second.stats().handled === 3);
  assertEquals(shared.stored, [...old, ...fresh]);
  assertEquals(first.stats().state, "polling");
  // Had the first one gone on, it would have had a conflict with the second.
  assertEquals(events.filter(({ type }) => type === "poll-failed"), []);
});

Deno.test("what was fetched and not stored when the lead was lost is fetched by the next leader", async () => {
  await using server = await startServer();
  const { shared, a, b } = createShared();
  const held = new Deferred();
  a.gate = held.promise;
  await using first = runBot(server, () => {}, { inbox: a });
  await using second = runBot(server, () => {}, { inbox: b });
  shared.appoint(a);
  const pushed = ids(pushTexts(server, 3));
  await until(() => a.appending === 1);
  shared.appoint(b);
  await until(() => second.stats().handled === 3);
  assertEquals(shared.stored, pushed);
  assertEquals(first.stats().handled, 0);
  held.resolve();
});

Deno.test("what was fetched and not stored when the lead was lost is fetched again by the same process", async () => {
  await using server = await startServer();
  const { shared, a } = createShared();
  const held = new Deferred();
  a.gate = held.promise;
  await using handle = runBot(server, () => {}, { inbox: a });
  shared.appoint(a);
  const pushed = ids(pushTexts(server, 3));
  await until(() => a.appending === 1);
  shared.appoint(undefined);
  a.gate = Promise.resolve();
  await sleep(10);
  assertEquals(ids(server.unconfirmed()), pushed);
  shared.appoint(a);
  await until(() => handle.stats().handled === 3);
  assertEquals(shared.stored, pushed);
  held.resolve();
});

Deno.test("a stop after the lead was lost confirms nothing", async () => {
  await using server = await startServer();
  const { shared, a } = createShared();
  a.gate = new Deferred().promise;
  const handle = runBot(server, () => {}, { inbox: a });
  shared.appoint(a);
  const pushed = ids(pushTexts(server, 3));
  await until(() => a.appending === 1);
  shared.appoint(undefined);
  await sleep(10);
  const { polls } = server.stats();
  await handle.stop();
  assertEquals(ids(server.unconfirmed()), pushed);
  assertEquals(server.stats().polls, polls);
});

Deno.test("a leader that returns goes on where the other one stopped, whatever the ids", async () => {
  await using server = await startServer();
  const { shared, a, b } = createShared();
  await using _first = runBot(server, () => {}, { inbox: a });
  await using _second = runBot(server, () => {}, { inbox: b });
  const expected: number[] = [];
  const expectStored = async () => {
    await until(() => shared.stored.length === expected.length);
    await server.waitFor(() => server.stats().unconfirmed === 0);
  };
  const push = (update_id: number) => {
    server.push({ update_id, ...text() });
    expected.push(update_id);
  };
  shared.appoint(a);
  push(1000);
  await expectStored();
  shared.appoint(b);
  push(1010);
  push(1020);
  await expectStored();
  shared.appoint(a);
  push(1024);
  await expectStored();
  // Telegram starts a new sequence of ids while the other one leads.
  shared.appoint(b);
  push(3);
  await expectStored();
  // The offset from before would skip this one.
  shared.appoint(undefined);
  await sleep(10);
  push(1016);
  shared.appoint(a);
  await expectStored();
  assertEquals(shared.stored, expected);
});

Deno.test("a leader that stops confirms and resigns while handlers still run", async () => {
  await using server = await startServer();
  const { shared, a, b } = createShared();
  const running = new Deferred();
  const first = runBot(server, () => running.promise, { inbox: a });
  shared.appoint(a);
  pushTexts(server, 2);
  await until(() => first.stats().running === 2);
  const stop = first.stop();
  await until(() => shared.leader === undefined);
  assertEquals(server.unconfirmed(), []);
  assertEquals(first.stats().running, 2);
  await using second = runBot(server, () => {}, { inbox: b });
  shared.appoint(b);
  pushTexts(server, 1);
  await until(() => second.stats().handled === 1);
  running.resolve();
  await stop;
  assertEquals(first.stats().handled, 2);
});

Deno.test("what was taken and not started at a stop is given back at once", async () => {
  await using server = await startServer();
  const { shared, a } = createShared();
  const running = new Deferred();
  // More than was asked for, so that some of it must wait for room.
  const take = a.take;
  a.take = (_, signal) => take.call(a, 5, signal);
  const handle = runBot(server, () => running.promise, {
    inbox: a,
    sink: { concurrency: 2 },
  });
  shared.appoint(a);
  const pushed = ids(pushTexts(server, 5));
  await until(() => handle.stats().running === 2);
  const stop = handle.stop();
  running.resolve();
  await stop;
  assertEquals(shared.stayed, [pushed.slice(2)]);
  assertEquals(handle.stats().handled, 2);
});

Deno.test("what a source cannot supply again is stored once the lead is back", async () => {
  const { shared, a } = createShared();
  const held = new Deferred();
  a.gate = held.promise;
  let supplied = 0;
  const source = createSource<Update>({
    supply: (_, signal) =>
      supplied++ === 0
        ? Promise.resolve([{ update_id: 7, ...text() }])
        : wait(signal, () => {}).then(() => []),
  });
  const sink = createConcurrentSink<Update>(
    { consume: () => Promise.resolve() },
    () => Promise.resolve(),
  );
  const handle = createRunner(source, sink, { inbox: a });
  handle.start();
  shared.appoint(a);
  await until(() => a.appending === 1);
  shared.appoint(undefined);
  held.resolve();
  await sleep(10);
  assertEquals(shared.stored, []);
  shared.appoint(a);
  await until(() => handle.stats().handled === 1);
  await handle.stop();
  assertEquals(shared.stored, [7]);
});

Deno.test("what a source cannot supply again is reported if the lead does not come back", async () => {
  const { shared, a } = createShared();
  a.gate = new Deferred().promise;
  const update = { update_id: 7, ...text() };
  const source = createSource<Update>({
    supply: () => Promise.resolve([update]),
  });
  const sink = createConcurrentSink<Update>(
    { consume: () => Promise.resolve() },
    () => Promise.resolve(),
  );
  const handle = createRunner(source, sink, { inbox: a });
  handle.start();
  shared.appoint(a);
  await until(() => a.appending === 1);
  shared.appoint(undefined);
  await sleep(10);
  const { unstarted } = await handle.stop({ timeout: 1000 });
  assertEquals(unstarted, [update]);
});

Deno.test("a run that fails leaves what is stored to the others", async () => {
  await using server = await startServer();
  const { shared, a } = createShared();
  const running = new Deferred();
  const handle = runBot(server, () => running.promise, {
    inbox: a,
    sink: { concurrency: 2 },
    runner: { silent: true },
  });
  shared.appoint(a);
  pushTexts(server, 5);
  await until(() => handle.stats().running === 2);
  const task = handle.task()!;
  server.fail({ status: 401 });
  pushTexts(server, 1);
  await until(() => !handle.isRunning());
  running.resolve();
  const failed = await task.then(() => false, () => true);
  assert(failed);
  assertEquals(handle.stats().handled, 2);
});

function text(): Omit<Update, "update_id"> {
  const chat = { id: 1, type: "private" as const, first_name: "Ada" };
  return {
    message: {
      message_id: 1,
      date: 0,
      chat,
      from: { ...chat, is_bot: false },
      text: "",
    },
  } as Omit<Update, "update_id">;
}
