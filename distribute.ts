import { statSync } from "node:fs";
import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { getHeapStatistics } from "node:v8";
import { keyOf } from "./_key.ts";
import { Pool } from "./_pool.ts";
import { slotOf } from "./_slot.ts";
import { BotError, type UserFromGetMe } from "./deps.ts";

/** What worker files are looked for under if they are given without one. */
const EXTENSIONS = [".js", ".mjs", ".cjs", ".ts", ".mts", ".cts"];

/**
 * Options of {@link distribute}.
 *
 * @typeParam C Type of the context objects
 *
 * @example
 * ```ts
 * import type { DistributeOptions } from "@grammyjs/runner";
 * import type { Context } from "grammy";
 *
 * const options: DistributeOptions<Context> = { count: 2, retries: 1 };
 * ```
 */
export interface DistributeOptions<C> {
  /**
   * Number of workers: an integer of at least 1. Each takes up the memory of a
   * bot of its own.
   *
   * @default the number of cores that are available
   */
  count?: number;
  /**
   * Updates with the same key go to the same worker. Return nothing for the
   * default: the chat, else the user.
   */
  key?: (ctx: C) => string | undefined;
  /**
   * How often an update that was with a worker which failed is handled again:
   * an integer of at least 0, or `Infinity`. An update that makes workers fail
   * takes those with it that were handled at the same time, each time.
   *
   * @default 0
   */
  retries?: number;
  /**
   * Milliseconds after which a worker that has updates and gives no sign of
   * life is replaced; above 0. It is noticed a quarter of that later at most. A
   * worker gives signs of life unless it computes without a break, and from the
   * moment at which its file has been loaded. Limits above 2^31 - 1, or
   * `Infinity`, never end.
   *
   * @default 30_000
   */
  unresponsiveAfter?: number;
  /**
   * Milliseconds that workers get at a stop to finish what they have, for half
   * of that time at most, and to call what was passed to `BotWorker.onStop`;
   * above 0, and at most 2^31 - 1. They get it also if a time limit of the stop
   * itself ends before that: the process lives on for them.
   *
   * @default 10_000
   */
  stopTimeout?: number;
  /**
   * Limits of the memory of each worker. A worker that exceeds them fails. On
   * Deno and Node, a single operation that takes several times as much can still
   * end the process.
   *
   * @default a heap as large as that of the central thread
   */
  resourceLimits?: WorkerResourceLimits;
}

/**
 * Limits of the memory of a worker, as for threads of Node.
 *
 * @example
 * ```ts
 * import type { WorkerResourceLimits } from "@grammyjs/runner";
 *
 * const resourceLimits: WorkerResourceLimits = { maxOldGenerationSizeMb: 256 };
 * ```
 */
export interface WorkerResourceLimits {
  /** The largest size of the heap in megabytes. */
  maxOldGenerationSizeMb?: number;
  /** The largest size of the part of the heap for young objects in megabytes. */
  maxYoungGenerationSizeMb?: number;
  /** The size of the memory for generated code in megabytes. */
  codeRangeSizeMb?: number;
  /** The size of the stack in megabytes. */
  stackSizeMb?: number;
}

/**
 * Middleware that has its updates handled by workers. It never calls the next
 * middleware. Under `run`, the workers end with the run. Otherwise, dispose of it
 * to end them.
 *
 * @typeParam C Type of the context objects
 *
 * @example
 * ```ts
 * import { distribute } from "@grammyjs/runner";
 * import { Bot } from "grammy";
 *
 * async function main() {
 *   // Without the runner, disposing of it ends the workers.
 *   await using workers = distribute(new URL("./worker.ts", import.meta.url));
 *   const bot = new Bot("123456:token");
 *   bot.use(workers);
 *   await bot.start();
 * }
 * ```
 */
export interface DistributeMiddleware<C> extends AsyncDisposable {
  /**
   * Has the update handled.
   *
   * @param ctx The context object of the update
   * @returns A promise that settles as the handling in the worker does
   */
  (ctx: C): Promise<void>;
}

/**
 * Creates middleware that handles updates in worker threads, so that a bot can
 * use all cores. The handlers are in a file of their own, which creates a
 * {@link BotWorker}; every thread runs that file.
 *
 * All updates of a chat go to the same worker, in their order. An update counts
 * as running until its worker is done with it.
 *
 * The threads are started with the first update. They are ended when the runner
 * has stopped, or when the middleware is disposed of.
 *
 * A worker that dies is replaced. The updates that it had fail with a
 * {@link WorkerError}. If no worker can ever start, all updates fail until the
 * runner is started anew.
 *
 * @typeParam C Type of the context objects
 * @param file The worker file: a URL, or a path, absolute or relative to the
 * working directory. The extension of a path can be left out.
 * @param options Further options
 * @returns Middleware for a bot
 * @throws {TypeError} If an option is of the wrong type, or there is no such
 * file
 * @throws {RangeError} If an option is out of bounds
 *
 * @example
 * ```ts
 * import { distribute, run } from "@grammyjs/runner";
 * import { Bot } from "grammy";
 *
 * function main() {
 *   const bot = new Bot("123456:token");
 *   bot.use(distribute(new URL("./worker.ts", import.meta.url)));
 *   bot.catch(console.error);
 *   run(bot);
 * }
 * ```
 */
export function distribute<C extends { update: object; me: UserFromGetMe }>(
  file: string | URL,
  options: DistributeOptions<C> = {},
): DistributeMiddleware<C> {
  const {
    count = availableParallelism(),
    key,
    retries = 0,
    unresponsiveAfter = 30_000,
    stopTimeout = 10_000,
    resourceLimits = { maxOldGenerationSizeMb: defaultHeapSize() },
  } = options;
  checkInteger("count", count, 1);
  if (retries !== Infinity) checkInteger("retries", retries, 0);
  checkMilliseconds("unresponsiveAfter", unresponsiveAfter, Infinity);
  checkMilliseconds("stopTimeout", stopTimeout, 2 ** 31 - 1);
  if (key !== undefined && typeof key !== "function") {
    throw new TypeError(
      `Cannot distribute updates: key must be a function: received ${key}`,
    );
  }
  if (typeof resourceLimits !== "object" || resourceLimits === null) {
    throw new TypeError(
      `Cannot distribute updates: resourceLimits must be an object: received ${resourceLimits}`,
    );
  }
  const url = findFile(file);
  const pool = new Pool({
    url,
    count,
    retries,
    unresponsiveAfter,
    stopTimeout,
    resourceLimits,
  });
  const middleware = async (ctx: C) => {
    const chosen = key?.(ctx) ?? keyOf(ctx.update);
    if (typeof chosen !== "string") {
      throw new TypeError(
        `Cannot distribute update: the key must be a string: received ${chosen}`,
      );
    }
    try {
      await pool.run(chosen, ctx.update, ctx.me, slotOf(ctx));
    } catch (error) {
      // The context of the worker stayed there.
      throw error instanceof BotError ? Object.assign(error, { ctx }) : error;
    }
  };
  return Object.assign(middleware, { [Symbol.asyncDispose]: pool.close });
}

/**
 * As large as the heap of this thread. Without a limit, a worker of Deno that
 * runs out of memory ends the process.
 */
function defaultHeapSize(): number {
  return Math.floor(getHeapStatistics().heap_size_limit / 2 ** 20);
}

/** The URL of the worker file. */
function findFile(file: string | URL): URL {
  if (typeof file !== "string" && !(file instanceof URL)) {
    throw new TypeError(
      `Cannot distribute updates: the worker file must be a path or a URL: received ${file}`,
    );
  }
  // Drives of Windows have names of one letter.
  const url = typeof file !== "string"
    ? new URL(file)
    : /^[a-z][a-z\d+.-]+:/i.test(file)
    ? new URL(file)
    : pathToFileURL(resolve(file));
  if (url.protocol !== "file:") return url;
  const path = fileURLToPath(url);
  for (const extension of ["", ...EXTENSIONS]) {
    if (statSync(path + extension, { throwIfNoEntry: false })?.isFile()) {
      url.pathname += extension;
      return url;
    }
  }
  throw new TypeError(
    `Cannot distribute updates: there is no worker file ${path}, also not with an extension`,
  );
}

function checkInteger(name: string, value: unknown, least: number): void {
  checkNumber(name, value);
  if (!Number.isInteger(value) || value < least) {
    throw new RangeError(
      `Cannot distribute updates: ${name} must be an integer of at least ${least}: received ${value}`,
    );
  }
}

function checkMilliseconds(name: string, value: unknown, most: number): void {
  checkNumber(name, value);
  if (!(value > 0 && value <= most)) {
    throw new RangeError(
      `Cannot distribute updates: ${name} must be above 0 and at most ${most}: received ${value}`,
    );
  }
}

function checkNumber(name: string, value: unknown): asserts value is number {
  if (typeof value === "number") return;
  throw new TypeError(
    `Cannot distribute updates: ${name} must be a number: received ${value}`,
  );
}
