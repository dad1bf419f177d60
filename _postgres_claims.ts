import type { Outage } from "./_postgres_outage.ts";
import type { Claim, Job, PostgresQueue } from "./_postgres_queue.ts";

/** An update that runs here. */
interface Taken<Y> extends Claim {
  readonly update: Y;
  /** Others have it, as this machine was taken for dead. */
  lost: boolean;
}

/**
 * What this machine has claimed: what runs, what has ended, and what is left to
 * others, until PostgreSQL knows.
 */
export class Claims<Y extends { update_id: number }> {
  readonly #queue: PostgresQueue;
  readonly #outage: Outage;
  /** Aborts when there is no time left to try again. */
  readonly #closing: AbortSignal;
  /** Called when others, or other updates, can run; with how many were left. */
  readonly #onTold: (left: number) => void;
  readonly #running = new Map<number, Taken<Y>>();
  readonly #ended = new Set<Claim>();
  readonly #unwanted = new Set<Claim>();
  /** Set while PostgreSQL is being told. */
  #telling: Promise<void> | undefined;

  constructor(
    queue: PostgresQueue,
    outage: Outage,
    closing: AbortSignal,
    onTold: (left: number) => void,
  ) {
    this.#queue = queue;
    this.#outage = outage;
    this.#closing = closing;
    this.#onTold = onTold;
  }

  /** Number of updates that run here. */
  get size(): number {
    return this.#running.size;
  }

  /** Those of the updates that run here, unless others have them. */
  held(): Claim[] {
    return [...this.#running.values()].filter(({ lost }) => !lost);
  }

  /** The claim of an update that runs here. */
  of(updateId: number): Claim | undefined {
    return this.#running.get(updateId);
  }

  /** Whether the update of a job runs here. */
  has({ id }: Job): boolean {
    return [...this.#running.values()].some((taken) => taken.id === id);
  }

  /** An update is about to run. Returns false if it runs here already. */
  add({ id, retryCount }: Job, update: Y): boolean {
    const running = this.#running.get(update.update_id);
    if (running === undefined) {
      const taken = { id, retryCount, update, lost: false };
      this.#running.set(update.update_id, taken);
      return true;
    }
    // This machine was taken for dead.
    running.retryCount = retryCount;
    running.lost = false;
    return false;
  }

  /** An update has ended. Resolves when PostgreSQL knows. */
  settle({ update_id }: Y): void | Promise<void> {
    const taken = this.#running.get(update_id);
    this.#running.delete(update_id);
    if (taken === undefined || taken.lost) return;
    this.#ended.add(taken);
    return this.#tell();
  }

  /** Updates are not going to run here. Resolves when others can have them. */
  giveBack(updates: Y[]): Promise<void> {
    return this.leave(updates.flatMap(({ update_id }) => {
      const taken = this.#running.get(update_id);
      this.#running.delete(update_id);
      return taken === undefined || taken.lost ? [] : [taken];
    }));
  }

  /** Claims are not going to be used. Resolves when others can have them. */
  leave(claims: Claim[]): Promise<void> {
    for (const claim of claims) this.#unwanted.add(claim);
    return this.#tell();
  }

  /** Keeps all claims alive. Returns how many running updates others have now. */
  async touch(): Promise<number> {
    const claims = [...this.held(), ...this.#ended]
      .map(({ id, retryCount }) => ({ id, retryCount }));
    if (claims.length === 0) return 0;
    const held = await this.#queue.touch(claims);
    const gone = new Map(
      claims.filter(({ id }) => !held.has(id))
        .map(({ id, retryCount }) => [id, retryCount]),
    );
    let lost = 0;
    for (const taken of this.#running.values()) {
      if (taken.lost || gone.get(taken.id) !== taken.retryCount) continue;
      taken.lost = true;
      lost++;
    }
    return lost;
  }

  /** Leaves all that has not ended to others. Tries once. */
  async close(): Promise<void> {
    await this.#telling;
    for (const claim of this.held()) this.#unwanted.add(claim);
    await this.#tellOnce();
  }

  /** Tells PostgreSQL until it knows. */
  #tell(): Promise<void> {
    if (this.#telling !== undefined) return this.#telling;
    if (this.#isTold) return Promise.resolve();
    return this.#telling = this.#tellAll();
  }

  get #isTold(): boolean {
    return this.#ended.size + this.#unwanted.size === 0;
  }

  async #tellAll(): Promise<void> {
    try {
      while (!this.#isTold) {
        await this.#outage.retry(() => this.#tellOnce(), this.#closing);
      }
    } catch (error) {
      // `close` tries once more.
      if (!this.#closing.aborted) throw error;
    } finally {
      this.#telling = undefined;
    }
  }

  async #tellOnce(): Promise<void> {
    const ended = [...this.#ended];
    const unwanted = [...this.#unwanted];
    if (ended.length > 0) {
      await this.#queue.complete(ended);
      for (const claim of ended) this.#ended.delete(claim);
      this.#onTold(0);
    }
    if (unwanted.length > 0) {
      const left = await this.#queue.release(unwanted);
      for (const claim of unwanted) this.#unwanted.delete(claim);
      this.#onTold(left);
    }
  }
}
