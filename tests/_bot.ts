/** What the end-to-end tests share: a real bot against the local server. */
import { Bot, type Context } from "grammy";
import process from "node:process";
import { run, type RunnerHandle, type RunOptions } from "../mod.ts";
import { type BotApiServer, startBotApiServer } from "../testing.ts";
import type { Update } from "../deps.ts";

/** Without the delays that the real server adds to repeated requests. */
export function startServer(): Promise<BotApiServer> {
  return startBotApiServer({ quirks: false });
}

export function createBot(server: BotApiServer): Bot {
  return new Bot(server.token, { client: { apiRoot: server.url } });
}

/** Runs a bot with one handler for everything. */
export function runBot(
  server: BotApiServer,
  handler: (ctx: Context) => unknown,
  options: RunOptions<Update> = {},
): RunnerHandle<Update> {
  const bot = createBot(server);
  bot.use((ctx) => handler(ctx) as Promise<void>);
  return run(bot, options);
}

/** Pushes texts; the user is the chat. */
export function pushTexts(
  server: BotApiServer,
  count: number,
  chatId = 1,
): Update[] {
  return Array.from(
    { length: count },
    (_, i) => server.pushText(`${i}`, { userId: chatId, chatId }),
  );
}

/** Everything that another process would receive now. */
export async function receiveAll(server: BotApiServer): Promise<number[]> {
  const bot = createBot(server);
  const ids: number[] = [];
  while (true) {
    const offset = ids.length === 0 ? 0 : ids[ids.length - 1] + 1;
    const updates = await bot.api.getUpdates({ offset, limit: 100 });
    if (updates.length === 0) return ids;
    ids.push(...updates.map((update) => update.update_id));
  }
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** A promise that is settled from outside. */
export class Deferred<T = void> {
  resolve!: (value: T) => void;
  readonly promise = new Promise<T>((resolve) => this.resolve = resolve);
}

/** Collects what is printed to the console as an error meanwhile. */
export async function captureErrors(
  fn: () => Promise<void>,
): Promise<string[]> {
  const original = console.error;
  const lines: string[] = [];
  console.error = (...data: unknown[]) => void lines.push(data.join(" "));
  try {
    await fn();
  } finally {
    console.error = original;
  }
  return lines;
}

/** Waits until the condition holds. */
export async function until(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 10_000;
  while (!condition()) {
    if (Date.now() > deadline) {
      throw new Error(`Waited 10 s in vain for ${condition}`);
    }
    await sleep(1);
  }
}

/** Does what the runtime does when nobody has caught an error. */
export function failProcess(): void {
  const events: { emit(name: string): void } = process;
  events.emit("uncaughtExceptionMonitor");
}
