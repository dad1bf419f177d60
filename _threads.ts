/** What a pool and its workers say to each other, and in which form. */
import type { EncodedError } from "./_threads_errors.ts";
import type { UserFromGetMe } from "./deps.ts";

/** The data that a pool starts a worker with. */
export interface Seed {
  botInfo: UserFromGetMe;
}

/** What is ours among the data that threads are started with, and send. */
export const RUNNER = "@grammyjs/runner";

/** From the pool to a worker. */
export type ToWorker =
  /** Handle the update, which is JSON. `slotted` iff it has a slot. */
  | { type: "update"; id: number; json: string; slotted: boolean }
  /** The update has its slot back. */
  | { type: "resumed"; id: number }
  /** The update will never get its slot back. */
  | { type: "refused"; id: number; reason: EncodedError }
  /** The update exceeded its time limit, or was given up. */
  | { type: "abort"; id: number; reason: EncodedError }
  | { type: "ping" }
  /** Finish what is under way, in the given time, and close what is open. */
  | { type: "stop"; drainMs: number };

/** From a worker to the pool, about the thread. */
export type ThreadMessage =
  /** There is a bot. */
  | { type: "created" }
  /** The worker file has been run to its end. */
  | { type: "loaded" }
  | { type: "pong" }
  /** The answer to a ping of a thread that is as good as dead. */
  | { type: "exhausted" };

/** From a worker to the pool, about what it does. */
export type BotMessage =
  | { type: "handled"; id: number }
  | { type: "failed"; id: number; error: EncodedError }
  /** See {@link Slot.park} and {@link Slot.resume}. */
  | { type: "park"; id: number }
  | { type: "resume"; id: number }
  /** The thread can be terminated. */
  | { type: "stopped"; errors: EncodedError[] };

/**
 * Collects what is sent in one go, as handing over a message costs much more
 * than what is in it. If that fails, each is sent on its own, and `replace`d if
 * that fails, too.
 */
export function batching<T>(
  post: (batch: T[]) => void,
  replace: (message: T, error: unknown) => T,
): (message: T) => void {
  let batch: T[] = [];
  const flush = () => {
    const full = batch;
    batch = [];
    try {
      post(full);
    } catch {
      for (const message of full) {
        try {
          post([message]);
        } catch (error) {
          post([replace(message, error)]);
        }
      }
    }
  };
  return (message) => {
    if (batch.push(message) === 1) queueMicrotask(flush);
  };
}
