import { onFailure } from "./_failure.ts";
import type { Claims, Found } from "./_postgres_claims.ts";
import type { Outage } from "./_postgres_outage.ts";
import type { Claim, PostgresQueue } from "./_postgres_queue.ts";
import type { Witness } from "./_postgres_witness.ts";
import { Isolation } from "./_suspect.ts";
import type { InboxRun } from "./inbox.ts";

/** What {@link Suspects} work with. */
export interface SuspectsParts<Y extends { update_id: number }> {
  queue: PostgresQueue;
  claims: Claims<Y>;
  witness: Witness;
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
    if (!this.#wary) return most;
    if (this.#isolation.canAccuse()) return 1;
    this.#isolation.wait();
    return 0;
  }

  /**
   * Leaves suspects to others until one can run alone; returns the rest. Only then
   * may the rest start, for this machine could die of it.
   */
  async leave(jobs: Found<Y>[]): Promise<Found<Y>[]> {
    const suspects = jobs.filter((job) =>
      this.#isSuspect(job) && !this.isGuilty(job) &&
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
  isGuilty({ deaths, failures, alone, spared, update }: Found<Y>): boolean {
    if (this.#parts.claims.has(update)) return false;
    return alone && failures >= this.#maxAttempts ||
      deaths - spared >= this.aloneFrom + this.#maxAttempts;
  }

  #isSuspect({ deaths }: Found<Y>): boolean {
    return deaths >= this.aloneFrom;
  }

  /** An update is about to run, by itself if it is a suspect. */
  start(job: Found<Y>): void {
    const { deaths, update } = job;
    const { update_id: id } = update;
    if (!this.#isSuspect(job)) return this.#isolation.add(id);
    this.#isolation.accuse(id, deaths - this.aloneFrom);
    this.#parts.emit({
      type: "inbox",
      level: "info",
      message:
        `The update ${id} runs by itself for a while, as machines died ${deaths} times while it was handled`,
      update,
    });
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
    const { queue, claims, outage, look } = this.#parts;
    const claim = suspect === undefined ? undefined : claims.of(suspect);
    // Whatever this machine dies of from now on, it is not the suspect.
    if (claim !== undefined) outage.observe(queue.spare(claim));
    look();
  }

  /** Leaves word for the others, with the last thing that this machine can do. */
  #leaveWord(): void {
    const { queue, claims, witness } = this.#parts;
    const running = claims.running();
    const failed = running.filter((claim) => !this.#failed.has(claim));
    if (failed.length === 0) return;
    for (const claim of failed) this.#failed.add(claim);
    // What ran out of patience before can still be there.
    const alone = this.#isolation.suspect !== undefined && running.length === 1;
    witness.send((db) => queue.countFailures(failed, 1, alone, db));
  }

  /** The machine has lived through what it left word of. */
  async takeBack(): Promise<void> {
    const failed = [...this.#failed];
    if (failed.length === 0) return;
    await this.#parts.queue.countFailures(failed, -1, false);
    for (const claim of failed) this.#failed.delete(claim);
  }

  /** No failure has anything to do with this inbox any longer. */
  close(): void {
    this.#isolation.clear();
    this.#ignoreFailures();
  }
}
