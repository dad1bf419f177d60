import { clearInterval, setInterval } from "node:timers";
import { Worker } from "node:worker_threads";
import {
  batching,
  type BotMessage,
  RUNNER,
  type ThreadMessage,
  type ToWorker,
} from "./_threads.ts";
import { describe, encodeError } from "./_threads_errors.ts";
import type { UserFromGetMe } from "./deps.ts";

/** How often per time limit a thread is asked whether it is alive. */
const BEATS = 4;

/** Timers cannot wait for longer; runtimes would fire at once. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** What a thread is started with. */
export interface ThreadConfig {
  /** The file that it runs. */
  url: URL;
  botInfo: UserFromGetMe;
  resourceLimits: object | undefined;
  /** Milliseconds without a sign of life after which it counts as dead. */
  unresponsiveAfter: number;
}

/** Whom a thread tells about itself. */
export interface ThreadObserver {
  /** It can take updates. Nothing is received before. */
  ready(): void;
  received(message: BotMessage): void;
  /**
   * Called once, unless it was terminated, with the end of a sentence. It may
   * have yet to be terminated.
   */
  died(how: string, cause: unknown): void;
  /** Whether there is anything for which it would have to be alive. */
  busy(): boolean;
}

/** A thread that runs a worker file, from its start to its end. */
export class Thread {
  readonly #config: ThreadConfig;
  readonly #observer: ThreadObserver;
  readonly #startedAt = Date.now();
  readonly #worker: Worker;
  readonly #exited: Promise<void>;
  readonly #heartbeat: ReturnType<typeof setInterval> | undefined;
  /** What it said goodbye with, before it exits. */
  #crash: { error: unknown } | undefined;
  #created = false;
  #loaded = false;
  /** Beats in a row without a sign of life. */
  #silentBeats = 0;
  #over = false;

  /** Queues a message to be sent. */
  readonly send: (message: ToWorker) => void;

  constructor(config: ThreadConfig, observer: ThreadObserver) {
    this.#config = config;
    this.#observer = observer;
    const { url, botInfo, resourceLimits, unresponsiveAfter } = config;
    const worker = this.#worker = new Worker(bootstrap(url), {
      workerData: { [RUNNER]: { botInfo } },
      resourceLimits,
    });
    this.send = batching(
      (batch) => {
        if (!this.#over) worker.postMessage(batch);
      },
      (message, error) =>
        "reason" in message
          ? { ...message, reason: encodeError(error) }
          : message,
    );
    worker.on("message", (data) => this.#receive(data));
    worker.on("error", (error) => this.#crash = { error });
    this.#exited = new Promise((resolve) => {
      worker.on("exit", (code) => {
        this.#exit(code);
        resolve();
      });
    });
    if (unresponsiveAfter > MAX_TIMER_MS) return;
    this.#heartbeat = setInterval(this.#beat, unresponsiveAfter / BEATS);
    this.#heartbeat.unref();
  }

  /** Whether it can take updates. */
  get ready(): boolean {
    return this.#created && this.#loaded;
  }

  /** Milliseconds since its start. */
  get ageMs(): number {
    return Date.now() - this.#startedAt;
  }

  /** Lets it keep the process alive. */
  ref(): void {
    this.#worker.ref();
  }

  /** Lets the process end although it is there. */
  unref(): void {
    this.#worker.unref();
  }

  /** Ends it at once, whatever it does. Nobody hears of it any more. */
  async terminate(): Promise<void> {
    this.#over = true;
    clearInterval(this.#heartbeat);
    await this.#worker.terminate();
    await this.#exited;
  }

  get #missing(): string {
    return this.#created
      ? "its file had been loaded"
      : "it created a BotWorker";
  }

  #exit(code: number): void {
    if (this.#crash !== undefined) {
      const { error } = this.#crash;
      const message = describe(error instanceof Error ? error.message : error);
      this.#die(this.ready ? "crashed" : "could not start", message, error);
    } else if (this.ready) {
      this.#die(`exited with code ${code}`);
    } else {
      this.#die(
        "could not start",
        `it exited with code ${code} before ${this.#missing}`,
      );
    }
  }

  #die(how: string, why?: string, cause?: unknown): void {
    if (this.#over) return;
    this.#over = true;
    clearInterval(this.#heartbeat);
    this.#observer.died(why === undefined ? how : `${how}: ${why}`, cause);
  }

  #receive(data: { [RUNNER]?: (ThreadMessage | BotMessage)[] } | null): void {
    const batch = data?.[RUNNER];
    // Worker files can send messages of their own.
    if (this.#over || batch === undefined) return;
    for (const message of batch) {
      switch (message.type) {
        case "created":
          this.#created = true;
          if (this.ready) this.#observer.ready();
          break;
        case "loaded":
          this.#loaded = true;
          if (this.ready) this.#observer.ready();
          break;
        case "pong":
          break;
        case "exhausted":
          return this.#die("ran out of memory");
        default:
          this.#observer.received(message);
      }
    }
    // A file that is never done loading can answer, too.
    if (this.ready) this.#silentBeats = 0;
  }

  /**
   * Counts beats instead of looking at the clock, as only those count in which
   * this thread could have heard something: it can be held up as well.
   */
  readonly #beat = () => {
    if (!this.#observer.busy()) {
      this.#silentBeats = 0;
      return;
    }
    if (++this.#silentBeats <= BEATS) return this.send({ type: "ping" });
    const limit = `${this.#config.unresponsiveAfter} ms`;
    if (this.ready) {
      this.#die(`did not respond within ${limit}`);
    } else {
      const why = `${limit} passed before ${this.#missing}`;
      this.#die("could not start", why);
    }
  };
}

/**
 * Runs a worker file, and tells when all that it awaits has been done. There is
 * no other way to know that all handlers are in place. If a file is missing, Deno
 * says which one only of dynamic imports.
 *
 * Where the `require` of Node can run TypeScript, it does: nothing else is what
 * `node -r ts-node/register` and the like extend, and `import` in Node 22 fails
 * for CommonJS that requires ES modules. If `require` cannot run a module, it says
 * so before it runs anything; tsx calls that a `TransformError`.
 */
function bootstrap(url: URL): URL {
  const code = `
    import { createRequire } from "node:module";
    import process from "node:process";
    import { fileURLToPath } from "node:url";
    import { parentPort } from "node:worker_threads";

    const url = new URL(${JSON.stringify(url.href)});
    const [extension] = /\\.c?ts$/.exec(url.pathname) ?? [];
    const { deno, bun } = process.versions;
    const require = !deno && !bun && url.protocol === "file:" && extension &&
      createRequire(url);
    const requires = require &&
      (process.features.typescript || require.extensions[extension]);
    try {
      requires ? require(fileURLToPath(url)) : await import(url.href);
    } catch (error) {
      const cannot = /^ERR_REQUIRE_/.test(error?.code) ||
        error?.name === "TransformError";
      if (!requires || !cannot) throw error;
      await import(url.href);
    }
    parentPort.postMessage({ "${RUNNER}": [{ type: "loaded" }] });`;
  return new URL(`data:text/javascript,${encodeURIComponent(code)}`);
}
