import {
  assert,
  assertEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { createServer, request as httpRequest } from "node:http";
import type { AddressInfo } from "node:net";
import type { Bot } from "grammy";
import {
  abortSignal,
  createConcurrentSink,
  createMemoryInbox,
  createRunner,
  createWebhookSource,
  run,
  type RunnerEvent,
  type RunOptions,
  sequentialize,
  type UpdateInbox,
  type WebhookSource,
} from "../mod.ts";
import { createSqliteInbox } from "../sqlite_inbox.ts";
import { type BotApiServer, startBotApiServer } from "../testing.ts";
import { nextTurn } from "../_time.ts";
import type { Update } from "../deps.ts";
import { createBot, Deferred, pushTexts, sleep, until } from "./_bot.ts";

const SECRET = "s3cret-Token_";
const SECRET_HEADER = "x-telegram-bot-api-secret-token";

/** A request as Telegram makes it. */
function requestOf(
  body: BodyInit | null,
  init: RequestInit = {},
): Request {
  return new Request("http://localhost/", {
    method: "POST",
    headers: { "content-type": "application/json", [SECRET_HEADER]: SECRET },
    body,
    ...init,
  });
}

/** Sends updates with these ids at the same time; resolves with the statuses. */
function send(
  source: WebhookSource<Update>,
  ...ids: number[]
): Promise<number[]> {
  return Promise.all(ids.map(async (update_id) => {
    const request = requestOf(JSON.stringify({ update_id }));
    return (await source.handler(request)).status;
  }));
}

/** An inbox in memory whose `append` waits to be let through. */
class GatedInbox implements UpdateInbox<Update> {
  readonly batches: number[][] = [];
  gate = new Deferred();
  readonly #inner = createMemoryInbox<Update>();
  readonly durable = false;
  constructor(readonly lookahead?: number) {}
  open = this.#inner.open.bind(this.#inner);
  take = this.#inner.take.bind(this.#inner);
  settle = this.#inner.settle.bind(this.#inner);
  close = this.#inner.close.bind(this.#inner);
  stats = () => this.#inner.stats!();

  async append(updates: Update[], signal: AbortSignal): Promise<void> {
    this.batches.push(updates.map(({ update_id }) => update_id));
    const aborted = new Deferred<void>();
    const abort = () => aborted.resolve();
    signal.addEventListener("abort", abort);
    await Promise.race([this.gate.promise, aborted.promise]);
    signal.removeEventListener("abort", abort);
    await this.#inner.append(updates, signal);
  }

  /** Lets the current batch pass, and holds the next one. */
  pass(): void {
    const { resolve } = this.gate;
    this.gate = new Deferred();
    resolve();
  }
}

/** A runner that remembers what it handled. */
function start(
  source: WebhookSource<Update>,
  inbox?: UpdateInbox<Update>,
  botId?: number,
) {
  const handled: number[] = [];
  const sink = createConcurrentSink<Update>(
    {
      consume(update) {
        handled.push(update.update_id);
        return Promise.resolve();
      },
    },
    () => Promise.resolve(),
  );
  const handle = createRunner(source, sink, { inbox, botId, silent: true });
  handle.start();
  return { handle, handled };
}

/** Waits in real time, also where time is faked. */
async function turnsUntil(condition: () => boolean): Promise<void> {
  for (let i = 0; !condition(); i++) {
    assert(i < 100_000, `Waited in vain for ${condition}`);
    await nextTurn();
  }
}

async function isActive(source: WebhookSource<Update>): Promise<void> {
  await turnsUntil(() => source.isActive());
}

/** Serves a webhook on a free port. */
function serve(
  handler: (request: Request) => Promise<Response>,
): { url: string; close(): Promise<void> } {
  const server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    handler,
  );
  return {
    url: `http://127.0.0.1:${server.addr.port}/`,
    close: () => server.shutdown(),
  };
}

/** A bot on a webhook of the local server. */
async function startOnWebhook(
  build: (bot: Bot) => void,
  options: RunOptions<Update> = {},
  server?: BotApiServer,
) {
  server ??= await startBotApiServer({
    quirks: false,
    webhookRetryMilliseconds: 5,
  });
  const bot = createBot(server);
  build(bot);
  const source = createWebhookSource({ secretToken: SECRET });
  const handle = run(bot, { runner: { silent: true }, source, ...options });
  const webhook = serve(source.handler);
  await bot.api.setWebhook(webhook.url, { secret_token: SECRET });
  return {
    server,
    bot,
    source,
    handle,
    webhook,
    async [Symbol.asyncDispose]() {
      await handle.stop({ timeout: 0 });
      await bot.api.deleteWebhook();
      await webhook.close();
      await server.close();
    },
  };
}

Deno.test("webhook handles updates and answers when they are accepted", async () => {
  await using on = await startOnWebhook((bot) =>
    bot.on("message:text", (ctx) => ctx.reply(`re: ${ctx.msg.text}`))
  );
  on.server.pushText("hello");
  const call = await on.server.waitForCall("sendMessage");
  assertEquals(call.params.text, "re: hello");
  await on.server.waitFor(() => on.server.stats().unconfirmed === 0);
  assertEquals(on.server.polls(), []);
  assertEquals(on.handle.stats().received, 1);
});

Deno.test("handler answers what is no update of Telegram without throwing", async () => {
  const source = createWebhookSource({ secretToken: SECRET });
  const { handle, handled } = start(source);
  await isActive(source);
  const large = "x".repeat(1024 * 1024 + 1);
  const chunks = new ReadableStream({
    start(controller) {
      const bytes = new TextEncoder().encode(large);
      for (let i = 0; i < bytes.length; i += 65536) {
        controller.enqueue(bytes.subarray(i, i + 65536));
      }
      controller.close();
    },
  });
  const broken = new ReadableStream({
    start: (controller) => controller.error(new Error("Connection reset")),
  });
  const used = requestOf('{"update_id":1}');
  await used.text();
  const declared = requestOf("{}");
  declared.headers.set("content-length", "1048577");
  const cases: [number, Request][] = [
    [405, requestOf(null, { method: "GET" })],
    [405, requestOf("{}", { method: "PUT" })],
    [401, requestOf('{"update_id":1}', { headers: {} })],
    [401, requestOf("{}", { headers: { [SECRET_HEADER]: "" } })],
    [401, requestOf("{}", { headers: { [SECRET_HEADER]: SECRET + "x" } })],
    [401, requestOf("{}", { headers: { [SECRET_HEADER]: "x" } })],
    [413, requestOf(large)],
    [413, requestOf(chunks, { duplex: "half" } as RequestInit)],
    [413, declared],
    [400, requestOf(null)],
    [400, requestOf("")],
    [400, requestOf("{")],
    [400, requestOf("null")],
    [400, requestOf("1")],
    [400, requestOf('"update_id"')],
    [400, requestOf("[]")],
    [400, requestOf("{}")],
    [400, requestOf('{"update_id":null}')],
    [400, requestOf('{"update_id":"1"}')],
    [400, requestOf('{"update_id":-1}')],
    [400, requestOf('{"update_id":1.5}')],
    [400, requestOf('{"update_id":1e20}')],
    [400, requestOf(new Uint8Array([0x7b, 0xff, 0x7d]))],
    [400, requestOf(broken, { duplex: "half" } as RequestInit)],
    [400, used],
    [200, requestOf('{"update_id":0}')],
  ];
  const { handler } = source;
  for (const [status, request] of cases) {
    const response = await handler(request);
    assertEquals(response.status, status);
    assertEquals(response.headers.get("allow"), status === 405 ? "POST" : null);
    await response.body?.cancel();
  }
  await handle.stop();
  assertEquals(handled, [0]);
});

Deno.test("without a secret token, whoever knows the URL can send updates", async () => {
  const source = createWebhookSource();
  const { handle, handled } = start(source);
  await isActive(source);
  const body = '{"update_id":1}';
  const request = new Request("http://localhost", { method: "POST", body });
  assertEquals((await source.handler(request)).status, 200);
  await handle.stop();
  assertEquals(handled, [1]);
});

Deno.test("secret tokens that Telegram refuses are refused, and not shown", () => {
  for (const secretToken of ["", "a b", "ä", "x".repeat(257), 1, null, {}]) {
    const error = assertThrows(
      () => createWebhookSource({ secretToken: secretToken as string }),
      TypeError,
    );
    assertStringIncludes(error.message, "secretToken must consist of 1 to 256");
    assert(!error.message.includes("a b"));
  }
});

Deno.test("updates are refused with 503 and Retry-After while the runner is not running", async () => {
  const source = createWebhookSource({ secretToken: SECRET });
  const refused = await source.handler(requestOf('{"update_id":1}'));
  assertEquals(refused.status, 503);
  assertEquals(refused.headers.get("retry-after"), "1");
  const { handle, handled } = start(source);
  await isActive(source);
  assertEquals(await send(source, 1), [200]);
  await handle.stop();
  assert(!source.isActive());
  assertEquals(await send(source, 2), [503]);
  handle.start();
  await isActive(source);
  assertEquals(await send(source, 2, 3), [200, 200]);
  await handle.stop();
  assertEquals(handled, [1, 2, 3]);
});

Deno.test("stop refuses new updates while those it has finish", async () => {
  const source = createWebhookSource({ secretToken: SECRET });
  const release = new Deferred();
  const sink = createConcurrentSink<Update>(
    { consume: () => release.promise },
    () => Promise.resolve(),
  );
  const handle = createRunner(source, sink, { silent: true });
  handle.start();
  await isActive(source);
  assertEquals(await send(source, 1), [200]);
  await turnsUntil(() => handle.size() === 1);
  let stopped = false;
  const stop = handle.stop().then(() => stopped = true);
  assertEquals(await send(source, 2, 1), [503, 200]);
  assert(!stopped);
  release.resolve();
  await stop;
  assertEquals(handle.stats().handled, 1);
});

Deno.test("answer is sent when the update is stored, not before", async () => {
  const source = createWebhookSource({ secretToken: SECRET });
  const inbox = new GatedInbox();
  const { handle, handled } = start(source, inbox);
  await isActive(source);
  let answered = false;
  const sent = send(source, 1).finally(() => answered = true);
  await turnsUntil(() => inbox.batches.length === 1);
  for (let i = 0; i < 100; i++) await nextTurn();
  assert(!answered);
  inbox.pass();
  assertEquals(await sent, [200]);
  await handle.stop();
  assertEquals(handled, [1]);
});

Deno.test("updates that wait together are stored together, in order, as many as the inbox wants", async () => {
  const source = createWebhookSource({ secretToken: SECRET });
  const inbox = new GatedInbox(3);
  const { handle, handled } = start(source, inbox);
  await isActive(source);
  const sent = [send(source, 4)];
  await turnsUntil(() => inbox.batches.length === 1);
  sent.push(send(source, 9, 7, 8, 6, 5));
  for (let i = 0; i < 100; i++) await nextTurn();
  for (const count of [2, 3]) {
    inbox.pass();
    await turnsUntil(() => inbox.batches.length === count);
  }
  inbox.pass();
  assertEquals((await Promise.all(sent)).flat(), Array(6).fill(200));
  assertEquals(inbox.batches, [[4], [5, 6, 7], [8, 9]]);
  await handle.stop();
  assertEquals(handled, [4, 5, 6, 7, 8, 9]);
});

Deno.test("what finds no room within 10 seconds is refused and forgotten", async () => {
  using time = new FakeTime();
  const source = createWebhookSource({ secretToken: SECRET });
  const inbox = new GatedInbox();
  const { handle, handled } = start(source, inbox);
  await isActive(source);
  const storing = send(source, 1);
  await turnsUntil(() => inbox.batches.length === 1);
  const waiting = send(source, 2, 2, 3);
  for (let i = 0; i < 100; i++) await nextTurn();
  time.tick(10_000);
  assertEquals(await storing, [503]);
  assertEquals(await waiting, [503, 503, 503]);
  // The first one comes again while it is stored, and the second one afterwards.
  const again = send(source, 1);
  for (let i = 0; i < 100; i++) await nextTurn();
  inbox.pass();
  assertEquals(await again, [200]);
  const next = send(source, 2);
  await turnsUntil(() => inbox.batches.length === 2);
  inbox.pass();
  assertEquals(await next, [200]);
  assertEquals(inbox.batches, [[1], [2]]);
  await handle.stop();
  assertEquals(handled, [1, 2]);
});

Deno.test("no more than 100 requests are held at a time", async () => {
  const source = createWebhookSource({ secretToken: SECRET });
  const inbox = new GatedInbox();
  const { handle, handled } = start(source, inbox);
  await isActive(source);
  const ids = Array.from({ length: 100 }, (_, i) => i);
  const sent = send(source, ...ids);
  assertEquals(await send(source, 100, 101), [503, 503]);
  while (handled.length < 100) {
    inbox.pass();
    await nextTurn();
  }
  assertEquals(await sent, ids.map(() => 200));
  const next = send(source, 100);
  await turnsUntil(() => inbox.batches.flat().length === 101);
  inbox.pass();
  assertEquals(await next, [200]);
  await handle.stop();
  assertEquals(handled, [...ids, 100]);
});

Deno.test("body that does not arrive is not waited for", async () => {
  using time = new FakeTime();
  const source = createWebhookSource({ secretToken: SECRET });
  const { handle } = start(source);
  await isActive(source);
  const stuck = new TransformStream();
  const request = requestOf(stuck.readable, { duplex: "half" } as RequestInit);
  const answer = source.handler(request);
  for (let i = 0; i < 100; i++) await nextTurn();
  time.tick(10_000);
  assertEquals((await answer).status, 408);
  await stuck.writable.abort();
  await handle.stop();
});

Deno.test("update that comes again is answered again and handled once", async () => {
  const source = createWebhookSource({ secretToken: SECRET });
  const inbox = new GatedInbox();
  const { handle, handled } = start(source, inbox);
  await isActive(source);
  const sent = send(source, 1, 1);
  await turnsUntil(() => inbox.batches.length === 1);
  const again = send(source, 1);
  for (let i = 0; i < 100; i++) await nextTurn();
  inbox.pass();
  assertEquals(await sent, [200, 200]);
  assertEquals(await again, [200]);
  assertEquals(await send(source, 1), [200]);
  await handle.stop();
  // Otherwise the next process would run it.
  assertEquals(await send(source, 1), [200]);
  assertEquals(handled, [1]);
});

Deno.test("the last 10,000 updates are known, those long before are not", async () => {
  const source = createWebhookSource({ secretToken: SECRET });
  const { handle, handled } = start(source);
  await isActive(source);
  const sendRange = async (from: number, to: number) => {
    for (; from < to; from += 100) {
      await send(source, ...Array.from({ length: 100 }, (_, i) => from + i));
    }
  };
  await sendRange(0, 15_000);
  await sendRange(5000, 15_000);
  await turnsUntil(() => handled.length === 15_000);
  await sendRange(15_000, 35_000);
  await sendRange(0, 100);
  await handle.stop();
  assertEquals(handled.length, 35_100);
});

Deno.test("stop answers all requests: with 200 if and only if the update is handled", async () => {
  const answers = new Map<number, number>();
  for (let i = 0; i < 300; i++) {
    const source = createWebhookSource({ secretToken: SECRET });
    const inbox = createMemoryInbox<Update>({ lookahead: 1 + i % 3 });
    const handled: number[] = [];
    const stopAt = i % 7;
    let stopped: Promise<void> | undefined;
    const sink = createConcurrentSink<Update>(
      {
        async consume({ update_id }) {
          handled.push(update_id);
          if (handled.length === stopAt) stopped = handle.stop();
          if (i % 2 === 0) await nextTurn();
        },
      },
      () => Promise.resolve(),
      { concurrency: 1 + i % 2 },
    );
    const handle = createRunner(source, sink, { inbox, silent: true });
    handle.start();
    await isActive(source);
    const ids = Array.from({ length: 8 }, (_, id) => id + 1);
    const sent = send(source, ...ids);
    for (let ticks = i % 50; stopAt === 0 && ticks > 0; ticks--) {
      await Promise.resolve();
      if (ticks % 5 === 0) await nextTurn();
    }
    await (stopped ?? (stopAt === 0 ? handle.stop() : undefined));
    const statuses = await sent;
    await handle.stop();
    const accepted = ids.filter((_, index) => statuses[index] === 200);
    assertEquals(handled.toSorted((a, b) => a - b), accepted);
    for (const status of statuses) {
      answers.set(status, (answers.get(status) ?? 0) + 1);
    }
  }
  assertEquals([...answers.keys()].sort(), [200, 503]);
});

Deno.test("stop does not wait for room in a full durable inbox", async () => {
  const dir = Deno.makeTempDirSync();
  const inbox = createSqliteInbox<Update>(`${dir}/updates.db`, {
    lookahead: 1,
  });
  const source = createWebhookSource({ secretToken: SECRET });
  const release = new Deferred();
  const sink = createConcurrentSink<Update>(
    { consume: () => release.promise },
    () => Promise.resolve(),
    { concurrency: 1 },
  );
  const handle = createRunner(source, sink, { inbox, botId: 1, silent: true });
  handle.start();
  await isActive(source);
  assertEquals(await send(source, 1), [200]);
  assertEquals(await send(source, 2), [200]);
  const refused = send(source, 3);
  await turnsUntil(() => handle.stats().received === 3);
  const stopped = handle.stop();
  assertEquals(await refused, [503]);
  release.resolve();
  await stopped;

  // Another process: the answer to the second one might have been lost.
  const other = createWebhookSource({ secretToken: SECRET });
  const { handled, handle: otherHandle } = start(other, inbox, 1);
  await isActive(other);
  assertEquals(await send(other, 1, 2, 3), [200, 200, 200]);
  await until(() => handled.length === 2);
  await otherHandle.stop();
  assertEquals(handled, [2, 3]);
  Deno.removeSync(dir, { recursive: true });
});

Deno.test("updates that an inbox fails to store are refused, and the runner ends", async () => {
  const source = createWebhookSource({ secretToken: SECRET });
  const inbox = new GatedInbox();
  inbox.append = () => Promise.reject(new Error("Disk full"));
  const { handle, handled } = start(source, inbox);
  await isActive(source);
  assertEquals(await send(source, 1), [503]);
  const failure = await handle.task()!.catch((error) => error);
  assertEquals(failure.message, "Disk full");
  assertEquals(await handle.stop({ timeout: 1000 }), {
    unfinished: [],
    unstarted: [],
  });
  assertEquals(handled, []);
});

Deno.test("stop that runs out of time reports what was answered, and only that", async () => {
  const source = createWebhookSource({ secretToken: SECRET });
  const inbox = createMemoryInbox<Update>({ lookahead: 1 });
  const sink = createConcurrentSink<Update>(
    { consume: () => new Promise(() => {}) },
    () => Promise.resolve(),
    { concurrency: 1 },
  );
  const handle = createRunner(source, sink, { inbox, silent: true });
  handle.start();
  await isActive(source);
  assertEquals(await send(source, 1), [200]);
  assertEquals(await send(source, 2), [200]);
  const refused = send(source, 3, 4);
  await turnsUntil(() => handle.stats().received === 3);
  const report = await handle.stop({ timeout: 0 });
  assertEquals(report.unfinished.map((u) => u.update_id), [1]);
  assertEquals(report.unstarted.map((u) => u.update_id), [2]);
  assertEquals(await refused, [503, 503]);
});

Deno.test("listener serves node:http", async () => {
  const source = createWebhookSource({ secretToken: SECRET });
  const { handle, handled } = start(source);
  await isActive(source);
  const server = createServer(source.listener);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const post = (body: string, init: RequestInit = {}) =>
    fetch(`http://127.0.0.1:${port}/`, {
      method: "POST",
      headers: { [SECRET_HEADER]: SECRET },
      body,
      ...init,
    });
  const cases: [number, Promise<Response>][] = [
    [200, post('{"update_id":1}')],
    [200, post(JSON.stringify({ update_id: 2, x: "x".repeat(1_000_000) }))],
    [400, post("{")],
    [401, post('{"update_id":3}', { headers: {} })],
    [405, fetch(`http://127.0.0.1:${port}/`)],
    [413, post("x".repeat(1024 * 1024 + 1))],
  ];
  for (const [status, answer] of cases) {
    const response = await answer;
    await response.text();
    assertEquals(response.status, status);
  }
  // A body without a declared length is read as far as it may be long.
  const status = await new Promise((resolve, reject) => {
    const headers = { [SECRET_HEADER]: SECRET };
    const request = httpRequest(
      { port, host: "127.0.0.1", method: "POST", headers },
      (response) => resolve(response.resume().statusCode),
    );
    request.on("error", reject);
    for (let i = 0; i < 20; i++) request.write("x".repeat(65536));
    request.end();
  });
  assertEquals(status, 413);
  await handle.stop();
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  assertEquals(handled.toSorted(), [1, 2]);
});

Deno.test("bot is initialized before the first update, however often that fails", async () => {
  const server = await startBotApiServer({
    quirks: false,
    webhookRetryMilliseconds: 5,
  });
  server.fail({ status: 403 }, { method: "getMe", times: 2 });
  const names: string[] = [];
  const events: RunnerEvent<Update>[] = [];
  await using on = await startOnWebhook(
    (bot) => bot.use((ctx) => void names.push(ctx.me.username)),
    { onEvent: (event) => events.push(event) },
    server,
  );
  server.pushText("hello");
  await server.waitFor(() => server.stats().unconfirmed === 0);
  await until(() => on.handle.stats().handled === 1);
  assertEquals(names, [server.botInfo.username]);
  assertEquals(on.handle.stats().state, "polling");
  assertEquals(events.map(({ type }) => type), [
    "started",
    "poll-failed",
    "poll-failed",
    "recovered",
    "received",
    "ended",
  ]);
});

Deno.test("limits, errors, time limits and order hold as with polling", async () => {
  const errors: unknown[] = [];
  const order: string[] = [];
  const timedOut: number[] = [];
  let running = 0;
  let most = 0;
  await using on = await startOnWebhook((bot) => {
    bot.catch(({ error }) => void errors.push((error as Error).message));
    bot.use(sequentialize());
    bot.use(async (ctx) => {
      const [text, chat] = [ctx.msg!.text!, ctx.chat!.id];
      if (text === "stuck") {
        const signal = abortSignal(ctx);
        await new Promise((resolve) => signal.onabort = resolve);
        throw signal.reason;
      }
      most = Math.max(most, ++running);
      if (chat === 1) order.push(text);
      await sleep(2);
      running--;
      if (text === "3") throw new Error(`bad ${chat}`);
    });
  }, {
    sink: {
      concurrency: 3,
      timeout: {
        milliseconds: 500,
        handler: ({ update_id }) => void timedOut.push(update_id),
      },
    },
  });
  const { server, handle } = on;
  const stuck = server.pushText("stuck", { userId: 9 }).update_id;
  for (const chat of [1, 2, 3, 4, 5]) pushTexts(server, 10, chat);
  await server.waitFor(() => server.stats().unconfirmed === 0);
  await until(() => handle.size() === 0);
  assertEquals(order, [..."0123456789"]);
  assert(most <= 3, `${most} ran at once`);
  assertEquals(errors.toSorted(), [1, 2, 3, 4, 5].map((n) => `bad ${n}`));
  assertEquals(timedOut, [stuck]);
  const { received, handled, failed, timedOut: count } = handle.stats();
  assertEquals([received, handled, failed, count], [51, 45, 5, 1]);
});

for (const kind of ["memory", "SQLite"]) {
  Deno.test(`under load, with answers lost and restarts, the ${kind} inbox loses nothing, handles nothing twice, and keeps each chat in order`, async () => {
    const dir = Deno.makeTempDirSync();
    await using server = await startBotApiServer({
      quirks: false,
      webhookRetryMilliseconds: 5,
    });
    const bot = createBot(server);
    const handled: Update[] = [];
    bot.use(sequentialize(), async (ctx) => {
      if (ctx.update.update_id % 10 === 0) await sleep(Math.random() * 5);
      handled.push(ctx.update);
    });
    const source = createWebhookSource({ secretToken: SECRET });
    const handle = run(bot, {
      source,
      runner: { silent: true },
      inbox: kind === "SQLite"
        ? createSqliteInbox<Update>(`${dir}/updates.db`, { lookahead: 10 })
        : createMemoryInbox<Update>({ lookahead: 10 }),
      sink: { concurrency: 20 },
    });
    let refused = 0;
    let lost = 0;
    const handler = async (request: Request): Promise<Response> => {
      const response = await source.handler(request);
      if (response.status === 503) {
        refused++;
        response.headers.delete("retry-after"); // a second each is too long here
      }
      if (Math.random() > 0.1) return response;
      lost++;
      return new Response("The proxy failed", { status: 502 });
    };
    const webhook = serve(handler);
    await bot.api.setWebhook(webhook.url, { secret_token: SECRET });

    const pushed: Update[] = [];
    for (let round = 0; round < 10; round++) {
      for (let i = 0; i < 200; i++) {
        const userId = 1 + Math.floor(Math.random() * 50);
        pushed.push(server.pushText(`${i}`, { userId }));
      }
      await sleep(30);
      await handle.stop();
      await sleep(5);
      handle.start();
    }
    await server.waitFor(() => server.stats().unconfirmed === 0, {
      timeout: 30_000,
    });
    await until(() => handled.length >= pushed.length);
    await handle.stop();
    await bot.api.deleteWebhook();
    await webhook.close();
    Deno.removeSync(dir, { recursive: true });

    const ids = (updates: Update[]) => updates.map((u) => u.update_id);
    assertEquals(ids(handled).toSorted((a, b) => a - b), ids(pushed));
    const ofChat = (updates: Update[], chat: number) =>
      ids(updates.filter((u) => u.message!.chat.id === chat));
    for (let chat = 1; chat <= 50; chat++) {
      assertEquals(ofChat(handled, chat), ofChat(pushed, chat));
    }
    assert(refused > 0 && lost > 0, `${refused} refused, ${lost} lost`);
  });
}
