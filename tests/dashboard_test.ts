import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import fc from "fast-check";
// deno-lint-ignore no-import-prefix -- as the module imports it
import stringWidth from "npm:string-width@8";
import { Dashboard } from "../_dashboard.ts";
import { BusyChats, nameOf } from "../_dashboard_chats.ts";
import { layOut, type Paint, type Size } from "../_dashboard_layout.ts";
import { Messages } from "../_dashboard_messages.ts";
import { Meter } from "../_dashboard_meter.ts";
import { Percentiles } from "../_dashboard_percentiles.ts";
import { processTerminal, type Terminal } from "../_dashboard_terminal.ts";
import {
  bar,
  clock,
  columnChart,
  count,
  duration,
  fit,
  fitRight,
  rate,
} from "../_dashboard_text.ts";
import { dashboard } from "../dashboard.ts";
import { LOG_PREFIX, type RunnerEvent, type RunnerStats } from "../events.ts";
import { pushTexts, runBot, startServer, until } from "./_bot.ts";

const NO_PAINT: Paint = (_, text) => text;

function statsWith(changes: Partial<RunnerStats> = {}): () => RunnerStats {
  return () => ({
    state: "polling",
    startedAt: undefined,
    received: 0,
    handled: 0,
    failed: 0,
    timedOut: 0,
    running: 0,
    parked: 0,
    buffered: 0,
    limits: { running: 500, parked: 5000, buffered: 200 },
    polls: 0,
    lastPollAt: undefined,
    lastError: undefined,
    oldestRunningMs: 0,
    blockedMs: 0,
    inbox: {},
    ...changes,
  });
}

function started(changes?: Partial<RunnerStats>): RunnerEvent {
  return { type: "started", stats: statsWith(changes) };
}

function ended(changes: Partial<RunnerEvent & { type: "ended" }> = {}) {
  return {
    type: "ended",
    update: { update_id: 1, message: { chat: { id: 7, first_name: "Ada" } } },
    outcome: "handled",
    waitedMs: 0,
    ranMs: 0,
    ...changes,
  } as RunnerEvent;
}

const STOPPED: RunnerEvent = { type: "stopped", unfinished: 0, unstarted: 0 };

function assertNear(actual: number, expected: number, tolerance: number) {
  const off = Math.abs(actual - expected);
  assert(off <= tolerance, `${actual} is not near ${expected}`);
}

/** A terminal that remembers what is on its screen. */
class FakeTerminal implements Terminal {
  printed: string[] = [];
  captured: ((text: string, isError: boolean) => void) | undefined;
  paint = NO_PAINT;

  constructor(public current: Size | undefined = { columns: 80, rows: 24 }) {}

  size = () => this.current;
  print = (text: string) => void this.printed.push(text);
  capture(onLine: (text: string, isError: boolean) => void): () => void {
    this.captured = onLine;
    return () => this.captured = undefined;
  }

  /** The lines of the last picture, by their positions. */
  get screen(): string[] {
    const lines: string[] = [];
    const picture = this.printed.at(-1) ?? "";
    // deno-lint-ignore no-control-regex -- cursor positions
    for (const [, row, text] of picture.matchAll(/\x1b\[(\d+);1H([^\x1b]*)/g)) {
      lines[Number(row) - 1] ??= text;
    }
    return lines;
  }
}

Deno.test("percentiles are off by 5 % at most", () => {
  fc.assert(fc.property(
    fc.array(fc.double({ min: 1, max: 8e7, noNaN: true }), { minLength: 1 }),
    fc.constantFrom(0.5, 0.9, 0.99, 1),
    (values, part) => {
      const percentiles = new Percentiles();
      values.forEach((value) => percentiles.record(value));
      const sorted = values.toSorted((a, b) => a - b);
      const exact = sorted[Math.ceil(values.length * part) - 1];
      assertNear(percentiles.at(part)! / exact, 1, 0.05);
    },
  ));
});

Deno.test("percentiles of nothing, of nothing measurable, and of ages", () => {
  const percentiles = new Percentiles();
  assertEquals(percentiles.at(0.5), undefined);
  percentiles.record(0);
  percentiles.record(0.5);
  assertEquals(percentiles.at(0.5), 0);
  percentiles.record(Infinity);
  assert(percentiles.at(1)! > 8e7);
});

Deno.test("percentiles forget after ten seconds", () => {
  const percentiles = new Percentiles();
  percentiles.record(5000);
  for (let i = 0; i < 9; i++) percentiles.nextSecond();
  percentiles.record(10);
  assertNear(percentiles.at(1)! / 5000, 1, 0.05);
  percentiles.nextSecond();
  assertNear(percentiles.at(1)! / 10, 1, 0.05);
});

Deno.test("busy chats are sorted by their rates and forgotten when quiet", () => {
  const chats = new BusyChats();
  const update = (id: number, title: string) => ({
    update_id: 1,
    message: { chat: { id, title } },
  });
  for (let second = 0; second < 20; second++) {
    for (let i = 0; i < 5; i++) chats.record(update(1, "fast"), i);
    chats.record(update(2, "slow"), 70);
    chats.nextSecond();
  }
  const top = chats.top(10);
  assertEquals(top.map(({ name }) => name), ["fast", "slow"]);
  assertNear(top[0].rate, 5, 0.01);
  assertNear(top[1].rate, 1, 0.01);
  assertEquals(top.map(({ waitedMs }) => waitedMs), [4, 70]);
  assertEquals(chats.top(1).length, 1);
  for (let second = 0; second < 20; second++) chats.nextSecond();
  assertEquals(chats.top(10), []);
});

Deno.test("updates that are no objects, or that belong to nobody, are no chats", () => {
  const chats = new BusyChats();
  for (const update of [1, "a", null, undefined, {}, { poll: { id: "1" } }]) {
    chats.record(update, 0);
  }
  chats.nextSecond();
  // A poll has an id, but neither a chat nor a user.
  assertEquals(chats.top(10), []);
});

for (
  const [expected, update] of [
    ["Group", { message: { chat: { id: -1, title: "Group" } } }],
    ["Ada", { message: { chat: { id: 1, first_name: "Ada" }, from: {} } }],
    ["Ada L", {
      edited_message: { chat: { id: 1, first_name: "Ada", last_name: "L" } },
    }],
    ["@ada", { message: { chat: { id: 1, username: "ada" } } }],
    ["5", { callback_query: { message: { chat: { id: 5 } }, from: {} } }],
    ["Alan", {
      inline_query: { id: "9", from: { id: 2, first_name: "Alan" } },
    }],
    ["Grace", { poll_answer: { user: { id: 3, first_name: "Grace" } } }],
    [undefined, { poll: { id: "1" } }],
  ] as const
) {
  Deno.test(`${JSON.stringify(update)} comes from ${expected}`, () => {
    assertEquals(nameOf({ update_id: 1, ...update }), expected);
  });
}

Deno.test("messages that come again are counted, the newest come first", () => {
  const messages = new Messages();
  const failed = (text: string) =>
    ended({ outcome: "failed", error: new Error(text) });
  messages.record(failed("a"), 1);
  messages.record(failed("b"), 2);
  messages.record(failed("a"), 3);
  assertEquals(messages.last(10), [
    { text: "Handler failed: a", level: "error", at: 3, count: 2 },
    { text: "Handler failed: b", level: "error", at: 2, count: 1 },
  ]);
  assertEquals(messages.last(1).length, 1);
});

Deno.test("messages are one line, without the token, and no more than 50", () => {
  const messages = new Messages();
  messages.add("\nFailed at /bot1:AAH-secret/getMe\nsecond line", "error", 1);
  assertEquals(messages.last(1)[0].text, "Failed at /bot1:<token>/getMe");
  for (let i = 0; i < 60; i++) messages.add(`${i}`, "info", i);
  assertEquals(messages.last(100).length, 50);
  assertEquals(messages.last(1)[0].text, "59");
});

const error = Object.assign(new Error("outer"), { error: new Error("inner") });
const told: [string | undefined, RunnerEvent][] = [
  ["Handler failed: inner", ended({ outcome: "failed", error })],
  ["Handler failed: undefined", ended({ outcome: "failed" })],
  ["Handler exceeded the time limit", ended({ outcome: "timedOut" })],
  [undefined, ended()],
  ["Error handler failed itself: inner", {
    type: "handler-failed",
    error,
    update: {},
  }],
  ["Cannot fetch updates: inner", {
    type: "poll-failed",
    error,
    failures: 1,
    retryInMs: 1,
  }],
  ["Fetching works again after 4.0 s", {
    type: "recovered",
    failures: 1,
    downMs: 4000,
  }],
  ["Cannot confirm the last updates: inner", { type: "confirm-failed", error }],
  ["Function run at the stop failed: inner", {
    type: "stop-hook-failed",
    error,
  }],
  ["Runner stops: inner", { type: "fatal", error }],
  ["Disk full", { type: "inbox", level: "error", message: "Disk full" }],
  ["Disk full: inner", {
    type: "inbox",
    level: "error",
    message: "Disk full",
    error,
  }],
  [undefined, { type: "poll", durationMs: 1, count: 1 }],
  [undefined, STOPPED],
];
for (const [expected, event] of told) {
  Deno.test(`event ${event.type} tells: ${expected}`, () => {
    const messages = new Messages();
    messages.record(event, 1);
    assertEquals(messages.last(1)[0]?.text, expected);
  });
}

Deno.test("a hint on failing polls is a message of its own", () => {
  const messages = new Messages();
  messages.record(
    { type: "poll-failed", error, failures: 1, retryInMs: 1, hint: "Wait" },
    1,
  );
  assertEquals(messages.last(1)[0], {
    text: "Wait",
    level: "info",
    at: 1,
    count: 1,
  });
});

Deno.test("charts are as high as the largest value, newest on the right", () => {
  assertEquals(columnChart([0, 4, 8], 3, 1), [" ▄█"]);
  assertEquals(columnChart([1, 2, 4], 4, 2), ["   █", " ▄██"]);
  assertEquals(columnChart([9, 1, 1000], 2, 1), ["▁█"]);
  assertEquals(columnChart([], 3, 2), ["   ", "   "]);
  assertEquals(columnChart([0, 0], 2, 1), ["  "]);
  assertEquals(columnChart([1], 0, 2), ["", ""]);
});

Deno.test("bars show parts, and more than nothing as something", () => {
  assertEquals(bar(0, 4), ["", "────"]);
  assertEquals(bar(0.0001, 4), ["━", "───"]);
  assertEquals(bar(0.5, 4), ["━━", "──"]);
  assertEquals(bar(7, 4), ["━━━━", ""]);
  assertEquals(bar(0.5, -3), ["", ""]);
});

for (
  const [n, text] of [
    [0, "0"],
    [99_999, "99,999"],
    [100_000, "100.0k"],
    [999_949, "999.9k"],
    [999_950, "1.0M"],
    [12_345_678, "12.3M"],
    [999_950_000, "1.0G"],
    [Infinity, "∞"],
  ] as const
) {
  Deno.test(`${n} is written ${text}`, () => assertEquals(count(n), text));
}

for (
  const [ms, text] of [
    [undefined, "–"],
    [0, "0 ms"],
    [999.4, "999 ms"],
    [999.6, "1.0 s"],
    [59_949, "59.9 s"],
    [59_951, "1 min"],
    [3_500_000, "58 min"],
    [3_600_000, "1.0 h"],
  ] as const
) {
  Deno.test(`${ms} milliseconds are written ${text}`, () => {
    assertEquals(duration(ms), text);
  });
}

Deno.test("rates and times have as many digits as are of use", () => {
  assertEquals([0, 9.94, 9.96, 1234.5].map(rate), [
    "0.0",
    "9.9",
    "10",
    "1,235",
  ]);
  assertEquals([0, 61_500, 36_061_000].map(clock), [
    "0:00:00",
    "0:01:01",
    "10:01:01",
  ]);
});

Deno.test("texts are fitted to widths, whatever characters they consist of", () => {
  assertEquals(fit("abc", 5), "abc  ");
  assertEquals(fit("abcdef", 5), "abcd…");
  assertEquals(fit("山田太郎", 5), "山田…");
  assertEquals(fit("山田太郎", 4), "山… ");
  assertEquals(fit("👨‍👩‍👧👨‍👩‍👧", 3), "👨‍👩‍👧…");
  assertEquals(fit("abc", 0), "");
  assertEquals(fitRight("abc", 5), "  abc");
  fc.assert(fc.property(
    fc.string({ unit: "grapheme" }),
    fc.integer({ min: 0, max: 20 }),
    (text, width) => assertEquals(stringWidth(fit(text, width)), width),
  ));
});

Deno.test("texts cannot control the terminal", () => {
  assertEquals(fit("a\x1b[2J\n\x07\u202eb\x9b", 10), "a [2J   b ");
});

Deno.test("meter counts ends, polls, failures and what they took", () => {
  const meter = new Meter();
  meter.record(started(), 500);
  meter.record({ type: "poll", durationMs: 5, count: 3 }, 600);
  meter.record(ended({ waitedMs: 10, ranMs: 100 }), 700);
  meter.record(ended({ outcome: "failed", error }), 800);
  meter.record(ended({ outcome: "timedOut" }), 900);
  meter.record(
    { type: "poll-failed", error, failures: 1, retryInMs: 5 },
    1000,
  );
  assertEquals(meter.downSince, 1000);
  meter.record({ type: "recovered", failures: 1, downMs: 100 }, 1100);
  meter.record({ type: "poll", durationMs: 5, count: 0 }, 1100);
  assertEquals(meter.totals, { handled: 1, failed: 1, timedOut: 1 });
  assertEquals([meter.polls, meter.reconnects], [2, 1]);
  assertEquals(meter.downSince, undefined);
  assertEquals(meter.startedAt, 500);
  assertNear(meter.handling.at(1)!, 100, 5);
  assertEquals(meter.rates, [3]);
});

Deno.test("meter has a rate for each second, and bounds their number", () => {
  const meter = new Meter();
  meter.advance(0);
  for (let i = 0; i < 4; i++) meter.record(ended(), 100);
  meter.record(ended(), 1500);
  meter.advance(4000);
  assertEquals(meter.rates, [4, 1, 0, 0]);
  meter.record(ended(), 4500);
  meter.advance(3000); // the clock was set back
  meter.record(ended(), 3000);
  meter.advance(5000);
  assertEquals(meter.rates, [4, 1, 0, 0, 2]);
  assertEquals(meter.rate, 1);
  meter.advance(1e12); // the machine was asleep
  assertEquals(meter.rates.length, 600);
});

Deno.test("layout fills terminals of all sizes and exceeds none", () => {
  const meter = new Meter();
  meter.record(
    started({
      running: 499,
      parked: 4000,
      buffered: 1234,
      oldestRunningMs: 5e9,
    }),
    0,
  );
  for (let i = 0; i < 100_000; i++) {
    const first_name = `山田 ${i % 40}`;
    const message = { chat: { id: i % 40, first_name } };
    meter.record(
      ended({
        update: { update_id: i, message },
        outcome: i % 3 === 0 ? "failed" : "handled",
        error: new Error(`error ${i % 40} ${"long ".repeat(50)}`),
        ranMs: 1e7,
        waitedMs: 9e9,
      }),
      i,
    );
  }
  const footer = ["a status line that is rather long", "[q]uit  [1] that"];
  for (const columns of [1, 7, 20, 40, 59, 60, 61, 79, 80, 120, 200]) {
    for (let rows = 1; rows <= 70; rows += 3) {
      const lines = layOut(meter, { columns, rows }, 1e5, footer, NO_PAINT);
      assertEquals(lines.length, rows);
      if (columns < 60) continue;
      if (rows >= 24) assertEquals(lines.at(-3), " ", `${columns}x${rows}`);
      for (const line of lines) {
        assert(stringWidth(line) <= columns, `${columns}x${rows}: ${line}`);
      }
      if (rows >= 14) {
        assertEquals(lines.at(-1), " [q]uit  [1] that".padEnd(columns - 1));
      }
    }
  }
});

Deno.test("layout shows all numbers from 60x14 on", () => {
  const meter = new Meter();
  meter.record(
    started({ running: 12, parked: 34, buffered: 56, oldestRunningMs: 700 }),
    0,
  );
  for (let i = 0; i < 30; i++) meter.record(ended({ waitedMs: 2000 }), i);
  meter.record(ended({ outcome: "failed", error }), 40);
  meter.advance(1000);
  for (const [columns, rows] of [[60, 14], [80, 23], [120, 39]]) {
    const text = layOut(meter, { columns, rows }, 65_000, [], NO_PAINT)
      .join("\n");
    for (
      const part of [
        /● polling .* 0:01:05/,
        /updates\/s .*/,
        /^ 31 .*█/m,
        /running .* 12 of 500/,
        /parked .* 34 of 5,000/,
        /buffered .* 56 of 200/,
        /waiting +2\.0 s/,
        /handled +30/,
        /failed +1/,
        /timed out +0/,
        /polls +0/,
        /reconnects +0/,
        /oldest +700 ms/,
        /Ada +0 ms +9\.3 +━/,
        /Handler failed: inner/,
      ]
    ) assertMatch(text, part);
  }
});

Deno.test("layout tells states apart", () => {
  for (
    const [state, word] of [
      ["retrying", "reconnecting, no answer for 2.5 s"],
      ["draining", "stopping"],
      ["stopped", "stopped"],
      ["failed", "failed"],
    ] as const
  ) {
    const meter = new Meter();
    meter.record(started({ state }), 0);
    if (state === "retrying") {
      meter.record(
        { type: "poll-failed", error, failures: 1, retryInMs: 5 },
        500,
      );
    }
    const [header] = layOut(
      meter,
      { columns: 80, rows: 24 },
      3000,
      [],
      NO_PAINT,
    );
    assertStringIncludes(header, `● ${word} `);
  }
});

Deno.test("layout emphasises what stands in brackets in the footer", () => {
  const paint: Paint = (style, text) => style === "key" ? `<${text}>` : text;
  const lines = layOut(
    new Meter(),
    { columns: 80, rows: 24 },
    0,
    ["[+/-] load  [q]uit"],
    paint,
  );
  assertStringIncludes(lines.at(-1)!, " <[+/-]> load  <[q]>uit");
});

Deno.test("dashboard redraws in place four times per second", () => {
  using time = new FakeTime(0);
  const terminal = new FakeTerminal();
  const board = new Dashboard(terminal, undefined);
  board.record(started({ running: 5 }));
  assertEquals(terminal.printed.length, 1);
  assertEquals(terminal.screen.length, 23);
  // The first picture moves away what was there, without clearing it.
  assertStringIncludes(terminal.printed[0], "\n".repeat(23));
  assert(!terminal.printed[0].includes("\x1b[2J"));
  time.tick(1000);
  assertEquals(terminal.printed.length, 5);
  const picture = terminal.printed[4];
  assert(!picture.includes("\n"));
  assert(!picture.includes("\x1b[2J"), "nothing flickers");
  // The print adds a line feed: the cursor then is on the row below.
  assert(picture.endsWith("\x1b[23;1H\x1b[?2026l"));
  board.record(STOPPED);
  assertEquals(terminal.printed.length, 6);
  time.tick(10_000);
  assertEquals(terminal.printed.length, 6);
});

Deno.test("dashboard follows the size of the terminal", () => {
  using time = new FakeTime(0);
  const terminal = new FakeTerminal();
  const board = new Dashboard(terminal, () => "footer");
  board.record(started());
  terminal.current = { columns: 120, rows: 40 };
  time.tick(250);
  assertStringIncludes(terminal.printed[1], "\x1b[2J");
  assertEquals(terminal.screen.length, 39);
  assertEquals(terminal.screen[38].trim(), "footer");
  time.tick(250);
  assert(!terminal.printed[2].includes("\x1b[2J"));
  board.record(STOPPED);
});

Deno.test("dashboard shows what the program prints until the end", () => {
  using time = new FakeTime(0);
  const terminal = new FakeTerminal();
  const board = new Dashboard(terminal, undefined);
  assertEquals(terminal.captured, undefined);
  board.record(started());
  terminal.captured!("printed by the bot", false);
  time.tick(250);
  assert(terminal.screen.some((l) => l.includes("printed by the bot")));
  board.record(STOPPED);
  assertEquals(terminal.captured, undefined);
});

Deno.test("dashboard goes on counting when the runner is started again", () => {
  using time = new FakeTime(0);
  const terminal = new FakeTerminal();
  const board = new Dashboard(terminal, undefined);
  for (let i = 0; i < 2; i++) {
    board.record(started());
    board.record(ended());
    time.tick(1000);
    board.record(STOPPED);
  }
  assert(terminal.screen.some((line) => /handled +2/.test(line)));
});

Deno.test("dashboard prints lines where there is no terminal", () => {
  using time = new FakeTime(0);
  const terminal = new FakeTerminal(undefined);
  terminal.current = undefined;
  const board = new Dashboard(terminal, () => "footer");
  board.record(started({ running: 5 }));
  board.record(ended({ outcome: "failed", error, ranMs: 20 }));
  assertEquals(terminal.captured, undefined);
  assertEquals(terminal.printed, []);
  time.tick(5000);
  assertEquals(terminal.printed.length, 1);
  assertMatch(
    terminal.printed[0],
    /^\d\d:\d\d:\d\d polling \| 0\.0 updates\/s \| running 5 \| .* failed 1 \| timed out 0$/,
  );
  time.tick(5000);
  board.record(STOPPED);
  assertEquals(terminal.printed.length, 3);
});

Deno.test("dashboard that fails ends itself and says so", () => {
  using time = new FakeTime(0);
  const terminal = new FakeTerminal();
  let isBroken = false;
  const board = new Dashboard(terminal, () => {
    if (isBroken) throw new Error("footer broken");
    return "";
  });
  board.record(started());
  isBroken = true;
  time.tick(250);
  assertStringIncludes(terminal.printed[1], "footer broken");
  assertEquals(terminal.captured, undefined);
  time.tick(10_000);
  assertEquals(terminal.printed.length, 2);
});

Deno.test("what is captured is printed when that ends, the newest of it", () => {
  const { log } = console;
  const printed: unknown[][] = [];
  console.log = (...data) => void printed.push(data);
  try {
    const lines: string[] = [];
    const release = processTerminal().capture((text) => lines.push(text));
    for (let i = 0; i < 30; i++) console.log("line %d of", i, { many: true });
    console.log(LOG_PREFIX, "what the dashboard has got as an event");
    assertEquals(lines.length, 30);
    assertEquals(lines[0], "line 0 of { many: true }");
    assertEquals(printed, []);
    release();
    assertEquals(printed.length, 20);
    assertEquals(printed[19], ["line %d of", 29, { many: true }]);
    console.log("as ever");
    assertEquals(printed[20], ["as ever"]);
    assertEquals(lines.length, 30);
  } finally {
    console.log = log;
  }
});

/** Runs a program in a process of its own; returns what it prints. */
async function runProgram(module: string, program: string): Promise<string> {
  const url = new URL(module, import.meta.url).href;
  const code = `import * as it from "${url}"; ${program}`;
  const { stdout, success } = await new Deno.Command(Deno.execPath(), {
    args: ["eval", code],
  }).output();
  assert(success);
  return new TextDecoder().decode(stdout);
}

Deno.test("what is captured is printed when the process exits", async () => {
  const program = `it.processTerminal().capture(() => {});
    console.log("the reason");
    Deno.exit();`;
  assertEquals(
    await runProgram("../_dashboard_terminal.ts", program),
    "the reason\n",
  );
});

Deno.test("dashboard does not keep the process alive", async () => {
  const program = `it.dashboard()({ type: "started", stats: () => ({}) });
    console.log("done");`;
  assertEquals(await runProgram("../dashboard.ts", program), "done\n");
});

Deno.test("dashboard observes a run", async () => {
  await using server = await startServer();
  const terminal = new FakeTerminal();
  const board = new Dashboard(terminal, undefined);
  const handle = runBot(server, (ctx) => ctx.reply("fine"), {
    onEvent: (event) => board.record(event),
    sink: { concurrency: 7 },
  });
  pushTexts(server, 3, 42);
  await until(() => handle.stats().handled === 3);
  await handle.stop();
  const screen = terminal.screen.join("\n");
  for (const part of [/● stopped/, /handled +3/, / 0 of 7/]) {
    assertMatch(screen, part);
  }
});

Deno.test("dashboard refuses a footer that is no function", () => {
  assertThrows(
    () => dashboard({ footer: "text" as unknown as () => string }),
    TypeError,
    "footer must be a function: received text",
  );
});
