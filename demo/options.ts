import process from "node:process";
import { parseArgs } from "node:util";

const HELP = `Usage: deno task demo [options]

  --rate N      Messages per second to begin with, at least 0 (default: 100)
  --seconds N   Stop after that many seconds
  --help        Print this

Set BOT_TOKEN to run on Telegram; then you are the one who writes messages.`;

/** What the command line asks for. */
export interface DemoOptions {
  /** Messages per second. */
  rate: number;
  seconds: number | undefined;
}

/** Reads the command line. Ends the process if that is all there is to do. */
export function readOptions(): DemoOptions {
  try {
    const { values } = parseArgs({
      options: {
        rate: { type: "string", default: "100" },
        seconds: { type: "string" },
        help: { type: "boolean" },
      },
    });
    if (values.help) {
      console.log(HELP);
      process.exit();
    }
    const read = (
      name: "rate" | "seconds",
      isValid: (n: number) => boolean,
    ) => {
      const text = values[name];
      if (text === undefined) return undefined;
      const n = Number(text);
      if (text.trim() !== "" && isValid(n)) return n;
      throw new RangeError(`--${name} is out of bounds: received ${text}`);
    };
    return {
      rate: read("rate", (n) => n >= 0 && n <= 10_000)!,
      seconds: read("seconds", (n) => n > 0 && n <= 2 ** 31 / 1000 - 1),
    };
  } catch (error) {
    console.error(`${(error as Error).message}\n\n${HELP}`);
    return process.exit(2);
  }
}
