import type { BotMessage } from "./_threads.ts";
import { logEvent, type WorkerEvent } from "./events.ts";
import type { Slot } from "./queue.ts";

/**
 * The slot of an update in a worker. The one that counts is in the central
 * thread; this one speaks for it.
 */
export class RemoteSlot implements Slot {
  readonly onStop: Slot["onStop"];

  readonly #id: number;
  readonly #send: (message: BotMessage) => void;
  /** The promise of `park()`; set iff the update waits for its slot. */
  #waiting: Promise<void> | undefined;
  #settle: { resolve(): void; reject(reason: unknown): void } | undefined;
  #askedToResume = false;
  /** Whether the update has ended. */
  #over = false;
  #controller: AbortController | undefined;
  /** Why the signal is aborted, whether or not anybody asked for one. */
  #reason: unknown;
  #timeoutCallbacks: (() => void)[] = [];

  constructor(
    id: number,
    send: (message: BotMessage) => void,
    onStop: Slot["onStop"],
  ) {
    this.#id = id;
    this.#send = send;
    this.onStop = onStop;
  }

  park(): Promise<void> {
    if (this.#waiting === undefined) {
      this.#waiting = new Promise((resolve, reject) => {
        this.#settle = { resolve, reject };
      });
      this.#askedToResume = false;
      if (!this.#over) this.#send({ type: "park", id: this.#id });
    }
    return this.#waiting;
  }

  resume(): void {
    if (this.#waiting === undefined || this.#askedToResume) return;
    this.#askedToResume = true;
    if (this.#over) this.resumed();
    else this.#send({ type: "resume", id: this.#id });
  }

  /** The update has its slot back. */
  resumed(): void {
    this.#waiting = undefined;
    this.#settle?.resolve();
  }

  /** The update will never get its slot back. */
  refused(reason: unknown): void {
    this.#waiting?.catch(() => {}); // perhaps nobody awaits it
    this.#waiting = undefined;
    this.#settle?.reject(reason);
  }

  /** The update has ended. What was left to go on has no slot to wait for. */
  ended(): void {
    this.#over = true;
    if (this.#askedToResume) this.resumed();
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#reason !== undefined) this.#controller.abort(this.#reason);
    }
    return this.#controller.signal;
  }

  onTimeout(callback: () => void): void {
    if (isTimeout(this.#reason)) callback();
    else this.#timeoutCallbacks.push(callback);
  }

  /** The update exceeded its time limit, or was given up. */
  abort(reason: unknown): void {
    this.#reason ??= reason;
    const callbacks = this.#timeoutCallbacks;
    this.#timeoutCallbacks = [];
    if (isTimeout(reason)) { for (const callback of callbacks) callback(); }
    this.#controller?.abort(reason);
  }

  emit(event: WorkerEvent): void {
    logEvent(event);
  }
}

function isTimeout(reason: unknown): boolean {
  return (reason as Error | undefined)?.name === "TimeoutError";
}
