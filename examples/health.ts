// An HTTP endpoint that tells whether the bot is well, and if not, why not.
import { run, type RunnerStats } from "@grammyjs/runner";
import { Bot } from "grammy";

/** The limits of `healthOf`, in milliseconds. */
export interface Limits {
  /** How long a call to `getUpdates` can take: its timeout and the grace. */
  poll: number;
  /** How long it may happen that all slots are taken and nothing ends. */
  stuck: number;
}

/** The first two are well. */
export type Health =
  | "quiet" // nothing arrives
  | "busy" // updates are being handled
  | "deaf" // Telegram cannot be reached
  | "stuck" // handlers take all the slots and do not end
  | "stopping" // takes nothing new, finishes what it has
  | "stopped"; // or failed, or not started

export function healthOf(stats: RunnerStats, limits: Limits): Health {
  const { state, startedAt = 0, lastPollAt = 0, blockedMs } = stats;
  if (state === "draining") return "stopping";
  if (state !== "polling" && state !== "retrying") return "stopped";
  if (blockedMs > limits.stuck) return "stuck";
  // Not to poll is right for bots that lag behind, that leave it to another
  // machine, or that get their updates by webhooks.
  const polls = stats.buffered === 0 && stats.inbox.leading !== false &&
    (stats.polls > 0 || state === "retrying");
  const silentMs = Date.now() - Math.max(startedAt, lastPollAt);
  if (polls && silentMs > limits.poll) return "deaf";
  return stats.running + stats.parked + stats.buffered > 0 ? "busy" : "quiet";
}

/** What a probe gets to see. Errors may quote secrets: they are for the log. */
export function answer(stats: RunnerStats, limits: Limits): Response {
  const { lastError: _, ...numbers } = stats;
  const health = healthOf(stats, limits);
  const status = health === "quiet" || health === "busy" ? 200 : 503;
  return Response.json({ health, ...numbers }, { status });
}

if (import.meta.main) {
  const bot = new Bot(Deno.env.get("BOT_TOKEN") ?? "", {
    client: { apiRoot: Deno.env.get("BOT_API_ROOT") },
  });
  bot.on("message:text", (ctx) => ctx.reply(`You said: ${ctx.msg.text}`));
  bot.catch((error) => console.error(error.message));

  const fetch = { timeout: 30 };
  const pollGrace = 10_000;
  const limits = { poll: fetch.timeout * 1000 + pollGrace, stuck: 60_000 };
  const handle = run(bot, { runner: { fetch, pollGrace } });
  const port = Number(Deno.env.get("PORT") ?? 0); // 0 picks a free one
  Deno.serve(
    { hostname: "127.0.0.1", port },
    () => answer(handle.stats(), limits),
  );
  Deno.addSignalListener("SIGINT", () => handle.stop().then(() => Deno.exit()));
}
