import { backoff, sleep } from "./_time.ts";
import type { RunnerEvent } from "./events.ts";

/** The longest wait between retries: bots shall go on soon after an outage. */
const MAX_RETRY_MS = 5000;

/** An outage is over when nothing has failed for so long. */
const SETTLED_MS = 1000;

/**
 * The classes of SQLSTATE that tell of a server that is busy, starting, ending or
 * unreachable, and the codes of other classes that do.
 */
const PASSING = ["08", "53", "57", "58", "40", "25006", "55P03"];

/** Whether an error in talking to PostgreSQL can pass by itself. */
export function isPassing(error: unknown): boolean {
  const { code, name } = (error ?? {}) as { code?: unknown; name?: string };
  if (typeof code === "string" && /^[0-9A-Z]{5}$/.test(code)) {
    return PASSING.some((start) => code.startsWith(start));
  }
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

  /** Something failed in a way that passes. */
  failed(error: unknown): void {
    this.#lastFailure = Date.now();
    if (this.#since !== undefined) return;
    this.#since = Date.now();
    this.emit({
      type: "inbox",
      level: "error",
      message:
        "PostgreSQL cannot be reached. Nothing is fetched until it can; what runs goes on. Trying again:",
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
      message: `PostgreSQL can be reached again after ${seconds} s`,
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
