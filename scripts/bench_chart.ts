/**
 * Draws the results of the benchmark.
 *
 * ```sh
 * deno run -A scripts/bench_chart.ts bench/results.json bench/results.svg
 * ```
 */
import type { Results } from "../bench/results.ts";

const WIDTH = 800;
const ROW = 34;
/** Where bars begin, and how long they can get. */
const LEFT = 300;
const LENGTH = 330;

/** A bar for 2.0.3 and one for this version, next to a name. */
interface Row {
  name: string;
  old: number;
  current: number;
  /** What stands behind the bars. */
  text: string;
  detail: string;
}

if (import.meta.main) {
  const [from, to] = Deno.args;
  if (Deno.args.length !== 2) {
    console.error("Usage: bench_chart.ts RESULTS.json CHART.svg");
    Deno.exit(2);
  }
  const results: Results = JSON.parse(await Deno.readTextFile(from));
  await Deno.writeTextFile(to, chart(results));
}

/** Makes an SVG that fits light and dark pages. */
export function chart(results: Results): string {
  const { date, machine, load, rates, slots } = results;
  const speed = rates
    // What has no target is a bound that is measured for comparison.
    .filter(({ target }) => target > 0)
    .map(({ name, old, current }): Row => ({
      name: name.replace("; old = bot.start()", ", against bot.start()"),
      old: 1,
      current: current / old,
      text: `${(current / old).toFixed(1)}×`,
      detail: `${short(current)}/s instead of ${short(old)}/s`,
    }));
  const use = slots.map(({ name, old, current }): Row => ({
    name,
    old,
    current,
    text: percent(current),
    detail: `instead of ${percent(old)}`,
  }));
  const top = Math.max(...speed.map(({ current }) => current), 1);
  const second = 80 + speed.length * ROW + 20;
  const end = second + use.length * ROW + 20;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${
    end + 36
  }" role="img" aria-label="Speed of version 3 compared with 2.0.3">
<style>
  text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
  .title { font-size: 16px; font-weight: 600; }
  .value { font-weight: 600; }
  .dim { fill: #656d76; }
  .page { fill: #ffffff; }
  .old { fill: #afb8c1; }
  .new { fill: #0f8b8d; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .dim { fill: #8d96a0; }
    .page { fill: #0d1117; }
    .old { fill: #484f58; }
    .new { fill: #2bb3b5; }
  }
</style>
<rect class="page" width="100%" height="100%" rx="8"/>
<text class="title" x="16" y="28">Updates per second, as a multiple of 2.0.3</text>
${legend()}
${rows(speed, 52, top)}
<text class="title" x="16" y="${
    second - 14
  }">Part of what is possible, with 40 ms to Telegram and 50 ms per update</text>
${rows(use, second + 10, 1)}
<text class="dim" x="16" y="${end + 20}">${
    escape(
      `Medians, measured on ${date}: ${machine}. Load average before: ${
        load.toFixed(1)
      }.`,
    )
  }</text>
</svg>
`;
}

function legend(): string {
  return `<rect class="old" x="620" y="17" width="12" height="12" rx="2"/>
<text x="638" y="28">2.0.3</text>
<rect class="new" x="690" y="17" width="12" height="12" rx="2"/>
<text x="708" y="28">3.0.0</text>`;
}

function rows(rows: Row[], y: number, top: number): string {
  const length = (value: number) =>
    Math.max(1, Math.min(1, value / top) * LENGTH).toFixed(1);
  return rows.map(({ name, old, current, text, detail }, i) => {
    const at = y + i * ROW;
    return `<text x="16" y="${at + 14}">${escape(name)}</text>
<rect class="old" x="${LEFT}" y="${at}" width="${
      length(old)
    }" height="7" rx="2"/>
<rect class="new" x="${LEFT}" y="${at + 9}" width="${
      length(current)
    }" height="11" rx="2"/>
<text class="value" x="${LEFT + LENGTH + 10}" y="${at + 9}">${text}</text>
<text class="dim" x="${LEFT + LENGTH + 10}" y="${
      at + 22
    }" style="font-size: 10px">${detail}</text>`;
  }).join("\n");
}

/** A number in three digits at least. */
function short(n: number): string {
  return new Intl.NumberFormat("en", {
    notation: "compact",
    maximumSignificantDigits: 3,
  }).format(n);
}

function percent(part: number): string {
  return `${(part * 100).toFixed(0)} %`;
}

function escape(text: string): string {
  return text.replace(/[&<>]/g, (c) => `&#${c.charCodeAt(0)};`);
}
