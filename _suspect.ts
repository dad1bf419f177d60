/**
 * How long an update that may have killed the process gets to run by itself: a
 * process dies sooner, or the death is put down to something else. What runs
 * already gets as long to end before.
 */
export const ALONE_MS = 5000;
const MOST_DOUBLINGS = 6;

/** Longer after further deaths, for the sake of updates that kill slowly. */
export function aloneMs(furtherDeaths: number): number {
  return ALONE_MS * 2 ** Math.min(furtherDeaths, MOST_DOUBLINGS);
}
