import process from "node:process";
import { parseArgs } from "node:util";

const HELP = `Usage: deno task demo [options]

  --rate N      Messages per second to begin with, 0 to 10,000 (default: 100)
  --seconds N   Stop after that many seconds, more than 0
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
      rule: string,
      isValid: (n: number) => boolean,
    ) => {
      const text = values[name];
      if (text === undefined) return undefined;
      const n = Number(text);
      if (text.trim() !== "" && isValid(n)) return n;
      throw new RangeError(
        `--${name} must be a number ${rule}: received ${text}`,
      );
    };
    return {
      rate: read("rate", "from 0 to 10,000", (n) => n >= 0 && n <= 10_000)!,
      seconds: read(
        "seconds",
        "above 0",
        (n) => n > 0 && n <= 2 ** 31 / 1000 - 1,
      ),
    };
  } catch (error) {
    console.error(`${(error as Error).message}\n\n${HELP}`);
    return process.exit(2);
  }
}
