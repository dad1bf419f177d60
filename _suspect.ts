/**
 * How long an update that may have killed the process gets to run by itself: a
 * process dies sooner, or the death is put down to something else. What runs
 * already gets as long to end before.
 */
const ALONE_MS = 5000;
/** Longer after further deaths, for the sake of updates that kill slowly. */
const MOST_DOUBLINGS = 6;

/**
 * The inbox whose suspect runs by itself: one at a time in a process, since all
 * would pay for the death that one of them causes.
 */
let accuser: object | undefined;
const waiting = new Set<() => void>();

/**
 * Sees that a suspect, an update that may have killed the process, runs while
 * nothing else does that could kill it, but does not hold up the rest for ever.
 *
 * @typeParam T What stands for the updates of an inbox
 */
export class Isolation<T> {
  /** What runs and may kill the process yet. */
  readonly #dangerous = new Set<T>();
  #suspect: T | undefined;
  /** Set while a suspect runs, or waits for the others to end. */
  #patience: ReturnType<typeof setTimeout> | undefined;
  readonly #wake: () => void;
  readonly #onOutlived: (suspect: T | undefined) => void;

  /**
   * @param wake Called when a suspect of this inbox may run, as that of another
   * does no longer
   * @param onOutlived Called when what runs is not waited for any longer; it may
   * be a suspect
   */
  constructor(
    wake: () => void,
    onOutlived: (suspect: T | undefined) => void,
  ) {
    this.#wake = wake;
    this.#onOutlived = onOutlived;
  }

  /** The suspect that runs by itself. */
  get suspect(): T | undefined {
    return this.#suspect;
  }

  /** Whether a suspect may run. If another inbox is in the way, wakes later. */
  canAccuse(): boolean {
    if (this.#dangerous.size > 0) return false;
    if (accuser === undefined || accuser === this) return true;
    waiting.add(this.#wake);
    return false;
  }

  /**
   * A suspect starts to run by itself, for some time.
   *
   * @param furtherDeaths How many deaths it has seen since it became a suspect
   */
  accuse(suspect: T, furtherDeaths: number): void {
    this.acquit();
    this.#dangerous.add(suspect);
    this.#suspect = suspect;
    accuser = this;
    this.wait(ALONE_MS * 2 ** Math.min(furtherDeaths, MOST_DOUBLINGS));
  }

  /** Something that is no suspect starts to run. */
  add(item: T): void {
    this.#dangerous.add(item);
  }

  /** Something has ended, or is not going to run. */
  delete(item: T): void {
    if (!this.#dangerous.delete(item)) return;
    if (this.#suspect === item || this.#dangerous.size === 0) this.acquit();
  }

  /** Goes on after a while even though what runs does not end. */
  wait(ms = ALONE_MS): void {
    this.#patience ??= setTimeout(() => {
      const suspect = this.#suspect;
      this.clear();
      this.#onOutlived(suspect);
    }, ms);
  }

  /** No suspect runs by itself, or waits to, any longer. */
  acquit(): void {
    clearTimeout(this.#patience);
    this.#patience = this.#suspect = undefined;
    if (accuser !== this) return;
    accuser = undefined;
    for (const wake of waiting) wake();
    waiting.clear();
  }

  /** Forgets all that runs. */
  clear(): void {
    this.#dangerous.clear();
    this.acquit();
  }
}
