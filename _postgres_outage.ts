import { backoff, sleep } from "./_time.ts";
import type { RunnerEvent } from "./events.ts";

/** The longest wait between retries: bots shall go on soon after an outage. */
const MAX_RETRY_MS = 5000;

/** An outage is over when nothing has failed for so long. */
const SETTLED_MS = 1000;

/** The SQLSTATE of statements that a standby, for example, refuses. */
const READ_ONLY = "25006";

/** The class of SQLSTATE of transactions that were in each other's way. */
const CONFLICT = "40";

/** The SQLSTATEs with which the server ends what has been silent for too long. */
const SILENT = ["25P03", "57P05"];

/**
 * The classes of SQLSTATE that tell of a server that is busy, starting, ending or
 * unreachable, and the codes of other classes that do.
 */
const PASSING = [
  ...["08", "53", "57", "58", CONFLICT],
  ...[READ_ONLY, ...SILENT, "55P03"],
];

/** What the driver says of settings that never work, and what is wrong with them. */
const WRONG_SETTINGS: [says: RegExp, hint: string][] = [
  [
    /^SASL: .* client password must be/,
    "the password is missing in connectionString",
  ],
  [
    /^The server does not support SSL/,
    "connectionString asks for SSL, which the server does not have",
  ],
];

/** What is wrong with the settings, if the error comes from that. */
export function hintOf(error: unknown): string | undefined {
  const message = String((error as Error | undefined)?.message);
  return WRONG_SETTINGS.find(([says]) => says.test(message))?.[1];
}

function codeOf(error: unknown): string | undefined {
  const { code } = (error ?? {}) as { code?: unknown };
  // Codes of the system, such as EPIPE, have no digits.
  const isSqlState = typeof code === "string" &&
    /^(?=.*\d)[0-9A-Z]{5}$/.test(code);
  return isSqlState ? code : undefined;
}

/** Whether an error in talking to PostgreSQL can pass by itself. */
export function isPassing(error: unknown): boolean {
  const code = codeOf(error);
  if (code !== undefined) {
    return PASSING.some((start) => code.startsWith(start));
  }
  if (hintOf(error) !== undefined) return false;
  const { name } = (error ?? {}) as { name?: string };
  // What the network has to say comes as plain errors.
  return ["Error", "AggregateError", "TimeoutError"].includes(name ?? "");
}

/** Tells when PostgreSQL is lost and when it is back, and tries again meanwhile. */
export class Outage {
  #since: number | undefined;
  #lastFailure = 0;

  constructor(
    readonly emit: (event: RunnerEvent<never> & { type: "inbox" }) => void,
  ) {}

  /** Whether PostgreSQL is lost. */
  get lasts(): boolean {
    return this.#since !== undefined;
  }

  /** Tells of the error of something that nobody waits for. */
  observe(work: Promise<unknown>): void {
    work.catch((error) => this.report(error));
  }

  /** Tells of an error that does not end anything. */
  report(error: unknown): void {
    if (isPassing(error)) return this.failed(error);
    this.emit({
      type: "inbox",
      level: "error",
      message: "The inbox in PostgreSQL does not work as it should:",
      error,
    });
  }

  /** Something failed in a way that passes. */
  failed(error: unknown): void {
    const code = codeOf(error) ?? "";
    // PostgreSQL is not lost.
    if (code.startsWith(CONFLICT) || SILENT.includes(code)) return;
    this.#lastFailure = Date.now();
    if (this.#since !== undefined) return;
    this.#since = Date.now();
    const what = code === READ_ONLY
      ? "PostgreSQL is read-only, as a standby is. Nothing is fetched until it can be written to"
      : "PostgreSQL cannot be reached. Nothing is fetched until it can";
    this.emit({
      type: "inbox",
      level: "error",
      message: `${what}; what runs goes on. Trying again:`,
      error,
    });
  }

  /** Something worked. */
  passed(): void {
    if (this.#since === undefined) return;
    // Some connections can still work while the others do not.
    if (Date.now() - this.#lastFailure < SETTLED_MS) return;
    const seconds = ((Date.now() - this.#since) / 1000).toFixed(1);
    this.#since = undefined;
    this.emit({
      type: "inbox",
      level: "info",
      message: `PostgreSQL can be used again after ${seconds} s`,
    });
  }

  /** Tries until it works, the error is one that stays, or the signal aborts. */
  async retry<T>(call: () => Promise<T>, signal: AbortSignal): Promise<T> {
    for (let failures = 1;; failures++) {
      signal.throwIfAborted();
      try {
        const result = await call();
        this.passed();
        return result;
      } catch (error) {
        signal.throwIfAborted();
        if (!isPassing(error)) throw error;
        this.failed(error);
        await sleep(backoff("exponential", failures, MAX_RETRY_MS), signal);
      }
    }
  }
}
