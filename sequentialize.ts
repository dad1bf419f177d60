import { keyOf } from "./_key.ts";
import { slotOf } from "./_slot.ts";

/** An update that has asked for its constraints. */
interface Entry {
  /** Constraints of the update. */
  readonly keys: string[];
  /** Number of predecessors that still hold or await one of the constraints. */
  blockers: number;
  /**
   * The first entry that counts this one among its blockers. Most have no more,
   * as each key has only one successor.
   */
  successor: Entry | undefined;
  /** The other ones, once per shared key. */
  otherSuccessors: Entry[] | undefined;
  /** Called when `blockers` reaches 0; set iff the update waits. */
  proceed: (() => void) | undefined;
  /** Given up while it waited: it passes its turn on when that comes. */
  cancelled: boolean;
  released: boolean;
}

/**
 * For every constraint in use the newest update that has asked for it. Each
 * update waits for those it found there, which form a graph without cycles, as
 * all edges point to older updates.
 */
export class ConstraintMap {
  readonly #newest = new Map<string, Entry>();

  /** Number of constraints that are held or awaited. */
  get size(): number {
    return this.#newest.size;
  }

  /** Queues up for all keys at once. */
  acquire(keys: string[]): Entry {
    const entry: Entry = {
      keys,
      blockers: 0,
      successor: undefined,
      otherSuccessors: undefined,
      proceed: undefined,
      cancelled: false,
      released: false,
    };
    const newest = this.#newest;
    for (let i = 0; i < keys.length; i++) {
      const predecessor = newest.get(keys[i]);
      if (predecessor === entry) continue; // a repeated key
      newest.set(keys[i], entry);
      if (predecessor === undefined) continue;
      if (predecessor.successor === undefined) predecessor.successor = entry;
      else (predecessor.otherSuccessors ??= []).push(entry);
      entry.blockers++;
    }
    return entry;
  }

  /** Lets the successors go. Releasing an entry again does nothing. */
  release(entry: Entry): void {
    let cancelled = this.#releaseOne(entry, undefined);
    // A loop, as a long row of cancelled entries would overflow the stack.
    while (cancelled !== undefined && cancelled.length > 0) {
      cancelled = this.#releaseOne(cancelled.pop()!, cancelled);
    }
  }

  /** Adds those that have been cancelled and whose turn has come to a list. */
  #releaseOne(
    entry: Entry,
    cancelled: Entry[] | undefined,
  ): Entry[] | undefined {
    if (entry.released) return cancelled;
    entry.released = true;
    const { keys, successor, otherSuccessors } = entry;
    const newest = this.#newest;
    for (let i = 0; i < keys.length; i++) {
      // Without a successor, it is the newest one for all of its keys.
      if (successor === undefined || newest.get(keys[i]) === entry) {
        newest.delete(keys[i]);
      }
    }
    if (successor === undefined) return cancelled;
    entry.successor = entry.otherSuccessors = undefined;
    if (--successor.blockers === 0) {
      if (successor.cancelled) (cancelled ??= []).push(successor);
      else successor.proceed?.();
    }
    if (otherSuccessors === undefined) return cancelled;
    for (const successor of otherSuccessors) {
      if (--successor.blockers > 0) continue;
      if (successor.cancelled) (cancelled ??= []).push(successor);
      else successor.proceed?.();
    }
    return cancelled;
  }

  /**
   * Gives up an entry that waits. Its successors still owe their order to its
   * predecessors, hence it keeps its place until its turn comes.
   */
  cancel(entry: Entry): void {
    entry.cancelled = true;
    if (entry.blockers === 0) this.release(entry);
  }
}

/**
 * Creates middleware that handles updates one after another where that matters,
 * and concurrently otherwise. It prevents race conditions, for example between
 * two messages in the same chat that access the same session.
 *
 * Updates that share a constraint run in the order in which they arrive at this
 * middleware. An update with several constraints waits for all of its
 * predecessors. Under `run`, an update that waits takes up no slot of the
 * concurrency limit, and its time limit stands still. An update that exceeds its
 * time limit frees its constraints, so that the others go on.
 *
 * Install it before everything that needs the order to be kept.
 *
 * @param constraint Returns the constraints of an update: a string, or several,
 * or nothing for updates that need not wait for others. Repeated, empty, and
 * undefined constraints are ignored. By default, updates are ordered by chat, or
 * by user if they belong to no chat.
 * @returns Middleware for a bot
 * @throws {TypeError} If `constraint` is not a function
 *
 * @example
 * ```ts
 * import { sequentialize } from "@grammyjs/runner";
 * import { Bot } from "grammy";
 *
 * const bot = new Bot("123456:token");
 * bot.use(sequentialize((ctx) => [`${ctx.chat?.id}`, `${ctx.from?.id}`]));
 * ```
 */
export function sequentialize<C extends { update: object }>(): (
  ctx: C,
  next: () => void | Promise<void>,
) => Promise<void>;
/**
 * The same with constraints of your own.
 *
 * @example
 * ```ts
 * import { sequentialize } from "@grammyjs/runner";
 * import { Bot } from "grammy";
 *
 * const bot = new Bot("123456:token");
 * bot.use(sequentialize((ctx) => ctx.chat?.id.toString()));
 * ```
 */
export function sequentialize<C>(
  constraint: (
    ctx: C,
  ) => string | readonly (string | undefined)[] | null | undefined,
): (ctx: C, next: () => void | Promise<void>) => Promise<void>;
export function sequentialize<C>(
  constraint: (
    ctx: C,
  ) => string | readonly (string | undefined)[] | null | undefined =
    defaultConstraint,
): (ctx: C, next: () => void | Promise<void>) => Promise<void> {
  if (typeof constraint !== "function") {
    throw new TypeError(
      `Cannot sequentialize: constraint must be a function: received ${constraint}`,
    );
  }
  return sequentializeWith(new ConstraintMap(), constraint);
}

/** {@link sequentialize} with a constraint map that can be looked into. */
export function sequentializeWith<C>(
  map: ConstraintMap,
  constraint: (
    ctx: C,
  ) => string | readonly (string | undefined)[] | null | undefined,
): (ctx: C, next: () => void | Promise<void>) => Promise<void> {
  return (ctx, next) => {
    try {
      const keys = normalize(constraint(ctx));
      if (keys === undefined) return Promise.resolve(next());
      const entry = map.acquire(keys);
      return entry.blockers === 0
        ? runHolding(map, entry, ctx, next)
        : runInTurn(map, entry, ctx, next);
    } catch (error) {
      return Promise.reject(error);
    }
  };
}

function defaultConstraint(ctx: unknown): string {
  return keyOf((ctx as { update: object }).update);
}

/** The constraints as a list, or `undefined` if there are none. */
function normalize(
  constraint: string | readonly (string | undefined)[] | null | undefined,
): string[] | undefined {
  if (typeof constraint === "string") {
    return constraint === "" ? undefined : [constraint];
  }
  if (constraint === undefined || constraint === null) return undefined;
  if (!Array.isArray(constraint)) {
    throw new TypeError(
      `Cannot sequentialize: constraints must be strings: received ${constraint}`,
    );
  }
  let isClean = true;
  for (let i = 0; i < constraint.length; i++) {
    const key = constraint[i];
    if (key === undefined || key === null || key === "") isClean = false;
    else if (typeof key !== "string") {
      throw new TypeError(
        `Cannot sequentialize: constraints must be strings: received ${key}`,
      );
    }
  }
  // A copy all the same, as the function may change its list later on.
  const keys = isClean ? constraint.slice() : constraint.filter(Boolean);
  return keys.length > 0 ? keys : undefined;
}

async function runHolding(
  map: ConstraintMap,
  entry: Entry,
  ctx: unknown,
  next: () => void | Promise<void>,
): Promise<void> {
  try {
    slotOf(ctx)?.onTimeout(() => map.release(entry));
    await next();
  } finally {
    map.release(entry);
  }
}

async function runInTurn(
  map: ConstraintMap,
  entry: Entry,
  ctx: unknown,
  next: () => void | Promise<void>,
): Promise<void> {
  const slot = slotOf(ctx);
  try {
    if (slot === undefined) {
      await new Promise<void>((resolve) => entry.proceed = resolve);
    } else {
      entry.proceed = () => slot.resume();
      // A loop, as branches of one update (`bot.fork`) share its slot: another
      // one may have got it back before it is this one's turn.
      while (entry.blockers > 0) await slot.park();
    }
  } catch (error) {
    map.cancel(entry); // by a stop
    throw error;
  }
  // As `runHolding`, which would take a promise more.
  try {
    slot?.onTimeout(() => map.release(entry));
    await next();
  } finally {
    map.release(entry);
  }
}
