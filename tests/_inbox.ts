import type { Update } from "../deps.ts";
import { createMemoryInbox, type UpdateInbox } from "../mod.ts";

/** What a durable inbox promises, without the disk. */
export class DurableInbox implements UpdateInbox<Update> {
  readonly durable = true;
  /** Unfinished updates by id, in the order of their arrival. */
  readonly stored = new Map<number, Update>();
  readonly seen = new Set<number>();
  broken: Error | undefined;
  #memory = createMemoryInbox<Update>();
  #open = false;

  async open() {
    this.#open = true;
    this.#memory = createMemoryInbox<Update>({ lookahead: 1e6 });
    // Other objects, as if they were read from a disk.
    const updates = [...this.stored.values()].map((u) => structuredClone(u));
    await this.#memory.append(updates, new AbortController().signal);
  }

  append(updates: Update[], signal: AbortSignal) {
    if (this.broken) return Promise.reject(this.broken);
    const fresh = updates.filter((u) => !this.seen.has(u.update_id));
    for (const update of fresh) {
      this.seen.add(update.update_id);
      this.stored.set(update.update_id, update);
    }
    return this.#memory.append(fresh, signal);
  }

  take(limit: number, signal: AbortSignal) {
    return this.#memory.take(limit, signal);
  }

  settle(update: Update) {
    if (this.#open) this.stored.delete(update.update_id);
  }

  close() {
    this.#open = false;
    return this.#memory.close();
  }

  stats() {
    return this.#memory.stats!();
  }
}
