import type { Outage } from "./_postgres_outage.ts";
import type { Claim, Job, PostgresQueue } from "./_postgres_queue.ts";

/** A job with its update. */
export interface Found<Y> extends Job {
  readonly update: Y;
}

/** An update that is under way here. */
interface Taken<Y> extends Claim {
  readonly update: Y;
  /** It waits here for others to end. */
  isParked: boolean;
  /** Others have it, as this machine was taken for dead. */
  lost: boolean;
}

/**
 * What this machine has claimed: what is under way, what has ended, and what is
 * left to others, until PostgreSQL knows.
 */
export class Claims<Y extends { update_id: number }> {
  readonly #queue: PostgresQueue;
  readonly #outage: Outage;
  /** Aborts when there is no time left to try again. */
  readonly #closing: AbortSignal;
  /** Called when others, or other updates, can run; with how many were left. */
  readonly #onTold: (left: number) => void;
  readonly #underWay = new Map<number, Taken<Y>>();
  /** Those that were parked, or go on. */
  readonly #changed = new Set<Claim>();
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

  /** Number of updates that are under way here. */
  get size(): number {
    return this.#underWay.size;
  }

  /** Those of them that are not parked. */
  running(): Claim[] {
    return [...this.#underWay.values()].filter(({ isParked }) => !isParked);
  }

  /** Those of them that others do not have. */
  #held(): Taken<Y>[] {
    return [...this.#underWay.values()].filter(({ lost }) => !lost);
  }

  /** The claim of an update that is under way here. */
  of(updateId: number): Claim | undefined {
    return this.#underWay.get(updateId);
  }

  /** Whether an update is under way here. */
  has({ update_id }: Y): boolean {
    return this.#underWay.has(update_id);
  }

  /** An update is about to run. */
  add({ id, retryCount, parked, update }: Found<Y>): void {
    const claim = { id, retryCount, parked };
    const taken = { ...claim, update, isParked: false, lost: false };
    this.#underWay.set(update.update_id, taken);
  }

  /**
   * An update that is under way here was claimed again, as this machine was taken
   * for dead. Resolves when PostgreSQL knows what it had to be told.
   */
  regain({ retryCount, parked, update }: Found<Y>): Promise<void> {
    const taken = this.#underWay.get(update.update_id)!;
    Object.assign(taken, { retryCount, parked, lost: false });
    if (taken.isParked) this.#park(taken, true);
    return this.#tell();
  }

  /** An update is parked, or goes on. Resolves when PostgreSQL knows. */
  park({ update_id }: Y, isParked: boolean): Promise<void> {
    const taken = this.#underWay.get(update_id);
    if (taken !== undefined && taken.isParked !== isParked) {
      this.#park(taken, isParked);
    }
    return this.#tell();
  }

  /** As long as an update is parked, the next death counts as one at which it was. */
  #park(taken: Taken<Y>, isParked: boolean): void {
    taken.isParked = isParked;
    taken.parked += isParked ? 1 : -1;
    if (!taken.lost) this.#changed.add(taken);
  }

  /** An update has ended. Resolves when PostgreSQL knows. */
  settle({ update_id }: Y): void | Promise<void> {
    const taken = this.#underWay.get(update_id);
    this.#underWay.delete(update_id);
    if (taken === undefined || taken.lost) return;
    this.#changed.delete(taken);
    this.#ended.add(taken);
    return this.#tell();
  }

  /** Updates are not going to run here. Resolves when others can have them. */
  giveBack(updates: Y[]): Promise<void> {
    return this.leave(updates.flatMap(({ update_id }) => {
      const taken = this.#underWay.get(update_id);
      this.#underWay.delete(update_id);
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
    const claims = [...this.#held(), ...this.#ended]
      .map(({ id, retryCount, parked }) => ({ id, retryCount, parked }));
    if (claims.length === 0) return 0;
    const held = await this.#queue.touch(claims);
    const gone = new Map(
      claims.filter(({ id }) => !held.has(id))
        .map(({ id, retryCount }) => [id, retryCount]),
    );
    let lost = 0;
    for (const taken of this.#underWay.values()) {
      if (taken.lost || gone.get(taken.id) !== taken.retryCount) continue;
      taken.lost = true;
      lost++;
    }
    return lost;
  }

  /** Leaves all that has not ended to others. Tries once. */
  async close(): Promise<void> {
    await this.#telling;
    for (const taken of this.#held()) {
      // No machine will have died.
      if (taken.isParked) this.#park(taken, false);
      this.#unwanted.add(taken);
    }
    await this.#tellOnce();
  }

  /** Tells PostgreSQL until it knows. */
  #tell(): Promise<void> {
    if (this.#telling !== undefined) return this.#telling;
    if (this.#isTold) return Promise.resolve();
    return this.#telling = this.#tellAll();
  }

  get #isTold(): boolean {
    return this.#changed.size + this.#ended.size + this.#unwanted.size === 0;
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
    const changed = [...this.#changed];
    const ended = [...this.#ended];
    const unwanted = [...this.#unwanted];
    if (changed.length > 0) {
      this.#changed.clear();
      try {
        await this.#queue.notePark(changed);
      } catch (error) {
        for (const claim of changed) this.#changed.add(claim);
        throw error;
      }
    }
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
