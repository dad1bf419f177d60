/**
 * Compares the speed of this version with that of 2.0.3, and shows how well it
 * keeps handlers busy.
 *
 * ```sh
 * deno run -A bench/bench.ts [part of the name of a case] [--json FILE]
 * ```
 *
 * With `--json`, the results are also written to a file.
 */
import { type Contender, median, medians, printTable } from "./measure.ts";
import {
  bareRate,
  drain,
  fetchOnly,
  type Load,
  load,
  withNothing,
  withoutRunner,
  withRunner,
} from "./polling.ts";
import { machine, type Results } from "./results.ts";
import { sequence } from "./sequentialize.ts";
import { ServerThread } from "./server.ts";
import { full, passing } from "./sink.ts";
import { type Version, versions } from "./versions.ts";
import { loadavg } from "node:os";
import { parseArgs } from "node:util";

const ROUNDS = 9;
const LOAD_ROUNDS = 3;

interface Case {
  name: string;
  /** The least ratio that is good enough; 0 if it is there for comparison. */
  target: number;
  /** Number of updates per round. */
  count: number;
  old: Contender;
  current: Contender;
}

const { values: { json }, positionals: [filter = ""] } = parseArgs({
  options: { json: { type: "string" } },
  allowPositionals: true,
});
const results: Results = {
  date: new Date().toISOString().slice(0, 10),
  machine: machine(),
  load: Number(loadavg()[0].toFixed(1)),
  rates: [],
  slots: [],
};
console.log(`${results.date}, ${results.machine}, load ${results.load}\n`);
using thread = new ServerThread();

function compare(
  name: string,
  target: number,
  count: number,
  create: (version: Version, count: number) => Contender,
): Case {
  return {
    name,
    target,
    count,
    old: create(versions.old, count),
    current: create(versions.current, count),
  };
}

// Made once, as hashing a new string costs more than all that is measured.
const chats = Array.from({ length: 1000 }, (_, i) => `chat ${i}`);
const users = Array.from({ length: 1000 }, (_, i) => `user ${i}`);

const cases: Case[] = [
  compare("sink", 3, 200_000, (v, n) => passing(v, n, false)),
  compare("sink, time limit", 3, 200_000, (v, n) => passing(v, n, true)),
  compare("sink, 500 slots full", 2, 200_000, full),
  compare(
    "sequentialize",
    1.8,
    100_000,
    (v, n) => sequence(v, n, (i) => chats[i % 1000]),
  ),
  compare(
    "sequentialize, contended",
    1.8,
    100_000,
    (v, n) => sequence(v, n, (i) => chats[i % 5]),
  ),
  compare(
    "sequentialize, two keys",
    1.8,
    100_000,
    (v, n) => sequence(v, n, (i) => [chats[i % 1000], users[i % 1000]]),
  ),
  compare(
    "sequentialize, two keys, contended",
    1.8,
    100_000,
    (v, n) => sequence(v, n, (i) => [chats[i % 20], users[i % 7]]),
  ),
  compare(
    "sequentialize, two keys, never seen before",
    0,
    100_000,
    (v, n) => sequence(v, n, (i) => [`chat ${i}`, `user ${i}`]),
  ),
  compare(
    "drain over HTTP",
    1.4,
    30_000,
    (v, n) => drain(thread, withRunner(v), n),
  ),
  {
    name: "drain over HTTP; old = bot.start()",
    target: 1,
    count: 30_000,
    old: drain(thread, withoutRunner(), 30_000),
    current: drain(thread, withRunner(versions.current), 30_000),
  },
  {
    name: "drain over HTTP; new = no runner at all",
    target: 0,
    count: 30_000,
    old: drain(thread, withRunner(versions.old), 30_000),
    current: drain(thread, withNothing(30_000), 30_000),
  },
  {
    name: "drain over HTTP; new = only fetching",
    target: 0,
    count: 30_000,
    old: drain(thread, withRunner(versions.old), 30_000),
    current: fetchOnly(thread, 30_000),
  },
].filter(({ name }) => name.includes(filter));

const rows: string[][] = [];
for (const { name, target, count, old, current } of cases) {
  const [oldMs, currentMs] = await medians([old, current], ROUNDS);
  const perSecond = (ms: number) => Math.round(count / ms * 1000);
  const ratio = oldMs / currentMs;
  results.rates.push({
    name,
    old: perSecond(oldMs),
    current: perSecond(currentMs),
    target,
  });
  rows.push([
    name,
    perSecond(oldMs).toLocaleString("en"),
    perSecond(currentMs).toLocaleString("en"),
    `${ratio.toFixed(2)}x`,
    target > 0 ? `${target.toFixed(1)}x` : "",
    target > 0 ? ratio >= target ? "ok" : "short" : "to compare",
  ]);
}
if (rows.length > 0) {
  printTable(["updates", "old/s", "new/s", "ratio", "target", ""], rows);
}

if ("slots".includes(filter)) {
  console.log();
  printTable(
    ["slots: 40 ms round trip, 50 ms handlers", "old", "new", "target", ""],
    [
      ...await busyRows(10, 600, true),
      ...await busyRows(100, 6000, false),
      await rateRow(500, 8000),
    ],
  );
}

if (json !== undefined) {
  await Deno.writeTextFile(json, JSON.stringify(results, null, 2) + "\n");
}

async function busyRows(
  concurrency: number,
  count: number,
  withPolls: boolean,
): Promise<string[][]> {
  const [old, current] = await loads(concurrency, count);
  const percent = (value: number) => `${(value * 100).toFixed(1)}%`;
  const name = `busy at concurrency ${concurrency}`;
  results.slots.push({ name, old: old.busy, current: current.busy });
  const rows = [[
    name,
    percent(old.busy),
    percent(current.busy),
    "95%",
    current.busy >= 0.95 ? "ok" : "short",
  ]];
  if (withPolls) {
    rows.push([
      `most handlers at once at concurrency ${concurrency}`,
      `${old.most}`,
      `${current.most}`,
      `${concurrency}`,
      current.most <= concurrency ? "ok" : "short",
    ], [
      `polls for ${count} updates at concurrency ${concurrency}`,
      `${old.polls}`,
      `${current.polls}`,
      "<20",
      current.polls < 20 ? "ok" : "short",
    ]);
  }
  return rows;
}

async function rateRow(concurrency: number, count: number): Promise<string[]> {
  const bare: number[] = [];
  const [old, current] = await loads(concurrency, count, async () => {
    bare.push(await bareRate(thread, count));
  });
  const percent = (part: number) => `${(part * 100).toFixed(1)}%`;
  const name = `rate of only fetching, at concurrency ${concurrency}`;
  const parts = {
    old: old.rate / median(bare),
    current: current.rate / median(bare),
  };
  results.slots.push({ name, ...parts });
  return [
    name,
    percent(parts.old),
    percent(parts.current),
    "95%",
    parts.current >= 0.95 ? "ok" : "short",
  ];
}

/** Medians of both versions, which take turns with something else. */
async function loads(
  concurrency: number,
  count: number,
  between = () => Promise.resolve(),
): Promise<Load[]> {
  const results: [Version, Load[]][] = [
    [versions.old, []],
    [versions.current, []],
  ];
  for (let round = 0; round < LOAD_ROUNDS; round++) {
    await between();
    for (const [version, list] of results) {
      list.push(await load(thread, version, concurrency, count));
    }
  }
  return results.map(([, list]) => ({
    busy: median(list.map(({ busy }) => busy)),
    rate: median(list.map(({ rate }) => rate)),
    most: Math.max(...list.map(({ most }) => most)),
    polls: median(list.map(({ polls }) => polls)),
  }));
}
