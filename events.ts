import { inspect } from "node:util";
import type { WorkerError } from "./_threads_errors.ts";
import type { TaskOutcome } from "./queue.ts";

/**
 * Something that happened in a runner, as the option `onEvent` gets to know it.
 * The field `type` tells what, and so which other fields there are.
 *
 * | Type | When | Fields |
 * | ---- | ---- | ------ |
 * | `started` | the runner started | `stats()`: its numbers, as of the handle |
 * | `received` | updates arrived | `updates`: at least one, in their order |
 * | `ended` | an update ended | `update`; `outcome`: `"handled"`, `"failed"` (`error` tells with what) or `"timedOut"`; `waitedMs`: milliseconds between its arrival and its end for which it did not run; `ranMs`: milliseconds for which it ran |
 * | `handler-failed` | the error handler of the bot, or a timeout handler, failed itself | `error`; `update` |
 * | `draining` | a stop began | `updates`: number of updates under way |
 * | `confirm-failed` | the last request of a stop failed: handled updates may come again | `error` |
 * | `stop-hook-failed` | a function that was registered to run at the stop failed | `error` |
 * | `stopped` | the runner stopped | `unfinished`, `unstarted`: numbers of updates that were given up as the stop ran out of time |
 * | `fatal` | the runner cannot go on; it finishes what it can and stops | `error`: what `task()` rejects with |
 * | `inbox` | something worth knowing about the inbox | `message`; `level`: `"error"` or `"info"`; `error` and `update` if there is one |
 *
 * `received` and `ended` are made only if there is a hook to hear of them. The
 * other types are those of {@link PollEvent} and {@link WorkerEvent}.
 *
 * @typeParam Y Type of the updates
 *
 * @example
 * ```ts
 * import { run, type RunnerEvent } from "@grammyjs/runner";
 * import { Bot } from "grammy";
 * import type { Update } from "grammy/types";
 *
 * function warn(event: RunnerEvent<Update>) {
 *   if (event.type === "ended" && event.ranMs > 5000) {
 *     console.warn(`Update ${event.update.update_id} took ${event.ranMs} ms`);
 *   }
 * }
 *
 * function main() {
 *   run(new Bot("123456:token"), { onEvent: warn });
 * }
 * ```
 */
export type RunnerEvent<Y = unknown> =
  | PollEvent
  | WorkerEvent
  | {
    /** The runner started. */
    type: "started";
    /** Takes a snapshot of its numbers, as `stats` of the handle does. */
    stats: () => RunnerStats;
  }
  | {
    /** Updates arrived. Made only if there is a hook to hear of it. */
    type: "received";
    /** The updates in the order of their arrival; at least one. */
    updates: readonly Y[];
  }
  | {
    /** An update ended. Made only if there is a hook to hear of it. */
    type: "ended";
    /** The update. */
    update: Y;
    /**
     * Whether its handler resolved, it failed and the error handler was called,
     * or it exceeded the time limit.
     */
    outcome: TaskOutcome;
    /** Milliseconds between its arrival and its end for which it did not run. */
    waitedMs: number;
    /** Milliseconds for which it ran. */
    ranMs: number;
    /** What the handler failed with if `outcome` is `"failed"`. */
    error?: unknown;
  }
  | {
    /** The error handler of the bot, or a timeout handler, failed itself. */
    type: "handler-failed";
    /** What it failed with. */
    error: unknown;
    /** The update that it was called for. */
    update: Y;
  }
  | {
    /** A stop began: no more updates are fetched, those under way finish. */
    type: "draining";
    /** Number of updates that are under way. */
    updates: number;
  }
  | {
    /** The last request of a stop failed: handled updates may come again. */
    type: "confirm-failed";
    /** Why. */
    error: unknown;
  }
  | {
    /** A function that was registered to run at the stop failed. */
    type: "stop-hook-failed";
    /** What it failed with. */
    error: unknown;
  }
  | {
    /** The runner stopped. */
    type: "stopped";
    /** Number of updates that were given up because a stop ran out of time. */
    unfinished: number;
    /** Number of updates that such a stop kept from being started. */
    unstarted: number;
  }
  | {
    /** The runner can not go on; it finishes what it can and stops. */
    type: "fatal";
    /** Why; `task()` rejects with it. */
    error: unknown;
  }
  | {
    /** Something worth knowing about the inbox. */
    type: "inbox";
    /** What happened, as a sentence. */
    message: string;
    /** The error behind it, if there is one. */
    error?: unknown;
    /** The update that it is about, if there is one. */
    update?: Y;
    /** Whether it is a failure or only news. */
    level: "error" | "info";
  };

/**
 * The part of {@link RunnerEvent} that tells about fetching.
 *
 * | Type | When | Fields |
 * | ---- | ---- | ------ |
 * | `poll` | a call to `getUpdates` was answered | `durationMs`: milliseconds that it took; `count`: number of updates that it brought |
 * | `poll-failed` | a call failed and is going to be repeated | `error`; `failures`: number of failures in a row, from 1; `retryInMs`: milliseconds until the next try; `hint`: what to do about it, where that is known |
 * | `stalled` | a call took longer than it can, and was abandoned | `afterMs`: milliseconds after which it was |
 * | `recovered` | fetching works again | `failures`: number of failures in a row before; `downMs`: milliseconds since the first of them |
 *
 * @example
 * ```ts
 * import type { PollEvent } from "@grammyjs/runner";
 *
 * function isOutage(event: PollEvent): boolean {
 *   return event.type === "poll-failed" && event.failures >= 10;
 * }
 * ```
 */
export type PollEvent =
  | {
    /** A call to `getUpdates` was answered. */
    type: "poll";
    /** Milliseconds that it took. */
    durationMs: number;
    /** Number of updates that it brought. */
    count: number;
  }
  | {
    /** A call failed and is going to be repeated. */
    type: "poll-failed";
    /** Why. */
    error: unknown;
    /** Number of failures in a row, starting at 1. */
    failures: number;
    /** Milliseconds until the next try. */
    retryInMs: number;
    /** What to do about it, where that is known. */
    hint?: string;
  }
  | {
    /** A call took longer than it can, and was abandoned. */
    type: "stalled";
    /** Milliseconds after which it was abandoned. */
    afterMs: number;
  }
  | {
    /** Fetching works again. */
    type: "recovered";
    /** Number of failures in a row before. */
    failures: number;
    /** Milliseconds since the first of them. */
    downMs: number;
  };

/**
 * The part of {@link RunnerEvent} that tells about the workers of `distribute`.
 *
 * | Type | When | Fields |
 * | ---- | ---- | ------ |
 * | `worker-started` | a worker is ready to handle updates | `worker`: which one of its pool, from 1; `durationMs`: milliseconds that its start took |
 * | `worker-failed` | a worker died or could not start | `worker`; `error`; `failed`, `retried`: numbers of updates that failed with it, and that are going to be run again; `restartInMs`: milliseconds until a new one is started, `undefined` if none is |
 *
 * @example
 * ```ts
 * import type { WorkerEvent } from "@grammyjs/runner";
 *
 * function isLost(event: WorkerEvent): boolean {
 *   return event.type === "worker-failed" && event.restartInMs === undefined;
 * }
 * ```
 */
export type WorkerEvent =
  | {
    /** A worker is ready to handle updates. */
    type: "worker-started";
    /** Which one of its pool, counted from 1. */
    worker: number;
    /** Milliseconds that its start took. */
    durationMs: number;
  }
  | {
    /** A worker died or could not start. */
    type: "worker-failed";
    /** Which one of its pool, counted from 1. */
    worker: number;
    /** Why. */
    error: WorkerError;
    /** Number of updates that failed with it. */
    failed: number;
    /** Number of updates that are going to be run again. */
    retried: number;
    /**
     * Milliseconds until a new one is started. `undefined` if none is, as no
     * worker could ever start.
     */
    restartInMs: number | undefined;
  };

/**
 * What the runner is doing: not started yet; fetching; waiting to fetch again
 * after a failure; finishing updates during a stop; stopped; or stopped because
 * of an error.
 *
 * @example
 * ```ts
 * import type { RunnerState } from "@grammyjs/runner";
 *
 * function isHealthy(state: RunnerState): boolean {
 *   return state === "polling" || state === "draining";
 * }
 * ```
 */
export type RunnerState =
  | "idle"
  | "polling"
  | "retrying"
  | "draining"
  | "stopped"
  | "failed";

/**
 * A snapshot of the numbers of a runner. They count from its creation, also
 * across stops.
 *
 * @example
 * ```ts
 * import { run } from "@grammyjs/runner";
 * import { Bot } from "grammy";
 *
 * function main() {
 *   const handle = run(new Bot("123456:token"));
 *   const { state, running, handled } = handle.stats();
 *   console.log(`${state}: ${running} running, ${handled} handled so far`);
 * }
 * ```
 */
export interface RunnerStats {
  /** What the runner is doing. */
  state: RunnerState;
  /** When it was last started, in milliseconds since the epoch. */
  startedAt: number | undefined;
  /** Number of updates fetched. */
  received: number;
  /** Number of updates whose handlers resolved. */
  handled: number;
  /** Number of updates whose handlers failed. */
  failed: number;
  /** Number of updates that exceeded the time limit. */
  timedOut: number;
  /** Number of updates that are running now. */
  running: number;
  /**
   * Number of updates that were started and wait for others, for example in
   * `sequentialize`.
   */
  parked: number;
  /** Number of updates that are fetched and not started. */
  buffered: number;
  /** Bounds of these three numbers; `Infinity` where there is none. */
  limits: {
    /** The concurrency: never more updates run. */
    running: number;
    /** The backlog: while as many updates are parked, no others are started. */
    parked: number;
    /** Twice the lookahead of the inbox, as a batch can come on top of it. */
    buffered: number;
  };
  /** Number of calls to `getUpdates` that were answered. */
  polls: number;
  /**
   * When the last of them was answered, in milliseconds since the epoch;
   * `undefined` before the first.
   */
  lastPollAt: number | undefined;
  /** The last error in fetching, or the fatal one; `undefined` if none yet. */
  lastError: unknown;
  /**
   * Milliseconds for which the oldest running update has been running; 0 if none
   * is.
   */
  oldestRunningMs: number;
  /**
   * Milliseconds for which there has been no room for one more update, and none
   * has ended; 0 while there is room. If it grows, the handlers are stuck.
   */
  blockedMs: number;
  /** What the inbox tells about itself; empty if it tells nothing. */
  inbox: Record<string, number | boolean>;
}

/**
 * Prints what went wrong, and when it works again. Prints nothing while all is
 * well.
 */
export function logEvent(event: RunnerEvent): void {
  switch (event.type) {
    case "poll-failed": {
      const seconds = (event.retryInMs / 1000).toFixed(1);
      log(`Could not fetch updates; next try in ${seconds} s:`, event.error);
      if (event.hint) log(event.hint);
      break;
    }
    case "recovered":
      log(
        `Fetching updates works again after ${event.failures} ${
          event.failures === 1 ? "failure" : "failures"
        } in ${(event.downMs / 1000).toFixed(1)} s`,
      );
      break;
    case "handler-failed":
      log(
        "The error handler failed itself. The default error handler of grammY rethrows all errors: did you forget to set one with `bot.catch`?",
        event.error,
      );
      break;
    case "confirm-failed":
      log(
        "Could not confirm the last updates to Telegram; they may come again:",
        event.error,
      );
      break;
    case "stop-hook-failed":
      log("A function registered to run at the stop failed:", event.error);
      break;
    case "worker-failed":
      log(
        event.restartInMs === undefined
          ? "The workers cannot start; all updates fail until the runner is started again:"
          : `A worker failed, and with it this number of updates: ${event.failed}. A new one starts in ${
            (event.restartInMs / 1000).toFixed(1)
          } s:`,
        event.error,
      );
      break;
    case "fatal":
      log("The runner stops because of an error:", event.error);
      break;
    case "inbox":
      if (event.error === undefined) log(event.message);
      else log(event.message, event.error);
      break;
  }
}

/** What each line that is printed here begins with. */
export const LOG_PREFIX = "[grammY runner]";

/** Prints a message, and what errors tell without telling the token. */
export function log(message: string, ...errors: unknown[]): void {
  const texts = errors.map((error) => hideToken(describe(error)));
  console.error(LOG_PREFIX, message, ...texts);
}

/** Leaves out the context in a `BotError` of grammY: it tells what people write. */
function describe(error: unknown): string {
  if (!(error instanceof Error && "ctx" in error && "error" in error)) {
    return inspect(error);
  }
  const { update } = (error.ctx ?? {}) as { update?: { update_id?: number } };
  return `in update ${update?.update_id}: ${describe(error.error)}`;
}

/**
 * Masks tokens. Network errors quote the URL of the request, and objects of
 * grammY hold the bare token: at least 5 digits, and 5 characters, as what is
 * shorter can be a line and a column.
 */
export function hideToken(text: string): string {
  return text.replace(
    /(\bbot\d+):[\w-]+|(?<!\d)(\d{5,}):[\w-]{5,}/g,
    "$1$2:<token>",
  );
}
