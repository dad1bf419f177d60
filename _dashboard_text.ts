// deno-lint-ignore no-import-prefix -- raw files have no import map
import stringWidth from "npm:string-width@8";

const EIGHTHS = " ▁▂▃▄▅▆▇█";

/**
 * Draws values as columns, from the bottom up: the newest value is on the right.
 * The largest one is as high as the chart, and one above 0 is never invisible.
 *
 * @returns Lines from top to bottom, of the given width
 */
export function columnChart(
  values: number[],
  width: number,
  height: number,
): string[] {
  if (width <= 0) return Array(height).fill("");
  const shown = values.slice(-width);
  const top = Math.max(...shown, 0);
  const heights = shown.map((value) =>
    value > 0 ? Math.max(1, Math.round(value / top * height * 8)) : 0
  );
  return Array.from({ length: height }, (_, line) => {
    const below = (height - 1 - line) * 8;
    return heights
      .map((h) => EIGHTHS[Math.min(8, Math.max(0, h - below))])
      .join("").padStart(width);
  });
}

/** Draws a part, 0..1, of a whole: how much is full, and how much is empty. */
export function bar(part: number, width: number): [string, string] {
  if (width <= 0) return ["", ""];
  const clipped = Math.min(1, Math.max(0, part));
  const full = clipped === 0 ? 0 : Math.max(1, Math.round(clipped * width));
  return ["━".repeat(full), "─".repeat(width - full)];
}

/** A number as people write it, in six characters at most. */
export function count(n: number): string {
  if (n === Infinity) return "∞";
  for (const [unit, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]] as const) {
    // From 100,000 on, with a decimal place; 0.99995 of the unit is shown as 1.
    if (n >= Math.max(unit * 0.99995, 99_999.5)) {
      return `${(n / unit).toFixed(1)}${letter}`;
    }
  }
  return Math.round(n).toLocaleString("en");
}

/** A rate, with a decimal place where that matters. */
export function rate(perSecond: number): string {
  return perSecond < 9.95 ? perSecond.toFixed(1) : count(perSecond);
}

/** A duration in six characters at most. */
export function duration(ms: number | undefined): string {
  if (ms === undefined) return "–";
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 3_570_000) return `${Math.max(1, Math.round(ms / 60_000))} min`;
  return `${(ms / 3_600_000).toFixed(1)} h`;
}

/** A duration as clocks show it. */
export function clock(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  const pad = (n: number) => `${n % 60}`.padStart(2, "0");
  return `${Math.floor(seconds / 3600)}:${pad(Math.floor(seconds / 60))}:${
    pad(seconds)
  }`;
}

/** The time of day. */
export function timeOfDay(at: number): string {
  return new Date(at).toTimeString().slice(0, 8);
}

const graphemes = new Intl.Segmenter();

/**
 * Makes a text exactly as wide as that many columns of a terminal: fills it up
 * with spaces, or ends it with an ellipsis. Nothing in it can control the
 * terminal.
 */
export function fit(text: string, width: number): string {
  if (width <= 0) return "";
  const safe = text.replace(
    /[\p{Cc}\p{Zl}\p{Zp}\u202a-\u202e\u2066-\u2069]/gu,
    " ",
  );
  const missing = width - stringWidth(safe);
  if (missing >= 0) return safe + " ".repeat(missing);
  let fitting = "";
  let left = width - 1;
  for (const { segment } of graphemes.segment(safe)) {
    left -= stringWidth(segment);
    if (left < 0) break;
    fitting += segment;
  }
  return `${fitting}…${" ".repeat(width - 1 - stringWidth(fitting))}`;
}

/** The same, with the text on the right. */
export function fitRight(text: string, width: number): string {
  const fitted = fit(text, width);
  const trimmed = fitted.trimEnd();
  return " ".repeat(fitted.length - trimmed.length) + trimmed;
}
