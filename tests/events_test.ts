import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { Bot, BotError, type Context } from "grammy";
import {
  hideToken,
  logEvent,
  type RunnerEvent,
  type RunnerStats,
} from "../events.ts";
import { WorkerError } from "../_threads_errors.ts";

/** What is printed for an event: one string a line. */
function linesOf(event: RunnerEvent): string[] {
  const lines: unknown[][] = [];
  const { error } = console;
  console.error = (...data: unknown[]) => void lines.push(data);
  try {
    logEvent(event);
  } finally {
    console.error = error;
  }
  return lines.map((data) => data.join(" "));
}

const error = new Error("the cause");

const workerFailed = {
  type: "worker-failed",
  worker: 1,
  error: new WorkerError("the worker"),
  failed: 3,
  retried: 0,
} as const;

const loud: [string, RunnerEvent, string[][]][] = [
  [
    "a failed poll",
    { type: "poll-failed", error, failures: 1, retryInMs: 2_340 },
    [["next try in 2.3 s", "the cause"]],
  ],
  [
    "a failed poll with a hint",
    { type: "poll-failed", error, failures: 1, retryInMs: 90, hint: "Do it" },
    [["next try in 0.1 s", "the cause"], ["Do it"]],
  ],
  [
    "a recovery",
    { type: "recovered", failures: 3, downMs: 4_560 },
    [["works again after 3 failures in 4.6 s"]],
  ],
  [
    "a recovery from one failure",
    { type: "recovered", failures: 1, downMs: 100 },
    [["works again after 1 failure in 0.1 s"]],
  ],
  [
    "an error handler that failed",
    { type: "handler-failed", error, update: {} },
    [["bot.catch", "the cause"]],
  ],
  ["a failed confirm", { type: "confirm-failed", error }, [
    ["they may come again", "the cause"],
  ]],
  ["a failed stop hook", { type: "stop-hook-failed", error }, [
    ["stop failed", "the cause"],
  ]],
  ["a fatal error", { type: "fatal", error }, [["stops", "the cause"]]],
  [
    "a failed worker",
    { ...workerFailed, restartInMs: 90 },
    [["number of updates: 3", "starts in 0.1 s", "the worker"]],
  ],
  [
    "the end of a pool",
    { ...workerFailed, restartInMs: undefined },
    [["all updates fail", "the worker"]],
  ],
  [
    "an error of the inbox",
    { type: "inbox", level: "error", message: "Disk full", error },
    [["Disk full", "the cause"]],
  ],
  [
    "a failure of the inbox without an error",
    { type: "inbox", level: "error", message: "Disk full" },
    [["[grammY runner] Disk full"]],
  ],
  [
    "news of the inbox, such as a recovery",
    { type: "inbox", level: "info", message: "Back after 3.0 s" },
    [["[grammY runner] Back after 3.0 s"]],
  ],
];
for (const [name, event, expected] of loud) {
  Deno.test(`log prints ${name}`, () => {
    const lines = linesOf(event);
    assertEquals(lines.length, expected.length);
    lines.forEach((line, i) => {
      assert(line.startsWith("[grammY runner] "), line);
      for (const part of expected[i]) assertStringIncludes(line, part);
      assert(!line.includes("undefined"), line);
    });
  });
}

const quiet: RunnerEvent[] = [
  { type: "started", stats: () => ({}) as RunnerStats },
  { type: "received", updates: [{}] },
  { type: "poll", durationMs: 10, count: 5 },
  { type: "worker-started", worker: 1, durationMs: 50 },
  { type: "stalled", afterMs: 40_000 }, // a failed poll follows
  { type: "ended", update: {}, outcome: "handled", waitedMs: 0, ranMs: 1 },
  {
    type: "ended",
    update: {},
    outcome: "failed",
    waitedMs: 0,
    ranMs: 1,
    error, // the error handler of the bot got it
  },
  { type: "draining", updates: 3 },
  { type: "stopped", unfinished: 0, unstarted: 0 },
];
for (const event of quiet) {
  const { type, outcome = "", level = "" } = event as Record<string, unknown>;
  Deno.test(`log does not print ${[type, outcome, level].join(" ").trim()}`, () => {
    assertEquals(linesOf(event), []);
  });
}

Deno.test("log prints errors with their stack and what they wrap", () => {
  const wrapped = Object.assign(new Error("outer"), {
    error: new TypeError("inner"),
  });
  const [line] = linesOf({ type: "fatal", error: wrapped });
  assertStringIncludes(line, "outer");
  assertStringIncludes(line, "TypeError: inner");
  assertStringIncludes(line, "events_test.ts");
});

Deno.test("log prints errors of any kind", () => {
  for (const error of ["text", 5, null, undefined, { a: 1 }, Symbol("s")]) {
    assertEquals(linesOf({ type: "fatal", error }).length, 1);
  }
});

for (
  const url of [
    "https://api.telegram.org/bot123456:AAH-secret_token/getUpdates",
    "http://localhost:8081/bot123456:AAH-secret_token/test/getUpdates",
  ]
) {
  Deno.test(`log hides the token in ${url}`, () => {
    const cause = new Error(`request to ${url} failed`);
    const error = Object.assign(new Error("outer"), { error: cause });
    for (
      const event of [
        { type: "poll-failed", error, failures: 1, retryInMs: 1 },
        { type: "confirm-failed", error },
        { type: "fatal", error },
        { type: "handler-failed", error, update: {} },
      ] as RunnerEvent[]
    ) {
      const [line] = linesOf(event);
      assert(!line.includes("secret"), line);
      assertStringIncludes(line, "bot123456:<token>");
      assertStringIncludes(line, "getUpdates failed");
    }
  });
}

Deno.test("log hides bare tokens, whatever has them", () => {
  for (
    const token of [
      "123456:short",
      "7123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw-",
    ]
  ) {
    const { api } = new Bot(token);
    for (const error of [api, Object.assign(new Error("oops"), { api })]) {
      const [line] = linesOf({ type: "fatal", error });
      assert(!line.includes(token.slice(-5)), line);
      assertStringIncludes(line, `${token.split(":")[0]}:<token>`);
    }
  }
});

Deno.test("log hides nothing but tokens", () => {
  const text =
    "At 2026-11-24T00:26:15, file:///a.js:123456:7890 told 127.0.0.1:8080";
  assertEquals(hideToken(text), text);
});

Deno.test("log prints what failed in which update, and not its context", () => {
  const bot = new Bot("123456:short");
  const update = { update_id: 7, message: { text: "private" } };
  const ctx = { update, api: bot.api } as unknown as Context;
  const inner = new BotError(new TypeError("inner"), ctx);
  for (const error of [inner, new BotError(inner, ctx)]) {
    const [line] = linesOf({ type: "handler-failed", error, update });
    assertStringIncludes(line, "in update 7: ");
    assertStringIncludes(line, "TypeError: inner");
    assertStringIncludes(line, "events_test.ts");
    assert(!line.includes("private"), line);
    assert(!line.includes("short"), line);
  }
});
