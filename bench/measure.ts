/** Ways to compare programs on a machine that does other things as well. */

/** What a round costs: milliseconds for `count` pieces of work. */
export interface Contender {
  /** Does the work once. Resolves with the milliseconds that it took. */
  round(): Promise<number>;
}

/**
 * Lets contenders take turns, so that whatever else happens on the machine hits
 * all of them. Every other round goes in reverse order, as the first one may pay
 * for the garbage of the one before.
 *
 * @param contenders They get one round to warm up that does not count
 * @param rounds Number of rounds that count
 * @returns The median of the milliseconds of each contender, in their order
 */
export async function medians(
  contenders: Contender[],
  rounds: number,
): Promise<number[]> {
  const times = contenders.map((): number[] => []);
  for (let round = 0; round <= rounds; round++) {
    const order = [...contenders.keys()];
    if (round % 2 === 1) order.reverse();
    for (const i of order) {
      const ms = await contenders[i].round();
      if (round > 0) times[i].push(ms);
    }
  }
  return times.map(median);
}

/** The middle one of the values, or the mean of the two that are. */
export function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? sorted[middle]
    : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Prints rows below their heads; numbers to the right, words to the left. */
export function printTable(heads: string[], rows: string[][]): void {
  const widths = heads.map((head, i) =>
    Math.max(head.length, ...rows.map((row) => row[i].length))
  );
  const isNumeric = heads.map((_, i) =>
    rows.some((row) => /^[\d,.]+[x%]?$/.test(row[i]))
  );
  const print = (cells: string[]) =>
    console.log(
      cells.map((cell, i) =>
        isNumeric[i] ? cell.padStart(widths[i]) : cell.padEnd(widths[i])
      ).join("  ").trimEnd(),
    );
  print(heads);
  print(widths.map((width) => "-".repeat(width)));
  rows.forEach(print);
}
