import { clearTimeout, setTimeout } from "node:timers";
import { Thread, type ThreadConfig } from "./_thread.ts";
import type { BotMessage, ToWorker } from "./_threads.ts";
import { decodeError, encodeError, WorkerError } from "./_threads_errors.ts";
import { backoff } from "./_time.ts";
import type { WorkerEvent } from "./events.ts";
import type { Slot } from "./queue.ts";

/** The longest wait before a worker that fails again and again is replaced. */
const MAX_BACKOFF_MS = 10_000;

/** Starts of a worker that may fail before any one of its pool was ready. */
const MAX_FAILED_STARTS = 3;

/** What a supervisor needs to know, and whom it tells what happens. */
export interface SupervisorConfig extends ThreadConfig {
  /** How often an update is run again when its worker fails. */
  retries: number;
  /** Milliseconds that a worker has to close what it has open. */
  stopTimeout: number;
  /** Whether a worker of the pool has ever been ready. */
  proven: boolean;
  emit(event: WorkerEvent): void;
  /** Called instead of yet another start, if none can be expected to work. */
  giveUp(worker: number, error: WorkerError): void;
}

/** An update that is to be handled. */
interface Job {
  readonly id: number;
  readonly json: string;
  readonly slot: Slot | undefined;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
  /** Whether the worker has it. */
  sent: boolean;
  /** How many workers have failed with it. */
  failures: number;
}

/**
 * Keeps one worker of a pool alive: replaces it when it dies, and sees to it
 * that all updates for it come to an end.
 */
export class Supervisor {
  readonly #config: SupervisorConfig;
  /** Counted from 1. */
  readonly #number: number;
  /** All updates that have not ended, in the order of their arrival. */
  readonly #jobs = new Map<number, Job>();
  /** Those that the worker does not have yet. */
  #unsent: Job[] = [];
  #nextId = 0;
  /** The worker; `undefined` between the death of one and the next start. */
  #thread: Thread | undefined;
  /** Starts the next worker; set iff there is none. */
  #restart: ReturnType<typeof setTimeout> | undefined;
  /** Failures since an update last ended as it should. */
  #failures = 0;
  /** The end of the worker before. */
  #ended: Promise<void> | undefined;
  /** Resolves a stop with what went wrong; set iff one is under way. */
  #stopped: ((errors: unknown[]) => void) | undefined;

  constructor(config: SupervisorConfig, number: number) {
    this.#config = config;
    this.#number = number;
    this.#start();
  }

  /** Number of updates that have not ended. */
  get size(): number {
    return this.#jobs.size;
  }

  /** Has an update handled. Settles as its handling does. */
  run(json: string, slot: Slot | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      const state = { sent: false, failures: 0 };
      const job: Job = { id, json, slot, resolve, reject, ...state };
      this.#jobs.set(id, job);
      if (this.#jobs.size === 1) this.#hold();
      slot?.signal.addEventListener("abort", () => this.#abort(job));
      this.#unsent.push(job);
      this.#sendAll();
      if (slot?.signal.aborted) this.#abort(job);
    });
  }

  /**
   * Lets the worker finish what it has and close what it has open, and ends it.
   *
   * @returns What went wrong
   */
  async stop(): Promise<unknown[]> {
    const { stopTimeout } = this.#config;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const errors = await new Promise<unknown[]>((resolve) => {
      this.#stopped = resolve;
      if (this.#thread === undefined) {
        if (this.#jobs.size === 0) return resolve([]);
        clearTimeout(this.#restart);
        this.#start();
      } else if (this.#thread.ready) {
        this.#sendStop();
      }
      timer = setTimeout(
        () => resolve([this.#error(`did not stop within ${stopTimeout} ms`)]),
        stopTimeout,
      );
    });
    clearTimeout(timer);
    await this.end(this.#error("was stopped before the update had ended"));
    return errors;
  }

  /** Ends the worker at once; what it has fails. */
  async end(error: WorkerError): Promise<void> {
    clearTimeout(this.#restart);
    const thread = this.#thread;
    this.#thread = this.#restart = undefined;
    this.#failAll(error);
    await Promise.all([thread?.terminate(), this.#ended]);
  }

  #failAll(error: WorkerError): void {
    for (const job of this.#jobs.values()) job.reject(error);
    this.#jobs.clear();
    this.#unsent = [];
  }

  #error(what: string, cause?: unknown): WorkerError {
    return new WorkerError(
      `Worker ${this.#number} ${what}`,
      cause === undefined ? undefined : { cause },
    );
  }

  #start(): void {
    this.#restart = undefined;
    try {
      this.#thread = new Thread(this.#config, {
        ready: () => this.#welcome(),
        received: (message) => this.#receive(message),
        died: (how, cause) => this.#died(how, cause),
        busy: () => this.#jobs.size > 0 || this.#stopped !== undefined,
      });
    } catch (error) {
      return this.#died("could not start", error);
    }
    this.#hold();
  }

  /** Only what there is to do keeps the process alive. */
  #hold(): void {
    const holder = this.#thread ?? this.#restart;
    if (this.#jobs.size > 0) holder?.ref();
    else holder?.unref();
  }

  #sendAll(): void {
    if (!this.#thread?.ready) return;
    for (const job of this.#unsent.splice(0)) {
      if (!this.#jobs.has(job.id)) continue; // given up meanwhile
      job.sent = true;
      const { id, json, slot } = job;
      this.#thread.send({
        type: "update",
        id,
        json,
        slotted: slot !== undefined,
      });
    }
  }

  #receive(message: BotMessage): void {
    if (message.type === "stopped") {
      return this.#stopped?.(message.errors.map(decodeError));
    }
    const job = this.#jobs.get(message.id);
    if (job === undefined) return;
    switch (message.type) {
      case "park":
        return void this.#park(job);
      case "resume":
        return job.slot?.resume();
      case "handled":
        this.#failures = 0;
        job.resolve();
        return this.#remove(job);
      case "failed":
        this.#failures = 0;
        job.reject(decodeError(message.error));
        return this.#remove(job);
    }
  }

  #welcome(): void {
    this.#config.proven = true;
    const durationMs = this.#thread!.ageMs;
    const worker = this.#number;
    this.#config.emit({ type: "worker-started", worker, durationMs });
    this.#sendAll();
    if (this.#stopped !== undefined) this.#sendStop();
  }

  /** Updates that never end leave half of the time for what is open. */
  #sendStop(): void {
    const drainMs = this.#config.stopTimeout / 2;
    this.#thread?.send({ type: "stop", drainMs });
  }

  #remove(job: Job): void {
    this.#jobs.delete(job.id);
    if (this.#jobs.size === 0) this.#hold();
  }

  async #park(job: Job): Promise<void> {
    const thread = this.#thread;
    const answer = (message: ToWorker) => {
      if (thread === this.#thread) thread?.send(message);
    };
    try {
      await job.slot!.park();
      answer({ type: "resumed", id: job.id });
    } catch (error) {
      answer({ type: "refused", id: job.id, reason: encodeError(error) });
    }
  }

  /** The update exceeded its time limit, or a stop has given it up. */
  #abort(job: Job): void {
    if (!this.#jobs.has(job.id)) return;
    const { reason } = job.slot!.signal;
    if (job.sent) {
      this.#thread?.send({
        type: "abort",
        id: job.id,
        reason: encodeError(reason),
      });
    } else {
      job.reject(reason);
      this.#remove(job);
    }
  }

  #died(how: string, cause: unknown): void {
    const { proven, emit, giveUp } = this.#config;
    this.#ended = this.#thread?.terminate();
    this.#thread = undefined;
    this.#failures++;
    const worker = this.#number;
    const error = this.#error(how, cause);
    if (this.#stopped !== undefined) {
      this.#failAll(error);
      return this.#stopped([error]);
    }
    if (!proven && this.#failures === MAX_FAILED_STARTS) {
      return giveUp(worker, error);
    }
    const restartInMs = backoff("exponential", this.#failures, MAX_BACKOFF_MS);
    this.#restart = setTimeout(() => this.#start(), restartInMs);
    this.#hold();
    // Until it is known whether any start can work, there is nothing to tell.
    if (!proven) return;
    const failed = this.#failJobs(error);
    const retried = this.#jobs.size;
    emit({
      type: "worker-failed",
      worker,
      error,
      failed,
      retried,
      restartInMs,
    });
  }

  /**
   * Lets the updates fail that shall not run again, and queues the others.
   *
   * @returns The number of those that failed
   */
  #failJobs(error: WorkerError): number {
    let failed = 0;
    this.#unsent = [];
    for (const job of this.#jobs.values()) {
      if (
        job.failures++ === this.#config.retries || job.slot?.signal.aborted
      ) {
        failed++;
        job.reject(error);
        this.#remove(job);
      } else {
        job.sent = false;
        // It does not wait for that: what comes after it may have all slots.
        job.slot?.resume();
        this.#unsent.push(job);
      }
    }
    return failed;
  }
}
