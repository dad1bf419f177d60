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
      const middleware = sequentialize<Context>((ctx) => ctx.keys);
      let handled = 0;
      // deno-lint-ignore require-await -- like the handlers of a bot
      const next = async () => void handled++;
      let ms = 0;
      for (let i = 0; i < count;) {
        // Made shortly before they are used, as in a bot, and not counted.
        const contexts = Array.from({ length: BATCH }, (): Context => ({
          update: { update_id: i },
          keys: keysOf(i++),
        }));
        const start = performance.now();
        let last: Promise<void> | undefined;
        for (const context of contexts) last = middleware(context, next);
        await last;
        while (handled < i) await Promise.resolve();
        ms += performance.now() - start;
      }
      return ms;
    },
  };
}
