import {
  assert,
  assertEquals,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertLess,
  assertLessOrEqual,
  assertMatch,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { Bot } from "grammy";
import type { GrammySignal } from "../deps.ts";
import type { PollEvent } from "../events.ts";
import {
  createUpdateFetcher,
  createUpdateSupplier,
  type RunnerOptions,
} from "../fetcher.ts";
import { type Fault, startBotApiServer } from "../testing.ts";
import { listenersOf } from "./_listeners.ts";

type Item = { update_id: number };
type Args = {
  offset: number;
  limit: number;
  timeout: number;
  allowed_updates?: string[];
};

/** What a call of the fake bot leads to. */
type Outcome =
  /** The answer, right or wrong. */
  | { answer: unknown; afterMs?: number }
  /** The call fails at once. */
  | { error: unknown }
  /** The call never ends by itself; it heeds its signal, or not. */
  | "hang"
  | "deaf";

class Fake {
  readonly calls: { at: number; args: Args; signal: AbortSignal }[] = [];
  readonly inits: { at: number; signal: AbortSignal }[] = [];
  readonly events: PollEvent[] = [];
  readonly controller = new AbortController();
  readonly #start = Date.now();
  readonly #outcomes: Outcome[];

  constructor(outcomes: Outcome[], readonly initOutcomes?: Outcome[]) {
    this.#outcomes = outcomes;
  }

  get offsets(): number[] {
    return this.calls.map(({ args }) => args.offset);
  }

  get times(): number[] {
    return this.calls.map(({ at }) => at);
  }

  get signal(): AbortSignal & GrammySignal {
    return this.controller.signal as AbortSignal & GrammySignal;
  }

  emit = (event: PollEvent) => void this.events.push(event);

  supplier(options: RunnerOptions = {}) {
    const { initOutcomes } = this;
    const bot = {
      ...(initOutcomes && {
        init: (signal: AbortSignal) => {
          this.inits.push({ at: Date.now() - this.#start, signal });
          return play(initOutcomes.shift(), signal) as Promise<void>;
        },
      }),
      handleUpdate: () => Promise.resolve(),
      errorHandler: () => {},
      api: {
        getUpdates: (args: Args, signal: AbortSignal) => {
          this.calls.push({ at: Date.now() - this.#start, args, signal });
          return play(this.#outcomes.shift(), signal) as Promise<Item[]>;
        },
      },
    };
    const supplier = createUpdateSupplier(bot, { silent: true, ...options });
    return {
      supply: (size = 100) => supplier.supply(size, this.signal, this.emit),
      confirm: (id: number, signal: AbortSignal = this.signal) =>
        supplier.confirm!(id, signal),
      acknowledged: () => supplier.acknowledged!(),
    };
  }
}

function play(outcome: Outcome = answer(), signal: AbortSignal) {
  return new Promise((resolve, reject) => {
    if (outcome === "deaf") return;
    if (outcome === "hang") {
      signal.addEventListener("abort", () => reject(signal.reason));
    } else if ("error" in outcome) reject(outcome.error);
    else if (outcome.afterMs === undefined) resolve(outcome.answer);
    else setTimeout(() => resolve(outcome.answer), outcome.afterMs);
  });
}

function answer(...ids: number[]): Outcome {
  return { answer: updates(...ids) };
}

function updates(...ids: number[]): Item[] {
  return ids.map((update_id) => ({ update_id }));
}

function apiError(
  error_code: number,
  description = "",
  parameters: { retry_after?: number } = {},
): Error {
  return Object.assign(new Error(description), {
    error_code,
    description,
    parameters,
  });
}

/** Lets fake time pass until a promise has settled. */
async function settle<T>(time: FakeTime, promise: Promise<T>): Promise<T> {
  let settled = false;
  const done = () => settled = true;
  promise.then(done, done);
  await time.runMicrotasks();
  for (let i = 0; !settled; i++) {
    assert(i < 1000 && await time.nextAsync(), "the promise never settles");
    await time.runMicrotasks();
  }
  return await promise;
}

/** Collects what is printed with `console.error` while a function runs. */
async function printed(run: () => Promise<unknown>): Promise<unknown[][]> {
  const lines: unknown[][] = [];
  const original = console.error;
  console.error = (...data: unknown[]) => void lines.push(data);
  try {
    await run();
  } finally {
    console.error = original;
  }
  return lines;
}

/** Fixes what `Math.random` returns. */
function fixRandom(value: number): Disposable {
  const original = Math.random;
  Math.random = () => value;
  return { [Symbol.dispose]: () => void (Math.random = original) };
}

const OUTAGE = { error: new Error("connection reset") };
const TERMINATED =
  "Conflict: terminated by other getUpdates request; make sure that only one bot instance is running";
const WEBHOOK =
  "Conflict: can't use getUpdates method while webhook is active; use deleteWebhook to delete the webhook first";

for (
  const [name, error] of [
    ["401 Unauthorized", apiError(401, "Unauthorized")],
    ["404 Not Found", apiError(404, "Not Found")],
  ] as const
) {
  Deno.test(`fetcher gives up on ${name} with the original error`, async () => {
    const fake = new Fake([{ error }]);
    const { supply } = fake.supplier();
    assertStrictEquals(await assertRejects(() => supply()), error);
    assertEquals(fake.calls.length, 1);
    assertEquals(fake.events, []);
  });

  Deno.test(`fetcher gives up on ${name} from bot.init`, async () => {
    const fake = new Fake([], [{ error }]);
    const { supply } = fake.supplier();
    assertStrictEquals(await assertRejects(() => supply()), error);
    assertEquals(fake.calls.length, 0);
  });
}

Deno.test("fetcher gives up while a webhook is set and tells the remedy", async () => {
  const cause = apiError(409, WEBHOOK);
  const fake = new Fake([{ error: cause }]);
  const { supply } = fake.supplier();
  const error = await assertRejects(() => supply(), Error, "deleteWebhook()");
  assertStringIncludes(error.message, "webhook");
  assertStrictEquals(error.cause, cause);
  assertEquals(fake.calls.length, 1);
});

for (
  const description of [
    TERMINATED,
    "Conflict: terminated by setWebhook request",
  ]
) {
  Deno.test(`fetcher retries after 409 "${description}" with a hint`, async () => {
    using time = new FakeTime();
    const fake = new Fake([{ error: apiError(409, description) }, answer(1)]);
    const { supply } = fake.supplier();
    assertEquals(await settle(time, supply()), updates(1));
    const [event] = fake.events;
    assert(event.type === "poll-failed");
    assertMatch(event.hint ?? "", /another process/i);
  });
}

const transient: [string, Outcome][] = [
  ["500", { error: apiError(500, "Internal Server Error") }],
  ["502", { error: apiError(502, "Bad Gateway") }],
  ["400", { error: apiError(400, "Bad Request") }],
  ["403", { error: apiError(403, "Forbidden") }],
  ["429 without a wait", { error: apiError(429, "Too Many Requests") }],
  ["a network error", OUTAGE],
  ["malformed JSON", { error: new SyntaxError("Unexpected token <") }],
  ["an error that is undefined", { error: undefined }],
  ["an error that is null", { error: null }],
  ["an error that is a string", { error: "oops" }],
  ["an abort of its own", { error: new DOMException("no", "AbortError") }],
  ["an answer that is undefined", { answer: undefined }],
  ["an answer that is null", { answer: null }],
  ["an answer that is an object", { answer: { ok: true } }],
  ["an answer that is a string", { answer: "<html>" }],
  ["an update that is null", { answer: [null] }],
  ["an update without id", { answer: [{ update_id: 1 }, {}] }],
  ["an update with a string as id", { answer: [{ update_id: "1" }] }],
  ["an update with a fraction as id", { answer: [{ update_id: 1.5 }] }],
  ["an update with NaN as id", { answer: [{ update_id: NaN }] }],
  ["an update with a negative id", { answer: [{ update_id: -2 }] }],
];
for (const [name, outcome] of transient) {
  Deno.test(`fetcher retries after ${name} and loses nothing`, async () => {
    using time = new FakeTime();
    const fake = new Fake([answer(7), outcome, outcome, answer(8, 9)]);
    const { supply } = fake.supplier();
    await supply();
    fake.events.length = 0;
    assertEquals(await settle(time, supply()), updates(8, 9));
    assertEquals(fake.offsets, [0, 8, 8, 8]);
    assertEquals(fake.events.map((event) => event.type), [
      "poll-failed",
      "poll-failed",
      "recovered",
      "poll",
    ]);
  });

  Deno.test(`fetcher retries bot.init like getUpdates after ${name}`, async () => {
    if ("answer" in (outcome as object)) return;
    using time = new FakeTime();
    const fake = new Fake([answer(1)], [outcome, outcome, { answer: null }]);
    const { supply } = fake.supplier();
    assertEquals(await settle(time, supply()), updates(1));
    assertEquals(fake.inits.length, 3);
    assertEquals(fake.calls.length, 1);
    await settle(time, supply());
    assertEquals(fake.inits.length, 3, "a bot is initialized once");
  });
}

Deno.test("fetcher waits exactly as long as 429 tells", async () => {
  using time = new FakeTime();
  const flood = (retry_after: number) => ({
    error: apiError(429, "Too Many Requests", { retry_after }),
  });
  const fake = new Fake([flood(7), flood(100), answer(1)]);
  const { supply } = fake.supplier({ maxRetryInterval: 1000 });
  await settle(time, supply());
  assertEquals(fake.times, [0, 7_000, 107_000]);
});

for (const outcome of ["hang", "deaf"] as const) {
  Deno.test(`fetcher abandons a ${outcome} call after its timeout plus the grace`, async () => {
    using time = new FakeTime();
    using _ = fixRandom(0);
    const fake = new Fake([outcome, answer(1)]);
    const { supply } = fake.supplier({ fetch: { timeout: 5 }, pollGrace: 700 });
    assertEquals(await settle(time, supply()), updates(1));
    assertEquals(fake.times, [0, 5_800]);
    assert(fake.calls[0].signal.aborted);
    assertEquals(fake.calls[0].signal.reason.name, "TimeoutError");
    assertEquals(fake.events[0], { type: "stalled", afterMs: 5_700 });
    assertEquals(fake.events.slice(1).map((event) => event.type), [
      "poll-failed",
      "recovered",
      "poll",
    ]);
  });

  Deno.test(`fetcher abandons a ${outcome} bot.init after the grace`, async () => {
    using time = new FakeTime();
    using _ = fixRandom(0);
    const fake = new Fake([answer(1)], [outcome, { answer: null }]);
    const { supply } = fake.supplier({ pollGrace: 700 });
    assertEquals(await settle(time, supply()), updates(1));
    assertEquals(fake.inits.map(({ at }) => at), [0, 800]);
    assert(fake.inits[0].signal.aborted);
    assertEquals(fake.events[0], { type: "stalled", afterMs: 700 });
  });

  Deno.test(`fetcher ends a ${outcome} call at once when it is aborted`, async () => {
    using time = new FakeTime();
    const fake = new Fake([outcome]);
    const { supply } = fake.supplier();
    const promise = supply();
    await time.runMicrotasks();
    const reason = new Error("stop");
    fake.controller.abort(reason);
    assertStrictEquals(await assertRejects(() => promise), reason);
    assertStrictEquals(fake.calls[0].signal.reason, reason);
    assertEquals(fake.events, []);
    assertEquals(time.next(), false, "no timer is left");
  });

  Deno.test(`fetcher ends a ${outcome} bot.init at once when it is aborted`, async () => {
    using time = new FakeTime();
    const fake = new Fake([], [outcome]);
    const { supply } = fake.supplier();
    const promise = supply();
    await time.runMicrotasks();
    fake.controller.abort(new Error("stop"));
    await assertRejects(() => promise, Error, "stop");
    assert(fake.inits[0].signal.aborted);
    assertEquals(fake.calls, []);
    assertEquals(time.next(), false, "no timer is left");
  });
}

Deno.test("fetcher gives a long poll Telegram's longest timeout at most", async () => {
  using time = new FakeTime();
  using _ = fixRandom(0);
  const fake = new Fake(["hang", answer(1)]);
  const { supply } = fake.supplier({ fetch: { timeout: 3600 } });
  await settle(time, supply());
  assertEquals(fake.times, [0, 60_100]);
});

Deno.test("fetcher ignores the late answer of an abandoned call", async () => {
  using time = new FakeTime();
  const fake = new Fake([
    { answer: updates(1, 2, 3), afterMs: 41_000 },
    { answer: updates(1, 2, 3), afterMs: 5_000 },
    answer(),
  ]);
  const { supply } = fake.supplier();
  assertEquals(await settle(time, supply()), updates(1, 2, 3));
  await supply();
  assertEquals(fake.offsets, [0, 0, 4]);
});

Deno.test("fetcher ignores the late failure of an abandoned call", async () => {
  using time = new FakeTime();
  let calls = 0;
  const fetchUpdates = createUpdateFetcher({
    handleUpdate: () => Promise.resolve(),
    errorHandler: () => {},
    api: {
      getUpdates: () =>
        calls++ > 0 ? Promise.resolve(updates(1)) : new Promise<Item[]>(
          (_, reject) => setTimeout(() => reject(new Error("late")), 90_000),
        ),
    },
  }, { silent: true });
  const { signal } = new AbortController();
  assertEquals(await settle(time, fetchUpdates(100, signal)), updates(1));
  await time.runAllAsync();
  await time.runMicrotasks();
});

const growth: [string, RunnerOptions, number[]][] = [
  ["exponential", { retryInterval: "exponential" }, [100, 200, 400, 800, 1600]],
  ["quadratic", { retryInterval: "quadratic" }, [100, 400, 900, 1600, 2500]],
  ["a number", { retryInterval: 70 }, [70, 70, 70, 70, 70]],
  ["the default", {}, [100, 200, 400, 800, 1600]],
  [
    "exponential with a cap",
    { retryInterval: "exponential", maxRetryInterval: 300 },
    [100, 200, 300, 300, 300],
  ],
  [
    "quadratic with a cap",
    { retryInterval: "quadratic", maxRetryInterval: 1000 },
    [100, 400, 900, 1000, 1000],
  ],
];
for (const [name, options, waits] of growth) {
  Deno.test(`fetcher waits between retries as ${name} says`, async () => {
    using time = new FakeTime();
    using _ = fixRandom(0);
    const fake = new Fake([...waits.map(() => OUTAGE), answer(1)]);
    const { supply } = fake.supplier(options);
    await settle(time, supply());
    const { times } = fake;
    assertEquals(times.slice(1).map((at, i) => at - times[i]), waits);
    assertEquals(
      fake.events.flatMap((e) => e.type === "poll-failed" ? e.retryInMs : []),
      waits,
    );
  });
}

Deno.test("fetcher never waits longer than 30 s by default", async () => {
  using time = new FakeTime();
  using _ = fixRandom(0);
  const fake = new Fake(Array(40).fill(OUTAGE));
  const { supply } = fake.supplier();
  await settle(time, supply());
  const { times } = fake;
  const waits = times.slice(1).map((at, i) => at - times[i]);
  assertEquals(Math.max(...waits), 30_000);
  assertEquals(waits.at(-1), 30_000);
});

Deno.test("fetcher cuts off up to half of a wait at random", async () => {
  using time = new FakeTime();
  for (const [random, wait] of [[0, 100], [0.5, 75], [0.999999, 50]]) {
    using _ = fixRandom(random);
    const fake = new Fake([OUTAGE, answer(1)]);
    await settle(time, fake.supplier().supply());
    const [event] = fake.events;
    assert(event.type === "poll-failed");
    assertEquals(Math.round(event.retryInMs), wait);
  }
});

Deno.test("fetcher starts over with short waits after a success", async () => {
  using time = new FakeTime();
  using _ = fixRandom(0);
  const fake = new Fake([OUTAGE, OUTAGE, answer(1), OUTAGE, answer(2)]);
  const { supply } = fake.supplier();
  await settle(time, supply());
  await settle(time, supply());
  assertEquals(fake.times, [0, 100, 300, 300, 400]);
  const failures = fake.events.flatMap((event) =>
    event.type === "poll-failed" ? event.failures : []
  );
  assertEquals(failures, [1, 2, 1]);
});

const waits: [string, Outcome][] = [
  ["a backoff", OUTAGE],
  ["a 429", { error: apiError(429, "", { retry_after: 3600 }) }],
  ["a conflict", { error: apiError(409, TERMINATED) }],
];
for (const [name, outcome] of waits) {
  Deno.test(`fetcher ends the wait after ${name} at once when it is aborted`, async () => {
    using time = new FakeTime();
    const fake = new Fake([outcome]);
    const listeners = listenersOf(fake.signal);
    const promise = fake.supplier().supply();
    await time.runMicrotasks();
    assertEquals(fake.events.map((event) => event.type), ["poll-failed"]);
    assertEquals(listeners.size, 1, "only the wait listens");
    const reason = new Error("stop");
    fake.controller.abort(reason);
    assertStrictEquals(await assertRejects(() => promise), reason);
    assertEquals(time.next(), false, "no timer is left");
    assertEquals(fake.calls.length, 1);
  });
}

Deno.test("fetcher leaves no listeners and no timers behind", async () => {
  using time = new FakeTime();
  const fake = new Fake([OUTAGE, "deaf", answer(1)], [OUTAGE, answer()]);
  const listeners = listenersOf(fake.signal);
  await settle(time, fake.supplier().supply());
  assertEquals(listeners.size, 0);
  assertEquals(time.next(), false);
});

Deno.test("fetcher asks for nothing once it is aborted", async () => {
  const fake = new Fake([answer(5)]);
  const { supply, acknowledged } = fake.supplier();
  await supply();
  fake.controller.abort();
  await assertRejects(() => supply(), DOMException);
  assertEquals(fake.calls.length, 1);
  assertEquals(acknowledged(), 0, "no request was issued");
});

Deno.test("fetcher gives up when the next retry comes after maxRetryTime", async () => {
  using time = new FakeTime();
  using _ = fixRandom(0);
  const last = new Error("the last one");
  const fake = new Fake([OUTAGE, OUTAGE, OUTAGE, { error: last }]);
  const { supply } = fake.supplier({ maxRetryTime: 1_000 });
  const error = await assertRejects(() => settle(time, supply()));
  assertStrictEquals(error, last);
  assertEquals(fake.times, [0, 100, 300, 700]);
});

Deno.test("fetcher counts maxRetryTime anew after a success", async () => {
  using time = new FakeTime();
  using _ = fixRandom(0);
  const fake = new Fake([OUTAGE, OUTAGE, answer(1), OUTAGE, OUTAGE, answer(2)]);
  const { supply } = fake.supplier({ maxRetryTime: 300 });
  await settle(time, supply());
  assertEquals(await settle(time, supply()), updates(2));
});

Deno.test("fetcher never retries with a maxRetryTime of 0", async () => {
  const fake = new Fake([OUTAGE]);
  const { supply } = fake.supplier({ maxRetryTime: 0 });
  assertStrictEquals(await assertRejects(() => supply()), OUTAGE.error);
});

const offsets: [string, number[][], number[]][] = [
  ["starts at 0", [[]], [0, 0]],
  ["moves past the highest id", [[5, 6, 7]], [0, 8]],
  ["moves past the highest id in any order", [[7, 5, 9, 6]], [0, 10]],
  ["stays where it is without updates", [[5], [], []], [0, 6, 6, 6]],
  ["never moves back for old updates among new ones", [[9], [3, 12]], [
    0,
    10,
    13,
  ]],
  ["follows a new sequence of lower ids", [[900], [], [4, 3]], [
    0,
    901,
    901,
    5,
  ]],
  ["follows a new sequence that begins with 0", [[900], [0]], [0, 901, 1]],
];
for (const [name, answers, expected] of offsets) {
  Deno.test(`fetcher's offset ${name}`, async () => {
    const fake = new Fake(answers.map((ids) => answer(...ids)));
    const { supply } = fake.supplier();
    for (const ids of answers) assertEquals(await supply(), updates(...ids));
    await supply();
    assertEquals(fake.offsets, expected);
    assertGreaterOrEqual(Math.min(...fake.offsets), 0);
  });
}

Deno.test("fetcher asks for 1 to 100 updates", async () => {
  const sizes: [number, number][] = [
    [1, 1],
    [42, 42],
    [100, 100],
    [250, 100],
    [Infinity, 100],
    [NaN, 100],
    [0, 1],
    [-3, 1],
    [7.9, 7],
  ];
  const fake = new Fake([]);
  const { supply } = fake.supplier();
  for (const [size] of sizes) await supply(size);
  assertEquals(
    fake.calls.map(({ args }) => args.limit),
    sizes.map(([, limit]) => limit),
  );
});

const parameters: [RunnerOptions["fetch"], Args][] = [
  [undefined, { timeout: 30, offset: 0, limit: 100 }],
  [{}, { timeout: 30, offset: 0, limit: 100 }],
  [{ timeout: 0 }, { timeout: 0, offset: 0, limit: 100 }],
  [{ allowed_updates: [] }, {
    timeout: 30,
    allowed_updates: [],
    offset: 0,
    limit: 100,
  }],
  [{ timeout: 9, allowed_updates: ["message", "poll"] }, {
    timeout: 9,
    allowed_updates: ["message", "poll"],
    offset: 0,
    limit: 100,
  }],
];
for (const [fetch, args] of parameters) {
  Deno.test(`fetcher sends the parameters of ${JSON.stringify({ fetch })}`, async () => {
    const fake = new Fake([]);
    await fake.supplier({ fetch }).supply();
    assertEquals(fake.calls[0].args, args);
    assertEquals(
      "allowed_updates" in fake.calls[0].args,
      "allowed_updates" in args,
    );
  });
}

Deno.test("supplier confirms with the cheapest request there is", async () => {
  const fake = new Fake([answer(5, 6), answer(7), answer(6)]);
  const { supply, confirm, acknowledged } = fake.supplier();
  await supply();
  await confirm(6);
  assertEquals(fake.calls[1].args, { offset: 6, limit: 1, timeout: 0 });
  assertEquals(acknowledged(), 6);
  await supply();
  assertEquals(fake.offsets, [0, 6, 6], "fetching goes on from there");
});

Deno.test("supplier does not confirm what an answered request has confirmed", async () => {
  const fake = new Fake([answer(5), answer()]);
  const { supply, confirm } = fake.supplier();
  await confirm(0);
  assertEquals(fake.calls.length, 0, "nothing is below 0");
  await supply();
  await supply();
  await confirm(6);
  assertEquals(fake.offsets, [0, 6]);
  await confirm(6);
  assertEquals(fake.calls.length, 2);
});

Deno.test("supplier does not confirm the same twice", async () => {
  const fake = new Fake([answer(5)]);
  const { supply, confirm } = fake.supplier();
  await supply();
  await confirm(6);
  await confirm(6);
  assertEquals(fake.offsets, [0, 6]);
});

Deno.test("supplier confirms again what only an aborted request has confirmed", async () => {
  using time = new FakeTime();
  const fake = new Fake([answer(5), "hang"]);
  const { supply, confirm, acknowledged } = fake.supplier();
  await supply();
  assertEquals(acknowledged(), 0);
  const aborted = supply();
  assertEquals(acknowledged(), 6, "it was issued, so it may have arrived");
  fake.controller.abort();
  await assertRejects(() => aborted, DOMException);
  await confirm(6, new AbortController().signal);
  assertEquals(fake.offsets, [0, 6, 6]);
  assertEquals(time.next(), false, "no timer is left");
});

Deno.test("supplier supplies again what was not confirmed", async () => {
  const fake = new Fake([answer(5, 6, 7), answer(), answer(6, 7)]);
  const { supply, confirm } = fake.supplier();
  await supply();
  await confirm(6);
  assertEquals(await supply(), updates(6, 7));
  assertEquals(fake.offsets, [0, 6, 6]);
});

Deno.test("supplier supplies again from an offset that needs no confirming", async () => {
  const fake = new Fake([answer(5), answer(6, 7), answer(6, 7)]);
  const { supply, confirm } = fake.supplier();
  await supply();
  await supply();
  await confirm(6);
  assertEquals(await supply(), updates(6, 7));
  assertEquals(fake.offsets, [0, 6, 6]);
});

Deno.test("supplier confirms in one try that ends after the grace", async () => {
  using time = new FakeTime();
  const start = Date.now();
  const fake = new Fake(["deaf", OUTAGE]);
  const { confirm } = fake.supplier({ pollGrace: 300 });
  const error = await assertRejects(() => settle(time, confirm(9)));
  assertInstanceOf(error, DOMException);
  assertEquals(error.name, "TimeoutError");
  assertEquals(Date.now() - start, 300);
  assertStrictEquals(await assertRejects(() => confirm(9)), OUTAGE.error);
  await confirm(9);
  assertEquals(fake.calls.length, 3, "what failed is not taken as confirmed");
});

Deno.test("supplier refuses to confirm a negative offset", async () => {
  const fake = new Fake([]);
  const { confirm, supply } = fake.supplier();
  for (const offset of [-1, NaN]) {
    await assertRejects(() => confirm(offset), RangeError, `${offset}`);
  }
  await supply();
  assertEquals(fake.offsets, [0]);
});

Deno.test("supplier counts updates as acknowledged once a request said so", async () => {
  const fake = new Fake([answer(5, 6), answer(7), answer()]);
  const { supply, acknowledged } = fake.supplier();
  assertEquals(acknowledged(), 0);
  await supply();
  assertEquals(acknowledged(), 0);
  await supply();
  assertEquals(acknowledged(), 7);
  await supply();
  assertEquals(acknowledged(), 8);
});

Deno.test("supplier counts nothing of a new sequence as acknowledged", async () => {
  const fake = new Fake([answer(900), answer(4, 3)]);
  const { supply, acknowledged } = fake.supplier();
  await supply();
  await supply();
  assertLessOrEqual(acknowledged(), 3);
});

Deno.test("fetcher tells of each poll, failure and recovery with right numbers", async () => {
  using time = new FakeTime();
  using _ = fixRandom(0);
  const conflict = apiError(409, TERMINATED);
  const fake = new Fake(
    [
      { answer: updates(1, 2), afterMs: 40 },
      OUTAGE,
      { error: conflict },
      { answer: [], afterMs: 250 },
    ],
    [{ answer: null, afterMs: 2_000 }],
  );
  const { supply } = fake.supplier();
  await settle(time, supply());
  await settle(time, supply());
  const [poll, first, second, recovered, last] = fake.events;
  assertEquals(poll, { type: "poll", durationMs: 40, count: 2 });
  assertEquals(first, {
    type: "poll-failed",
    error: OUTAGE.error,
    failures: 1,
    retryInMs: 100,
    hint: undefined,
  });
  assert(second.type === "poll-failed");
  assertStrictEquals(second.error, conflict);
  assertEquals(second.failures, 2);
  assertEquals(second.retryInMs, 200);
  assertEquals(recovered, { type: "recovered", failures: 2, downMs: 550 });
  assertEquals(last, { type: "poll", durationMs: 250, count: 0 });
  assertEquals(fake.events.length, 5);
});

Deno.test("fetcher loses no updates to an observer that throws", async () => {
  const fake = new Fake([answer(1), answer(2)]);
  fake.emit = () => {
    throw new Error("observer");
  };
  const { supply } = fake.supplier();
  assertEquals(await supply(), updates(1));
  assertEquals(await supply(), updates(2));
});

Deno.test("fetcher prints failures and recovery unless it is silent", async () => {
  using time = new FakeTime();
  for (const silent of [undefined, false, true]) {
    const fake = new Fake([
      OUTAGE,
      { error: apiError(409, TERMINATED) },
      answer(1),
    ]);
    const lines = await printed(() =>
      settle(time, fake.supplier({ silent }).supply())
    );
    if (silent) assertEquals(lines, []);
    else {
      assertEquals(lines.map(([prefix]) => prefix), [
        "[grammY runner]",
        "[grammY runner]",
        "[grammY runner]",
        "[grammY runner]",
      ]);
      assertStringIncludes(lines[0].join(" "), "connection reset");
      assertStringIncludes(lines[2].join(" "), "Another process");
      assertStringIncludes(lines[3].join(" "), "works again after 2 failures");
    }
  }
});

Deno.test("fetcher prints nothing while all is well", async () => {
  const fake = new Fake([answer(1), answer()], [{ answer: null }]);
  const { supply, confirm } = fake.supplier({ silent: false });
  const lines = await printed(async () => {
    await supply();
    await supply();
    await confirm(1);
  });
  assertEquals(lines, []);
});

Deno.test("fetcher works with bots that do not return promises", async () => {
  const fetchUpdates = createUpdateFetcher({
    init: (() => {}) as () => Promise<void>,
    handleUpdate: () => Promise.resolve(),
    errorHandler: () => {},
    api: { getUpdates: () => updates(1) as unknown as Promise<Item[]> },
  }, { maxRetryTime: 0, silent: true });
  const { signal } = new AbortController();
  assertEquals(await fetchUpdates(100, signal), updates(1));
});

Deno.test("fetcher retries after a getUpdates that throws instead of rejecting", async () => {
  using time = new FakeTime();
  let calls = 0;
  const fetchUpdates = createUpdateFetcher({
    handleUpdate: () => Promise.resolve(),
    errorHandler: () => {},
    api: {
      getUpdates: () => {
        if (calls++ === 0) throw new Error("sync");
        return Promise.resolve(updates(1));
      },
    },
  }, { silent: true });
  const { signal } = new AbortController();
  assertEquals(await settle(time, fetchUpdates(100, signal)), updates(1));
});

Deno.test("fetcher calls the methods of a bot on their objects", async () => {
  class Api {
    #ids = [1];
    getUpdates() {
      return Promise.resolve(updates(...this.#ids));
    }
  }
  class OwnBot {
    #initialized = 0;
    api = new Api();
    init() {
      this.#initialized++;
      return Promise.resolve();
    }
    handleUpdate = () => Promise.resolve();
    errorHandler = () => {};
  }
  const supplier = createUpdateSupplier(new OwnBot(), { maxRetryTime: 0 });
  const signal = new AbortController().signal as AbortSignal & GrammySignal;
  assertEquals(await supplier.supply(100, signal), updates(1));
});

Deno.test("fetcher heeds signals that know no reason, as of abort-controller", async () => {
  using time = new FakeTime();
  const listeners = new Set<() => void>();
  const signal = {
    aborted: false,
    addEventListener: (_: string, fn: () => void) => listeners.add(fn),
    removeEventListener: (_: string, fn: () => void) => listeners.delete(fn),
  };
  const fetchUpdates = createUpdateFetcher({
    handleUpdate: () => Promise.resolve(),
    errorHandler: () => {},
    api: { getUpdates: () => new Promise<Item[]>(() => {}) },
  }, { silent: true });
  const promise = fetchUpdates(100, signal as unknown as GrammySignal);
  await time.runMicrotasks();
  assertEquals(listeners.size, 1);
  signal.aborted = true;
  for (const listener of listeners) listener();
  await assertRejects(() => promise, DOMException);
  assertEquals(listeners.size, 0);
  await assertRejects(
    () => fetchUpdates(100, signal as unknown as GrammySignal),
    DOMException,
  );
  assertEquals(time.next(), false);
});

// deno-lint-ignore no-explicit-any
type Loose = any;
const badOptions: [
  Loose,
  typeof RangeError | typeof TypeError,
  string,
  string,
][] = [
  [{ fetch: { timeout: NaN } }, RangeError, "fetch.timeout", "NaN"],
  [{ fetch: { timeout: -1 } }, RangeError, "fetch.timeout", "-1"],
  [{ fetch: { timeout: 0.5 } }, RangeError, "fetch.timeout", "0.5"],
  [{ fetch: { timeout: Infinity } }, RangeError, "fetch.timeout", "Infinity"],
  [{ fetch: { timeout: "30" } }, TypeError, "fetch.timeout", "30"],
  [{ fetch: { timeout: null } }, TypeError, "fetch.timeout", "null"],
  [
    { fetch: { allowed_updates: "message" } },
    TypeError,
    "fetch.allowed_updates",
    "message",
  ],
  [{ maxRetryTime: NaN }, RangeError, "maxRetryTime", "NaN"],
  [{ maxRetryTime: -1 }, RangeError, "maxRetryTime", "-1"],
  [{ maxRetryTime: "1" }, TypeError, "maxRetryTime", "1"],
  [{ maxRetryInterval: NaN }, RangeError, "maxRetryInterval", "NaN"],
  [{ maxRetryInterval: 0 }, RangeError, "maxRetryInterval", "0"],
  [{ maxRetryInterval: -5 }, RangeError, "maxRetryInterval", "-5"],
  [{ maxRetryInterval: "5" }, TypeError, "maxRetryInterval", "5"],
  [{ pollGrace: NaN }, RangeError, "pollGrace", "NaN"],
  [{ pollGrace: 0 }, RangeError, "pollGrace", "0"],
  [{ pollGrace: -1 }, RangeError, "pollGrace", "-1"],
  [{ pollGrace: {} }, TypeError, "pollGrace", "[object Object]"],
  [{ retryInterval: NaN }, RangeError, "retryInterval", "NaN"],
  [{ retryInterval: 0 }, RangeError, "retryInterval", "0"],
  [{ retryInterval: -1 }, RangeError, "retryInterval", "-1"],
  [{ retryInterval: "linear" }, TypeError, "retryInterval", "linear"],
  [{ retryInterval: "100" }, TypeError, "retryInterval", "100"],
  [{ retryInterval: null }, TypeError, "retryInterval", "null"],
];
for (const create of [createUpdateFetcher, createUpdateSupplier]) {
  for (const [options, type, name, received] of badOptions) {
    Deno.test(`${create.name} refuses ${name} ${typeof received} ${received} of ${type.name}`, () => {
      const bot = {
        handleUpdate: () => Promise.resolve(),
        errorHandler: () => {},
        api: { getUpdates: () => Promise.resolve(updates()) },
      };
      const error = assertThrows(() => create(bot, options), type, name);
      assertMatch(error.message, /: .* must be .*: received /);
      assert(error.message.endsWith(`received ${received}`), error.message);
    });
  }

  Deno.test(`${create.name} refuses what is no bot`, () => {
    for (const bot of [undefined, null, {}, { api: {} }]) {
      assertThrows(() => create(bot as Loose), TypeError, "api.getUpdates");
    }
  });
}

// From here on: real HTTP and a real bot.

const FAST: RunnerOptions = {
  fetch: { timeout: 0 },
  retryInterval: 5,
  pollGrace: 150,
  silent: true,
};

const faults: [string, Fault][] = [
  ["status 500", { status: 500 }],
  ["status 502 with HTML", {
    status: 502,
    body: "<html>Bad Gateway</html>",
    contentType: "text/html",
  }],
  ["status 403", { status: 403 }],
  ["HTML with status 200", "garbage"],
  ["malformed JSON", { body: '{"ok":true,"result":[' }],
  ["an empty body", { body: "" }],
  ["an object as result", { body: '{"ok":true,"result":{}}' }],
  ["no result", { body: '{"ok":true}' }],
  ["updates without id", { body: '{"ok":true,"result":[{}]}' }],
  ["a connection reset", "reset"],
  ["a truncated answer", "truncate"],
  ["a hanging call", "hang"],
  ["a conflict", { status: 409, description: TERMINATED }],
];
for (const [name, fault] of faults) {
  Deno.test(`fetcher loses nothing over HTTP to ${name}`, async () => {
    await using server = await startBotApiServer({ quirks: false });
    const bot = new Bot(server.token, { client: { apiRoot: server.url } });
    const supplier = createUpdateSupplier(bot, FAST);
    const signal = new AbortController().signal as AbortSignal & GrammySignal;
    const events: string[] = [];
    server.pushText("a");
    server.fail(fault, { times: 2 });
    const first = await supplier.supply(
      100,
      signal,
      (e) => events.push(e.type),
    );
    server.pushText("b");
    server.fail(fault, { processed: fault !== "hang" });
    const second = await supplier.supply(100, signal);
    assertEquals([...first, ...second].map((u) => u.message?.text), ["a", "b"]);
    assertEquals(events.slice(-2), ["recovered", "poll"]);
    // Deno's HTTP client repeats aborted requests by itself, so it may be one.
    const failures = events.filter((type) => type === "poll-failed").length;
    assert(failures === 2 || fault === "hang" && failures === 1, `${events}`);
    await supplier.confirm!(second[0].update_id + 1, signal);
    assertEquals(server.unconfirmed(), []);
    const poll = server.polls().at(-1)!;
    assertEquals([poll.limit, poll.timeout], [1, 0]);
  });
}

Deno.test("fetcher waits over HTTP for as long as a 429 tells", async () => {
  await using server = await startBotApiServer({ quirks: false });
  const bot = new Bot(server.token, { client: { apiRoot: server.url } });
  const fetchUpdates = createUpdateFetcher(bot, FAST);
  server.pushText("a");
  server.fail({ status: 429, retryAfter: 1 });
  const { signal } = new AbortController();
  assertEquals((await fetchUpdates(100, signal)).length, 1);
  const [first, second] = server.polls();
  assertGreaterOrEqual(second.at - first.at, 990);
  assertLess(second.at - first.at, 3000);
});

for (
  const [name, fault, message] of [
    ["401", { status: 401, description: "Unauthorized" }, "401"],
    ["404", { status: 404, description: "Not Found" }, "404"],
    ["webhook", { status: 409, description: WEBHOOK }, "deleteWebhook()"],
  ] as const
) {
  Deno.test(`fetcher gives up over HTTP on ${name}`, async () => {
    await using server = await startBotApiServer({ quirks: false });
    const bot = new Bot(server.token, { client: { apiRoot: server.url } });
    const fetchUpdates = createUpdateFetcher(bot, FAST);
    server.fail(fault);
    const { signal } = new AbortController();
    await assertRejects(() => fetchUpdates(100, signal), Error, message);
    assertEquals(server.polls().length, 1);
  });
}

Deno.test("fetcher gives up over HTTP on a wrong token at bot.init", async () => {
  await using server = await startBotApiServer({ quirks: false });
  const bot = new Bot("999:wrong", { client: { apiRoot: server.url } });
  const fetchUpdates = createUpdateFetcher(bot, FAST);
  const { signal } = new AbortController();
  const error = await assertRejects(() => fetchUpdates(100, signal));
  assertEquals((error as { error_code?: number }).error_code, 401);
});

Deno.test("fetcher initializes a bot over HTTP that fails to at first", async () => {
  await using server = await startBotApiServer({ quirks: false });
  const bot = new Bot(server.token, { client: { apiRoot: server.url } });
  const fetchUpdates = createUpdateFetcher(bot, FAST);
  server.pushText("a");
  server.fail({ status: 400 }, { method: "getMe" });
  server.fail("hang", { method: "getMe" });
  const { signal } = new AbortController();
  assertEquals((await fetchUpdates(100, signal)).length, 1);
  assert(bot.isInited());
});

Deno.test("fetcher interrupts a long poll over HTTP at once", async () => {
  await using server = await startBotApiServer({ quirks: false });
  const bot = new Bot(server.token, { client: { apiRoot: server.url } });
  const fetchUpdates = createUpdateFetcher(bot);
  const controller = new AbortController();
  const promise = fetchUpdates(100, controller.signal);
  await server.waitFor(() => server.polls().at(-1)?.outcome === "waiting");
  controller.abort();
  await assertRejects(() => promise, DOMException);
  await server.waitFor(() => server.polls().at(-1)?.outcome === "aborted");
});

Deno.test("fetcher prints no token when the network fails", async () => {
  await using server = await startBotApiServer({ quirks: false });
  const bot = new Bot(server.token, {
    client: { apiRoot: server.url },
    botInfo: server.botInfo,
  });
  const fetchUpdates = createUpdateFetcher(bot, { ...FAST, silent: false });
  server.fail("reset");
  server.fail("garbage");
  const { signal } = new AbortController();
  const lines = await printed(() => fetchUpdates(100, signal));
  const text = lines.flat().join("\n");
  assertStringIncludes(text, "Network request for 'getUpdates' failed!");
  assert(!text.includes(server.token.split(":")[1]), text);
});
