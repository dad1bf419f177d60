import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { answer, type Health, healthOf } from "../examples/health.ts";
import type { RunnerHandle, RunnerStats } from "../mod.ts";
import type { BotApiServer } from "../testing.ts";
import { Deferred, pushTexts, runBot, startServer } from "./_bot.ts";

const NOW = 1_000_000;
const LIMITS = { poll: 40_000, stuck: 60_000 };

/** The numbers of a runner that has been polling for long, and gets nothing. */
const QUIET: RunnerStats = {
  state: "polling",
  startedAt: 0,
  received: 0,
  handled: 0,
  failed: 0,
  timedOut: 0,
  running: 0,
  parked: 0,
  buffered: 0,
  limits: { running: 500, parked: 5000, buffered: 200 },
  polls: 30,
  lastPollAt: NOW - 30_000,
  lastError: undefined,
  oldestRunningMs: 0,
  blockedMs: 0,
  inbox: {},
};

const silent = { lastPollAt: NOW - 40_001 };
const cases: [string, Health, Partial<RunnerStats>][] = [
  ["polls complete", "quiet", {}],
  ["a poll takes as long as it can", "quiet", { lastPollAt: NOW - 40_000 }],
  ["updates run", "busy", { running: 1 }],
  ["updates wait for others", "busy", { parked: 1 }],
  ["an outage has just begun", "quiet", { state: "retrying" }],
  ["no poll completes", "deaf", silent],
  ["no poll completes and the last updates run", "deaf", {
    ...silent,
    running: 3,
  }],
  ["no poll has ever completed", "deaf", {
    state: "retrying",
    polls: 0,
    lastPollAt: undefined,
    startedAt: NOW - 40_001,
  }],
  ["no poll has completed yet", "quiet", {
    state: "retrying",
    polls: 0,
    lastPollAt: undefined,
    startedAt: NOW - 40_000,
  }],
  ["it was started again after a pause", "quiet", {
    lastPollAt: NOW - 900_000,
    startedAt: NOW - 10_000,
  }],
  ["it gets webhooks", "quiet", { polls: 0, lastPollAt: undefined }],
  ["another machine polls", "quiet", { ...silent, inbox: { leading: false } }],
  ["it should poll for all machines", "deaf", {
    ...silent,
    inbox: { leading: true },
  }],
  ["handlers lag behind, so that nothing is fetched", "busy", {
    ...silent,
    running: 500,
    buffered: 150,
    blockedMs: 100,
  }],
  ["one handler takes long", "busy", { running: 1, oldestRunningMs: 600_000 }],
  ["slots are full for a while", "busy", { running: 500, blockedMs: 60_000 }],
  ["slots are full and nothing ends", "stuck", {
    running: 500,
    blockedMs: 60_001,
  }],
  ["slots are full, nothing ends, and nothing is fetched", "stuck", {
    ...silent,
    running: 500,
    buffered: 150,
    blockedMs: 60_001,
  }],
  ["it finishes what it has", "stopping", { state: "draining", running: 1 }],
  ["it has stopped", "stopped", { state: "stopped" }],
  ["it has failed", "stopped", { state: "failed" }],
  ["it was never started", "stopped", { state: "idle", startedAt: undefined }],
];
for (const [name, health, stats] of cases) {
  Deno.test(`health is ${health} when ${name}`, () => {
    using _time = new FakeTime(NOW);
    assertEquals(healthOf({ ...QUIET, ...stats }, LIMITS), health);
    const { status } = answer({ ...QUIET, ...stats }, LIMITS);
    const well = health === "quiet" || health === "busy";
    assertEquals(status, well ? 200 : 503);
  });
}

Deno.test("health tells no errors, as they may quote secrets", async () => {
  const stats = {
    ...QUIET,
    lastError: new Error("https://example.com/bot1:a"),
  };
  const body = await answer(stats, LIMITS).text();
  assertEquals(JSON.parse(body).polls, 30);
  assertEquals(body.includes("bot1:a"), false);
});

/** An endpoint on loopback, as in the example but with shorter limits. */
function serveHealth(handle: RunnerHandle) {
  const limits = { poll: 100, stuck: 100 };
  const server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen: () => {} },
    () => answer(handle.stats(), limits),
  );
  const get = async () => {
    const response = await fetch(`http://127.0.0.1:${server.addr.port}/`);
    return `${response.status} ${(await response.json()).health}`;
  };
  return {
    /** Asks until the answer is this one. */
    async untilIs(expected: string): Promise<void> {
      const answers = new Set<string>();
      for (const end = Date.now() + 10_000; Date.now() < end;) {
        const answer = await get();
        if (answer === expected) return;
        answers.add(answer);
      }
      throw new Error(`Was ${[...answers]}, never ${expected}`);
    },
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}

/** A bot that polls all the time, and the endpoint that tells how it is. */
async function withHealth(
  handler: () => unknown,
  test: (parts: {
    server: BotApiServer;
    handle: RunnerHandle;
    untilIs: (expected: string) => Promise<void>;
  }) => Promise<void>,
): Promise<void> {
  await using server = await startServer();
  server.setLatency(5);
  const handle = runBot(server, handler, {
    runner: {
      silent: true,
      fetch: { timeout: 0 },
      pollGrace: 50,
      retryInterval: 10,
    },
    sink: { concurrency: 2 },
  });
  await using health = serveHealth(handle);
  await test({ server, handle, untilIs: health.untilIs });
  await handle.stop();
}

Deno.test("health tells an outage from silence, and when it is over", async () => {
  await withHealth(() => {}, async ({ server, untilIs }) => {
    await untilIs("200 quiet");
    server.fail({ status: 502 }, { times: Infinity });
    await untilIs("503 deaf");
    server.clearFaults();
    await untilIs("200 quiet");
  });
});

Deno.test("health tells calls that hang from silence, and when they are over", async () => {
  await withHealth(() => {}, async ({ server, untilIs }) => {
    await untilIs("200 quiet");
    server.fail("hang", { times: Infinity });
    await untilIs("503 deaf");
    server.clearFaults();
    await untilIs("200 quiet");
  });
});

Deno.test("health tells handlers that do not end from busy ones", async () => {
  const release = new Deferred();
  await withHealth(() => release.promise, async ({ server, untilIs }) => {
    pushTexts(server, 1);
    await untilIs("200 busy");
    pushTexts(server, 4);
    await untilIs("503 stuck");
    release.resolve();
    await untilIs("200 quiet");
  });
});

Deno.test("health tells a stop that waits for handlers", async () => {
  const release = new Deferred();
  await withHealth(
    () => release.promise,
    async ({ server, handle, untilIs }) => {
      pushTexts(server, 1);
      await untilIs("200 busy");
      const stopped = handle.stop();
      await untilIs("503 stopping");
      release.resolve();
      await stopped;
      await untilIs("503 stopped");
    },
  );
});
