/**
 * Draws the picture of the dashboard for the README: a real run of the bot of
 * the demo, three quarters of a minute after its start.
 *
 * ```sh
 * deno run -A scripts/dashboard_picture.ts demo/dashboard.svg
 * ```
 */
import { Dashboard } from "../_dashboard.ts";
import type { Style } from "../_dashboard_layout.ts";
import { createBot } from "../demo/bot.ts";
import { startTelegram } from "../demo/telegram.ts";
import { run } from "../mod.ts";

const COLUMNS = 84;
const ROWS = 27;
const CELL = { width: 9, height: 18 };
const MARGIN = 12;
const TEXT = "#c0caf5";
const LOOKS: Record<Style, string> = {
  title: `fill="${TEXT}" font-weight="bold"`,
  label: `fill="#787c99"`,
  number: `fill="${TEXT}" font-weight="bold"`,
  chart: `fill="#7dcfff"`,
  good: `fill="#9ece6a"`,
  warning: `fill="#e0af68"`,
  bad: `fill="#f7768e"`,
  key: `fill="#7dcfff"`,
};
const STYLES = Object.keys(LOOKS) as Style[];
/** Stands for the beginning of a style, plus its index, and for the end. */
const BEGIN = 0xe000;
const END = "\uf000";
/** The lines of a picture: the cursor goes to a row, and text follows. */
// deno-lint-ignore no-control-regex
const LINE = /\x1b\[(\d+);1H([^\x1b]*)\x1b/g;

const [path] = Deno.args;
if (Deno.args.length !== 1) {
  console.error("Usage: dashboard_picture.ts PICTURE.svg");
  Deno.exit(2);
}

let picture = "";
const dashboard = new Dashboard({
  size: () => ({ columns: COLUMNS, rows: ROWS + 1 }),
  paint: (style, text) =>
    String.fromCharCode(BEGIN + STYLES.indexOf(style)) + text + END,
  print: (text) => picture = text,
  capture: () => () => {},
}, undefined);
await using telegram = await startTelegram((message) =>
  dashboard.record({ type: "inbox", level: "info", message })
);
const handle = run(createBot(telegram.token, telegram.url), {
  runner: { silent: true, maxRetryInterval: 1000 },
  sink: {
    concurrency: 100,
    timeout: { milliseconds: 4000, handler: () => {} },
  },
  onEvent: (event) => dashboard.record(event),
});
telegram.rate = 200;
telegram.open();
await wait(40_000);
telegram.flood();
await wait(5000);
await Deno.writeTextFile(path, draw(picture));
telegram.close();
await handle.stop();

function wait(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function draw(picture: string): string {
  const shapes: string[] = [];
  for (const [, row, line] of picture.matchAll(LINE)) {
    drawLine(shapes, line, MARGIN + (Number(row) - 1) * CELL.height);
  }
  const width = COLUMNS * CELL.width + 2 * MARGIN;
  const height = ROWS * CELL.height + 2 * MARGIN;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img" aria-label="The dashboard">
<rect width="${width}" height="${height}" rx="8" fill="#1a1b26"/>
<g font-family="ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="14" fill="${TEXT}">
${shapes.join("\n")}
</g>
</svg>
`;
}

function drawLine(shapes: string[], line: string, y: number): void {
  let look = "";
  let column = 0;
  // Runs of the same kind, each in one shape, so that all stay on the grid.
  for (
    const [run] of line.matchAll(
      /[\ue000-\uf000]|[━─]+|[▁-█]| +|[^ ━─▁-█\ue000-\uf000]+/g,
    )
  ) {
    const x = MARGIN + column * CELL.width;
    const code = run.charCodeAt(0);
    if (run === END) look = "";
    else if (code >= BEGIN && code < 0xf000) look = LOOKS[STYLES[code - BEGIN]];
    else {
      const width = run.length * CELL.width;
      const rect = (y: number, height: number) =>
        `<rect x="${x}" y="${y}" width="${width}" height="${height}" ${look}/>`;
      if (run[0] === "━") shapes.push(rect(y + 7.5, 3));
      else if (run[0] === "─") shapes.push(rect(y + 8.5, 1));
      else if (run >= "▁" && run <= "█") {
        const height = (code - 0x2580) * CELL.height / 8;
        shapes.push(rect(y + CELL.height - height, height));
      } else if (run[0] !== " ") {
        shapes.push(
          `<text x="${x}" y="${y + 14}" textLength="${width}" ${look}>${
            run.replace(/[&<>]/g, (c) => `&#${c.charCodeAt(0)};`)
          }</text>`,
        );
      }
      column += run.length;
    }
  }
}
