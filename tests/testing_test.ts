import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { Bot, InputFile } from "grammy";
import {
  type BotApiServer,
  type BotApiServerOptions,
  type Fault,
  startBotApiServer,
} from "../testing.ts";

// deno-lint-ignore no-explicit-any
type Json = any;

function start(options?: BotApiServerOptions): Promise<BotApiServer> {
  return startBotApiServer({ quirks: false, ...options });
}

async function call(
  server: BotApiServer,
  method: string,
  params: Record<string, unknown> = {},
  signal?: AbortSignal,
): Promise<Json> {
  const response = await fetch(`${server.url}/bot${server.token}/${method}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(params),
    signal,
  });
  const body = await response.json();
  assertEquals(response.status, body.ok ? 200 : body.error_code);
  return body;
}

async function poll(
  server: BotApiServer,
  params: Record<string, unknown> = {},
  signal?: AbortSignal,
): Promise<number[]> {
  const { ok, result, description } = await call(
    server,
    "getUpdates",
    params,
    signal,
  );
  assert(ok, description);
  return result.map((update: Json) => update.update_id);
}

function isPolling(server: BotApiServer): Promise<unknown> {
  return server.waitFor(() => server.polls().at(-1)?.outcome === "waiting");
}

function botOf(server: BotApiServer): Bot {
  return new Bot(server.token, { client: { apiRoot: server.url } });
}

Deno.test("server hands out updates again until they are confirmed", async () => {
  await using server = await start();
  for (const text of ["a", "b", "c"]) server.pushText(text);
  assertEquals(await poll(server), [1, 2, 3]);
  assertEquals(await poll(server, { offset: 2, limit: 1 }), [2]);
  assertEquals(server.unconfirmed().map((u) => u.message?.text), ["b", "c"]);
  assertEquals(await poll(server, { offset: 4 }), []);
  assertEquals(server.unconfirmed(), []);
  assertEquals(server.delivered(), [1, 2, 3, 2]);
  assertEquals(server.confirmed(), [1, 2, 3]);
  assertEquals(server.stats(), {
    pushed: 3,
    dropped: 0,
    delivered: 3,
    redelivered: 1,
    confirmed: 3,
    unconfirmed: 0,
    polls: 3,
    calls: 0,
  });
  const [first] = server.polls();
  assert(first.endedAt !== undefined && first.endedAt >= first.at);
  assertEquals({ ...first, at: 0, endedAt: 0 }, {
    offset: 0,
    limit: 100,
    timeout: 0,
    throttled: false,
    at: 0,
    endedAt: 0,
    outcome: "answered",
    count: 3,
  });
});

Deno.test("server forgets the backlog for a negative offset", async () => {
  await using server = await start();
  for (let i = 0; i < 5; i++) server.pushText("x");
  assertEquals(await poll(server, { offset: -2 }), [4, 5]);
  assertEquals(server.unconfirmed().length, 2);
});

Deno.test("long poll ends as soon as there are updates, with all pushed in one go", async () => {
  await using server = await start();
  const polling = poll(server, { timeout: 50 });
  await isPolling(server);
  server.pushText("a");
  server.pushText("b");
  assertEquals(await polling, [1, 2]);
});

Deno.test("long poll ends empty after its timeout, 50 s at most", async () => {
  await using server = await start();
  using time = new FakeTime();
  for (const [timeout, served] of [[1, 1], [30, 30], [90, 50]]) {
    const polling = call(server, "getUpdates", { timeout });
    await isPolling(server);
    time.tick(served * 1000 - 1);
    assertEquals(server.polls().at(-1)?.outcome, "waiting");
    time.tick(1);
    assertEquals(server.polls().at(-1)?.outcome, "answered");
    assertEquals(await polling, { ok: true, result: [] });
  }
});

Deno.test("second getUpdates ends the first with a conflict", async () => {
  await using server = await start();
  const first = call(server, "getUpdates", { timeout: 50 });
  await isPolling(server);
  const second = poll(server, { timeout: 50 });
  assertEquals(await first, {
    ok: false,
    error_code: 409,
    description:
      "Conflict: terminated by other getUpdates request; make sure that only one bot instance is running",
  });
  server.pushText("a");
  assertEquals(await second, [1]);
  assertEquals(server.polls().map((p) => p.outcome), ["refused", "answered"]);
});

Deno.test("aborted getUpdates is no longer there, and has confirmed by its offset", async () => {
  await using server = await start();
  server.pushText("a");
  const abort = new AbortController();
  const first = poll(server, { offset: 2, timeout: 50 }, abort.signal);
  await isPolling(server);
  abort.abort();
  await assertRejects(() => first);
  await server.waitFor(() => server.polls()[0].outcome === "aborted");
  assertEquals(server.confirmed(), [1]);
  server.pushText("b");
  assertEquals(await poll(server, { offset: 2, timeout: 50 }), [2]);
});

Deno.test("repeated offset is slowed down unless quirks are off", async () => {
  await using server = await startBotApiServer();
  for (let i = 0; i < 3; i++) server.pushText("x");
  assertEquals(await poll(server), [1, 2, 3]);
  assertEquals(await poll(server), [1]);
  assertEquals(await poll(server, { offset: 4 }), []);
  const repeated = poll(server, { offset: 4 });
  await isPolling(server);
  server.pushText("y");
  assertEquals(await repeated, [4]);
  assertEquals(
    server.polls().map((p) => p.throttled),
    [false, true, false, true],
  );

  await using quick = await start();
  for (let i = 0; i < 3; i++) quick.pushText("x");
  assertEquals(await poll(quick), [1, 2, 3]);
  assertEquals(await poll(quick), [1, 2, 3]);
});

Deno.test("allowed_updates are remembered until others are given", async () => {
  await using server = await start();
  const push = () => {
    server.pushText("x");
    server.pushCallbackQuery("y");
    server.push({ chat_member: {} as Json });
  };
  const types = async (params: Record<string, unknown>) => {
    const offset = 1 + (server.unconfirmed().at(-1)?.update_id ?? 0);
    await poll(server, { ...params, offset });
    push();
    return server.unconfirmed().flatMap((u) => Object.keys(u).slice(0, 1));
  };
  assertEquals(await types({}), ["message", "callback_query"]);
  assertEquals(
    await types({ allowed_updates: ["chat_member"] }),
    ["chat_member"],
  );
  assertEquals(await types({}), ["chat_member"]);
  assertEquals(
    await types({ allowed_updates: [] }),
    ["message", "callback_query"],
  );
  assertEquals(server.stats().dropped, 1 + 2 + 2 + 1);
});

Deno.test("getUpdates conflicts with a webhook until that is deleted", async () => {
  await using server = await start();
  const waiting = call(server, "getUpdates", { timeout: 50 });
  await isPolling(server);
  const url = "https://example.com/hook";
  assertEquals((await call(server, "setWebhook", { url })).result, true);
  assertStringIncludes((await waiting).description, "terminated by setWebhook");
  server.pushText("a");
  assertEquals(await call(server, "getUpdates"), {
    ok: false,
    error_code: 409,
    description:
      "Conflict: can't use getUpdates method while webhook is active; use deleteWebhook to delete the webhook first",
  });
  const info = (await call(server, "getWebhookInfo")).result;
  assertEquals([info.url, info.pending_update_count], [url, 1]);
  await call(server, "deleteWebhook");
  assertEquals(await poll(server), [1]);
  await call(server, "deleteWebhook", { drop_pending_updates: true });
  assertEquals(await poll(server), []);
  assertEquals((await call(server, "setWebhook", { url: "?" })).ok, false);
});

Deno.test("server tells a wrong token from a malformed path", async () => {
  await using server = await start();
  for (
    const [path, status, description] of [
      ["/bot1:wrong/getMe", 401, "Unauthorized"],
      ["/bot1/getMe", 404, "Not Found"],
      [`/bot${server.token}`, 404, "Not Found"],
      ["/", 404, "Not Found"],
    ]
  ) {
    const response = await fetch(server.url + path);
    assertEquals(response.status, status);
    assertEquals(await response.json(), {
      ok: false,
      error_code: status,
      description,
    });
  }
  assertEquals(server.stats().calls, 0);
});

Deno.test("server understands queries and forms", async () => {
  await using server = await start();
  for (let i = 0; i < 3; i++) server.pushText("x");
  const url = `${server.url}/bot${server.token}`;
  const get = await fetch(
    `${url}/getUpdates?offset=2&limit=1&allowed_updates=["poll"]`,
  );
  assertEquals((await get.json()).result.length, 1);
  server.pushText("not allowed");
  assertEquals(server.stats().dropped, 1);
  const body = new URLSearchParams({ chat_id: "5", text: "12" });
  const post = await fetch(`${url}/sendMessage`, { method: "POST", body });
  const { result } = await post.json();
  assertEquals([result.chat.id, result.text], [5, "12"]);
  const bad = await fetch(`${url}/getMe`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: "{",
  });
  assertEquals([bad.status, (await bad.json()).error_code], [400, 400]);
});

Deno.test("server refuses a body that is too large", async () => {
  await using server = await start();
  const response = await fetch(`${server.url}/bot${server.token}/sendPhoto`, {
    method: "POST",
    body: new Uint8Array(51 * 1024 * 1024),
  });
  assertEquals(response.status, 413);
  await response.body?.cancel();
});

Deno.test("server answers all methods plausibly and records them", async () => {
  await using server = await start({ token: "77:abc" });
  const { api } = botOf(server);
  const me = await api.getMe();
  assertEquals([me.id, me.is_bot], [77, true]);
  const sent = await api.sendMessage(5, "Hi");
  assertEquals([sent.chat.id, sent.chat.type, sent.text], [5, "private", "Hi"]);
  assertEquals(sent.from?.id, 77);
  const photo = await api.sendPhoto(-100, "file", { caption: "c" });
  assertEquals([photo.chat.type, photo.caption], ["group", "c"]);
  assertEquals(photo.photo[0].file_id, "file");
  assert(photo.message_id > sent.message_id);
  const upload = new InputFile(new Uint8Array([1, 2, 3]), "a.bin");
  const file = await api.sendDocument("@channel", upload, { caption: "up" });
  assertEquals([file.caption, file.chat.type], ["up", "supergroup"]);
  assertEquals(file.document.file_id, "uploaded");
  const { params } = server.calls("sendDocument")[0];
  assert(Object.values(params).some((v) => (v as Json).name === "a.bin"));
  const album = await api.sendMediaGroup(5, [
    { type: "photo", media: "p" },
    { type: "video", media: "v" },
  ]);
  assertEquals(album.length, 2);
  assertEquals((await api.forwardMessage(5, 6, 1)).chat.id, 5);
  const copies = await api.copyMessages(5, 6, [1, 2]);
  assertEquals(copies.length, 2);
  const edited = await api.editMessageText(5, sent.message_id, "Ho");
  assert(edited !== true && edited.message_id === sent.message_id);
  assertEquals(await api.editMessageTextInline("i", "Ho"), true);
  assertEquals((await api.getChat(-100)).id, -100);
  assertEquals((await api.getChatMember(5, 6)).user.id, 6);
  assertEquals((await api.getFile("f")).file_id, "f");
  assertEquals(await api.answerCallbackQuery("1"), true);
  assertEquals(await api.deleteMessage(5, 1), true);
  assertEquals(await api.sendChatAction(5, "typing"), true);
  assertEquals(await api.setMyCommands([]), true);
  assertEquals(await api.getMyCommands(), []);
  assertEquals(await api.logOut(), true);
  assertEquals((await call(server, "inventedMethod")).result, true);
  await assertRejects(() => api.sendMessage(5, ""), Error, "text is empty");
  await assertRejects(
    () => api.sendMessage("", "x"),
    Error,
    "chat_id is empty",
  );

  assertEquals(server.calls("sendMessage").map((c) => c.params.text), [
    "Hi",
    "",
    "x",
  ]);
  assertEquals(server.calls("sendMessage").map((c) => c.ok), [
    true,
    false,
    false,
  ]);
  assertEquals(server.sent().length, 1 + 1 + 1 + 2 + 1 + 2);
  assertEquals(server.calls().length, server.stats().calls);
  server.clearHistory();
  assertEquals([server.calls(), server.sent(), server.polls()], [[], [], []]);
});

Deno.test("server forgets the oldest calls beyond its history", async () => {
  await using server = await start({ history: 2 });
  for (const text of ["a", "b", "c"]) {
    await call(server, "sendMessage", { chat_id: 1, text });
  }
  assertEquals(server.calls().map((c) => c.params.text), ["b", "c"]);
  assertEquals(server.stats().calls, 3);
});

Deno.test("results can be set for a method", async () => {
  await using server = await start();
  server.answer("getChatMemberCount", 42);
  server.answer("echo", (params: Json) => params.text);
  server.answer("broken", () => {
    throw new Error("oops");
  });
  assertEquals((await call(server, "getChatMemberCount")).result, 42);
  assertEquals((await call(server, "echo", { text: "x" })).result, "x");
  assertStringIncludes((await call(server, "broken")).description, "oops");
  server.answer("getChatMemberCount", undefined);
  assertEquals((await call(server, "getChatMemberCount")).result, 2);
});

Deno.test("latency delays every answer", async () => {
  await using server = await start({ latencyMilliseconds: 60 });
  const took = async (method: string) => {
    const start = performance.now();
    await call(server, method);
    return performance.now() - start;
  };
  assert(await took("getMe") >= 55);
  assert(await took("getUpdates") >= 55);
  server.setLatency(0);
  assert(await took("getMe") < 55);
});

Deno.test("faults fail the next call, in order, and only of their method", async () => {
  await using server = await start();
  server.pushText("a");
  server.fail({ status: 500 });
  server.fail({ status: 429, retryAfter: 3 }, { times: 2 });
  server.fail({ status: 403, description: "Forbidden: blocked" }, {
    method: "sendMessage",
  });
  assertEquals((await call(server, "getMe")).ok, true);
  assertEquals(await call(server, "getUpdates", { offset: 2 }), {
    ok: false,
    error_code: 500,
    description: "Internal Server Error",
  });
  for (let i = 0; i < 2; i++) {
    assertEquals(await call(server, "getUpdates", { offset: 2 }), {
      ok: false,
      error_code: 429,
      description: "Too Many Requests: retry after 3",
      parameters: { retry_after: 3 },
    });
  }
  assertEquals(
    (await call(server, "sendMessage", { chat_id: 1, text: "x" })).description,
    "Forbidden: blocked",
  );
  assertEquals(server.calls("sendMessage")[0].ok, false);
  assertEquals(server.sent(), []);
  assertEquals(await poll(server), [1]);
  assertEquals(
    server.polls().map((p) => p.outcome),
    ["failed", "failed", "failed", "answered"],
  );
});

Deno.test("faults last until they are cleared", async () => {
  await using server = await start();
  server.fail({ status: 502 }, { times: Infinity, method: "*" });
  for (let i = 0; i < 3; i++) {
    assertEquals((await call(server, "getMe")).error_code, 502);
  }
  server.clearFaults();
  assertEquals((await call(server, "getMe")).ok, true);
});

Deno.test("hanging call ends when the client gives up or the server closes", async () => {
  const server = await start();
  server.fail("hang", { times: 2 });
  const signal = AbortSignal.timeout(30);
  await assertRejects(() => poll(server, {}, signal));
  const hanging = assertRejects(() => poll(server));
  await server.waitFor(() => server.stats().polls === 2);
  await server.close();
  await hanging;
});

Deno.test("connections break before or halfway through an answer", async () => {
  await using server = await start();
  server.pushText("a");
  // On a fresh connection and on one used before.
  for (let i = 0; i < 3; i++) {
    server.fail("reset");
    await assertRejects(() => call(server, "getUpdates", { offset: 2 }));
    assertEquals(server.unconfirmed().length, 1);
    assertEquals(await poll(server), [1]);
  }
  server.fail("truncate");
  const response = await fetch(`${server.url}/bot${server.token}/getUpdates`);
  assertEquals(response.status, 200);
  await assertRejects(() => response.text());
  assertEquals(server.delivered(), [1, 1, 1, 1]);
});

Deno.test("garbage and any other answer can be given", async () => {
  await using server = await start();
  const faults: [Fault, number, string, string][] = [
    ["garbage", 200, "text/html", "<html>"],
    [{ body: '{"ok":true,"result":{}}' }, 200, "application/json", '{"ok":'],
    [{ body: "", status: 204, contentType: "text/x" }, 204, "text/x", ""],
    [{ body: "bad", status: 502 }, 502, "application/json", "bad"],
  ];
  for (const [fault, status, type, start] of faults) {
    server.fail(fault);
    const response = await fetch(`${server.url}/bot${server.token}/getUpdates`);
    assertEquals(response.status, status);
    assertEquals(response.headers.get("content-type"), type);
    assertEquals((await response.text()).slice(0, start.length), start);
  }
});

Deno.test("answers can get lost after the call was processed", async () => {
  await using server = await start();
  server.pushText("a");
  server.fail("reset", { processed: true });
  const polling = assertRejects(() => poll(server, { offset: 2, timeout: 50 }));
  await isPolling(server);
  server.pushText("b");
  await polling;
  assertEquals([server.confirmed(), server.delivered()], [[1], [2]]);
  assertEquals(server.polls()[0].outcome, "failed");

  server.fail("garbage", { method: "sendMessage", processed: true });
  await assertRejects(() =>
    call(server, "sendMessage", { chat_id: 1, text: "x" })
  );
  assertEquals(server.sent().length, 1);
  assertEquals(server.calls("sendMessage")[0].ok, false);
});

Deno.test("pushed updates get ascending ids unless they have one", async () => {
  await using server = await start();
  const ids = (...updates: Json[]) =>
    server.push(...updates).map((u) => u.update_id);
  assertEquals(ids({}, { update_id: 10 }, {}), [1, 10, 11]);
  assertEquals(ids({ update_id: 5 }, {}), [5, 12]);
  assertEquals(await poll(server), [1, 10, 11, 5, 12]);
  await poll(server, { offset: 13 });
  assertEquals(ids({ update_id: 1 }, {}), [1, 2]);
});

Deno.test("bad updates are refused, and none of the push is queued", async () => {
  await using server = await start();
  const bad: [Json, typeof TypeError | typeof RangeError, string][] = [
    [null, TypeError, "received null"],
    ["text", TypeError, "received text"],
    [[], TypeError, "must be an object"],
    [
      { update_id: "1" },
      RangeError,
      "'update_id' must be an integer 0 or more",
    ],
    [{ update_id: 1.5 }, RangeError, "received 1.5"],
    [{ update_id: -1 }, RangeError, "received -1"],
  ];
  for (const [update, type, message] of bad) {
    assertThrows(() => server.push({}, update), type, message);
  }
  assertEquals(server.stats().pushed, 0);
});

Deno.test("bad options are refused", async () => {
  const bad: [Json, typeof TypeError | typeof RangeError, string][] = [
    [{ token: "abc" }, TypeError, "'token'"],
    [{ port: -1 }, RangeError, "'port' must be an integer of 0..65535"],
    [{ port: "80" }, RangeError, "received 80"],
    [{ latencyMilliseconds: NaN }, RangeError, "received NaN"],
    [{ history: -1 }, RangeError, "'history' must be an integer 0 or more"],
  ];
  for (const [options, type, message] of bad) {
    await assertRejects(() => startBotApiServer(options), type, message);
  }
  await using server = await start();
  const { port } = new URL(server.url);
  await assertRejects(() => startBotApiServer({ port: Number(port) }));
  assertThrows(() => server.setLatency(-1), RangeError, "received -1");
  assertThrows(() => server.fail("nope" as Json), TypeError, "received nope");
  assertThrows(() => server.fail({} as Json), TypeError, "neither");
  assertThrows(() => server.fail({ status: 99 }), RangeError, "'status'");
  assertThrows(() => server.fail("hang", { times: 0 }), RangeError, "'times'");
});

Deno.test("waiting ends when the condition holds, throws, or takes too long", async () => {
  const server = await start();
  server.pushText("a");
  assertEquals(await server.waitFor(() => server.unconfirmed().length), 1);
  const two = server.waitFor(() => server.unconfirmed()[1]);
  server.pushText("b");
  assertEquals((await two).message?.text, "b");
  let isBroken = false;
  const broken = assertRejects(
    () =>
      server.waitFor(() => {
        if (isBroken) throw new Error("broken");
      }),
    Error,
    "broken",
  );
  isBroken = true;
  server.pushText("c");
  await broken;
  await assertRejects(
    () => server.waitFor(() => false, { timeout: 5 }),
    Error,
    "Waited 5 ms in vain for ()",
  );
  await assertRejects(
    () => server.waitForCall("getMe", undefined, { timeout: 5 }),
    Error,
    "a call of 'getMe'",
  );
  const closed = assertRejects(
    () => server.waitForCall("getMe"),
    Error,
    "closed",
  );
  await server.close();
  await closed;
});

Deno.test("close leaves nothing behind and can be repeated", async () => {
  const server = await start({ latencyMilliseconds: 10_000 });
  const polling = assertRejects(() => poll(server, { timeout: 50 }));
  const calling = assertRejects(() => call(server, "getMe"));
  await isPolling(server);
  await server.waitFor(() => server.stats().calls === 1);
  await Promise.all([server.close(), server.close(), polling, calling]);
  await assertRejects(() => fetch(server.url));
});

Deno.test("grammY bot runs on the server", async () => {
  await using server = await start({ botInfo: { username: "my_bot" } });
  const bot = botOf(server);
  bot.command("start", (ctx) => ctx.reply(`Hi ${ctx.from?.id}`));
  bot.callbackQuery("yes", async (ctx) => {
    await ctx.answerCallbackQuery("ok");
    await ctx.editMessageText("Chosen");
  });
  const running = bot.start();
  server.pushText("/start", { userId: 5, chatId: -1_001_234_567_890 });
  const { params } = await server.waitForCall("sendMessage");
  assertEquals(params, { chat_id: -1_001_234_567_890, text: "Hi 5" });
  server.pushCallbackQuery("yes");
  await server.waitForCall(
    "editMessageText",
    (call) => call.params.text === "Chosen",
  );
  assertEquals(server.calls("answerCallbackQuery").length, 1);
  assertEquals(bot.botInfo.username, "my_bot");
  await isPolling(server);
  assertEquals(server.unconfirmed(), []);
  await bot.stop();
  await running;
});

Deno.test("grammY bot stands faults", async () => {
  await using server = await start();
  server.fail("reset", { method: "getMe" });
  const bot = botOf(server);
  await assertRejects(() => bot.api.getMe());
  server.fail({ status: 401 });
  await assertRejects(() => bot.start(), Error, "401: Unauthorized");
});
