import type { Slot } from "./queue.ts";

/** Lets a class add its private fields to an object that exists already. */
class Existing {
  constructor(object: object) {
    return object;
  }
}

/**
 * Puts the slot of an update that is being handled by a bot under `run` into a
 * private field of the update: as invisible as an entry of a WeakMap, which costs
 * as much as all the rest of handling an update that does nothing.
 */
class Linked extends Existing {
  #slot: Slot;

  constructor(update: object, slot: Slot) {
    super(update);
    this.#slot = slot;
  }

  static link(update: object, slot: Slot): void {
    if (#slot in update) update.#slot = slot;
    else if (Object.isExtensible(update)) new Linked(update, slot);
    else frozen.set(update, slot);
  }

  static slotOf(update: object): Slot | undefined {
    return #slot in update ? update.#slot : frozen.get(update);
  }
}

/** The slots of updates that, being frozen, may take no private fields. */
const frozen = new WeakMap<object, Slot>();

/** Lets middleware find the slot of the update that it handles. */
export function linkSlot(update: unknown, slot: Slot | undefined): void {
  if (slot !== undefined && typeof update === "object" && update !== null) {
    Linked.link(update, slot);
  }
}

/** The slot of the update that a context object carries, if it has one. */
export function slotOf(ctx: unknown): Slot | undefined {
  const update = (ctx as { update?: unknown } | null | undefined)?.update;
  return typeof update === "object" && update !== null
    ? Linked.slotOf(update)
    : undefined;
}

/**
 * Gives the abort signal of the update that is being handled. Pass it on to
 * whatever takes long, so that nothing goes on in vain.
 *
 * The signal aborts with a `TimeoutError` when the update exceeds the time
 * limit of the sink, and with an `AbortError` when `stop({ timeout })` runs
 * out. Where no runner handles the update, it never aborts.
 *
 * @param ctx The context object of the update
 * @returns The abort signal of the update
 *
 * @example
 * ```ts
 * import { abortSignal, run } from "@grammyjs/runner";
 * import { Bot } from "grammy";
 *
 * const bot = new Bot("123456:token");
 * bot.command("weather", async (ctx) => {
 *   const signal = abortSignal(ctx);
 *   const response = await fetch("https://example.com/weather", { signal });
 *   await ctx.reply(await response.text());
 * });
 *
 * function main() {
 *   run(bot, {
 *     sink: { timeout: { milliseconds: 10_000, handler: () => {} } },
 *   });
 * }
 * ```
 */
export function abortSignal(ctx: { update: object }): AbortSignal {
  return slotOf(ctx)?.signal ?? new AbortController().signal;
}
