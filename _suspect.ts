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

/**
 * The inbox whose suspect runs by itself: one at a time in a process, since all
 * would pay for the death that one of them causes.
 */
let accuser: object | undefined;
const waiting = new Set<() => void>();

/** Whether a suspect of the inbox may run; if not, tells when it may. */
export function mayAccuse(inbox: object, wake: () => void): boolean {
  if (accuser === undefined || accuser === inbox) return true;
  waiting.add(wake);
  return false;
}

/** A suspect of the inbox runs from now on. */
export function accuse(inbox: object): void {
  accuser = inbox;
}

/** No suspect of the inbox runs by itself any longer. */
export function acquit(inbox: object): void {
  if (accuser !== inbox) return;
  accuser = undefined;
  for (const wake of waiting) wake();
  waiting.clear();
}
