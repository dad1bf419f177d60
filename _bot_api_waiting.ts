/**
 * What waits in a local Bot API server, and ends with it: timers, and tests that wait
 * for something to happen.
 * @module
 */
import { check, MAX_TIMER } from "./_bot_api.ts";
import type { WaitOptions } from "./testing.ts";

/** A timer of {@link Timers}. */
export type Timer = ReturnType<typeof setTimeout>;

const CLOSED = "The Bot API server is closed";

/** Timers that can all be cleared at once. */
export class Timers {
  #timers = new Set<Timer>();

  after(milliseconds: number, then: () => void): Timer {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      then();
    }, milliseconds);
    this.#timers.add(timer);
    return timer;
  }

  clear(timer: Timer): void {
    clearTimeout(timer);
    this.#timers.delete(timer);
  }

  clearAll(): void {
    for (const timer of this.#timers) this.clear(timer);
  }
}

interface Waiter {
  check(): void;
  end(error: Error): void;
}

/** Everyone who waits for a condition to hold. */
export class Waiters {
  #waiters = new Set<Waiter>();
  #isChecking = false;
  #isClosed = false;

  constructor(readonly timers: Timers) {}

  /** Resolves with the first truthy value. `what` names it if it never comes. */
  async wait<T>(
    condition: () => T | undefined | null | false,
    what: string,
    { timeout = 5000 }: WaitOptions = {},
  ): Promise<T> {
    check("timeout", timeout, 0, MAX_TIMER);
    const found = condition();
    if (found) return found;
    if (this.#isClosed) throw new Error(`${CLOSED}: cannot wait for ${what}`);
    return await new Promise((resolve, reject) => {
      const leave = () => {
        this.timers.clear(timer);
        this.#waiters.delete(waiter);
      };
      const waiter: Waiter = {
        check: () => {
          try {
            const value = condition();
            if (!value) return;
            leave();
            resolve(value);
          } catch (error) {
            leave();
            reject(error);
          }
        },
        end: (error) => {
          leave();
          reject(error);
        },
      };
      const timer = this.timers.after(timeout, () => {
        waiter.end(new Error(`Waited ${timeout} ms in vain for ${what}`));
      });
      this.#waiters.add(waiter);
    });
  }

  /** Checks all conditions soon, once for all that happens by then. */
  check(): void {
    if (this.#waiters.size === 0 || this.#isChecking) return;
    this.#isChecking = true;
    queueMicrotask(() => {
      this.#isChecking = false;
      for (const waiter of this.#waiters) waiter.check();
    });
  }

  close(): void {
    this.#isClosed = true;
    for (const waiter of this.#waiters) waiter.end(new Error(CLOSED));
  }
}
