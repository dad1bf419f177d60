import process from "node:process";

/** From here on, codes tell of a signal, so of something outside. */
const FIRST_SIGNAL_CODE = 128;

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
  const onExit = (code: unknown) => {
    if (Number(code) > 0 && Number(code) < FIRST_SIGNAL_CODE) callback();
  };
  const { Deno } = globalThis as { Deno?: { exitCode: number } };
  const onUnload = () => onExit(Deno?.exitCode);
  process.on("exit", onExit);
  process.on("uncaughtExceptionMonitor", callback);
  // Deno tells of an exit in this way only, unless `process.exit` was called.
  globalThis.addEventListener?.("unload", onUnload);
  return () => {
    process.off("exit", onExit);
    process.off("uncaughtExceptionMonitor", callback);
    globalThis.removeEventListener?.("unload", onUnload);
  };
}
