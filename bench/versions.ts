/** The two versions that are compared, in one shape. */
import * as current from "../mod.ts";
// deno-lint-ignore no-import-prefix -- nothing but the benchmark needs it
import * as old from "npm:@grammyjs/runner@2.0.3";
import type { Bot } from "grammy";

type Middleware<C> = (ctx: C, next: () => Promise<void>) => Promise<void>;

/** What is measured of a version. */
export interface Version {
  createConcurrentSink(
    consumer: { consume: (update: number) => Promise<void> },
    errorHandler: (error: unknown) => Promise<void>,
    options?: {
      concurrency?: number;
      timeout?: { milliseconds: number; handler: () => void };
    },
  ): { handle(updates: number[]): Promise<number>; size(): number };
  sequentialize<C>(constraint: (ctx: C) => string | string[]): Middleware<C>;
  run(
    bot: Bot,
    options?: { sink?: { concurrency?: number } },
  ): { stop(): Promise<void> | undefined };
}

export const versions = {
  // Its types want a context of grammY and a bot of its own grammY.
  old: old as unknown as Version,
  current: current as unknown as Version,
};
