/**
 * Updates that still run although their run is over, because its stop ran out of
 * time. A durable inbox offers them to the next run again, which must not run
 * them a second time at the same time.
 */
export class Leftovers<Y> {
  /** What to call at the end of a leftover, by the key of its update. */
  readonly #running = new Map<unknown, (() => void)[]>();

  get size(): number {
    return this.#running.size;
  }

  add(update: Y): void {
    this.#running.set(keyOf(update), []);
  }

  ended(update: Y): void {
    if (this.#running.size === 0) return;
    const callbacks = this.#running.get(keyOf(update));
    this.#running.delete(keyOf(update));
    for (const callback of callbacks ?? []) callback();
  }

  /** Calls back at the end of the update; returns false if it is no leftover. */
  await(update: Y, callback: () => void): boolean {
    const callbacks = this.#running.get(keyOf(update));
    callbacks?.push(callback);
    return callbacks !== undefined;
  }
}

function keyOf(update: unknown): unknown {
  return idOf(update) ?? update;
}

/** The id of an update, if it has one. */
export function idOf(update: unknown): number | undefined {
  return (update as { update_id?: number } | null | undefined)?.update_id;
}
