import { isPassing, type Outage } from "./_postgres_outage.ts";
import {
  type Claim,
  type Db,
  HEARTBEAT_SECONDS,
  type Job,
  type PostgresQueue,
} from "./_postgres_queue.ts";
import type { Hotline } from "./_postgres_hotline.ts";

/**
 * How long it may take until PostgreSQL knows whether an update is parked, so that
 * it need not hear of short waits.
 */
const NOTE_MS = 50;

/** A job with its update. */
export interface Found<Y> extends Job {
  readonly update: Y;
}

/** An update that is under way here. */
interface Taken<Y> extends Claim {
  readonly update: Y;
  /** It waits here for others to end. */
  isParked: boolean;
  /** It has outlived its time alone. */
  isSpared: boolean;
  /** Others have it, as this machine was taken for dead. */
  lost: boolean;
  claimedAt: number;
  /** What PostgreSQL knows, `undefined` if that is not certain. */
  known: { parked: number; spared: number } | undefined;
}

/** What {@link Claims} work with. */
export interface ClaimsParts {
  queue: PostgresQueue;
  outage: Outage;
  hotline: Hotline;
  /** Aborts when there is no time left to try again. */
  closing: AbortSignal;
  /** Called when others, or other updates, can run; with how many were left. */
  onTold(left: number): void;
}

/**
 * What this machine has claimed: what is under way, what has ended, and what is
 * left to others, until PostgreSQL knows.
 */
export class Claims<Y extends { update_id: number }> {
  readonly #parts: ClaimsParts;
  readonly #underWay = new Map<number, Taken<Y>>();
  /** What may be other than PostgreSQL knows. */
  readonly #changed = new Set<Taken<Y>>();
  /** Whether it has to be told of that now. */
  #isDue = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** When all claims were last kept alive. */
  #touchedAt = 0;
  readonly #ended = new Set<Claim>();
  readonly #unwanted = new Set<Claim>();
  /** Set while PostgreSQL is being told. */
  #telling: Promise<void> | undefined;

  constructor(parts: ClaimsParts) {
    this.#parts = parts;
  }

  /** Number of updates that are under way here. */
  get size(): number {
    return this.#underWay.size;
  }

  /** Those of them that are not parked. */
  running(): Claim[] {
    return [...this.#underWay.values()].filter(({ isParked }) => !isParked);
  }

  /** Those of them that may be other than PostgreSQL knows. */
  changed(): Claim[] {
    return [...this.#changed];
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

  /** Whether others cannot have an update that is under way here. */
  isHeld({ update_id }: Y): boolean {
    const taken = this.#underWay.get(update_id);
    if (taken === undefined || taken.lost) return false;
    const at = Math.max(taken.claimedAt, this.#touchedAt);
    return Date.now() - at < HEARTBEAT_SECONDS * 1000;
  }

  /** An update is about to run. */
  add({ id, retryCount, parked, spared, update }: Found<Y>): void {
    this.#underWay.set(update.update_id, {
      ...{ id, retryCount, parked, spared, update },
      ...{ isParked: false, isSpared: false, lost: false },
      claimedAt: Date.now(),
      known: { parked, spared },
    });
  }

  /**
   * An update that is under way here was claimed again, as this machine was taken
   * for dead.
   */
  regain({ retryCount, parked, spared, update }: Found<Y>): void {
    const taken = this.#underWay.get(update.update_id)!;
    Object.assign(taken, {
      ...{ retryCount, parked, spared, lost: false },
      ...{ known: { parked, spared }, claimedAt: Date.now() },
    });
    if (taken.isSpared) taken.spared++;
    else if (taken.isParked) taken.parked++;
    this.#changed.add(taken);
    this.#note();
  }

  /** No machine will have died with it. */
  #undo(taken: Taken<Y>): void {
    if (taken.isSpared) taken.spared--;
    else if (taken.isParked) taken.parked--;
    taken.isSpared = taken.isParked = false;
    this.#changed.add(taken);
    this.#isDue = true;
  }

  /** An update is parked, or goes on. */
  park({ update_id }: Y, isParked: boolean): void {
    const taken = this.#underWay.get(update_id);
    if (taken === undefined || taken.isParked === isParked) return;
    taken.isParked = isParked;
    // A death is not counted as both.
    if (!taken.isSpared) taken.parked += isParked ? 1 : -1;
    this.#changed.add(taken);
    if (isParked || taken.retryCount === 0) return this.#noteLater();
    // It may end this machine at once, as it may have done before.
    const { queue, hotline } = this.#parts;
    const retell = () => this.retell([taken]);
    hotline.send((db) => queue.note([taken], undefined, undefined, db))
      ?.then(retell, retell); // as it may have come late
    this.#note();
  }

  /** Whatever this machine dies of from now on, it is not this update. */
  spare(updateId: number): void {
    const taken = this.#underWay.get(updateId);
    if (taken === undefined || taken.isSpared) return;
    taken.isSpared = true;
    taken.spared++;
    this.#changed.add(taken);
    this.#note();
  }

  /** It is not certain what PostgreSQL knows. */
  retell(claims: Claim[]): void {
    for (const taken of this.#underWay.values()) {
      if (!claims.includes(taken)) continue;
      taken.known = undefined;
      this.#changed.add(taken);
    }
    this.#note();
  }

  /** An update has ended. Resolves when PostgreSQL knows. */
  settle({ update_id }: Y): void | Promise<void> {
    const taken = this.#underWay.get(update_id);
    if (taken === undefined) return;
    this.#underWay.delete(update_id);
    this.#changed.delete(taken);
    if (taken.lost) return;
    this.#ended.add(taken);
    return this.#tell();
  }

  /** Updates are not going to run here. Resolves when others can have them. */
  giveBack(updates: Y[]): Promise<void> {
    return this.leave(updates.flatMap(({ update_id }) => {
      const taken = this.#underWay.get(update_id);
      this.#underWay.delete(update_id);
      if (taken === undefined || taken.lost) return [];
      this.#undo(taken);
      return [taken];
    }));
  }

  /** Claims are not going to be used. Resolves when others can have them. */
  leave(claims: Claim[]): Promise<void> {
    for (const claim of claims) this.#unwanted.add(claim);
    return this.#tell();
  }

  /** Keeps all claims alive. Returns how many running updates others have now. */
  async touch(db?: Db): Promise<number> {
    const claims = [...this.#held(), ...this.#ended]
      .map((claim) => ({ ...claim }));
    if (claims.length === 0) return 0;
    const now = Date.now();
    const held = await this.#parts.queue.touch(claims, db);
    this.#touchedAt = Math.max(this.#touchedAt, now);
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
    await this.#telling?.catch(() => {}); // whoever waits for it hears of it
    for (const taken of this.#held()) {
      this.#undo(taken);
      this.#unwanted.add(taken);
    }
    clearTimeout(this.#timer);
    await this.#tellOnce();
  }

  #noteLater(): void {
    this.#timer ??= setTimeout(() => this.#note(), NOTE_MS);
  }

  /** PostgreSQL shall know what has changed. */
  #note(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#isDue = true;
    this.#parts.outage.observe(this.#tell());
  }

  /** Tells PostgreSQL until it knows. */
  #tell(): Promise<void> {
    if (this.#telling !== undefined) return this.#telling;
    if (this.#isTold) return Promise.resolve();
    return this.#telling = this.#tellAll();
  }

  get #isTold(): boolean {
    return this.#ended.size + this.#unwanted.size === 0 && !this.#isDue;
  }

  async #tellAll(): Promise<void> {
    const { outage, closing } = this.#parts;
    try {
      while (!this.#isTold) {
        await outage.retry(() => this.#tellOnce(), closing);
      }
    } catch (error) {
      // `close` tries once more.
      if (!closing.aborted) throw error;
    } finally {
      this.#telling = undefined;
    }
  }

  async #tellOnce(): Promise<void> {
    const { queue, outage, onTold } = this.#parts;
    const ended = [...this.#ended];
    const unwanted = [...this.#unwanted];
    if (ended.length > 0) {
      await queue.complete(ended);
      for (const claim of ended) this.#ended.delete(claim);
      onTold(0);
    }
    if (this.#isDue) await this.#tellChanges();
    if (unwanted.length > 0) {
      const left = await queue.release(unwanted);
      for (const claim of unwanted) this.#unwanted.delete(claim);
      onTold(left);
      if (left === 0) return;
      // Should this fail, others look by themselves after a while.
      await queue.notify().catch((error) => outage.report(error));
    }
  }

  async #tellChanges(): Promise<void> {
    const { queue, outage } = this.#parts;
    const news = [...this.#changed]
      .filter(({ parked, spared, known }) =>
        parked !== known?.parked || spared !== known.spared
      )
      .map((taken) => ({ taken, told: { ...taken } }));
    this.#isDue = false;
    if (news.length === 0) return this.#changed.clear();
    try {
      await queue.note(news.map(({ told }) => told));
    } catch (error) {
      // Nothing depends on it that would be worth an end of the run.
      if (!isPassing(error)) return outage.report(error);
      this.#isDue = true;
      throw error;
    }
    for (const { taken, told } of news) {
      const { retryCount, parked, spared } = told;
      if (taken.retryCount !== retryCount) continue; // it was claimed again
      taken.known = { parked, spared };
      if (taken.parked === parked && taken.spared === spared) {
        this.#changed.delete(taken);
      }
    }
  }
}
