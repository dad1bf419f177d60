import { assert, assertEquals, assertMatch } from "@std/assert";
import { context, diag, metrics, SpanKind, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import {
  AggregationTemporality,
  InMemoryMetricExporter,
  MeterProvider,
  PeriodicExportingMetricReader,
} from "@opentelemetry/sdk-metrics";
import {
  BasicTracerProvider,
  InMemorySpanExporter,
  type ReadableSpan,
  SimpleSpanProcessor,
} from "@opentelemetry/sdk-trace-base";
import { type Context, GrammyError } from "grammy";
import {
  abortSignal,
  createMemoryInbox,
  run,
  type RunnerEvent,
  type RunnerStats,
  sequentialize,
} from "../mod.ts";
import { recordMetrics, traceUpdates } from "../otel.ts";
import {
  createBot,
  Deferred,
  pushTexts,
  sleep,
  startServer,
  until,
} from "./_bot.ts";

/** What an SDK in this process collects until it is disposed of. */
class Collector implements AsyncDisposable {
  readonly #spans = new InMemorySpanExporter();
  readonly #tracing = new BasicTracerProvider({
    spanProcessors: [new SimpleSpanProcessor(this.#spans)],
  });
  readonly #metrics = new InMemoryMetricExporter(
    AggregationTemporality.CUMULATIVE,
  );
  readonly #reader = new PeriodicExportingMetricReader({
    exporter: this.#metrics,
    exportIntervalMillis: 1e9,
  });
  readonly #meters = new MeterProvider({ readers: [this.#reader] });

  /** What the SDK complains about, such as spans that are used after their end. */
  readonly #complaints: string[] = [];

  constructor() {
    const complain = (message: string) => void this.#complaints.push(message);
    const ignore = () => {};
    diag.setLogger({
      error: complain,
      warn: complain,
      info: ignore,
      debug: ignore,
      verbose: ignore,
    });
    const manager = new AsyncLocalStorageContextManager().enable();
    context.setGlobalContextManager(manager);
    trace.setGlobalTracerProvider(this.#tracing);
    metrics.setGlobalMeterProvider(this.#meters);
  }

  get spans(): ReadableSpan[] {
    return this.#spans.getFinishedSpans();
  }

  span(name: string): ReadableSpan {
    const found = this.spans.filter((span) => span.name === name);
    assertEquals(found.length, 1, `${found.length} spans named ${name}`);
    return found[0];
  }

  /** The metrics as a table: name and attributes, value or count and sum. */
  async read(): Promise<Record<string, unknown>> {
    await this.#reader.forceFlush();
    const table: Record<string, unknown> = {};
    for (const { metrics } of this.#metrics.getMetrics().at(-1)!.scopeMetrics) {
      for (const { descriptor: { name }, dataPoints } of metrics) {
        for (const { attributes, value } of dataPoints) {
          const row = [name, ...Object.values(attributes)].join(" ");
          table[row.replace("grammy.runner.", "")] = value;
        }
      }
    }
    return table;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    assertEquals(this.#complaints, []);
    diag.disable();
    context.disable();
    trace.disable();
    metrics.disable();
    await this.#tracing.forceFlush();
    await this.#tracing.shutdown();
    await this.#meters.shutdown();
  }
}

/** All that a span tells. */
function contents({ name, attributes, events, status }: ReadableSpan): string {
  return JSON.stringify({ name, attributes, events, status });
}

/** How often a histogram was recorded to. */
function countOf(value: unknown): number {
  return (value as { count: number }).count;
}

function ended(update: unknown, more: Partial<RunnerEvent> = {}): RunnerEvent {
  return {
    type: "ended",
    update,
    outcome: "handled",
    waitedMs: 0,
    ranMs: 1,
    ...more,
  } as RunnerEvent;
}

Deno.test("metrics count what a runner does, by the type of the update", async () => {
  await using collector = new Collector();
  await using server = await startServer();
  const bot = createBot(server);
  bot.on("callback_query", () => {});
  bot.on("message:text", async (ctx) => {
    if (ctx.msg.text === "fail") throw new Error("oh no");
    if (ctx.msg.text === "hang") await new Promise(() => {});
  });
  bot.catch(() => {});
  server.fail({ status: 502 }, { times: 2 });
  server.fail("reset");
  const handle = run(bot, {
    onEvent: recordMetrics(),
    runner: { silent: true, retryInterval: 1 },
    sink: { timeout: { milliseconds: 20, handler: () => {} } },
  });
  for (const text of ["a", "b", "fail", "hang"]) server.pushText(text);
  server.pushCallbackQuery("press");
  await until(() => handle.stats().timedOut === 1);
  await handle.stop();

  const table = await collector.read();
  assertEquals(table["received.updates message"], 4);
  assertEquals(table["received.updates callback_query"], 1);
  assertEquals(table["handled.updates message"], 2);
  assertEquals(table["handled.updates callback_query"], 1);
  assertEquals(table["failed.updates message"], 1);
  assertEquals(table["timed_out.updates message"], 1);
  assertEquals(table["failed.polls 502"], 2);
  assertEquals(table["failed.polls HttpError"], 1);
  assertEquals(countOf(table["wait.duration message"]), 4);
  assertEquals(countOf(table["handle.duration message"]), 4);
  assertEquals(countOf(table["poll.duration"]), handle.stats().polls);
});

Deno.test("metrics tell durations in seconds", async () => {
  await using collector = new Collector();
  const record = recordMetrics();
  record(ended({ message: {} }, { waitedMs: 250, ranMs: 1500 }));
  record({ type: "poll", durationMs: 30_000, count: 0 });
  const table = await collector.read();
  const sums = Object.entries(table).map(([name, value]) => [
    name,
    (value as { sum?: number }).sum,
  ]);
  assertEquals(sums.filter(([, sum]) => sum !== undefined), [
    ["wait.duration message", 0.25],
    ["handle.duration message", 1.5],
    ["poll.duration", 30],
  ]);
  const { buckets } = table["poll.duration"] as {
    buckets: { boundaries: number[]; counts: number[] };
  };
  assertEquals(buckets.boundaries[buckets.counts.indexOf(1)], 30);
});

Deno.test("metrics tell what runs, is parked, and is buffered, while a runner runs", async () => {
  await using collector = new Collector();
  await using server = await startServer();
  const release = new Deferred();
  const bot = createBot(server);
  bot.use(sequentialize());
  bot.use(() => release.promise);
  for (const chat of [1, 1, 2, 3, 4, 5]) pushTexts(server, 1, chat);
  const handle = run(bot, {
    onEvent: recordMetrics(),
    sink: { concurrency: 3 },
    inbox: createMemoryInbox({ lookahead: 1 }),
  });
  await until(() => handle.stats().running === 3);
  await until(() => handle.stats().inbox.buffered === 1);
  const { buffered } = handle.stats();
  let table = await collector.read();
  assertEquals(table["running.updates"], 3);
  assertEquals(table["parked.updates"], 1);
  assertEquals(table["buffered.updates"], buffered);
  assertEquals(table["inbox.updates buffered"], 1);
  release.resolve();
  await handle.stop();
  table = await collector.read();
  assertEquals(table["running.updates"], 0);
  assertEquals(table["parked.updates"], 0);
  assertEquals(table["buffered.updates"], 0);
});

/** The numbers of a runner that there need not be. */
function fakeStats(part: Partial<RunnerStats>): () => RunnerStats {
  const stats = { state: "polling", running: 0, parked: 0, buffered: 0 };
  return () => ({ ...stats, inbox: {}, ...part }) as RunnerStats;
}

Deno.test("metrics add up the numbers of several runners that have not stopped", async () => {
  await using collector = new Collector();
  const record = recordMetrics();
  const inbox = { unfinished: 5, quarantined: 1, leading: true };
  const first = { running: 1, parked: 2, buffered: 3, inbox };
  const second: Partial<RunnerStats> = { running: 10, parked: 20, inbox };
  const stats = fakeStats(first);
  record({ type: "started", stats });
  record({ type: "started", stats }); // once more, after a stop
  const other = fakeStats(second);
  record({ type: "started", stats: () => ({ ...other(), ...second }) });
  const levels = async () => {
    const table = await collector.read();
    return Object.entries(table).map(([name, value]) => `${name} ${value}`);
  };
  assertEquals(await levels(), [
    "running.updates 11",
    "parked.updates 22",
    "buffered.updates 3",
    "inbox.updates unfinished 10",
    "inbox.updates quarantined 2",
  ]);
  second.state = "stopped";
  assertEquals((await levels()).slice(0, 3), [
    "running.updates 1",
    "parked.updates 2",
    "buffered.updates 3",
  ]);
});

Deno.test("updates of ever new types do not make ever more metrics and names", async () => {
  await using collector = new Collector();
  const record = recordMetrics();
  const middleware = traceUpdates();
  const api = { config: { use: () => {} } };
  for (let i = 0; i < 500; i++) {
    record({
      type: "received",
      updates: [{ update_id: i, [`type_${i}`]: {} }],
    });
    const update = { update_id: i, [`type_${i}`]: {} };
    await middleware({ update, api }, () => Promise.resolve());
  }
  const table = await collector.read();
  const rows = Object.keys(table).filter((row) => row.startsWith("received"));
  assertEquals(rows.length, 65);
  assertEquals(table["received.updates type_0"], 1);
  assertEquals(table["received.updates _OTHER"], 500 - 64);
  const names = new Set(collector.spans.map((span) => span.name));
  assertEquals(names.size, 65);
  assert(names.has("handle _OTHER"));
});

Deno.test("metrics take updates of any type, and errors of any type", async () => {
  await using collector = new Collector();
  const record = recordMetrics();
  const odd = [1, "text", null, undefined, [], {}, { update_id: 1 }];
  for (const update of odd) record(ended(update));
  for (const error of [1, "text", null, undefined, {}]) {
    record({ type: "poll-failed", error, failures: 1, retryInMs: 1 });
  }
  const table = await collector.read();
  assertEquals(table["handled.updates _OTHER"], odd.length);
  assertEquals(table["failed.polls _OTHER"], 5);
});

/** Runs a bot with traces, whose handler gets one text after the other. */
async function traceTexts(
  texts: string[],
  handler: (ctx: Context) => unknown,
): Promise<unknown[]> {
  await using server = await startServer();
  server.answer("sendMessage", (params: Record<string, unknown>) => ({
    message_id: 1,
    date: 0,
    chat: { id: 1, type: "private", first_name: "Ada" },
    text: params.text,
  }));
  const errors: unknown[] = [];
  const bot = createBot(server);
  bot.use(traceUpdates());
  bot.use((ctx) => handler(ctx) as Promise<void>);
  bot.catch(({ error }) => void errors.push(error));
  const handle = run(bot);
  for (const text of texts) server.pushText(text);
  await until(() =>
    handle.stats().handled + handle.stats().failed === texts.length
  );
  await handle.stop();
  return errors;
}

Deno.test("each update is a trace, which calls to the Bot API are part of", async () => {
  await using collector = new Collector();
  const tracer = trace.getTracer("bot");
  await tracer.startActiveSpan("program", async (span) => {
    await traceTexts(["hello"], async (ctx) => {
      await ctx.reply("one");
      await tracer.startActiveSpan("work", async (span) => {
        await ctx.api.sendChatAction(ctx.chatId!, "typing");
        span.end();
      });
    });
    span.end();
  });
  const root = collector.span("handle message");
  assertEquals(root.kind, SpanKind.CONSUMER);
  assertEquals(root.parentSpanContext, undefined);
  assertEquals(root.attributes, {
    "telegram.update.type": "message",
    "messaging.message.id": "1",
  });
  assertEquals(root.status, { code: 0 });
  const reply = collector.span("sendMessage");
  assertEquals(reply.kind, SpanKind.CLIENT);
  assertEquals(reply.parentSpanContext?.spanId, root.spanContext().spanId);
  assertEquals(reply.spanContext().traceId, root.spanContext().traceId);
  const work = collector.span("work");
  assertEquals(work.parentSpanContext?.spanId, root.spanContext().spanId);
  const action = collector.span("sendChatAction");
  assertEquals(action.parentSpanContext?.spanId, work.spanContext().spanId);
});

Deno.test("spans of updates that run at the same time do not mix", async () => {
  await using collector = new Collector();
  const texts = Array.from({ length: 20 }, (_, i) => `${i}`);
  const all = new Deferred();
  let started = 0;
  await traceTexts(texts, async (ctx) => {
    const span = trace.getActiveSpan();
    if (++started === texts.length) all.resolve();
    await all.promise;
    await sleep(ctx.update.update_id % 3);
    await ctx.reply("done");
    assertEquals(trace.getActiveSpan(), span);
  });
  const roots = collector.spans.filter(({ name }) => name === "handle message");
  const replies = collector.spans.filter(({ name }) => name === "sendMessage");
  assertEquals(roots.length, texts.length);
  assertEquals(
    replies.map((span) => span.parentSpanContext?.spanId).sort(),
    roots.map((span) => span.spanContext().spanId).sort(),
  );
});

Deno.test("errors are passed on, and the span tells their type and place", async () => {
  await using collector = new Collector();
  const error = new RangeError("Ada is 36\n    at home");
  const [passedOn] = await traceTexts(["hello"], function failHere() {
    throw error;
  });
  assertEquals(passedOn, error);
  const { status, attributes, events } = collector.span("handle message");
  assertEquals(status, { code: 2 });
  assertEquals(attributes["error.type"], "RangeError");
  assertEquals(events.length, 1);
  const stack = `${events[0].attributes?.["exception.stacktrace"]}`;
  assertMatch(stack, /^ +at .*otel_test\.ts/);
  assert(!contents(collector.span("handle message")).includes("Ada"));
  assert(!stack.includes("home"));
});

Deno.test("what is thrown without being an error is passed on, too", async () => {
  await using collector = new Collector();
  const errors = await traceTexts(["hello"], () => Promise.reject("nothing"));
  assertEquals(errors, ["nothing"]);
  const { status, attributes, events } = collector.span("handle message");
  assertEquals(status, { code: 2 });
  assertEquals(attributes["error.type"], "_OTHER");
  assertEquals(events, []);
});

Deno.test("spans of calls that fail tell the error code", async () => {
  await using collector = new Collector();
  await using server = await startServer();
  const bot = createBot(server);
  bot.use(traceUpdates());
  bot.on("message", async (ctx) => {
    const failed = await ctx.reply("a").catch((error) => error);
    assert(failed instanceof GrammyError);
    await ctx.replyWithDice("🎲").catch(() => {});
  });
  server.fail(
    { status: 403, description: "Forbidden: bot was blocked by the user" },
    { method: "sendMessage" },
  );
  server.fail("reset", { method: "sendDice" });
  const handle = run(bot);
  server.pushText("hello");
  await until(() => handle.stats().handled === 1);
  await handle.stop();
  const refused = collector.span("sendMessage");
  assertEquals(refused.attributes, { "error.type": "403" });
  assertEquals(refused.status, { code: 2 });
  const broken = collector.span("sendDice");
  assertEquals(broken.attributes, { "error.type": "HttpError" });
  assertEquals(broken.status, { code: 2 });
  assertEquals(collector.span("handle message").status, { code: 0 });
});

Deno.test("spans and metrics tell nothing about people unless asked to", async () => {
  await using collector = new Collector();
  await using server = await startServer();
  const bot = createBot(server);
  bot.use(traceUpdates());
  bot.on("message:text", async (ctx) => {
    await ctx.reply(`You said ${ctx.msg.text}`).catch(() => {});
    if (ctx.msg.text === "tell secret4711") {
      trace.getActiveSpan()?.setAttribute("chat.id", ctx.chatId);
    }
    throw new Error(`Cannot handle ${ctx.msg.text} of ${ctx.from.id}`);
  });
  bot.catch(() => {});
  const handle = run(bot, { onEvent: recordMetrics() });
  for (const text of ["secret4711", "tell secret4711"]) {
    server.pushText(text, { userId: 987654321 });
  }
  await until(() => handle.stats().failed === 2);
  await handle.stop();
  assertEquals(collector.spans.length, 4);
  const asked = collector.spans.filter((span) => span.attributes["chat.id"]);
  assertEquals(asked.length, 1);
  asked[0].attributes["chat.id"] = "as asked";
  const everything = collector.spans.map(contents).join() +
    JSON.stringify(await collector.read());
  for (const secret of ["secret4711", "987654321", server.token]) {
    assert(!everything.includes(secret), everything);
  }
});

Deno.test("a span ends with the time limit, whether or not the handler does", async () => {
  await using collector = new Collector();
  await using server = await startServer();
  const bot = createBot(server);
  bot.use(traceUpdates());
  const late: Promise<unknown>[] = [];
  bot.on("message:text", (ctx) => {
    if (ctx.msg.text === "hang") return new Promise(() => {});
    const { promise, resolve } = new Deferred();
    abortSignal(ctx).addEventListener("abort", () => resolve());
    const failed = promise.then(() => Promise.reject(new Error("given up")));
    late.push(failed.catch(() => {}));
    return failed;
  });
  const handle = run(bot, {
    sink: { timeout: { milliseconds: 10, handler: () => {} } },
  });
  server.pushText("hang");
  server.pushText("heed the signal");
  await until(() => handle.stats().timedOut === 2);
  await Promise.all(late);
  await handle.stop();
  assertEquals(collector.spans.length, 2);
  for (const { status, attributes } of collector.spans) {
    assertEquals(status, { code: 2 });
    assertEquals(attributes["error.type"], "TimeoutError");
  }
});

Deno.test("a span that begins after the time limit ends at once", async () => {
  await using collector = new Collector();
  await using server = await startServer();
  const bot = createBot(server);
  const slow = new Deferred();
  const over = new Deferred();
  bot.use((_, next) => slow.promise.then(next).finally(over.resolve));
  bot.use(traceUpdates());
  bot.use(() => {});
  const handle = run(bot, {
    sink: { timeout: { milliseconds: 10, handler: () => {} } },
  });
  server.pushText("hello");
  await until(() => handle.stats().timedOut === 1);
  slow.resolve();
  await over.promise;
  await handle.stop();
  const { attributes } = collector.span("handle message");
  assertEquals(attributes["error.type"], "TimeoutError");
});

Deno.test("a span ends with a stop that runs out of time", async () => {
  await using collector = new Collector();
  await using server = await startServer();
  const bot = createBot(server);
  bot.use(traceUpdates());
  bot.use(() => new Promise<void>(() => {}));
  const handle = run(bot, { runner: { silent: true } });
  server.pushText("hello");
  await until(() => handle.stats().running === 1);
  await handle.stop({ timeout: 1 });
  const { attributes } = collector.span("handle message");
  assertEquals(attributes["error.type"], "AbortError");
});

Deno.test("traces work without a runner", async () => {
  await using collector = new Collector();
  await using server = await startServer();
  const bot = createBot(server);
  bot.use(traceUpdates());
  bot.on("message", (ctx) => ctx.reply("fine"));
  await bot.init();
  await bot.handleUpdate(server.pushText("hello"));
  const root = collector.span("handle message");
  const reply = collector.span("sendMessage");
  assertEquals(reply.parentSpanContext?.spanId, root.spanContext().spanId);
});

Deno.test("nothing is done where no SDK is set up", async () => {
  let used = 0;
  const api = { config: { use: () => void used++ } };
  const middleware = traceUpdates();
  let handled = 0;
  await middleware({ update: { update_id: 1 }, api }, async () => {
    await sleep(0);
    handled++;
  });
  assertEquals([used, handled], [0, 1]);
  recordMetrics()(ended({ message: {} }));
});

/** What arrives at a collector, as OTLP in JSON. */
interface Exported {
  resourceSpans?: { scopeSpans: { spans: ExportedSpan[] }[] }[];
  resourceMetrics?: { scopeMetrics: { metrics: { name: string }[] }[] }[];
}
interface ExportedSpan {
  name: string;
  traceId: string;
  spanId: string;
  parentSpanId: string;
}

Deno.test("the example exports by Deno itself, without an SDK", async () => {
  await using server = await startServer();
  const spans: ExportedSpan[] = [];
  const names = new Set<string>();
  await using collector = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen: () => {} },
    async (request) => {
      const exported: Exported = await request.json();
      for (const { scopeSpans } of exported.resourceSpans ?? []) {
        for (const scope of scopeSpans) spans.push(...scope.spans);
      }
      for (const { scopeMetrics } of exported.resourceMetrics ?? []) {
        for (const { metrics } of scopeMetrics) {
          for (const { name } of metrics) names.add(name);
        }
      }
      return Response.json({});
    },
  );
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-A",
      new URL("../examples/telemetry.ts", import.meta.url).href,
    ],
    env: {
      BOT_TOKEN: server.token,
      BOT_API_ROOT: server.url,
      OTEL_DENO: "true",
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${collector.addr.port}`,
      OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
      OTEL_METRIC_EXPORT_INTERVAL: "50",
    },
  }).spawn();
  for (let i = 0; i < 3; i++) server.pushText("hello");
  await server.waitFor(() => server.sent().length === 3, { timeout: 30_000 });
  await until(() => names.has("grammy.runner.inbox.updates"));
  child.kill("SIGINT");
  assertEquals((await child.status).code, 0);

  const roots = spans.filter(({ name }) => name === "handle message");
  const calls = spans.filter(({ name }) => name === "sendMessage");
  assertEquals(roots.length, 3);
  assertEquals(
    calls.map((span) => [span.traceId, span.parentSpanId]).sort(),
    roots.map((span) => [span.traceId, span.spanId]).sort(),
  );
  const own = [...names].filter((name) => name.startsWith("grammy."));
  assertEquals(own.map((name) => name.slice("grammy.runner.".length)).sort(), [
    "buffered.updates",
    "handle.duration",
    "handled.updates",
    "inbox.updates",
    "parked.updates",
    "poll.duration",
    "received.updates",
    "running.updates",
    "wait.duration",
  ]);
});
