import { getHeapStatistics } from "node:v8";
import { parentPort, workerData } from "node:worker_threads";
import { linkSlot } from "./_slot.ts";
import {
  batching,
  type BotMessage,
  RUNNER,
  type Seed,
  type ThreadMessage,
  type ToWorker,
} from "./_threads.ts";
import { decodeError, encodeError } from "./_threads_errors.ts";
import { RemoteSlot } from "./_threads_slot.ts";
import {
  type Api,
  Bot,
  type BotConfig,
  BotError,
  type Context,
  type Update,
} from "./deps.ts";

/** Whether this thread has its bot. */
let created = false;

/**
 * A bot that handles the updates which {@link distribute} sends to the thread
 * that it is created in. It takes handlers and plugins like any other bot, and
 * cannot be started: it never fetches updates.
 *
 * Create one in a file of its own. Updates arrive when that has been loaded,
 * with all that it awaits at its top level. If the bot is created later than
 * that, install its handlers before the next `await`.
 *
 * Errors go to `bot.catch` of the worker. Without that, or if it throws, they go
 * to `bot.catch` of the central bot.
 *
 * @typeParam C Type of the context objects
 * @typeParam A Type of the API
 *
 * @example
 * ```ts
 * import { BotWorker } from "@grammyjs/runner";
 *
 * // worker.ts
 * function main() {
 *   const bot = new BotWorker("123456:token"); // the same as for the central bot
 *   bot.on("message", (ctx) => ctx.reply("Got it!"));
 * }
 * ```
 */
export class BotWorker<C extends Context = Context, A extends Api = Api>
  extends Bot<C, A> {
  readonly #stopHooks = new Set<() => void | Promise<void>>();

  /**
   * Creates the bot of a worker.
   *
   * @param token The token of the bot
   * @param config As for a bot of grammY; `botInfo` is known already
   * @throws {Error} Outside of a thread that `distribute` has started, and if
   * the thread has a bot already
   */
  constructor(token: string, config?: BotConfig<C>) {
    const seed: Seed | undefined = workerData?.[RUNNER];
    if (parentPort === null || seed === undefined) {
      throw new Error(
        "Cannot create bot worker: it must be created in a file that is passed to distribute",
      );
    }
    if (created) {
      throw new Error(
        "Cannot create bot worker: there can be only one in a worker file",
      );
    }
    super(token, { ...config, botInfo: config?.botInfo ?? seed.botInfo });
    created = true;
    this.errorHandler = (error) => {
      throw error;
    };
    const serve = (update: Update) => this.#handle(update);
    const server = new Server(parentPort, serve, this.#stopHooks);
    server.send({ type: "created" });
  }

  /**
   * Calls the function when the runner has stopped, before this thread ends:
   * the place to close a database. No updates are handled at that time, unless
   * they have gone on for half of the `stopTimeout` of {@link distribute}. The
   * stop waits for the returned promise for the rest of that time. It is not
   * called if the thread crashes.
   *
   * @param callback The function to call
   *
   * @example
   * ```ts
   * import { BotWorker } from "@grammyjs/runner";
   * import { DatabaseSync } from "node:sqlite";
   *
   * function main() {
   *   const database = new DatabaseSync("bot.db");
   *   const bot = new BotWorker("123456:token");
   *   bot.onStop(() => database.close());
   * }
   * ```
   */
  onStop(callback: () => void | Promise<void>): void {
    if (typeof callback !== "function") {
      throw new TypeError(
        `Cannot add callback: it must be a function: received ${callback}`,
      );
    }
    this.#stopHooks.add(callback);
  }

  /**
   * Always fails: the central bot is the one to start.
   *
   * @returns A promise that rejects
   */
  override start(): Promise<void> {
    return Promise.reject(
      new Error("Cannot start bot worker: it gets its updates from distribute"),
    );
  }

  async #handle(update: Update): Promise<void> {
    try {
      await this.handleUpdate(update);
    } catch (error) {
      await this.errorHandler(error as BotError<C>);
    }
  }
}

const { heap_size_limit: heapLimit } = getHeapStatistics();

/**
 * Whether the heap has exceeded its limit. On Deno, that does not end a thread:
 * it ends whatever the thread was doing, and raises the limit.
 */
function isExhausted(): boolean {
  return "Deno" in globalThis &&
    getHeapStatistics().heap_size_limit > heapLimit;
}

/** Does what the pool says. */
class Server {
  /** Queues a message to be sent to the pool. */
  readonly send: (message: BotMessage | ThreadMessage) => void;
  readonly #handle: (update: Update) => Promise<void>;
  readonly #stopHooks: Set<() => void | Promise<void>>;
  readonly #slots = new Map<number, RemoteSlot>();
  /** Number of updates that are being handled. */
  #running = 0;
  #wakeIdle: (() => void) | undefined;

  constructor(
    port: NonNullable<typeof parentPort>,
    handle: (update: Update) => Promise<void>,
    stopHooks: Set<() => void | Promise<void>>,
  ) {
    this.#handle = handle;
    this.#stopHooks = stopHooks;
    this.send = batching(
      (batch) => port.postMessage({ [RUNNER]: batch }),
      (message, error) =>
        message.type === "failed"
          ? { ...message, error: encodeError(error) }
          : message,
    );
    port.on("message", (batch: ToWorker[]) => {
      for (const message of batch) this.#receive(message);
    });
  }

  #receive(message: ToWorker): void {
    switch (message.type) {
      case "update":
        return void this.#run(message);
      case "resumed":
        return this.#slots.get(message.id)?.resumed();
      case "refused":
        return this.#slots.get(message.id)
          ?.refused(decodeError(message.reason));
      case "abort":
        return this.#slots.get(message.id)?.abort(decodeError(message.reason));
      case "ping":
        return this.send({ type: isExhausted() ? "exhausted" : "pong" });
      case "stop":
        return void this.#stop(message.drainMs);
    }
  }

  async #run(
    { id, json, slotted }: ToWorker & { type: "update" },
  ): Promise<void> {
    this.#running++;
    try {
      const update: Update = JSON.parse(json);
      if (slotted) {
        const onStop = (callback: () => void | Promise<void>) =>
          void this.#stopHooks.add(callback);
        const slot = new RemoteSlot(id, this.send, onStop);
        this.#slots.set(id, slot);
        linkSlot(update, slot);
      }
      await this.#handle(update);
      this.send({ type: "handled", id });
    } catch (error) {
      // The central bot puts it into a `BotError` of its own.
      const thrown = error instanceof BotError ? error.error : error;
      this.send({ type: "failed", id, error: encodeError(thrown) });
    }
    this.#slots.get(id)?.ended();
    this.#slots.delete(id);
    if (--this.#running === 0) this.#wakeIdle?.();
  }

  async #stop(drainMs: number): Promise<void> {
    if (this.#running > 0) {
      let timer: ReturnType<typeof setTimeout> | undefined;
      await new Promise<void>((resolve) => {
        this.#wakeIdle = resolve;
        timer = setTimeout(resolve, drainMs);
      });
      clearTimeout(timer);
    }
    const errors = [];
    for (const hook of this.#stopHooks) {
      try {
        await hook();
      } catch (error) {
        errors.push(encodeError(error));
      }
    }
    this.send({ type: "stopped", errors });
  }
}
