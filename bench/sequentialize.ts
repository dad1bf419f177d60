/** How long `sequentialize` takes per update. */
import type { Contender } from "./measure.ts";
import type { Version } from "./versions.ts";

interface Context {
  update: { update_id: number };
  keys: string | string[];
}

/** Number of updates that are under way at the same time. */
const BATCH = 100;

/**
 * Passes updates through the middleware.
 *
 * @param keysOf The constraints of the update with that number
 */
export function sequence(
  { sequentialize }: Version,
  count: number,
  keysOf: (i: number) => string | string[],
): Contender {
  return {
    async round() {
      // Made anew, so that the other cases do not have to live with them.
      const contexts = Array.from({ length: count }, (_, i): Context => ({
        update: { update_id: i },
        keys: keysOf(i),
      }));
      const middleware = sequentialize<Context>((ctx) => ctx.keys);
      let handled = 0;
      // deno-lint-ignore require-await -- like the handlers of a bot
      const next = async () => void handled++;
      const start = performance.now();
      for (let i = 0; i < count;) {
        const end = Math.min(count, i + BATCH);
        let last: Promise<void> | undefined;
        while (i < end) last = middleware(contexts[i++], next);
        await last;
        while (handled < end) await Promise.resolve();
      }
      return performance.now() - start;
    },
  };
}
