// Programs written for 2.0.3 have to type-check. Most of what is here is never
// called: that it compiles is the test.
import * as runner from "@grammyjs/runner";
import {
  BotWorker,
  createBatchSink,
  createConcurrentSink,
  createMemoryInbox,
  createRunner,
  createSequentialSink,
  createSource,
  createUpdateFetcher,
  DecayingDeque,
  distribute,
  type FetchOptions,
  run,
  type RunnerHandle,
  type RunnerOptions,
  type RunOptions,
  sequentialize,
  type SinkOptions,
  type SourceOptions,
  type UpdateConsumer,
  type UpdateSink,
  type UpdateSource,
  type UpdateSupplier,
} from "@grammyjs/runner";
import { assertEquals } from "@std/assert";
import {
  type Api,
  Bot,
  type BotError,
  type Context,
  session,
  type SessionFlavor,
} from "grammy";
import type { Update } from "grammy/types";

declare const token: string;

/** Type-checks the body without running it. */
function compiles(_body: () => unknown): void {}

Deno.test("every name of 2.0.3 is exported", () => {
  const names = [
    "BotWorker",
    "DecayingDeque",
    "createBatchSink",
    "createConcurrentSink",
    "createRunner",
    "createSequentialSink",
    "createSource",
    "createUpdateFetcher",
    "distribute",
    "run",
    "sequentialize",
  ];
  assertEquals(names.filter((name) => !(name in runner)), []);
});

Deno.test("run takes bots of all kinds", () => {
  compiles(() => {
    const bot = new Bot(token);
    run(bot);
    run<Update, BotError>(bot);
  });
  compiles(() => {
    type MyContext = Context & SessionFlavor<{ count: number }>;
    const bot = new Bot<MyContext>(token);
    bot.use(session({ initial: () => ({ count: 0 }) }));
    run(bot, { sink: { concurrency: 10 } });
  });
  compiles(() =>
    run<Update, Error>({
      handleUpdate: (update) => Promise.resolve(void update.update_id),
      errorHandler: (error) => console.error(error.message),
      api: { getUpdates: () => Promise.resolve([]) },
    })
  );
});

Deno.test("the options of 2.0.3 are taken", () => {
  const fetch: FetchOptions = {
    timeout: 20,
    allowed_updates: ["message", "callback_query"],
  };
  const options: RunnerOptions = {
    fetch,
    maxRetryTime: 1000,
    retryInterval: "quadratic",
    silent: true,
  };
  const source: SourceOptions = {
    speedTrafficBalance: 0.5,
    maxDelayMilliseconds: 100,
  };
  const sink: SinkOptions<Update> = {
    concurrency: 10,
    timeout: {
      milliseconds: 1000,
      handler: (update, task) => void task.then(() => update.update_id),
    },
  };
  const all: RunOptions<Update> = { source, runner: options, sink };
  compiles(() => run(new Bot(token), all));
});

Deno.test("a handle is used as in 2.0.3", () => {
  compiles(async () => {
    let handle: RunnerHandle;
    handle = run(new Bot(token));
    handle = createRunner(
      createSource({ supply: () => Promise.resolve([""]) }),
      mySink(),
    );
    handle.start();
    const stopped: Promise<void> = handle.stop();
    const stop: () => Promise<void> = handle.stop;
    const stopRunner = () => handle.isRunning() && handle.stop();
    Deno.addSignalListener("SIGINT", stopRunner);
    Deno.addSignalListener("SIGTERM", handle.stop);
    const size: number = handle.size();
    const task: Promise<void> | undefined = handle.task();
    await Promise.all([stopped, stop(), task?.then(() => size)]);
  });
});

Deno.test("custom suppliers need only the members of 2.0.3", () => {
  compiles(() => {
    const bot = new Bot(token);
    const supplier: UpdateSupplier<Update> = {
      supply: (limit, signal) => bot.api.getUpdates({ limit }, signal),
    };
    createSource(supplier);
    createSource({
      supply: (limit, signal) => bot.api.getUpdates({ limit }, signal),
    });
    createSource({
      supply: async (_, signal: AbortSignal) => {
        const response = await fetch("https://example.com", { signal });
        return await response.json() as string[];
      },
    });
  });
  compiles(() => {
    const bot = new Bot(token);
    const supply: (n: number, signal: AbortSignal) => Promise<Update[]> =
      createUpdateFetcher(bot);
    const fetchUpdates = createUpdateFetcher<Update, BotError>(bot, {
      fetch: { timeout: 1 },
    });
    const source = createSource({
      supply: async (n, signal) =>
        (await fetchUpdates(n, signal)).filter((update) => update.message),
    });
    const consumer: UpdateConsumer<Update> = {
      consume: (update) => bot.handleUpdate(update),
    };
    const sink = createConcurrentSink<Update, BotError>(
      consumer,
      async (error) => {
        await bot.errorHandler(error);
      },
    );
    createRunner(source, sink).start();
    createRunner(createSource({ supply }), sink);
    createRunner(createSource({ supply: createUpdateFetcher(bot) }), sink);
  });
});

Deno.test("custom sources and sinks need only the members of 2.0.3", () => {
  class MySource implements UpdateSource<string> {
    async *generator(): AsyncGenerator<string[]> {
      yield ["a"];
    }
    setGeneratorPace(_pace: number): void {}
    isActive = () => false;
    close(): void {}
  }
  createRunner(new MySource(), mySink());
  class MyConsumer implements UpdateConsumer<string> {
    consume = (_update: string) => Promise.resolve();
  }
  const onError = (error: Error) => Promise.reject(error.message);
  for (const create of [createSequentialSink, createBatchSink]) {
    createRunner(new MySource(), create(new MyConsumer(), onError));
  }
  const deque = new DecayingDeque<string, Error>(
    1000,
    async (_elem: string) => {},
    true,
    (_error: Error, _elem: string) => {},
    (_elem, _task: Promise<void>) => {},
  );
  const length: number = deque.length;
  const elems: string[] = deque.pendingTasks();
  assertEquals([length, elems], [0, []]);
});

function mySink(): UpdateSink<string> {
  return {
    handle: (updates: string[]) => Promise.resolve(updates.length),
    size: () => 0,
    snapshot: () => [],
  };
}

Deno.test("sequentialize takes the constraint functions of 2.0.3", () => {
  const bot = new Bot("1:test");
  bot.use(sequentialize((ctx) => ctx.chat?.id.toString()));
  bot.use(
    sequentialize((ctx: Context) =>
      [ctx.chat?.id.toString(), ctx.from?.id.toString()]
        .filter((constraint) => constraint !== undefined)
    ),
  );
  const constraint = (ctx: Context): string | string[] | undefined =>
    ctx.msg ? [`${ctx.msg.chat.id}`] : undefined;
  bot.use(sequentialize<Context>(constraint), sequentialize(constraint));
  bot.chatType("private").use(sequentialize((ctx) => `${ctx.chat.id}`));
  bot.use(sequentialize());
});

Deno.test("the lines in the table of the README type-check", () => {
  compiles(async () => {
    const bot = new Bot(token);
    run(bot, { sink: { concurrency: 50 } });
    bot.use(sequentialize((ctx) => ctx.chat?.id.toString()));
    bot.catch((error) => console.error(error.message));
    run(bot, {
      sink: { timeout: { milliseconds: 60_000, handler: console.error } },
    });
    const handle = run(bot, { onEvent: console.log });
    await handle.stop();
    await handle.stop({ timeout: 10_000 });
    run(bot, { inbox: createMemoryInbox({ lookahead: 20 }) });
    run(bot, { runner: { maxRetryInterval: 10_000 } });
    handle.task()?.catch(() => Deno.exit(1));
    handle.stats();
  });
});

Deno.test("workers type-check as before", () => {
  type MyContext = Context & SessionFlavor<{ count: number }>;
  compiles(() => {
    const bot = new Bot<MyContext>(token);
    bot.use(distribute("./worker"));
    bot.use(distribute<MyContext>("./worker", { count: 8 }));
    const middleware: (ctx: MyContext) => Promise<void> = distribute(
      "./worker",
    );
    bot.use(middleware);
  });
  compiles(() => {
    const bot = new BotWorker<MyContext>(token, { client: { apiRoot: "" } });
    bot.use(session({ initial: () => ({ count: 0 }) }));
    bot.on("message", (ctx) => void ctx.session.count++);
    bot.catch((error) => console.error(error.message));
    bot.errorBoundary(() => {});
    const api: Api = bot.api;
    return api;
  });
  compiles(() => {
    const bot = new Bot(token);
    bot.use(distribute("./worker", { key: (ctx) => ctx.chat?.id.toString() }));
  });
});
