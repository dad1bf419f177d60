import type { Meter } from "./_dashboard_meter.ts";
import {
  bar,
  clock,
  columnChart,
  count,
  duration,
  fit,
  fitRight,
  rate,
  timeOfDay,
} from "./_dashboard_text.ts";
import type { RunnerState } from "./events.ts";

/** What a text means; the terminal gives it its looks. */
export type Style =
  | "title"
  | "label"
  | "number"
  | "chart"
  | "good"
  | "warning"
  | "bad"
  | "key";

/** Applies a style to a text. */
export type Paint = (style: Style, text: string) => string;

/** The size of a terminal in characters. */
export interface Size {
  columns: number;
  rows: number;
}

/** Width of the names on the left, and of the values on the right. */
const NAME = 11;
const VALUE = 17;

const STATES: Record<RunnerState, [style: Style, word: string]> = {
  idle: ["label", "starting"],
  polling: ["good", "polling"],
  retrying: ["bad", "reconnecting"],
  draining: ["warning", "stopping"],
  stopped: ["label", "stopped"],
  failed: ["bad", "failed"],
};

/** Lays the dashboard out: one string for each row of a terminal of that size. */
export function layOut(
  meter: Meter,
  size: Size,
  now: number,
  footer: string[],
  paint: Paint,
): string[] {
  const width = size.columns - 2;
  const limits = bars(meter, width, paint);
  const numbers = table(meter, width, paint);
  // The chart has two rows at least.
  const fixed = 1 + 2 + limits.length + numbers.length + footer.length;
  const isRoomy = size.rows >= fixed + 11;
  const isTall = size.rows >= fixed + 18;
  const gap = isRoomy ? [""] : [];
  const titles = Number(isRoomy) + Number(isTall);
  const free = Math.max(0, size.rows - fixed - 6 * gap.length - titles);
  const extraChartRows = isTall ? Math.min(6, Math.floor(free / 4)) : 0;
  const messageRows = Math.floor((free - extraChartRows) / 2);
  const chatRows = free - extraChartRows - messageRows;
  const lines = [
    header(meter, width, now, paint),
    ...gap,
    ...chart(meter, width, 2 + extraChartRows, paint),
    ...gap,
    ...limits,
    ...gap,
    ...numbers,
    ...gap,
    ...chats(meter, width, chatRows, isRoomy, paint),
    ...gap,
    ...messages(meter, width, messageRows, isTall, paint),
    ...gap,
  ].slice(0, Math.max(0, size.rows - footer.length));
  while (lines.length < size.rows - footer.length) lines.push("");
  const keys = footer.map((line) =>
    fit(line, width).replace(/\[[^\]]+\]/g, (key) => paint("key", key))
  );
  return [...lines, ...keys].slice(0, size.rows).map((line) => ` ${line}`);
}

function header(
  meter: Meter,
  width: number,
  now: number,
  paint: Paint,
): string {
  const title = "grammY runner";
  const [style, word] = STATES[meter.stats?.().state ?? "idle"];
  const down = meter.downSince === undefined
    ? ""
    : `, no answer for ${duration(now - meter.downSince)}`;
  const up = clock(now - (meter.startedAt ?? now));
  const room = width - title.length - 2 - up.length - 1;
  return paint("title", title) + "  " +
    paint(style, fit(`● ${word}${down}`, room)) + " " + paint("label", up);
}

function chart(
  meter: Meter,
  width: number,
  height: number,
  paint: Paint,
): string[] {
  const chartWidth = width - NAME - VALUE;
  const shown = meter.rates.slice(-chartWidth);
  const columns = columnChart(shown, chartWidth, height);
  const peak = `peak ${count(Math.max(0, ...shown))}`;
  return columns.map((column, i) => {
    const name = i === height - 2
      ? fit("updates/s", NAME)
      : i === height - 1
      ? paint("title", fit(rate(meter.rate), NAME))
      : " ".repeat(NAME);
    const value = i === 0 ? fitRight(peak, VALUE) : "";
    return name + paint("chart", column) + paint("label", value);
  });
}

function bars(meter: Meter, width: number, paint: Paint): string[] {
  const stats = meter.stats?.();
  return (["running", "parked", "buffered"] as const).map((name) => {
    const value = stats?.[name] ?? 0;
    const limit = stats?.limits[name] ?? Infinity;
    const part = limit === 0 ? 0 : value / limit;
    const [full, rest] = bar(part, width - NAME - VALUE);
    const style = part < 0.6 ? "good" : part < 0.9 ? "warning" : "bad";
    const text = ` ${paint("number", fitRight(count(value), 6))}`;
    return fit(name, NAME) + paint(style, full) + paint("label", rest) + text +
      paint("label", fit(` of ${count(limit)}`, VALUE - 7));
  });
}

function table(meter: Meter, width: number, paint: Paint): string[] {
  const { handled, failed, timedOut } = meter.totals;
  const bad = (n: number) => n > 0 ? "bad" : "number";
  const times =
    ([["waiting", meter.waiting], ["handling", meter.handling]] as const)
      .map(([name, times]) =>
        fit(name, 9) +
        paint("number", fitRight(duration(times.at(0.5)), 7)) +
        paint("number", fitRight(duration(times.at(0.99)), 7))
      );
  const ends = ([
    ["handled", handled, "number"],
    ["failed", failed, bad(failed)],
    ["timed out", timedOut, bad(timedOut)],
  ] as const).map(([name, n, style]) =>
    fit(name, 9) + paint(style, fitRight(count(n), 7))
  );
  const polling = [
    ["polls", count(meter.polls)],
    ["reconnects", count(meter.reconnects)],
    ["oldest", duration(meter.stats?.().oldestRunningMs)],
  ].map(([name, value]) => fit(name, 10) + paint("number", fitRight(value, 7)));
  // Without the gaps, the columns take up 56 characters.
  const gap = " ".repeat(
    Math.max(1, Math.min(16, Math.floor((width - 56) / 2))),
  );
  return [paint("label", "past 10 s    p50    p99"), ...times]
    .map((cells, i) => cells + gap + ends[i] + gap + polling[i]);
}

function chats(
  meter: Meter,
  width: number,
  rows: number,
  titled: boolean,
  paint: Paint,
): string[] {
  const nameWidth = Math.max(14, Math.floor(width / 4));
  const barWidth = width - nameWidth - 19;
  const title = paint(
    "label",
    fit("busiest chats", nameWidth) + fitRight("waited", 9) +
      fitRight("per s", 8),
  );
  const top = meter.chats.top(rows);
  const most = top[0]?.rate ?? 1;
  const lines = top.map(({ name, rate: perSecond, waitedMs }) =>
    fit(name, nameWidth) +
    paint("number", fitRight(duration(waitedMs), 9)) +
    paint("number", fitRight(rate(perSecond), 8)) + "  " +
    paint("chart", bar(perSecond / most, barWidth)[0])
  );
  return section(title, lines, rows, titled);
}

function messages(
  meter: Meter,
  width: number,
  rows: number,
  titled: boolean,
  paint: Paint,
): string[] {
  const lines = meter.messages.last(rows).map(({ text, level, at, count }) => {
    const times = count > 1 ? ` ×${count}` : "";
    const line = fit(text, width - 10 - times.length).trimEnd();
    return paint("label", timeOfDay(at)) + "  " +
      (level === "error" ? paint("bad", line) : line) + paint("label", times);
  });
  const title = paint("label", "last errors and messages");
  return section(title, lines, rows, titled);
}

/** Fills up with empty lines, so that what is below stays where it is. */
function section(
  title: string,
  lines: string[],
  rows: number,
  titled: boolean,
): string[] {
  const filled = [...lines, ...Array(rows - lines.length).fill("")];
  return titled ? [title, ...filled] : filled;
}

/** The same numbers in one line, for logs. */
export function plainLine(meter: Meter, now: number): string {
  const stats = meter.stats?.();
  const { handled, failed, timedOut } = meter.totals;
  const times = (times: Meter["waiting"]) =>
    `${duration(times.at(0.5))} / ${duration(times.at(0.99))}`;
  return [
    `${timeOfDay(now)} ${STATES[stats?.state ?? "idle"][1]}`,
    `${rate(meter.rate)} updates/s`,
    `running ${count(stats?.running ?? 0)}`,
    `parked ${count(stats?.parked ?? 0)}`,
    `buffered ${count(stats?.buffered ?? 0)}`,
    `waiting ${times(meter.waiting)}`,
    `handling ${times(meter.handling)}`,
    `handled ${count(handled)}`,
    `failed ${count(failed)}`,
    `timed out ${count(timedOut)}`,
  ].join(" | ");
}
