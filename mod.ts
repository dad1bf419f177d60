/**
 * Runs grammY bots on long polling or webhooks, concurrently and reliably.
 *
 * @example
 * ```ts
 * import { run, sequentialize } from "@grammyjs/runner";
 * import { Bot } from "grammy";
 *
 * function main() {
 *   const bot = new Bot("123456:token");
 *   bot.use(sequentialize((ctx) => ctx.chat?.id.toString()));
 *   bot.on("message", (ctx) => ctx.reply("Got it!"));
 *   bot.catch((error) => console.error(error.message));
 *   run(bot);
 * }
 * ```
 *
 * @module
 */
export { abortSignal } from "./_slot.ts";
export { WorkerError } from "./_threads_errors.ts";
export type { GrammySignal } from "./deps.ts";
export {
  distribute,
  type DistributeMiddleware,
  type DistributeOptions,
  type WorkerResourceLimits,
} from "./distribute.ts";
export type {
  PollEvent,
  RunnerEvent,
  RunnerState,
  RunnerStats,
  WorkerEvent,
} from "./events.ts";
export {
  type BotAdapter,
  createUpdateFetcher,
  createUpdateSupplier,
  type FetchOptions,
  type RunnerOptions,
} from "./fetcher.ts";
export {
  createMemoryInbox,
  type InboxRun,
  type MemoryInboxOptions,
  type UpdateInbox,
} from "./inbox.ts";
export {
  DecayingDeque,
  type DequeOptions,
  type Slot,
  type TaskEnd,
  type TaskObserver,
  type TaskOutcome,
} from "./queue.ts";
export {
  createRunner,
  type CreateRunnerOptions,
  run,
  type RunnerHandle,
  type RunOptions,
  type StopOptions,
  type StopReport,
} from "./runner.ts";
export { sequentialize } from "./sequentialize.ts";
export {
  createBatchSink,
  createConcurrentSink,
  createSequentialSink,
  type SinkOptions,
  type UpdateConsumer,
  type UpdateSink,
} from "./sink.ts";
export {
  createSource,
  type SourceOptions,
  type UpdateSource,
  type UpdateSupplier,
} from "./source.ts";
export {
  createWebhookSource,
  type NodeRequest,
  type NodeResponse,
  type WebhookSource,
  type WebhookSourceOptions,
} from "./webhook.ts";
export { BotWorker } from "./worker.ts";
