import { setImmediate } from "node:timers";

/** Timers cannot wait for longer; runtimes would fire at once. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/**
 * Waits for a number of milliseconds. Rejects with the reason of the signal as
 * soon as that aborts.
 */
export function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason);
    const abort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", abort);
      resolve();
    }, Math.min(ms, MAX_TIMER_MS));
    signal.addEventListener("abort", abort, { once: true });
  });
}

/** Lets everything that is ready to be done be done, such as sending a request. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => void setImmediate(resolve));
}

/**
 * Calls a function with a signal that aborts after a number of milliseconds, or
 * together with the given signal. Rejects at that moment, whether or not the
 * function heeds its signal.
 */
export async function withDeadline<T>(
  call: (signal: AbortSignal) => Promise<T>,
  ms: number,
  message: string,
  signal: AbortSignal,
): Promise<T> {
  signal.throwIfAborted();
  const controller = new AbortController();
  const abort = () => controller.abort(signal.reason);
  const timer = setTimeout(
    () => controller.abort(new DOMException(message, "TimeoutError")),
    Math.min(ms, MAX_TIMER_MS),
  );
  signal.addEventListener("abort", abort, { once: true });
  try {
    return await new Promise<T>((resolve, reject) => {
      controller.signal.addEventListener(
        "abort",
        () => reject(controller.signal.reason),
        { once: true },
      );
      Promise.resolve(call(controller.signal)).then(resolve, reject);
    });
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", abort);
  }
}

/** How the wait between retries grows, see {@link backoff}. */
export type RetryInterval = "exponential" | "quadratic" | number;

/**
 * The wait after the given number of failures in a row, in milliseconds. One
 * that grows starts at 100 ms, is capped, and is shortened by up to a half at
 * random, so that many clients of one server do not come back in step.
 */
export function backoff(
  interval: RetryInterval,
  failures: number,
  cap: number,
): number {
  if (typeof interval === "number") return interval;
  const ms = interval === "exponential"
    ? 100 * 2 ** (failures - 1)
    : 100 * failures ** 2;
  return Math.min(ms, cap) * (1 - Math.random() / 2);
}
