/** How long a concurrent sink takes per update. */
import type { Contender } from "./measure.ts";
import type { Version } from "./versions.ts";

const BATCH = 100;
const SLOTS = 500;

/** Runs updates that do nothing, in batches as getUpdates returns them. */
export function passing(
  { createConcurrentSink }: Version,
  count: number,
  timeLimit: boolean,
): Contender {
  const batch = Array.from({ length: BATCH }, (_, i) => i);
  return {
    async round() {
      const sink = createConcurrentSink(
        { consume: async () => {} },
        (error) => Promise.reject(error),
        timeLimit
          ? { timeout: { milliseconds: 10_000, handler: () => {} } }
          : {},
      );
      const start = performance.now();
      for (let i = 0; i < count; i += BATCH) await sink.handle(batch);
      while (sink.size() > 0) await Promise.resolve();
      return performance.now() - start;
    },
  };
}

/** Keeps all slots taken: an update comes whenever one has been let go. */
export function full(
  { createConcurrentSink }: Version,
  count: number,
): Contender {
  return {
    async round() {
      const release: (() => void)[] = [];
      const sink = createConcurrentSink(
        {
          consume: (slot) =>
            new Promise<void>((resolve) => release[slot] = resolve),
        },
        (error) => Promise.reject(error),
        { concurrency: SLOTS },
      );
      let room = sink.handle(Array.from({ length: SLOTS }, (_, i) => i));
      const start = performance.now();
      for (let i = 0; i < count; i++) {
        // Visits all slots, far apart from one another.
        const slot = i * 211 % SLOTS;
        release[slot]();
        await room;
        room = sink.handle([slot]);
      }
      const ms = performance.now() - start;
      if (sink.size() !== SLOTS) throw new Error(`${sink.size()} in flight`);
      for (const end of release) end();
      return ms;
    },
  };
}
