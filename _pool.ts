import { Supervisor, type SupervisorConfig } from "./_supervisor.ts";
import type { ThreadConfig } from "./_thread.ts";
import type { WorkerError } from "./_threads_errors.ts";
import type { UserFromGetMe } from "./deps.ts";
import { logEvent, type WorkerEvent } from "./events.ts";
import type { Slot } from "./queue.ts";

/** What the workers of a pool are started with, once the bot is known. */
export type PoolConfig =
  & Omit<ThreadConfig, "botInfo">
  & Pick<SupervisorConfig, "retries" | "stopTimeout">
  & {
    /** Number of workers. */
    count: number;
  };

/** The workers of one call to `distribute`. They live from an update to a stop. */
export class Pool {
  readonly #config: PoolConfig;
  /** `undefined` while there are no workers. */
  #supervisors: Supervisor[] | undefined;
  /** The bot that the workers were started for. */
  #botId: number | undefined;
  /** Why there are none, if they cannot start. */
  #error: WorkerError | undefined;
  /** The end of the former workers. */
  #closed: Promise<void> = Promise.resolve();
  /** The newest one leads to whoever observes the current run. */
  #slot: Slot | undefined;

  constructor(config: PoolConfig) {
    this.#config = config;
  }

  /** Has an update handled by the worker that is in charge of the key. */
  run(
    key: string,
    update: object,
    botInfo: UserFromGetMe,
    slot: Slot | undefined,
  ): Promise<void> {
    try {
      slot?.onStop(this.close);
    } catch (error) {
      return Promise.reject(error); // nobody would end the workers any more
    }
    this.#slot = slot;
    if (this.#error !== undefined) return Promise.reject(this.#error);
    this.#supervisors ??= this.#start(botInfo);
    if (botInfo.id !== this.#botId) {
      return Promise.reject(
        new Error(
          `Cannot distribute update: each bot needs middleware of its own: received an update of bot ${botInfo.id} while there are workers of bot ${this.#botId}`,
        ),
      );
    }
    const index = hash(key) % this.#config.count;
    return this.#supervisors[index].run(JSON.stringify(update), slot);
  }

  /** Ends all workers when they are done. The next update starts new ones. */
  readonly close = (): Promise<void> => {
    const supervisors = this.#supervisors;
    this.#supervisors = this.#error = undefined;
    if (supervisors === undefined) return this.#closed;
    const closed = stopAll(supervisors);
    this.#closed = closed.catch(() => {}); // told to the first one who asks
    return closed;
  };

  #start(botInfo: UserFromGetMe): Supervisor[] {
    this.#botId = botInfo.id;
    const config: SupervisorConfig = {
      ...this.#config,
      botInfo,
      proven: false,
      emit: (event) => this.#emit(event),
      giveUp: (worker, error) => this.#giveUp(worker, error),
    };
    return Array.from(
      { length: this.#config.count },
      (_, i) => new Supervisor(config, i + 1),
    );
  }

  #giveUp(worker: number, error: WorkerError): void {
    const supervisors = this.#supervisors ?? [];
    const failed = supervisors.reduce((sum, { size }) => sum + size, 0);
    this.#supervisors = undefined;
    this.#error = error;
    this.#closed = Promise.all(supervisors.map((one) => one.end(error)))
      .then(() => {});
    this.#emit({
      type: "worker-failed",
      worker,
      error,
      failed,
      retried: 0,
      restartInMs: undefined,
    });
  }

  #emit(event: WorkerEvent): void {
    if (this.#slot === undefined) logEvent(event);
    else this.#slot.emit(event);
  }
}

async function stopAll(supervisors: Supervisor[]): Promise<void> {
  const errors = (await Promise.all(supervisors.map((one) => one.stop())))
    .flat();
  if (errors.length > 1) {
    throw new AggregateError(errors, "Workers failed to stop");
  }
  if (errors.length === 1) throw errors[0];
}

/** FNV-1a, mixed once more, as its lowest bits are not random enough. */
export function hash(key: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < key.length; i++) {
    hash = Math.imul(hash ^ key.charCodeAt(i), 0x01000193);
  }
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
