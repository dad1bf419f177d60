import { onFailure } from "./_failure.ts";
import type { Claims, Found } from "./_postgres_claims.ts";
import type { Outage } from "./_postgres_outage.ts";
import {
  type Claim,
  deathsOf,
  type PostgresQueue,
  suspicionOf,
} from "./_postgres_queue.ts";
import type { Hotline } from "./_postgres_hotline.ts";
import { Isolation } from "./_suspect.ts";
import type { InboxRun } from "./inbox.ts";

/** What {@link Suspects} work with. */
export interface SuspectsParts<Y extends { update_id: number }> {
  queue: PostgresQueue;
  claims: Claims<Y>;
  hotline: Hotline;
  outage: Outage;
  emit: InboxRun<Y>["emit"];
  /** Called when there may be something to take. */
  look(): void;
}

/**
 * Which updates machines may have died of, and that they run by themselves here;
 * what others have to know should this machine fail.
 */
export class Suspects<Y extends { update_id: number }> {
  /** From so many deaths on, an update runs alone, or not at all. */
  readonly aloneFrom: number;
  readonly #maxAttempts: number;
  readonly #parts: SuspectsParts<Y>;
  /**
   * Whether suspects may be about. They are not claimed before they can run alone,
   * as whatever this machine dies of meanwhile would count against them.
   */
  #wary = false;
  /** Whether the rest has waited for long enough until suspects can run alone. */
  #impatient = false;
  /** By the ids of updates. */
  readonly #isolation: Isolation<number>;
  /** What the machine was about to die of. */
  readonly #failed = new Set<Claim>();
  readonly #ignoreFailures: () => void;

  constructor(maxAttempts: number, parts: SuspectsParts<Y>) {
    this.aloneFrom = Math.max(1, maxAttempts - 1);
    this.#maxAttempts = maxAttempts;
    this.#parts = parts;
    this.#isolation = new Isolation(parts.look, (id) => this.#outlive(id));
    this.#ignoreFailures = onFailure(() => this.#leaveWord());
  }

  /** How many updates to claim at most, which is none while a suspect has to wait. */
  limit(most: number): number {
    if (!this.#wary) this.#impatient = false;
    if (!this.#wary) return most;
    const isImpatient = this.#impatient;
    this.#impatient = false;
    if (this.#isolation.canAccuse()) return 1;
    if (isImpatient) return most;
    this.#isolation.wait();
    return 0;
  }

  /**
   * Leaves suspects to others until one can run alone; returns the rest. Only then
   * may the rest start, for this machine could die of it.
   */
  async leave(jobs: Found<Y>[]): Promise<Found<Y>[]> {
    const suspects = jobs.filter((job) =>
      this.isSuspect(job) && !this.isGuilty(job) &&
      !this.#parts.claims.has(job.update)
    );
    const canRunAlone = jobs.length === 1 && this.#isolation.canAccuse();
    this.#wary = suspects.length > 0;
    if (!this.#wary) this.#isolation.acquit();
    if (!this.#wary || canRunAlone) return jobs;
    await this.#parts.claims.leave(suspects);
    return jobs.filter((job) => !suspects.includes(job));
  }

  /** Whether to set an update aside. */
  isGuilty(job: Found<Y>): boolean {
    if (this.#parts.claims.has(job.update)) return false;
    return job.alone && job.failures >= this.#maxAttempts ||
      deathsOf(job) - job.spared >= this.aloneFrom + this.#maxAttempts;
  }

  /** Whether an update has to run by itself, unless it is guilty. */
  isSuspect(job: Found<Y>): boolean {
    return suspicionOf(job) >= this.aloneFrom;
  }

  /** An update is about to run, by itself if it is a suspect. */
  start(job: Found<Y>): void {
    const { update } = job;
    const { update_id: id } = update;
    if (!this.isSuspect(job) || !this.#isolation.canAccuse()) {
      return this.#isolation.add(id);
    }
    const suspicion = suspicionOf(job);
    this.#isolation.accuse(id, suspicion - this.aloneFrom);
    this.#parts.emit({
      type: "inbox",
      level: "info",
      message:
        `The update ${id} runs by itself for a while, as machines died ${suspicion} times while it was handled`,
      update,
    });
  }

  /**
   * An update is parked, or goes on. As long as it is parked, it cannot kill this
   * machine, and need not be waited for.
   */
  run({ update_id }: Y, running: boolean): void {
    if (running) return this.#isolation.add(update_id);
    this.#isolation.delete(update_id);
    if (this.#wary) this.#parts.look();
  }

  /** An update has ended, or is not going to run. */
  end({ update_id }: Y): void {
    this.#isolation.delete(update_id);
  }

  /** So many suspects wait in the database: others may have run them. */
  recount(suspects: number): void {
    if (suspects > 0 || this.#isolation.suspect !== undefined) return;
    this.#wary = false;
    this.#isolation.acquit();
  }

  /** What runs is not waited for any longer. */
  #outlive(suspect: number | undefined): void {
    const { claims, look } = this.#parts;
    if (suspect !== undefined) claims.spare(suspect);
    this.#impatient = suspect === undefined;
    look();
  }

  /** Leaves word for the others, with the last thing that this machine can do. */
  #leaveWord(): void {
    const { queue, claims, hotline } = this.#parts;
    const running = claims.running();
    const failed = running.filter((claim) => !this.#failed.has(claim));
    const others = claims.changed().filter((claim) => !failed.includes(claim));
    if (failed.length + others.length === 0) return;
    for (const claim of failed) this.#failed.add(claim);
    const { suspect } = this.#isolation;
    const accused = suspect === undefined ? undefined : claims.of(suspect);
    // What ran out of patience before can still be there.
    const alone = running.length === 1 && running[0] === accused
      ? accused
      : undefined;
    const failures = [...failed.map(() => 1), ...others.map(() => 0)];
    const said = hotline.send((db) =>
      queue.note([...failed, ...others], failures, alone, db)
    );
    const forget = () => failed.forEach((claim) => this.#failed.delete(claim));
    if (said === undefined) return forget();
    said.then((isSaid) => isSaid || forget());
  }

  /** The machine has lived through what it left word of. */
  async takeBack(): Promise<void> {
    const failed = [...this.#failed];
    if (failed.length === 0) return;
    const { queue, claims } = this.#parts;
    this.#failed.clear();
    try {
      await queue.note(failed, failed.map(() => -1));
    } catch (error) {
      for (const claim of failed) this.#failed.add(claim);
      throw error;
    }
    // Which of several notes that are under way is the last one, who knows.
    claims.retell(failed);
  }

  /** No failure has anything to do with this inbox any longer. */
  close(): void {
    this.#isolation.clear();
    this.#ignoreFailures();
  }
}
