/**
 * A bot under load, live in the terminal. It runs on a local server where
 * simulated people write to it, or on Telegram if BOT_TOKEN is set.
 */
import { createMemoryInbox, run, type RunnerEvent } from "../mod.ts";
import { dashboard } from "../dashboard.ts";
import { count, duration } from "../_dashboard_text.ts";
import type { Update } from "../deps.ts";
import { createBot, hurry, takeTime } from "./bot.ts";
import { onKey } from "./keyboard.ts";
import { readOptions } from "./options.ts";
import { startTelegram } from "./telegram.ts";
import process from "node:process";

const CONCURRENCY = 100;
const TIME_LIMIT_MS = 4000;
const STOP_MS = 10_000;
const RATES = [0, 1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500, 1000, 2000];

const options = readOptions();
const isTerminal = process.stdout.isTTY;
const token = process.env.BOT_TOKEN;
const telegram = token ? undefined : await startTelegram(note);
const bot = telegram
  ? createBot(telegram.token, telegram.url)
  : createBot(token!, process.env.BOT_API_ROOT);
if (telegram) telegram.rate = options.rate;

const observe = dashboard({ footer });
const ends = { handled: 0, failed: 0, timedOut: 0 };
/** How often a stop could not tell Telegram what had been handled. */
let unconfirmedStops = 0;
let oneAtATime = false;
let switching = false;
let stopping = false;
let handle = start();

const releaseKeyboard = onKey(onKeyPressed);
if (isTerminal) process.stdout.write("\x1b[?25l"); // hides the cursor
process.on("exit", () => {
  releaseKeyboard();
  if (isTerminal) process.stdout.write("\x1b[?25h");
});
for (const event of ["uncaughtException", "unhandledRejection"]) {
  process.on(event, (error) => {
    console.error(error);
    process.exit(1); // Deno emits no "exit" otherwise
  });
}
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, stop);
telegram?.open();
const timer = options.seconds && setTimeout(stop, options.seconds * 1000);

/** Starts the bot: all chats at once, or one update after another. */
function start() {
  const handle = run(bot, {
    runner: { maxRetryInterval: 1000 },
    // All that was fetched has to be handled before a switch; less is quicker.
    inbox: createMemoryInbox({ lookahead: oneAtATime ? 20 : 100 }),
    sink: {
      // With a concurrency of 1, this is what `bot.start()` does.
      concurrency: oneAtATime ? 1 : CONCURRENCY,
      timeout: { milliseconds: TIME_LIMIT_MS, handler: () => {} },
    },
    onEvent,
  });
  handle.task()?.catch(fail);
  return handle;
}

function onEvent(event: RunnerEvent<Update>): void {
  if (event.type === "ended") {
    ends[event.outcome]++;
    telegram?.ended(event.update.update_id);
  }
  if (event.type === "confirm-failed") unconfirmedStops++;
  // To the dashboard, switching is no end.
  if (event.type === "stopped" && switching && !stopping) return;
  observe(event);
}

/** What the dashboard has below it. */
function footer(): string {
  if (stopping) return "Finishing what is under way; [q] once more gives it up";
  const mode = oneAtATime ? "One at a time" : "All at once";
  const key = oneAtATime ? "[1] all at once" : "[1] one at a time";
  if (!telegram) {
    const name = bot.isInited() ? `@${bot.botInfo.username}` : "the bot";
    return `${mode} · write to ${name} on Telegram\n${key}  [q]uit`;
  }
  const answer = duration(telegram.answerTimes.at(0.5));
  return [
    `${mode} · load ${telegram.rate}/s · answers after ${answer} · ${
      count(telegram.unconfirmed)
    } waiting on Telegram`,
    `[+/-] load  [f]lood  [o]utage  ${key}  [q]uit`,
  ].join("\n");
}

function onKeyPressed(key: string): void {
  switch (key) {
    case "+":
    case "=":
    case "\x1b[A":
      return changeRate((rate) => RATES.find((r) => r > rate));
    case "-":
    case "\x1b[B":
      return changeRate((rate) => RATES.findLast((r) => r < rate));
    case "f":
      return telegram?.flood();
    case "o":
      return telegram?.causeOutage();
    case "1":
      return void switchMode();
    case "q":
    case "\x03": // Ctrl-C
      return void stop();
  }
}

function changeRate(next: (rate: number) => number | undefined): void {
  if (telegram) telegram.rate = next(telegram.rate) ?? telegram.rate;
}

async function switchMode(): Promise<void> {
  if (switching || stopping) return;
  switching = true;
  hurry();
  await handle.stop();
  takeTime();
  switching = false;
  if (stopping) return;
  oneAtATime = !oneAtATime;
  note(
    oneAtATime
      ? "One update after another now, as bot.start() does"
      : "All chats at once again",
  );
  handle = start();
}

async function stop(): Promise<void> {
  if (stopping) return void handle.stop({ timeout: 0 });
  stopping = true;
  clearTimeout(timer);
  telegram?.close();
  const start = Date.now();
  const { unfinished, unstarted } = await handle.stop({ timeout: STOP_MS });
  const givenUp = unfinished.length + unstarted.length;
  const wrong = report(Date.now() - start, givenUp);
  await end(wrong > 0 ? 1 : 0);
}

/** Prints what has become of all updates. Returns how many went wrong. */
function report(stopMs: number, givenUp: number): number {
  const rows: [string, number, string?][] = [
    ["handled", ends.handled],
    ["failed", ends.failed],
    ["timed out", ends.timedOut],
    ["given up", givenUp],
  ];
  let wrong = 0;
  if (telegram) {
    const { written, unconfirmed, twice } = telegram;
    const lost = Math.max(0, telegram.missing - givenUp);
    wrong = lost + (unconfirmedStops > 0 ? 0 : twice);
    rows.unshift(["messages written", written]);
    rows.push(["left on Telegram", unconfirmed, "for the next start"]);
    rows.push(["lost", lost]);
    rows.push([
      "handled twice",
      twice,
      twice > 0
        ? "as Telegram was down when a switch told it what had ended"
        : "",
    ]);
  }
  const rest = givenUp > 0
    ? "not all that was under way had ended"
    : "all that was under way has ended";
  console.log(`\nStopped after ${duration(stopMs)}: ${rest}.\n`);
  for (const [name, n, remark = ""] of rows) {
    const line = `  ${name.padEnd(16)} ${count(n).padStart(9)}  ${remark}`;
    console.log(line.trimEnd());
  }
  console.log();
  return wrong;
}

/** The bot cannot go on, for example because of a wrong token. */
async function fail(error: unknown): Promise<void> {
  console.error(`The bot cannot go on: ${(error as Error).message}`);
  await end(1);
}

async function end(code: number): Promise<void> {
  await telegram?.[Symbol.asyncDispose]();
  process.exit(code);
}

/**
 * Tells what happens in the simulation. The dashboard would print again at the
 * end what is printed now; what it is told as an event, it only shows.
 */
function note(message: string): void {
  if (isTerminal) observe({ type: "inbox", level: "info", message });
  else console.log(message);
}
