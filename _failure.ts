import process from "node:process";

/** From here on, codes tell of a signal, so of something outside. */
const FIRST_SIGNAL_CODE = 128;

/** One listener does for all of them: many would look like a leak. */
const callbacks = new Set<() => void>();

/**
 * Calls back when the process is about to end through a failure of its own: an
 * uncaught error, or an exit with a code that tells of a failure. There is only
 * time for what is synchronous. As others can still handle an uncaught error,
 * the process may live on.
 *
 * Nobody is called if the process is killed, runs out of memory, or aborts.
 *
 * @returns A function that ends this
 */
export function onFailure(callback: () => void): () => void {
  if (callbacks.size === 0) {
    process.on("exit", onExit);
    process.on("uncaughtExceptionMonitor", fail);
    // Deno tells of an exit in this way only, unless `process.exit` was called.
    globalThis.addEventListener?.("unload", onUnload);
  }
  callbacks.add(callback);
  return () => {
    callbacks.delete(callback);
    if (callbacks.size > 0) return;
    process.off("exit", onExit);
    process.off("uncaughtExceptionMonitor", fail);
    globalThis.removeEventListener?.("unload", onUnload);
  };
}

function onExit(code: unknown): void {
  if (Number(code) > 0 && Number(code) < FIRST_SIGNAL_CODE) fail();
}

function onUnload(): void {
  onExit((globalThis as { Deno?: { exitCode: number } }).Deno?.exitCode);
}

function fail(): void {
  for (const callback of callbacks) callback();
}
