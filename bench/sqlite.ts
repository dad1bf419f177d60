/**
 * What the SQLite inbox costs: the rate of draining no-op updates over HTTP with
 * and without it, at once and with a round trip of 40 ms.
 */
import { run } from "../mod.ts";
import { createSqliteInbox } from "../sqlite_inbox.ts";
import type { Update } from "../deps.ts";
import { type Contender, medians } from "./measure.ts";
import { ServerThread } from "./server.ts";

const ROUNDS = 7;
const CONTENDERS = ["none", "normal", "full"] as const;

using thread = new ServerThread();
const dir = Deno.makeTempDirSync();
let files = 0;

function drain(
  synchronous: (typeof CONTENDERS)[number],
  count: number,
  latency: number,
): Contender {
  return {
    async round() {
      const server = await thread.start(count, latency);
      const bot = server.createBot();
      let handled = 0;
      const allHandled = new Promise<void>((resolve) => {
        bot.use(() => {
          if (++handled === count) resolve();
        });
      });
      const inbox = synchronous === "none"
        ? undefined
        : createSqliteInbox<Update>(`${dir}/${files++}.db`, { synchronous });
      const start = performance.now();
      const handle = run(bot, { inbox });
      await allHandled;
      const ms = performance.now() - start;
      await handle.stop();
      await server.close();
      return ms;
    },
  };
}

try {
  for (const [count, latency] of [[20_000, 0], [2000, 40]]) {
    const times = await medians(
      CONTENDERS.map((which) => drain(which, count, latency)),
      ROUNDS,
    );
    console.log(`${count} updates, round trip of ${latency} ms more:`);
    for (const [i, which] of CONTENDERS.entries()) {
      const rate = Math.round(count / times[i] * 1000);
      const share = (times[0] / times[i] * 100).toFixed(1);
      console.log(`  ${which.padEnd(6)} ${rate} updates/s, ${share} %`);
    }
  }
} finally {
  Deno.removeSync(dir, { recursive: true });
}
