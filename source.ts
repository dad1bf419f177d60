import { sleep } from "./_time.ts";
import type { GrammySignal } from "./deps.ts";
import type { PollEvent } from "./events.ts";

/**
 * Fetches updates in batches. `run(bot)` makes one that calls `getUpdates`; you
 * need your own only to take updates from somewhere else.
 *
 * @typeParam Y Type of the updates
 *
 * @example
 * ```ts
 * import { createSource, type UpdateSupplier } from "@grammyjs/runner";
 *
 * const supplier: UpdateSupplier<string> = {
 *   async supply(batchSize, signal) {
 *     const url = `https://example.com/updates?limit=${batchSize}`;
 *     const response = await fetch(url, { signal });
 *     return await response.json();
 *   },
 * };
 * const source = createSource(supplier);
 * ```
 */
export interface UpdateSupplier<Y> {
  /**
   * Fetches the next batch of updates.
   *
   * @param batchSize Largest number of updates to return; can be `Infinity`
   * @param signal Aborts when the source is closed; the request must end then
   * @param emit Tells the observers of a runner about fetching
   */
  supply: (
    batchSize: number,
    signal: AbortSignal & GrammySignal,
    emit?: (event: PollEvent) => void,
  ) => Promise<Y[]>;
  /**
   * Acknowledges all updates below an id, so that they are not supplied again,
   * and goes on from there: updates from that id on are supplied (again) by the
   * next call of `supply`.
   *
   * Only a supplier with this method can take updates back that a stop has left
   * unstarted; whatever any other one has supplied is run.
   */
  confirm?: (offset: number, signal: AbortSignal) => Promise<void>;
  /**
   * Resolves when updates can be handled: updates that are still in the inbox
   * from earlier may be there before the first request for more. At once if
   * absent.
   */
  ready?: (
    signal: AbortSignal,
    emit?: (event: PollEvent) => void,
  ) => Promise<void>;
  /**
   * The id below which updates count as acknowledged, because a request has been
   * issued that said so. If absent, asking for the next batch acknowledges the
   * one before.
   */
  acknowledged?: () => number;
  /**
   * Forgets the position: the next call of `supply` goes on from the first update
   * that has not been acknowledged, by whichever process. Called before fetching
   * whenever another process may have done so. Without this method, updates that
   * could not be stored are kept until they can.
   */
  rewind?: () => void;
}

/**
 * Yields updates in batches: the side of a runner that faces the network.
 *
 * @typeParam Y Type of the updates
 *
 * @example
 * ```ts
 * import type { UpdateSource } from "@grammyjs/runner";
 *
 * // Yields one update, and ends.
 * let active = false;
 * const source: UpdateSource<string> = {
 *   async *generator() {
 *     active = true;
 *     yield ["ping"];
 *     active = false;
 *   },
 *   setGeneratorPace: () => {},
 *   isActive: () => active,
 *   close: () => {},
 * };
 * ```
 */
export interface UpdateSource<Y> {
  /**
   * Starts to fetch. Asking for the next batch acknowledges the one before.
   *
   * @param emit Tells the observers of a runner about fetching
   */
  generator(emit?: (event: PollEvent) => void): AsyncGenerator<Y[]>;
  /**
   * Limits how many updates the generator yields at once from now on.
   *
   * @param pace A positive integer, or `Infinity`
   */
  setGeneratorPace(pace: number): void;
  /** Whether the source is being iterated over and has not been closed. */
  isActive(): boolean;
  /**
   * Interrupts the current request and ends the generator. To open the source
   * again, iterate over a new generator.
   */
  close(): void;
  /** See {@link UpdateSupplier.confirm}. */
  confirm?(offset: number, signal: AbortSignal): Promise<void>;
  /** See {@link UpdateSupplier.ready}. */
  ready?(
    signal: AbortSignal,
    emit?: (event: PollEvent) => void,
  ): Promise<void>;
  /** See {@link UpdateSupplier.acknowledged}. */
  acknowledged?(): number;
  /** See {@link UpdateSupplier.rewind}. */
  rewind?(): void;
}

/**
 * Options of {@link createSource}.
 *
 * @example
 * ```ts
 * import { run, type SourceOptions } from "@grammyjs/runner";
 * import { Bot } from "grammy";
 *
 * // Fewer requests for a bot that need not answer at once.
 * const source: SourceOptions = {
 *   speedTrafficBalance: 1,
 *   maxDelayMilliseconds: 2000,
 * };
 *
 * function main() {
 *   run(new Bot("123456:token"), { source });
 * }
 * ```
 */
export interface SourceOptions {
  /**
   * Whether to fetch updates as fast as possible (`0`), or in as few requests as
   * possible (`1`), or something in between. Above 0, the source waits between
   * requests for as long as it takes to fill a batch at the current rate of
   * updates, multiplied by this number. It never waits while batches are full.
   *
   * @default 0
   */
  speedTrafficBalance?: number;
  /**
   * The longest wait between requests, in milliseconds; at least 0.
   *
   * @default 500
   */
  maxDelayMilliseconds?: number;
}

/** The number of updates that one call to `getUpdates` can return. */
const FULL_BATCH = 100;

/**
 * Creates a source that fetches updates from a supplier.
 *
 * @typeParam Y Type of the updates
 * @param supplier Fetches the updates
 * @param options Further options
 * @returns A new source
 * @throws {RangeError} If an option is out of bounds
 * @throws {TypeError} If an option is of the wrong type, or the supplier has no
 * method `supply`
 *
 * @example
 * ```ts
 * import { createSource } from "@grammyjs/runner";
 *
 * const source = createSource({
 *   supply: (batchSize) => Promise.resolve(Array<string>(batchSize).fill("ping")),
 * });
 * source.setGeneratorPace(2);
 * for await (const batch of source.generator()) {
 *   console.log(batch); // ["ping", "ping"]
 *   source.close();
 * }
 * ```
 */
export function createSource<Y>(
  supplier: UpdateSupplier<Y>,
  options: SourceOptions = {},
): UpdateSource<Y> {
  const { speedTrafficBalance = 0, maxDelayMilliseconds = 500 } = options;
  if (typeof supplier?.supply !== "function") {
    throw new TypeError(
      `Cannot create source: the update supplier must have a method supply: received ${supplier}`,
    );
  }
  check(
    "speedTrafficBalance",
    speedTrafficBalance,
    "between 0 and 1",
    speedTrafficBalance >= 0 && speedTrafficBalance <= 1,
  );
  check(
    "maxDelayMilliseconds",
    maxDelayMilliseconds,
    "at least 0",
    maxDelayMilliseconds >= 0,
  );
  let pace = Infinity;
  /** Closes the generator that is being iterated over. */
  let current: AbortController | undefined;

  async function* generator(
    emit?: (event: PollEvent) => void,
  ): AsyncGenerator<Y[]> {
    const controller = current = new AbortController();
    const { signal } = controller;
    let lastArrival = Date.now();
    try {
      while (!signal.aborted) {
        const batch = await supplier.supply(
          pace,
          signal as AbortSignal & GrammySignal,
          emit,
        );
        const now = Date.now();
        yield batch;
        const delay = speedTrafficBalance === 0 ? 0 : speedTrafficBalance *
          Math.min(
            maxDelayMilliseconds,
            msToFill(
              batch.length,
              Math.min(pace, FULL_BATCH),
              now - lastArrival,
            ),
          );
        lastArrival = now;
        if (delay > 0) await sleep(delay, signal);
      }
    } catch (error) {
      if (!signal.aborted) throw error;
    } finally {
      if (current === controller) current = undefined;
    }
  }

  return {
    generator,
    setGeneratorPace: (newPace) => void (pace = newPace),
    isActive: () => current !== undefined,
    close() {
      const controller = current;
      current = undefined;
      controller?.abort(
        new DOMException("The source was closed", "AbortError"),
      );
    },
    ...(supplier.confirm && {
      confirm: (offset, signal) => supplier.confirm!(offset, signal),
    }),
    ...(supplier.ready && {
      ready: (signal, emit) => supplier.ready!(signal, emit),
    }),
    ...(supplier.acknowledged && {
      acknowledged: () => supplier.acknowledged!(),
    }),
    ...(supplier.rewind && { rewind: () => supplier.rewind!() }),
  };
}

/** How long it takes until a batch is full at the rate of the last one. */
function msToFill(count: number, size: number, elapsedMs: number): number {
  if (count === 0 || count >= size) return 0;
  return elapsedMs * (size / count - 1);
}

function check(name: string, value: unknown, rule: string, ok: boolean): void {
  if (typeof value !== "number") {
    throw new TypeError(
      `Cannot create source: ${name} must be a number: received ${value}`,
    );
  }
  if (!ok) {
    throw new RangeError(
      `Cannot create source: ${name} must be ${rule}: received ${value}`,
    );
  }
}
