import {
  assert,
  assertEquals,
  assertMatch,
  assertNotEquals,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { type Bot, BotError, type Context, GrammyError } from "grammy";
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { relative } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { keyOf } from "../_key.ts";
import { hash } from "../_pool.ts";
import { linkSlot } from "../_slot.ts";
import type { Update } from "../deps.ts";
import {
  BotWorker,
  distribute,
  type DistributeOptions,
  run,
  type RunnerEvent,
  type RunnerHandle,
  type RunOptions,
  sequentialize,
  type Slot,
  WorkerError,
  type WorkerEvent,
} from "../mod.ts";
import type { BotApiServer } from "../testing.ts";
import { createBot, sleep, startServer, until } from "./_bot.ts";

const WORKER = new URL("./workers/bot.ts", import.meta.url);

/** Names of the threads of workers that there are. */
function threads(): string[] {
  return readdirSync("/proc/self/task").flatMap((id) => {
    try {
      return readFileSync(`/proc/self/task/${id}/comm`, "utf8").trim();
    } catch {
      return []; // ended meanwhile
    }
  }).filter((name) => /^worker-\d+$/.test(name));
}

interface Setup {
  server: BotApiServer;
  bot: Bot;
  handle: RunnerHandle<Update>;
  /** What reached the error handler of the central bot. */
  errors: BotError[];
  events: RunnerEvent<Update>[];
  /** What the workers have written down. */
  log(): string[];
}

interface SetupOptions extends DistributeOptions<Context>, RunOptions<Update> {
  /** What the workers are like. */
  mode?: string;
  file?: URL;
  before?: (bot: Bot) => void;
}

/** A server, and a folder, that workers know. */
async function withServer(
  mode: string,
  body: (server: BotApiServer, folder: string) => Promise<void>,
): Promise<void> {
  await using server = await startServer();
  const folder = mkdtempSync(`${tmpdir()}/workers-`);
  Object.assign(process.env, {
    TEST_API_ROOT: server.url,
    TEST_TOKEN: server.token,
    TEST_FOLDER: folder,
    TEST_MODE: mode,
  });
  try {
    await body(server, folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Runs a bot with workers; makes sure that nothing is left of them. */
async function withWorkers(
  body: (setup: Setup) => Promise<void>,
  { mode = "", file = WORKER, before, ...options }: SetupOptions = {},
): Promise<void> {
  await withServer(mode, async (server, folder) => {
    const bot = createBot(server);
    const errors: BotError[] = [];
    bot.catch((error) => void errors.push(error));
    before?.(bot);
    bot.use(distribute(file, { count: 2, ...options }));
    const events: RunnerEvent<Update>[] = [];
    const handle = run(bot, {
      runner: { silent: true },
      onEvent: (event) => void events.push(event),
      sink: options.sink,
    });
    const log = () =>
      existsSync(`${folder}/log`)
        ? readFileSync(`${folder}/log`, "utf8").trim().split("\n")
        : [];
    try {
      await body({ server, bot, handle, errors, events, log });
    } finally {
      await handle.stop({ timeout: 5000 });
    }
    await until(() => threads().length === 0);
  });
}

/** Waits long enough for the first worker, whose file has to be type-checked. */
function received(server: BotApiServer, count: number): Promise<boolean> {
  return server.waitFor(() => server.sent().length >= count, {
    timeout: 60_000,
  });
}

function texts(server: BotApiServer, chatId?: number): string[] {
  return server.sent()
    .filter(({ chat }) => chatId === undefined || chat.id === chatId)
    .map(({ text }) => text!);
}

function createSlot(differences: Partial<Slot>): Slot {
  return {
    park: () => Promise.resolve(),
    resume() {},
    signal: new AbortController().signal,
    onTimeout() {},
    onStop() {},
    emit() {},
    ...differences,
  };
}

function textUpdate(text: string): Update {
  return {
    update_id: 1,
    message: {
      message_id: 1,
      date: 1,
      chat: { id: 1, type: "private", first_name: "Ada" },
      from: { id: 1, is_bot: false, first_name: "Ada" },
      text,
    },
  };
}

Deno.test("distribute has updates handled by workers, which know the bot", async () => {
  await withWorkers(async ({ server }) => {
    server.pushText("me");
    await received(server, 1);
    assertEquals(texts(server), [`${server.botInfo.id}`]);
    assertEquals(server.calls("getMe").length, 1); // of the central bot
    assertEquals(threads().length, 2);
  });
});

Deno.test("a worker whose configuration leaves the bot open knows it, too", async () => {
  await withWorkers(async ({ server }) => {
    server.pushText("me");
    await received(server, 1);
    assertEquals(texts(server), [`${server.botInfo.id}`]);
    assertEquals(server.calls("getMe").length, 1); // of the central bot
  }, { mode: "unaware", count: 1 });
});

Deno.test("by default, there are as many workers as cores", async () => {
  await withServer("", async (server) => {
    const bot = createBot(server);
    await bot.init();
    await using middleware = distribute(WORKER);
    bot.use(middleware);
    await bot.handleUpdate(textUpdate("me"));
    assertEquals(threads().length, availableParallelism());
  });
  await until(() => threads().length === 0);
});

Deno.test("distribute takes the worker file in every form", async () => {
  const path = fileURLToPath(WORKER);
  const forms = [
    WORKER,
    WORKER.href,
    import.meta.resolve("./workers/bot.ts"),
    import.meta.resolve("./workers/bot"),
    path,
    path.slice(0, -".ts".length),
    relative(process.cwd(), path),
    "./" + relative(process.cwd(), path).slice(0, -".ts".length),
  ];
  for (const form of forms) {
    await withServer("", async (server) => {
      const bot = createBot(server);
      await bot.init();
      await using middleware = distribute(form, { count: 1 });
      bot.use(middleware);
      await bot.handleUpdate(textUpdate("me"));
      assertEquals(texts(server), [`${bot.botInfo.id}`], `${form}`);
    });
  }
  await until(() => threads().length === 0);
});

Deno.test("distribute says which worker file there is not", () => {
  const error = assertThrows(() => distribute("/nowhere/worker"), TypeError);
  assertStringIncludes(error.message, "/nowhere/worker");
});

Deno.test("distribute refuses bad options", () => {
  const cases: [unknown, unknown, string][] = [
    [5, {}, "worker file must be a path or a URL: received 5"],
    [
      WORKER,
      { count: 0 },
      "count must be an integer of at least 1: received 0",
    ],
    [WORKER, { count: 1.5 }, "count must be an integer"],
    [WORKER, { count: "2" }, "count must be a number: received 2"],
    [WORKER, { key: "chat" }, "key must be a function: received chat"],
    [WORKER, { retries: -1 }, "retries must be an integer of at least 0"],
    [WORKER, { unresponsiveAfter: 0 }, "unresponsiveAfter must be above 0"],
    [WORKER, { stopTimeout: Infinity }, "stopTimeout must be above 0"],
    [WORKER, { stopTimeout: NaN }, "stopTimeout must be above 0"],
    [WORKER, { resourceLimits: 5 }, "resourceLimits must be an object"],
    [
      WORKER,
      { resourceLimits: null },
      "resourceLimits must be an object: received null",
    ],
  ];
  for (const [file, options, message] of cases) {
    assertThrows(
      () => distribute(file as URL, options as DistributeOptions<Context>),
      Error,
      message,
    );
  }
});

Deno.test("the updates of a chat go to the same worker, in order", async () => {
  await withWorkers(async ({ server }) => {
    for (let i = 0; i < 10; i++) {
      for (let chat = 1; chat <= 20; chat++) {
        server.pushText("count", { userId: chat });
      }
    }
    await received(server, 200);
    const expected = Array.from({ length: 10 }, (_, i) => `${i + 1}`);
    for (let chat = 1; chat <= 20; chat++) {
      assertEquals(texts(server, chat), expected);
    }
  }, { mode: "ordered" });
});

Deno.test("each worker gets its share of 1,000 chats", () => {
  const starts = [1, 1000, 123_456_789, 7_000_000_000, -1_001_234_567_890];
  for (const count of [2, 3, 4, 8]) {
    for (const start of starts) {
      for (const step of [1, 2, 8, 1000, 7919]) {
        const shares = new Array(count).fill(0);
        for (let i = 0; i < 1000; i++) {
          const chat = { id: start + i * step };
          shares[hash(keyOf({ message: { chat } })) % count]++;
        }
        for (const share of shares) {
          assert(Math.abs(share * count / 1000 - 1) < 0.3, `${shares}`);
        }
      }
    }
  }
});

Deno.test("the key decides which updates share a worker", async () => {
  await withWorkers(async ({ server, errors }) => {
    for (let chat = 1; chat <= 20; chat++) {
      server.pushText("thread", { userId: chat });
    }
    await received(server, 20);
    assertEquals(new Set(texts(server)).size, 1);
    assertEquals(errors, []);
  }, { key: () => "all" });
});

Deno.test("a key function that returns nothing leaves it at the default", async () => {
  await withWorkers(async ({ server }) => {
    for (let chat = 1; chat <= 20; chat++) {
      server.pushText("thread", { userId: chat });
    }
    await received(server, 20);
    assertEquals(new Set(texts(server)).size, 2);
  }, { key: () => undefined });
});

Deno.test("a key that is no string fails the update", async () => {
  await withWorkers(async ({ server, errors }) => {
    server.pushText("thread");
    await until(() => errors.length === 1);
    assertStringIncludes(errors[0].message, "must be a string: received 1001");
  }, { key: ((ctx: Context) => ctx.chat?.id) as unknown as () => string });
});

Deno.test("sequentialize before distribute keeps the order", async () => {
  await withWorkers(async ({ server }) => {
    for (const ms of [200, 100, 0]) server.pushText(`sleep ${ms}`);
    await received(server, 3);
    assertEquals(texts(server), ["slept 200", "slept 100", "slept 0"]);
  }, { before: (bot) => bot.use(sequentialize()) });
});

Deno.test("sequentialize in a worker gives up slots: a flood starves nobody", async () => {
  await withWorkers(async ({ server, handle }) => {
    server.pushText("sleep 700", { userId: 1 });
    for (let i = 0; i < 30; i++) server.pushText("count", { userId: 1 });
    await until(() => handle.stats().parked === 30);
    server.pushText("me", { userId: 2 });
    await received(server, 32);
    assertEquals(texts(server)[0], `${server.botInfo.id}`);
    const counts = Array.from({ length: 30 }, (_, i) => `${i + 1}`);
    assertEquals(texts(server, 1), ["slept 700", ...counts]);
    await until(() => handle.stats().handled === 32);
    assertEquals(handle.stats().parked, 0);
  }, { mode: "ordered", sink: { concurrency: 2 }, count: 1 });
});

Deno.test("sequentialize in a worker orders also what is not waited for", async () => {
  await withWorkers(async ({ server }) => {
    for (const ms of [30, 20, 10]) server.pushText(`sleep ${ms}`);
    await received(server, 3);
    assertEquals(texts(server), ["slept 30", "slept 20", "slept 10"]);
  }, { mode: "floating" });
});

Deno.test("what a handler throws in a worker reaches the central bot", async () => {
  await withWorkers(async ({ server, errors }) => {
    const update = server.pushText("error");
    await until(() => errors.length === 1);
    const [botError] = errors;
    assert(botError instanceof BotError);
    assertEquals(botError.ctx.update, update);
    assertEquals(botError.message, "RangeError in middleware: too much");
    const error = botError.error as RangeError & { limit: number };
    assert(error instanceof RangeError);
    assertEquals(error.name, "RangeError");
    assertEquals(error.message, "too much");
    assertEquals(error.limit, 3);
    assertMatch(error.stack!, /RangeError: too much\n.*workers\/bot\.ts/);
  });
});

Deno.test("errors of the Bot API are what they are in the central bot", async () => {
  await withWorkers(async ({ server, errors }) => {
    const description = "Bad Request: message text is empty";
    server.fail({ status: 400, description }, { method: "sendMessage" });
    server.pushText("call");
    await until(() => errors.length === 1);
    const error = errors[0].error as GrammyError;
    assert(error instanceof GrammyError);
    assertEquals(error.description, description);
    assertEquals(error.error_code, 400);
    assertEquals(error.method, "sendMessage");
    assertEquals(error.payload.chat_id, 1001);
  });
});

Deno.test("what an error boundary of a worker throws again has the context of the central bot", async () => {
  await withWorkers(async ({ server, errors }) => {
    const update = server.pushText("/bounded");
    await until(() => errors.length === 1);
    const inner = errors[0].error;
    assert(inner instanceof BotError);
    assert(inner.error instanceof RangeError);
    assertStrictEquals(inner.ctx, errors[0].ctx);
    assertEquals(inner.ctx.update, update);
  });
});

Deno.test("other values that are thrown arrive as they are", async () => {
  await withWorkers(async ({ server, errors }) => {
    server.pushText("string");
    await until(() => errors.length === 1);
    assertEquals(errors[0].error, "no error");
  });
});

Deno.test("the error handler of a worker comes first", async () => {
  await withWorkers(async ({ server, errors, handle }) => {
    server.pushText("error");
    await received(server, 1);
    assertEquals(texts(server), ["caught RangeError"]);
    await until(() => handle.stats().handled === 1);
    server.fail({ status: 400 }, { method: "sendMessage" });
    server.pushText("call");
    await until(() => errors.length === 1);
    const error = errors[0].error as Error;
    assertEquals(error.message, "rethrown");
    assert(error.cause instanceof GrammyError);
  }, { mode: "catching" });
});

const DEATHS: [how: string, message: RegExp, options?: SetupOptions][] = [
  ["exit", /^Worker 1 exited with code 3$/],
  ["throw", /^Worker 1 crashed: uncaught$/],
  ["reject", /^Worker 1 crashed: unhandled$/],
  // On Deno, it depends on what the thread was doing.
  [
    "memory",
    /^Worker 1 (ran out of memory|.*memory limit.*|did not respond.*)$/,
    {
      resourceLimits: { maxOldGenerationSizeMb: 50 },
      unresponsiveAfter: 2000,
    },
  ],
];
for (const [how, message, options] of DEATHS) {
  Deno.test(`a worker that dies (${how}) fails its updates and is replaced`, async () => {
    await withWorkers(async ({ server, handle, errors, events }) => {
      server.pushText("thread", { userId: 1 });
      await received(server, 1);
      server.pushText("wait", { userId: 2 });
      await received(server, 2);
      server.pushText(`die ${how}`, { userId: 1 });
      await until(() => errors.length === 2);
      for (const { error } of errors) {
        assert(error instanceof WorkerError);
        assertMatch(error.message, message);
      }
      assertEquals(errors.map(({ ctx }) => ctx.msg!.text), [
        "wait",
        `die ${how}`,
      ]);
      assertEquals(handle.stats().failed, 2);
      const event = events.find(({ type }) => type === "worker-failed");
      assert(event?.type === "worker-failed");
      assertEquals(event.worker, 1);
      assertEquals(event.failed, 2);
      assert(event.error instanceof WorkerError);
      assert(event.restartInMs! >= 50 && event.restartInMs! <= 100);

      server.pushText("thread", { userId: 1 });
      await received(server, 3);
      assertNotEquals(texts(server)[0], texts(server)[2]);
      assert(handle.isRunning());
    }, { count: 1, ...options });
  });
}

Deno.test("the error behind a crash is its cause", async () => {
  await withWorkers(async ({ server, errors }) => {
    server.pushText("die throw");
    await until(() => errors.length === 1);
    const { cause } = errors[0].error as WorkerError;
    assert(cause instanceof TypeError);
    assertEquals(cause.message, "uncaught");
  });
});

Deno.test("with retries, updates run again on the new worker, in order", async () => {
  await withWorkers(async ({ server, handle, errors, events }) => {
    server.pushText("die-once", { userId: 1 });
    server.pushText("count", { userId: 1 });
    server.pushText("count", { userId: 1 });
    server.pushText("me", { userId: 2 });
    await until(() => handle.stats().handled === 4);
    assertEquals(texts(server, 1), ["alive", "1", "2"]);
    assertEquals(errors, []);
    const event = events.find(({ type }) => type === "worker-failed");
    assert(event?.type === "worker-failed");
    assert(event.retried >= 3);
    assertEquals(event.failed, 0);
  }, { mode: "ordered", count: 1, retries: 1, sink: { concurrency: 2 } });
});

Deno.test("what a new worker gets again waits for no slot", async () => {
  await withServer("ordered", async (server) => {
    const bot = createBot(server);
    await bot.init();
    await using middleware = distribute(WORKER, { count: 1, retries: 1 });
    bot.use(middleware);
    let parked = false;
    const expiry = new AbortController();
    const slot = createSlot({
      park() {
        parked = true;
        return new Promise(() => {}); // all slots are taken
      },
    });
    const handle = (text: string, chatId: number, slot: Slot) => {
      const update = textUpdate(text);
      update.message!.chat.id = chatId;
      linkSlot(update, slot);
      return bot.handleUpdate(update);
    };
    const first = handle("sleep 60000", 1, { ...slot, signal: expiry.signal });
    const second = handle("count", 1, slot);
    await until(() => parked);
    expiry.abort(new DOMException("Too late", "TimeoutError"));
    await assertRejects(() =>
      Promise.all([first, handle("die-once", 2, slot)])
    );
    await second;
    await received(server, 2);
    assertEquals(texts(server, 1), ["1"]);
    assertEquals(texts(server, 2), ["alive"]);
  });
  await until(() => threads().length === 0);
});

Deno.test("disposing does not wait for the next worker, and runs again what it had", async () => {
  await withServer("", async (server) => {
    const bot = createBot(server);
    await bot.init();
    const middleware = distribute(WORKER, { count: 1, retries: 1 });
    bot.use(middleware);
    let died = false;
    const update = textUpdate("die-once");
    const emit = ({ type }: WorkerEvent) =>
      void (died ||= type === "worker-failed");
    linkSlot(update, createSlot({ emit }));
    const handled = bot.handleUpdate(update);
    await until(() => died);
    await Promise.all([handled, middleware[Symbol.asyncDispose]()]);
    assertEquals(texts(server), ["alive"]);
  });
  await until(() => threads().length === 0);
});

Deno.test("retries end", async () => {
  await withWorkers(async ({ server, errors, events }) => {
    server.pushText("die exit");
    await until(() => errors.length === 1);
    assert(errors[0].error instanceof WorkerError);
    const deaths = events.filter(({ type }) => type === "worker-failed");
    assertEquals(deaths.length, 3);
  }, { retries: 2 });
});

Deno.test("workers that cannot start end the pool with one error", async () => {
  const file = new URL("./workers/broken.ts", import.meta.url);
  await withWorkers(async ({ server, errors, events, handle }) => {
    for (let chat = 1; chat <= 20; chat++) {
      server.pushText("me", { userId: chat });
    }
    await until(() => errors.length === 20);
    server.pushText("me");
    await until(() => errors.length === 21);
    assertEquals(new Set(errors.map(({ error }) => error)).size, 1);
    const [{ error }] = errors;
    assert(error instanceof WorkerError);
    assertMatch(error.message, /^Worker \d could not start: not configured$/);
    assert(error.cause instanceof RangeError);
    const told = events.filter(({ type }) => type === "worker-failed");
    assertEquals(told.length, 1);
    assert(told[0].type === "worker-failed");
    assertEquals(told[0].restartInMs, undefined);
    assertEquals(told[0].failed, 20);
    await until(() => threads().length === 0);
    assert(handle.isRunning());

    await handle.stop();
    handle.start();
    server.pushText("me");
    await until(() => errors.length === 22);
    assert(errors[21].error !== error);
  }, { file });
});

Deno.test("a worker file without a bot is told about", async () => {
  const file = new URL("./workers/empty.ts", import.meta.url);
  await withWorkers(async ({ server, errors }) => {
    server.pushText("me");
    await until(() => errors.length === 1);
    assertMatch(
      (errors[0].error as WorkerError).message,
      /^Worker \d could not start: it exited with code 0 before it created a BotWorker$/,
    );
  }, { file });
});

Deno.test("a worker file that imports a missing one is told about", async () => {
  await withServer("", async (server, folder) => {
    writeFileSync(
      `${folder}/worker.js`,
      '// @ts-ignore\nimport "./missing.js";',
    );
    const bot = createBot(server);
    await bot.init();
    await using middleware = distribute(`${folder}/worker`, { count: 1 });
    bot.use(middleware);
    const { error } = await assertRejects(
      () => bot.handleUpdate(textUpdate("me")),
      BotError,
    );
    assertMatch(
      (error as WorkerError).message,
      /^Worker 1 could not start: .*\/missing\.js/,
    );
  });
});

for (
  const [when, missing] of [
    ["before its bot", "it created a BotWorker"],
    ["after its bot", "its file had been loaded"],
  ]
) {
  Deno.test(`a worker file that takes too long to load ${when} is told about`, async () => {
    const file = new URL("./workers/hung.ts", import.meta.url);
    await withWorkers(async ({ server, errors }) => {
      server.pushText("me");
      await until(() => errors.length === 1);
      assertEquals(
        (errors[0].error as WorkerError).message,
        `Worker 1 could not start: 400 ms passed before ${missing}`,
      );
    }, { file, mode: when, count: 1, unresponsiveAfter: 400 });
  });
}

for (const name of ["slow", "late"]) {
  Deno.test(`updates wait until the handlers of a ${name} worker are in place`, async () => {
    const file = new URL(`./workers/${name}.ts`, import.meta.url);
    await withWorkers(async ({ server }) => {
      server.pushText("Hello");
      await received(server, 1);
      assertEquals(texts(server), ["in place"]);
    }, { file });
  });
}

Deno.test("bots that share a worker file do not share workers", async () => {
  await withWorkers(async ({ server }) => {
    const other = createBot(server);
    other.botInfo = { ...server.botInfo, id: 777 };
    await using middleware = distribute(WORKER, { count: 1 });
    other.use(middleware);
    server.pushText("me");
    await received(server, 1);
    await other.handleUpdate(textUpdate("me"));
    assertEquals(texts(server), [`${server.botInfo.id}`, "777"]);
    assertEquals(threads().length, 2);
  }, { count: 1 });
});

Deno.test("workers of one bot refuse the updates of another", async () => {
  await withServer("", async (server) => {
    const bot = createBot(server);
    await bot.init();
    const other = createBot(server);
    other.botInfo = { ...server.botInfo, id: 777 };
    await using middleware = distribute(WORKER, { count: 1 });
    for (const one of [bot, other]) one.use(middleware);
    await bot.handleUpdate(textUpdate("me"));
    await assertRejects(
      () => other.handleUpdate(textUpdate("me")),
      BotError,
      "each bot needs middleware of its own: received an update of bot 777",
    );
    assertEquals(texts(server), [`${bot.botInfo.id}`]);
  });
  await until(() => threads().length === 0);
});

Deno.test("updates in workers count as running", async () => {
  await withWorkers(async ({ server, handle }) => {
    for (let chat = 1; chat <= 10; chat++) {
      server.pushText("sleep 100", { userId: chat });
    }
    let most = 0;
    while (server.sent().length < 10) {
      most = Math.max(most, handle.stats().running);
      await sleep(5);
    }
    assertEquals(most, 3);
  }, { sink: { concurrency: 3 } });
});

Deno.test("the time limit of the sink aborts the signal in the worker", async () => {
  const timedOut: Update[] = [];
  await withWorkers(async ({ server, handle }) => {
    const update = server.pushText("wait");
    await received(server, 2);
    assertEquals(texts(server), ["waiting", "TimeoutError"]);
    assertEquals(timedOut, [update]);
    assertEquals(handle.stats().timedOut, 1);
  }, {
    sink: {
      timeout: {
        milliseconds: 1500,
        handler: (update) => void timedOut.push(update),
      },
    },
  });
});

Deno.test("the signal is aborted from the start if the time is up before", async () => {
  await withWorkers(async ({ server, events }) => {
    server.pushText("me");
    await until(() => events.some(({ type }) => type === "worker-started"));
    server.pushText("wait");
    await server.waitFor(() => texts(server).includes("TimeoutError"));
  }, {
    count: 1,
    before: (bot) =>
      bot.use(async (_, next) => {
        await sleep(200);
        await next();
      }),
    sink: { timeout: { milliseconds: 100, handler: () => {} } },
  });
});

Deno.test("workers can send messages of their own", async () => {
  await withWorkers(async ({ server }) => {
    server.pushText("post");
    await received(server, 1);
    assertEquals(texts(server), ["posted"]);
  });
});

Deno.test("an update that times out frees its chat in the worker", async () => {
  await withWorkers(async ({ server }) => {
    server.pushText("sleep 4000");
    server.pushText("me");
    await received(server, 1);
    assertEquals(texts(server), [`${server.botInfo.id}`]);
  }, {
    mode: "ordered",
    sink: { timeout: { milliseconds: 1500, handler: () => {} } },
  });
});

Deno.test("a stop that runs out of time aborts the signal in the worker", async () => {
  await withWorkers(async ({ server, handle }) => {
    const update = server.pushText("wait");
    await received(server, 1);
    const { unfinished } = await handle.stop({ timeout: 100 });
    assertEquals(unfinished, [update]);
    await received(server, 2);
    assertEquals(texts(server), ["waiting", "AbortError"]);
  });
});

Deno.test("an update that a stop has given up starts no workers", async () => {
  let failed: Error | undefined;
  await withWorkers(async ({ server, handle }) => {
    server.pushText("me");
    await until(() => handle.stats().running === 1);
    await handle.stop({ timeout: 100 });
    await until(() => failed !== undefined);
    assertEquals(failed!.name, "AbortError");
    assertEquals(threads(), []);
    handle.start();
    server.pushText("me");
    await received(server, 1);
  }, {
    before: (bot) =>
      bot.use(async (_, next) => {
        await sleep(500);
        await next().catch((error) => failed = error);
      }),
  });
});

Deno.test("after a stop, the next start has fresh workers", async () => {
  await withWorkers(async ({ server, handle }) => {
    for (const expected of [["1"], ["1", "1"]]) {
      server.pushText("count");
      await received(server, expected.length);
      assertEquals(texts(server), expected);
      assertEquals(threads().length, 2);
      await handle.stop();
      await until(() => threads().length === 0);
      handle.start();
    }
  });
});

Deno.test("a stop lets workers finish their updates", async () => {
  await withWorkers(async ({ server, handle }) => {
    server.pushText("sleep 300");
    await until(() => threads().length === 2);
    await until(() => handle.stats().running === 1);
    await handle.stop();
    assertEquals(texts(server), ["slept 300"]);
  });
});

Deno.test("workers close what they have open before they end", async () => {
  await withWorkers(async ({ server, handle, log }) => {
    server.pushText("me");
    await received(server, 1);
    assertEquals(log(), []);
    await handle.stop();
    assertEquals(log(), ["closed", "closed"]); // both workers
  }, { mode: "closing" });
});

Deno.test("workers close what they have open although an update never ends", async () => {
  await withWorkers(async ({ server, handle, log }) => {
    server.pushText("hang");
    await received(server, 1);
    await handle.stop({ timeout: 100 });
    await until(() => threads().length === 0);
    assertEquals(log(), ["closed"]);
  }, { mode: "closing", count: 1, stopTimeout: 1000 });
});

Deno.test("without a runner, disposing lets updates finish and workers close", async () => {
  await withServer("closing", async (server, folder) => {
    const bot = createBot(server);
    await bot.init();
    const middleware = distribute(WORKER, { count: 1 });
    bot.use(middleware);
    await bot.handleUpdate(textUpdate("me"));
    let handled = false;
    bot.handleUpdate(textUpdate("sleep 300")).then(() => handled = true);
    await middleware[Symbol.asyncDispose]();
    assert(handled);
    assertEquals(texts(server)[1], "slept 300");
    assertEquals(readFileSync(`${folder}/log`, "utf8"), "closed\n");
  });
  await until(() => threads().length === 0);
});

Deno.test("what fails in closing is told, and the rest is closed", async () => {
  await withWorkers(async ({ server, handle, log, events }) => {
    server.pushText("me");
    await received(server, 1);
    await handle.stop();
    assertEquals(log(), ["closed"]);
    const event = events.find(({ type }) => type === "stop-hook-failed");
    assert(event?.type === "stop-hook-failed");
    assert(event.error instanceof RangeError);
    assertEquals(event.error.message, "cannot close");
  }, { mode: "failing to close", count: 1 });
});

Deno.test("what fails in closing is told if it is nothing", async () => {
  await withWorkers(async ({ server, handle, events }) => {
    server.pushText("me");
    await received(server, 1);
    await handle.stop();
    const told = events.filter(({ type }) => type === "stop-hook-failed");
    assertEquals(told, [{ type: "stop-hook-failed", error: undefined }]);
  }, { mode: "throwing nothing", count: 1 });
});

Deno.test("what fails in closing is told once", async () => {
  await withServer("failing to close", async (server) => {
    const bot = createBot(server);
    await bot.init();
    const middleware = distribute(WORKER, { count: 1 });
    bot.use(middleware);
    await bot.handleUpdate(textUpdate("me"));
    const dispose = () => middleware[Symbol.asyncDispose]();
    const told = assertRejects(dispose, RangeError, "cannot close");
    await dispose();
    await told;
    await dispose();
  });
  await until(() => threads().length === 0);
});

Deno.test("workers that do not close in time are terminated", async () => {
  await withWorkers(async ({ server, handle, events }) => {
    server.pushText("me");
    await received(server, 1);
    await handle.stop();
    const event = events.find(({ type }) => type === "stop-hook-failed");
    assert(event?.type === "stop-hook-failed");
    assert(event.error instanceof WorkerError);
    assertEquals(event.error.message, "Worker 1 did not stop within 200 ms");
  }, { mode: "hanging", count: 1, stopTimeout: 200 });
});

/** Starts a program in a process of its own. */
function spawn(name: string): Deno.ChildProcess {
  const file = new URL(`./workers/${name}.ts`, import.meta.url);
  const args = ["run", "-A", fileURLToPath(file)];
  return new Deno.Command(Deno.execPath(), { args }).spawn();
}

Deno.test("idle workers do not keep a process alive", async () => {
  await withServer("", async (server) => {
    const { code } = await spawn("unmanaged").status;
    assertEquals(code, 0);
    assertEquals(texts(server), ["slept 100"]);
  });
});

// In a process of its own, as Deno cannot end a thread that is stuck.
Deno.test("a worker that is stuck is replaced, and the process ends by itself", async () => {
  await withServer("", async (server) => {
    const { status } = spawn("managed");
    server.pushText("sleep 100");
    await received(server, 1);
    server.pushText("die loop");
    await received(server, 2);
    server.pushText("sleep 50");
    await server.waitFor(() => texts(server).includes("slept 50"));
    server.pushText("stop");
    assertEquals((await status).code, 0);
    // The first one may have been waiting for the answer of the server.
    assertEquals(
      new Set(texts(server)),
      new Set([
        "slept 100",
        "Worker 1 did not respond within 500 ms",
        "slept 50",
      ]),
    );
  });
});

Deno.test("BotWorker needs a thread of distribute, of its own", async () => {
  assertThrows(
    () => new BotWorker("123456:token"),
    Error,
    "must be created in a file that is passed to distribute",
  );
  await withWorkers(async ({ server, errors }) => {
    server.pushText("another");
    await until(() => errors.length === 1);
    assertStringIncludes(errors[0].message, "there can be only one");
  });
});

Deno.test("BotWorker cannot be started", async () => {
  await withWorkers(async ({ server, errors }) => {
    server.pushText("start");
    await until(() => errors.length === 1);
    assertStringIncludes(errors[0].message, "Cannot start bot worker");
  });
});
