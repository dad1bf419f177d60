/** How fast updates get from a server to the handlers of a bot. */
import type { Bot } from "grammy";
import { nextTurn } from "../_time.ts";
import type { Contender } from "./measure.ts";
import type { BenchServer, ServerThread } from "./server.ts";
import type { Version } from "./versions.ts";

/** Starts a bot. Resolves with a function that stops it. */
export type Launch = (bot: Bot) => () => Promise<unknown> | undefined;

/** Launches a bot with a runner. */
export function withRunner(version: Version, concurrency?: number): Launch {
  return (bot) => {
    const handle = version.run(bot, { sink: { concurrency } });
    return () => handle.stop();
  };
}

/** Launches a bot without a runner. */
export function withoutRunner(): Launch {
  return (bot) => {
    const running = bot.start();
    return async () => {
      await bot.stop();
      await running;
    };
  };
}

/**
 * Fetches updates and hands them to the bot, without waiting for handlers: what is
 * left of the time when a runner costs nothing.
 */
export function withNothing(count: number): Launch {
  async function work(bot: Bot): Promise<void> {
    let fetching = bot.api.getUpdates({ timeout: 30 });
    for (let fetched = 0; fetched < count;) {
      const updates = await fetching;
      fetched += updates.length;
      if (fetched < count) {
        const offset = updates.at(-1)!.update_id + 1;
        fetching = bot.api.getUpdates({ offset, timeout: 30 });
      }
      // As the runner does, so that the request is on its way first.
      await nextTurn();
      await nextTurn();
      for (const update of updates) bot.handleUpdate(update);
    }
  }
  return (bot) => {
    const working = work(bot);
    return () => working;
  };
}

/** Fetches a backlog of updates and does nothing with them. */
export function drain(
  thread: ServerThread,
  launch: Launch,
  count: number,
): Contender {
  return {
    async round() {
      const server = await thread.start(count);
      const bot = server.createBot();
      let handled = 0;
      const allHandled = new Promise<void>((resolve) => {
        bot.use(() => {
          if (++handled === count) resolve();
        });
      });
      const start = performance.now();
      const stop = launch(bot);
      await allHandled;
      const ms = performance.now() - start;
      await stop();
      await server.close();
      return ms;
    },
  };
}

/**
 * Fetches the same backlog through the bot and handles nothing. No runner can be
 * faster, as Telegram answers one getUpdates at a time.
 */
export function fetchOnly(thread: ServerThread, count: number): Contender {
  return {
    async round() {
      const server = await thread.start(count);
      const { api } = server.createBot();
      let offset = 0;
      const start = performance.now();
      for (let fetched = 0; fetched < count;) {
        const updates = await api.getUpdates({ offset, timeout: 30 });
        fetched += updates.length;
        offset = updates.at(-1)!.update_id + 1;
      }
      const ms = performance.now() - start;
      await server.close();
      return ms;
    },
  };
}

/** How busy handlers were while there was a backlog. */
export interface Load {
  /** Part of the time of all slots for which they were taken. */
  busy: number;
  /** Updates per second, from the second batch on. */
  rate: number;
  /** Largest number of handlers at the same time. */
  most: number;
  /** Number of getUpdates calls. */
  polls: number;
}

const LATENCY_MS = 40;
const HANDLER_MS = 50;

/** Works through a backlog that is a network away, with handlers that take time. */
export async function load(
  thread: ServerThread,
  version: Version,
  concurrency: number,
  count: number,
): Promise<Load> {
  const server = await thread.start(count, LATENCY_MS);
  const bot = server.createBot();
  const batches = new Batches(count);
  let running = 0;
  let most = 0;
  let ended = 0;
  let busyMs = 0;
  let changedAt = 0;
  const changes = (by: number) => {
    const now = performance.now();
    // Only while there is a backlog: from the first update to the last one.
    if (changedAt > 0 && !batches.isOver) {
      busyMs += Math.min(running, concurrency) * (now - changedAt);
    }
    changedAt = now;
    running += by;
    most = Math.max(most, running);
  };
  let allEnded: () => void;
  const done = new Promise<void>((resolve) => allEnded = resolve);
  bot.use(async () => {
    changes(1);
    batches.add(1);
    await new Promise((resolve) => setTimeout(resolve, HANDLER_MS));
    changes(-1);
    if (++ended === count) allEnded();
  });
  const handle = version.run(bot, { sink: { concurrency } });
  await done;
  const polls = await server.polls();
  await handle.stop();
  await server.close();
  return {
    busy: busyMs / (batches.elapsedMs * concurrency),
    rate: batches.rate,
    most,
    polls,
  };
}

/** Fetches the same backlog and only counts: what one connection can do. */
export async function bareRate(
  thread: ServerThread,
  count: number,
): Promise<number> {
  const server: BenchServer = await thread.start(count, LATENCY_MS);
  const batches = new Batches(count);
  let offset = 0;
  while (!batches.isOver) {
    const response = await fetch(`${server.api}/getUpdates`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ offset, limit: 100, timeout: 30 }),
    });
    const { result } = await response.json();
    offset = result.at(-1).update_id + 1;
    batches.add(result.length);
  }
  await server.close();
  return batches.rate;
}

/** The time from the first update to the last one. */
class Batches {
  #seen = 0;
  #first = 0;
  #last = 0;

  constructor(readonly count: number) {}

  add(count: number): void {
    const now = performance.now();
    if (this.#seen === 0) this.#first = now;
    this.#seen += count;
    this.#last = now;
  }

  get isOver(): boolean {
    return this.#seen >= this.count;
  }

  get elapsedMs(): number {
    return this.#last - this.#first;
  }

  /** The first batch is not counted, as it starts the clock. */
  get rate(): number {
    return (this.count - 100) / this.elapsedMs * 1000;
  }
}
