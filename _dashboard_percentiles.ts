/** Of how many seconds, the current one included, durations are known. */
export const WINDOW_SECONDS = 10;

/** Each class of durations begins this much above the one before. */
const GROWTH = 1.05;
/** The last class begins at about a day. */
const CLASSES = 376;

/**
 * Percentiles of the durations of the last ten seconds. They are counted in
 * classes, so that memory is constant and a value is off by 5 % at most.
 */
export class Percentiles {
  /** Counts per class, for each second; the newest is at `#newest`. */
  readonly #seconds = Array.from(
    { length: WINDOW_SECONDS },
    () => new Uint32Array(CLASSES),
  );
  #newest = 0;

  record(ms: number): void {
    const index = ms < 1 ? 0 : 1 + Math.floor(Math.log(ms) / Math.log(GROWTH));
    this.#seconds[this.#newest][Math.min(index, CLASSES - 1)]++;
  }

  /** Forgets the oldest second. */
  nextSecond(): void {
    this.#newest = (this.#newest + 1) % WINDOW_SECONDS;
    this.#seconds[this.#newest].fill(0);
  }

  /**
   * The duration that the given part, 0..1, of all durations does not exceed;
   * `undefined` if there are none.
   */
  at(part: number): number | undefined {
    const counts = new Array<number>(CLASSES).fill(0);
    let total = 0;
    for (const second of this.#seconds) {
      for (let i = 0; i < CLASSES; i++) {
        counts[i] += second[i];
        total += second[i];
      }
    }
    if (total === 0) return undefined;
    const rank = Math.max(1, Math.ceil(total * part));
    let seen = 0;
    const index = counts.findIndex((count) => (seen += count) >= rank);
    return index === 0 ? 0 : GROWTH ** (index - 0.5);
  }
}
