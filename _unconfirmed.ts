import { idOf } from "./_leftovers.ts";

/**
 * The newest batch of a source that can confirm, as Telegram learns only from the
 * next request that it has arrived. A stop leaves there what has not been started.
 */
export class Unconfirmed<Y> {
  #batch: Y[] = [];
  /**
   * Largest id of the updates that have been started since the batch arrived;
   * `Infinity` if all of it is stored durably.
   */
  #startedId = -Infinity;
  /** Updates that a stop leaves on Telegram. */
  #left = new Set<Y>();

  /** A batch has arrived, so the one before it is confirmed. */
  receive(batch: Y[]): void {
    this.#batch = batch;
    this.#startedId = -Infinity;
  }

  /** All of the batch is stored: none of it needs to come again. */
  store(): void {
    this.#startedId = Infinity;
  }

  /** Somebody else confirms. */
  forget(): void {
    this.#batch = [];
  }

  /** An update has been started. */
  start(update: Y): void {
    const id = idOf(update);
    if (id !== undefined && id > this.#startedId) this.#startedId = id;
  }

  /**
   * Leaves what has not been acknowledged, has not been started, and comes after
   * all that has been.
   *
   * @param acknowledged Telegram has been told of all updates with smaller ids
   */
  leave(acknowledged: number): void {
    this.#left = new Set(
      this.#batch.filter((update) => {
        const id = idOf(update)!;
        return id >= acknowledged && id > this.#startedId;
      }),
    );
  }

  isLeft(update: Y): boolean {
    return this.#left.size > 0 && this.#left.has(update);
  }

  /** What to ask for next time; not finite if there is nothing to confirm. */
  get offset(): number {
    let first = Infinity;
    let next = -Infinity;
    for (const update of this.#batch) {
      const id = idOf(update)!;
      if (this.isLeft(update)) first = Math.min(first, id);
      next = Math.max(next, id + 1);
    }
    return Math.min(first, next);
  }
}
