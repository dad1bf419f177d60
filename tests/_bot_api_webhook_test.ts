import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { nextTurn } from "../_time.ts";
import { type BotApiServer, startBotApiServer } from "../testing.ts";
import { Deferred } from "./_bot.ts";

// deno-lint-ignore no-explicit-any
type Json = any;

interface Received {
  id: number;
  update: Json;
  headers: Headers;
  /** Aborts when the server breaks off. */
  signal: AbortSignal;
}

/** A webhook on a free port that answers as told. */
class Hook implements AsyncDisposable {
  readonly received: Received[] = [];
  readonly #server: Deno.HttpServer<Deno.NetAddr>;
  readonly #end = new AbortController();

  constructor(answer: (received: Received) => Promise<Response> | Response) {
    this.#server = Deno.serve(
      {
        hostname: "127.0.0.1",
        port: 0,
        onListen() {},
        signal: this.#end.signal,
      },
      async (request) => {
        assertEquals(request.method, "POST");
        const update = await request.json();
        const { headers, signal } = request;
        const received = { id: update.update_id, update, headers, signal };
        this.received.push(received);
        return await answer(received);
      },
    );
  }

  get url(): string {
    return `http://127.0.0.1:${this.#server.addr.port}/hook`;
  }

  get ids(): number[] {
    return this.received.map(({ id }) => id);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#end.abort();
    await this.#server.finished;
  }
}

function start(webhookRetryMilliseconds = 5): Promise<BotApiServer> {
  return startBotApiServer({ quirks: false, webhookRetryMilliseconds });
}

async function call(
  server: BotApiServer,
  method: string,
  params: Record<string, unknown> = {},
): Promise<Json> {
  const response = await fetch(`${server.url}/bot${server.token}/${method}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(params),
  });
  const { result, description } = await response.json();
  return result ?? description;
}

function isEmpty(server: BotApiServer): Promise<unknown> {
  return server.waitFor(() => server.stats().unconfirmed === 0);
}

/** Waits in real time, also where time is faked. */
async function turnsUntil(condition: () => boolean): Promise<void> {
  for (let i = 0; !condition(); i++) {
    assert(i < 100_000, `Waited in vain for ${condition}`);
    await nextTurn();
  }
}

/** Waits for a delivery to fail at the current, faked, time. */
async function failureNow(server: BotApiServer): Promise<Json> {
  for (let i = 0; i < 10_000; i++) {
    const info = await call(server, "getWebhookInfo");
    if (info.last_error_date === Math.floor(Date.now() / 1000)) return info;
  }
  throw new Error("No delivery has failed");
}

const OK = () => new Response();

Deno.test("webhook gets what is pending and what comes, until it is deleted", async () => {
  await using server = await start();
  await using hook = new Hook(OK);
  const pushed = [server.pushText("a", { userId: 1 })];
  const secret_token = "A-z_9";
  const params = { url: hook.url, secret_token, max_connections: 7 };
  assertEquals(await call(server, "setWebhook", params), true);
  pushed.push(server.pushText("b", { userId: 2 }));
  await isEmpty(server);
  assertEquals(hook.received.map(({ update }) => update), pushed);
  for (const { headers } of hook.received) {
    assertEquals(headers.get("content-type"), "application/json");
    const name = "x-telegram-bot-api-secret-token";
    assertEquals(headers.get(name), secret_token);
  }
  assertEquals(await call(server, "getWebhookInfo"), {
    url: hook.url,
    has_custom_certificate: false,
    pending_update_count: 0,
    max_connections: 7,
  });
  assertEquals(server.delivered(), [1, 2]);
  assertEquals(server.confirmed(), [1, 2]);

  assertEquals(await call(server, "deleteWebhook"), true);
  assertEquals((await call(server, "getWebhookInfo")).url, "");
  const { update_id } = server.pushText("c");
  const [update] = await call(server, "getUpdates");
  assertEquals(update.update_id, update_id);
  assertEquals(hook.received.length, 2);
});

Deno.test("updates of a chat are delivered one after another, others at once up to max_connections", async () => {
  await using server = await start();
  const answers: Deferred[] = [];
  await using hook = new Hook(async () => {
    const answer = new Deferred();
    answers.push(answer);
    await answer.promise;
    return new Response();
  });
  const chats = [-1, -1, 2, 3, -1, 4];
  chats.forEach((chatId, i) => server.pushText("a", { chatId, userId: i + 1 }));
  server.pushCallbackQuery("b", { chatId: -1 });
  const params = { url: hook.url, max_connections: 3 };
  await call(server, "setWebhook", params);
  await turnsUntil(() => hook.ids.length === 3);
  assertEquals(hook.ids.toSorted(), [1, 3, 4]);
  answers.shift()!.resolve();
  await turnsUntil(() => hook.ids.length === 4);
  assertEquals(hook.ids[3], 6);
  while (server.stats().unconfirmed > 0) {
    answers.shift()?.resolve();
    await nextTurn();
  }
  const ofGroup = hook.ids.filter((id) => [1, 2, 5].includes(id));
  assertEquals(ofGroup, [1, 2, 5]);
  assertEquals(hook.ids.toSorted(), [1, 2, 3, 4, 5, 6, 7]);
});

Deno.test("what fails is tried again, later each time, while other chats go on", async () => {
  await using server = await start(1000);
  using time = new FakeTime();
  let failing = 1;
  await using hook = new Hook(({ id }) =>
    new Response(null, { status: id === failing ? 500 : 204 })
  );
  await call(server, "setWebhook", { url: hook.url });
  for (const userId of [1, 1, 2]) server.pushText("a", { userId });
  const ended = (deliveries: number, unconfirmed: number) =>
    turnsUntil(() =>
      server.delivered().length === deliveries &&
      server.stats().unconfirmed === unconfirmed
    );
  await ended(2, 2);
  let attempts = 1;
  for (const seconds of [1, 2, 4, 8, 16, 32, 60, 60]) {
    await failureNow(server);
    await time.tickAsync(seconds * 1000 - 1);
    assertEquals(server.delivered().length, attempts + 1);
    await time.tickAsync(1);
    assertEquals(server.delivered().length, ++attempts + 1);
  }
  const info = await failureNow(server);
  assertEquals(info.pending_update_count, 2);
  assertEquals(
    info.last_error_message,
    "Wrong response from the webhook: 500 Internal Server Error",
  );
  // The next one of this chat fails, and waits for no longer than the first one did.
  failing = 2;
  await time.tickAsync(60_000);
  await ended(attempts + 3, 1);
  await failureNow(server);
  failing = 0;
  await time.tickAsync(1000);
  await ended(attempts + 4, 0);
  assertEquals(server.stats().redelivered, attempts + 1);
});

Deno.test("Retry-After says when a delivery is tried again", async () => {
  await using server = await start(1000);
  using time = new FakeTime();
  let failures = 2;
  await using hook = new Hook(() =>
    failures-- > 0
      ? new Response(null, { status: 503, headers: { "retry-after": "7" } })
      : new Response()
  );
  await call(server, "setWebhook", { url: hook.url });
  server.pushText("a");
  for (const attempts of [1, 2]) {
    await failureNow(server);
    await time.tickAsync(6999);
    assertEquals(server.delivered().length, attempts);
    await time.tickAsync(1);
  }
  await turnsUntil(() => server.stats().unconfirmed === 0);
});

Deno.test("connections that break or hang are tried again", async () => {
  await using server = await start(1000);
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const url = `http://127.0.0.1:${listener.addr.port}/`;
  using time = new FakeTime();
  await call(server, "setWebhook", { url });
  server.pushText("a");
  (await listener.accept()).close();
  const broken = await failureNow(server);
  assertStringIncludes(broken.last_error_message, "Connection failed: ");

  await time.tickAsync(1000);
  const hanging = await listener.accept();
  await hanging.read(new Uint8Array(1));
  await time.tickAsync(60_000);
  const { last_error_message } = await failureNow(server);
  assertStringIncludes(last_error_message, "Read timeout expired");
  hanging.close();

  listener.close();
  await time.tickAsync(2000);
  await failureNow(server);
  assertEquals(server.stats().unconfirmed, 1);
  assertEquals(server.stats().redelivered, 2);
});

Deno.test("redirects are not followed", async () => {
  await using server = await start();
  await using target = new Hook(OK);
  await using hook = new Hook(() => Response.redirect(target.url, 307));
  await call(server, "setWebhook", { url: hook.url });
  server.pushText("a");
  await turnsUntil(() => hook.ids.length === 2);
  assertEquals(target.ids, []);
  await call(server, "deleteWebhook");
});

Deno.test("nothing is sent beyond the machine", async () => {
  await using server = await start();
  await call(server, "setWebhook", { url: "https://example.com/" });
  server.pushText("a");
  const info = await call(server, "getWebhookInfo");
  assertEquals(info.pending_update_count, 1);
  assertStringIncludes(info.last_error_message, "loopback addresses only");
  assertEquals(server.stats().delivered, 0);
});

Deno.test("another webhook takes over what is pending, unless it is dropped", async () => {
  await using server = await start(1000);
  const never = new Deferred<Response>();
  await using stuck = new Hook(() => never.promise);
  await using hook = new Hook(OK);
  using time = new FakeTime();
  const setWebhook = (params: Record<string, unknown>) =>
    call(server, "setWebhook", params);
  server.pushText("a");
  await setWebhook({ url: stuck.url });
  await turnsUntil(() => stuck.ids.length === 1);
  await setWebhook({ url: hook.url });
  await isEmpty(server);
  assertEquals(hook.ids, [1]);
  await turnsUntil(() => stuck.received[0].signal.aborted);
  await time.tickAsync(1000);
  assertEquals(server.delivered(), [1, 1]);

  await setWebhook({ url: stuck.url });
  server.pushText("b");
  await turnsUntil(() => stuck.ids.length === 2);
  await setWebhook({ url: hook.url, drop_pending_updates: true });
  server.pushText("c");
  await isEmpty(server);
  assertEquals(hook.ids, [1, 3]);
  assertEquals(server.stats().dropped, 1);
  never.resolve(new Response());
});

Deno.test("what is pending goes to getUpdates when the webhook is deleted", async () => {
  await using server = await start();
  await using hook = new Hook(({ id }) =>
    new Response(null, { status: id % 2 === 0 ? 200 : 500 })
  );
  await call(server, "setWebhook", { url: hook.url });
  for (const userId of [1, 2, 3, 4, 5]) server.pushText("a", { userId });
  await server.waitFor(() => server.stats().unconfirmed === 3);
  await call(server, "deleteWebhook");
  const ids = async (params: Record<string, unknown>) =>
    (await call(server, "getUpdates", params)).map((u: Json) => u.update_id);
  assertEquals(await ids({ limit: 2 }), [1, 3]);
  assertEquals(await ids({ offset: 4 }), [5]);
  assertEquals(await ids({ offset: 6 }), []);
  assertEquals(server.confirmed().toSorted(), [1, 2, 3, 4, 5]);
});

Deno.test("call in the answer of a webhook is recorded", async () => {
  await using server = await start();
  const answers = [
    { method: "sendMessage", chat_id: 1, text: "Hello!" },
    { method: "sendMessage", text: "Nobody" },
    { text: "no call" },
    "no call",
  ];
  await using hook = new Hook(({ id }) => Response.json(answers[id - 1]));
  await call(server, "setWebhook", { url: hook.url });
  for (const _ of answers) server.pushText("a");
  await isEmpty(server);
  const calls = server.calls("sendMessage");
  assertEquals(calls.map(({ ok }) => ok), [true, false]);
  assertEquals(calls[0].params, { chat_id: 1, text: "Hello!" });
  assertEquals(server.sent().map(({ text }) => text), ["Hello!"]);
});

Deno.test("webhook is not set if its parameters are wrong", async () => {
  await using server = await start();
  for (
    const [params, description] of [
      [{ url: "?" }, "invalid webhook URL"],
      [{ url: 1 }, "invalid webhook URL"],
      [{ secret_token: "a b" }, "secret token contains unallowed"],
      [{ secret_token: "" }, "secret token contains unallowed"],
    ] as const
  ) {
    const given = { url: "http://127.0.0.1/", ...params };
    assertStringIncludes(await call(server, "setWebhook", given), description);
  }
  assertEquals((await call(server, "getWebhookInfo")).url, "");
});
