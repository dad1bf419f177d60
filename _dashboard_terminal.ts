import process from "node:process";
import { format } from "node:util";
import type { Paint, Size, Style } from "./_dashboard_layout.ts";
import { LOG_PREFIX } from "./events.ts";

/** What a dashboard is drawn on. */
export interface Terminal {
  /** The size, or `undefined` if there is no terminal, but a file or a pipe. */
  size(): Size | undefined;
  paint: Paint;
  /** Prints a text and a line feed. Never throws. */
  print(text: string): void;
  /**
   * Passes what the program prints to the function, as it would end up in the
   * middle of the dashboard.
   *
   * @returns A function that ends this, and prints what was passed meanwhile
   */
  capture(onLine: (text: string, isError: boolean) => void): () => void;
}

const COLORS: Record<Style, number> = {
  title: 1,
  label: 2,
  number: 1,
  chart: 36,
  good: 32,
  warning: 33,
  bad: 31,
  key: 36,
};

const OUTPUTS = ["debug", "info", "log"] as const;
const ERRORS = ["error", "warn"] as const;

/** How much of what was captured is printed at the end: the newest ones. */
const KEPT = 20;

/** The terminal of this process. */
export function processTerminal(): Terminal {
  const { stdout } = process;
  const { log } = console;
  return {
    size() {
      if (!stdout.isTTY) return undefined;
      // Terminals that do not know their size say 0.
      return { columns: stdout.columns || 80, rows: stdout.rows || 24 };
    },
    paint: isColorWanted()
      ? (style, text) => `\x1b[${COLORS[style]}m${text}\x1b[0m`
      : (_, text) => text,
    // Unlike writing to the stream, this cannot fail.
    print: (text) => log(text),
    capture: captureConsole,
  };
}

/** See https://no-color.org. */
function isColorWanted(): boolean {
  // Where Deno is not allowed to read the environment, it tells this anyway.
  const { Deno } = globalThis as { Deno?: { noColor: boolean } };
  return !(Deno?.noColor ?? process.env.NO_COLOR);
}

function captureConsole(
  onLine: (text: string, isError: boolean) => void,
): () => void {
  // Errors that go to a file do no harm to the picture.
  const methods = process.stderr.isTTY ? [...OUTPUTS, ...ERRORS] : OUTPUTS;
  const originals = methods.map((method) => [method, console[method]] as const);
  const printed: (() => void)[] = [];
  for (const [method, original] of originals) {
    console[method] = (...data: unknown[]) => {
      // The dashboard has got these as events.
      if (data[0] === LOG_PREFIX) return;
      onLine(format(...data), method === "error" || method === "warn");
      printed.push(() => original.apply(console, data));
      if (printed.length > KEPT) printed.shift();
    };
  }
  const release = () => {
    forget();
    for (const [method, original] of originals) console[method] = original;
    for (const print of printed) print();
  };
  // What is printed last is what tells why a process exits.
  const forget = onExit(release);
  return release;
}

/** Calls the function when the process exits. Returns what undoes this. */
function onExit(callback: () => void): () => void {
  if (!("Deno" in globalThis)) {
    process.on("exit", callback);
    return () => process.off("exit", callback);
  }
  // `Deno.exit` emits only this event.
  globalThis.addEventListener("unload", callback);
  return () => globalThis.removeEventListener("unload", callback);
}
