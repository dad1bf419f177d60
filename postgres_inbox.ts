/**
 * An inbox in PostgreSQL, so that many machines run one bot.
 *
 * @example
 * ```ts
 * import { run } from "@grammyjs/runner";
 * import { createPostgresInbox } from "@grammyjs/runner/postgres";
 * import { Bot } from "grammy";
 *
 * function main() {
 *   const bot = new Bot("123456:token");
 *   const connectionString = Deno.env.get("DATABASE_URL");
 *   run(bot, { inbox: createPostgresInbox({ connectionString }) });
 * }
 * ```
 *
 * @module
 */
import { createHash } from "node:crypto";
import { onFailure } from "./_failure.ts";
import { keyOf } from "./_key.ts";
import { Claims } from "./_postgres_claims.ts";
import { Leadership } from "./_postgres_lead.ts";
import { hintOf, isPassing, Outage } from "./_postgres_outage.ts";
import {
  type Claim,
  type Db,
  type Entry,
  HEARTBEAT_SECONDS,
  type Job,
  PostgresQueue,
} from "./_postgres_queue.ts";
import { isPostgresUrl } from "./_postgres_url.ts";
import { Witness } from "./_postgres_witness.ts";
import { Isolation } from "./_suspect.ts";
import { sleep, withDeadline } from "./_time.ts";
import type { RunnerEvent } from "./events.ts";
import { type InboxRun, type UpdateInbox, wait } from "./inbox.ts";

/**
 * Options of {@link createPostgresInbox}.
 *
 * @typeParam Y Type of the updates
 *
 * @example
 * ```ts
 * import type { PostgresInboxOptions } from "@grammyjs/runner/postgres";
 * import type { Update } from "grammy/types";
 *
 * const options: PostgresInboxOptions<Update> = {
 *   connectionString: "postgres://bot:password@127.0.0.1:5432/bots",
 * };
 * ```
 */
export interface PostgresInboxOptions<Y> {
  /**
   * Where the database is: a URL that starts with `postgres://` or
   * `postgresql://`. It must lead to PostgreSQL itself, version 14 or later, or to
   * a pooler in session mode.
   */
  connectionString: string | undefined;
  /**
   * The key by which updates are kept in order: those with the same key run one
   * after another, wherever they run. Updates with an empty key run in any order.
   *
   * @default The chat, else the user, else the update itself
   */
  key?: (update: Y) => string | undefined;
  /**
   * Number of updates that may wait in the database: an integer of at least 1.
   * More are left on Telegram, as the database gets slow with too many.
   *
   * @default 5_000
   */
  maxBacklog?: number;
  /**
   * How many machines may die while an update runs, until the update is set aside:
   * an integer of at least 1. The last of these attempts is made while nothing
   * else runs on its machine, for some seconds; then the others go on.
   *
   * This counts the deaths that a machine sees coming: uncaught errors, and exits
   * with a code that tells of a failure. Any other can be a kill from outside, so
   * it takes that many of them while the update runs alone.
   *
   * @default 3
   */
  maxAttempts?: number;
}

/**
 * An update that is set aside because machines died whenever it was handled.
 *
 * @typeParam Y Type of the updates
 *
 * @example
 * ```ts
 * import type { QuarantinedUpdate } from "@grammyjs/runner/postgres";
 * import type { Update } from "grammy/types";
 *
 * function describe({ update, deaths }: QuarantinedUpdate<Update>) {
 *   return `${deaths} machines died of the update ${update.update_id}`;
 * }
 * ```
 */
export interface QuarantinedUpdate<Y> {
  /** The update. */
  update: Y;
  /** How many machines are known to have died while it ran. */
  deaths: number;
}

/**
 * An inbox in PostgreSQL.
 *
 * @typeParam Y Type of the updates
 *
 * @example
 * ```ts
 * import type { PostgresInbox } from "@grammyjs/runner/postgres";
 * import type { Update } from "grammy/types";
 *
 * async function putAllBack(inbox: PostgresInbox<Update>) {
 *   for (const { update } of await inbox.quarantined()) {
 *     await inbox.release(update.update_id);
 *   }
 * }
 * ```
 */
export interface PostgresInbox<Y> extends UpdateInbox<Y> {
  /**
   * Lists the updates that have been set aside, in the order in which that
   * happened. Works while the inbox is open.
   */
  quarantined(): Promise<QuarantinedUpdate<Y>[]>;
  /**
   * Puts an update that was set aside back: it runs as if it had just arrived.
   * Works while the inbox is open.
   *
   * @param id The `update_id`
   * @returns Whether there was one with this id
   * @throws {RangeError} If the id is not an integer of at least 0
   * @throws {TypeError} If the id is not a number
   */
  release(id: number): Promise<boolean>;
}

/**
 * Creates an inbox in PostgreSQL, which any number of machines use at the same
 * time. One of them fetches, all of them handle; updates with the same key run in
 * order and never two at once anywhere. When one of the machines dies, the others
 * take over: see that a handler that runs twice does no harm.
 *
 * The database can hold the updates of several bots.
 *
 * @typeParam Y Type of the updates
 * @param options Where the database is, and further options
 * @returns A new inbox, to be used by one runner
 * @throws {RangeError} If an option is out of bounds
 * @throws {TypeError} If an option is of the wrong type
 *
 * @example
 * ```ts
 * import { run } from "@grammyjs/runner";
 * import { createPostgresInbox } from "@grammyjs/runner/postgres";
 * import { Bot } from "grammy";
 * import type { Update } from "grammy/types";
 *
 * function main() {
 *   const bot = new Bot("123456:token");
 *   const inbox = createPostgresInbox<Update>({
 *     connectionString: Deno.env.get("DATABASE_URL"),
 *     maxBacklog: 1000,
 *   });
 *   bot.command("poison", async (ctx) => {
 *     await ctx.reply(`${(await inbox.quarantined()).length}`);
 *   });
 *   run(bot, { inbox });
 * }
 * ```
 */
export function createPostgresInbox<Y extends { update_id: number }>(
  options: PostgresInboxOptions<Y>,
): PostgresInbox<Y> {
  const {
    connectionString,
    key = keyOf,
    maxBacklog = 5000,
    maxAttempts = 3,
  } = options ?? {} as Partial<PostgresInboxOptions<Y>>;
  if (!isPostgresUrl(connectionString)) {
    throw new TypeError(
      // It can hold a password.
      `Cannot create inbox: connectionString must start with postgres:// or postgresql:// and be a valid URL, with special characters in the password percent-encoded: received ${
        typeof connectionString === "string"
          ? "another string"
          : connectionString
      }`,
    );
  }
  if (typeof key !== "function") {
    throw new TypeError(
      `Cannot create inbox: key must be a function: received ${key}`,
    );
  }
  checkCount("maxBacklog", maxBacklog);
  checkCount("maxAttempts", maxAttempts);
  return new QueueInbox(connectionString, key, maxBacklog, maxAttempts);
}

function checkCount(name: string, value: number): void {
  if (Number.isInteger(value) && value >= 1) return;
  throw new RangeError(
    `Cannot create inbox: ${name} must be an integer of at least 1: received ${value}`,
  );
}

/** How often the database is looked at, whether or not it has sent for us. */
const LOOK_MS = 1000;
/** How often it is looked at while it is full. */
const FULL_MS = 200;
/** How often what is claimed here is kept alive, and the queue looked after. */
const BEAT_MS = 2500;
/** How long the first connection may take until it is tried again. */
const OPEN_MS = 60_000;
/** How long closing may take while PostgreSQL does not answer. */
const CLOSE_MS = 5000;
/** A queue that is longer needs good plans. */
const MANY = 500;
/** What PostgreSQL can put into an index as it is. */
const PLAIN_KEY = /^[ -~]{1,200}$/;
/** The most to take at once. */
const MOST = 1000;

/** What there is while the inbox is open. */
interface Session<Y extends { update_id: number }> {
  readonly emit: InboxRun<Y>["emit"];
  readonly queue: PostgresQueue;
  readonly claims: Claims<Y>;
  readonly leadership: Leadership;
  readonly witness: Witness;
  readonly outage: Outage;
  /** Aborts when the inbox is closed. */
  readonly closing: AbortController;
}

class QueueInbox<Y extends { update_id: number }> implements PostgresInbox<Y> {
  readonly durable = true;
  readonly #connectionString: string;
  readonly #key: (update: Y) => string | undefined;
  readonly #maxBacklog: number;
  /** From so many deaths on, an update runs alone, or not at all. */
  readonly #aloneFrom: number;
  readonly #maxAttempts: number;
  /** Whether a run has the inbox, from the first moment of opening on. */
  #isInUse = false;
  /** Set iff the inbox is open. */
  #session: Session<Y> | undefined;
  /**
   * Whether updates that machines have died of may be about. They are not claimed
   * before they can run alone, as whatever this machine dies of meanwhile would
   * count against them.
   */
  #wary = false;
  /** By the ids of updates. */
  readonly #isolation = new Isolation<number>(
    () => this.#look(),
    (suspect) => this.#goOn(suspect),
  );
  /** What the machine was about to die of. */
  readonly #failed = new Set<Claim>();
  #ignoreFailures: (() => void) | undefined;
  /** Set while updates are being claimed; never rejects. */
  #claiming: Promise<void> | undefined;
  /** What is done until the inbox is closed; never rejects. */
  #repeating: Promise<void>[] = [];
  /** Whether there may be more to take than the last look has shown. */
  #news = false;
  /** How many updates can be taken by all machines, as far as is known here. */
  #waiting = 0;
  #aside = 0;
  #wakeAppend: (() => void) | undefined;
  #wakeTake: (() => void) | undefined;

  constructor(
    connectionString: string,
    key: (update: Y) => string | undefined,
    maxBacklog: number,
    maxAttempts: number,
  ) {
    this.#connectionString = connectionString;
    this.#key = key;
    this.#maxBacklog = maxBacklog;
    this.#aloneFrom = Math.max(1, maxAttempts - 1);
    this.#maxAttempts = maxAttempts;
  }

  async open(run: InboxRun<Y>): Promise<void> {
    run.signal.throwIfAborted();
    if (!Number.isInteger(run.botId)) {
      throw new TypeError(
        `Cannot open inbox: the id of the bot must be known, pass botId to createRunner: received ${run.botId}`,
      );
    }
    if (this.#isInUse) {
      throw new Error(
        "Cannot open inbox: it must be used by one runner: it is open already",
      );
    }
    this.#isInUse = true;
    try {
      this.#session = await this.#connect(run, run.botId!);
    } catch (error) {
      this.#isInUse = false;
      throw error;
    }
    this.#ignoreFailures = onFailure(this.#fail);
    this.#repeating = [
      this.#beat(this.#session),
      this.#keepHouse(this.#session),
    ];
  }

  async #connect(
    { signal, emit }: InboxRun<Y>,
    botId: number,
  ): Promise<Session<Y>> {
    const outage = new Outage(emit);
    const queue = new PostgresQueue(this.#connectionString, botId, {
      error: (error) => report(error, outage, emit),
      warning: (message) => emit({ type: "inbox", level: "info", message }),
    });
    const leadership = new Leadership(
      this.#connectionString,
      `grammy_runner/${queue.name}`,
      (run) => queue.whileBusy(run),
    );
    const witness = new Witness(this.#connectionString, (error) => {
      if (outage.lasts) return;
      emit({
        type: "inbox",
        level: "info",
        message:
          "There is no connection to leave word over if this machine fails, so that would count as a kill from outside",
        error,
      });
    });
    const closing = new AbortController();
    const claims = new Claims<Y>(queue, outage, closing.signal, (left) => {
      this.#waiting += left;
      this.#look();
    });
    this.#wary = false;
    this.#failed.clear();
    this.#isolation.clear();
    const start = () => queue.open(() => this.#look());
    const message = `PostgreSQL did not answer within ${OPEN_MS} ms`;
    try {
      await outage.retry(
        () => withDeadline(start, OPEN_MS, message, signal),
        signal,
      );
      await outage.retry(() => this.#count(queue), signal);
      await witness.prepare();
      signal.throwIfAborted();
    } catch (error) {
      const closed = Promise.all([queue.close(), witness.close()])
        .catch(() => {}); // the first error tells more
      signal.throwIfAborted();
      await closed;
      if (error instanceof RangeError) throw error;
      throw new Error(
        `Cannot open inbox: connectionString must lead to a database that can be used: ${
          hintOf(error) ?? (error as Error).message
        }`,
        { cause: error },
      );
    }
    return { emit, queue, claims, leadership, witness, outage, closing };
  }

  async lead(signal: AbortSignal): Promise<AbortSignal> {
    const { leadership, outage } = this.#opened();
    const acquire = () => leadership.acquire(signal);
    return await prompt(() => outage.retry(acquire, signal), signal);
  }

  resign(): void {
    this.#session?.leadership.lose();
  }

  async append(updates: Y[], signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const session = this.#opened();
    const { queue, leadership, outage } = session;
    const entries = this.#entries(updates);
    while (this.#waiting >= this.#maxBacklog) {
      await waitFor(FULL_MS, signal, (wake) => this.#wakeAppend = wake);
      const count = () => this.#count(queue);
      await prompt(() => outage.retry(count, signal), signal);
    }
    if (entries.length === 0) return;
    const store = async () => {
      await leadership.acquire(signal);
      signal.throwIfAborted();
      const write = (db: Db) => queue.append(entries, db);
      this.#waiting += await leadership.write(write);
    };
    await prompt(() => outage.retry(store, signal), signal);
    this.#look();
    // Others look by themselves after a while.
    reportFailureOf(queue.notify(), session);
  }

  async take(limit: number, signal: AbortSignal): Promise<Y[]> {
    this.#opened();
    while (true) {
      signal.throwIfAborted();
      if (!this.#wary || this.#isolation.canAccuse()) {
        this.#news = false;
        const most = this.#wary ? 1 : Math.min(limit, MOST);
        const updates = await this.#claim(most, signal);
        if (updates.length > 0) return updates;
        if (this.#news) continue;
      } else this.#isolation.wait();
      await waitFor(LOOK_MS, signal, (wake) => this.#wakeTake = wake);
    }
  }

  settle(update: Y): void | Promise<void> {
    this.#isolation.delete(update.update_id);
    return this.#session?.claims.settle(update);
  }

  running(update: Y, running: boolean): void {
    if (this.#session === undefined) return;
    const { claims } = this.#session;
    reportFailureOf(claims.park(update, !running), this.#session);
  }

  giveBack(updates: Y[]): void {
    if (this.#session === undefined) return;
    const { claims } = this.#session;
    for (const { update_id } of updates) this.#isolation.delete(update_id);
    reportFailureOf(claims.giveBack(updates), this.#session);
  }

  async close(): Promise<void> {
    const session = this.#session;
    if (session === undefined) return;
    this.#session = undefined;
    this.#isInUse = false;
    this.#isolation.clear();
    this.#ignoreFailures?.();
    const { queue, claims, leadership, witness, closing, emit } = session;
    closing.abort(new DOMException("The inbox was closed", "AbortError"));
    const dismissed = witness.close();
    const end = async () => {
      await this.#claiming;
      try {
        await this.#takeBack(queue);
        await claims.close();
      } finally {
        await leadership.close();
        await Promise.all([queue.close(), dismissed, ...this.#repeating]);
      }
    };
    const { signal } = new AbortController();
    const message = `PostgreSQL did not answer within ${CLOSE_MS} ms`;
    try {
      await withDeadline(end, CLOSE_MS, message, signal);
    } catch (error) {
      leadership.lose();
      emit({
        type: "inbox",
        level: "error",
        message:
          `The inbox could not be closed as it should: what ran here last may run again on another machine, after ${HEARTBEAT_SECONDS} s:`,
        error,
      });
    }
  }

  stats(): Record<string, number | boolean> {
    return {
      buffered: this.#waiting,
      running: this.#session?.claims.size ?? 0,
      leading: this.#session?.leadership.leads ?? false,
      quarantined: this.#aside,
    };
  }

  async quarantined(): Promise<QuarantinedUpdate<Y>[]> {
    const aside = await this.#opened().queue.aside();
    return aside.map(({ json, deaths }) => ({
      update: JSON.parse(json),
      deaths,
    }));
  }

  async release(id: number): Promise<boolean> {
    if (typeof id !== "number") {
      throw new TypeError(
        `Cannot release update: id must be a number: received ${id}`,
      );
    }
    if (!(Number.isSafeInteger(id) && id >= 0)) {
      throw new RangeError(
        `Cannot release update: id must be an integer of at least 0: received ${id}`,
      );
    }
    const { queue } = this.#opened();
    const released = await queue.putBack(id);
    await this.#count(queue);
    return released;
  }

  #opened(): Session<Y> {
    if (this.#session !== undefined) return this.#session;
    throw new Error("Cannot use inbox: it must be open");
  }

  /** What is to be stored, without repetitions. */
  #entries(updates: Y[]): Entry[] {
    const entries = new Map<number, Entry>();
    for (const update of updates) {
      const id = update?.update_id;
      if (!(Number.isSafeInteger(id) && id >= 0)) {
        throw new TypeError(
          `Cannot store update: update_id must be an integer of at least 0: received ${id}`,
        );
      }
      if (entries.has(id)) continue;
      const json = JSON.stringify(update);
      entries.set(id, { id, key: this.#keyOf(update), json });
    }
    return [...entries.values()];
  }

  #keyOf(update: Y): string {
    const key = this.#key(update) || `update:${update.update_id}`;
    if (typeof key === "string") {
      return PLAIN_KEY.test(key)
        ? key
        : createHash("sha256").update(key).digest("hex");
    }
    throw new TypeError(
      `Cannot store update: key must return a string or undefined: received ${key} for update ${update.update_id}`,
    );
  }

  /** There may be something to take, or room. */
  readonly #look = (): void => {
    this.#news = true;
    this.#wakeTake?.();
    if (this.#waiting < this.#maxBacklog) this.#wakeAppend?.();
  };

  /** Claims what there is. What arrives after an abort is left to others. */
  async #claim(limit: number, signal: AbortSignal): Promise<Y[]> {
    const session = this.#opened();
    const { queue, claims, outage } = session;
    // An earlier call that was aborted may still be under way.
    await this.#claiming;
    signal.throwIfAborted();
    return await new Promise((resolve, reject) => {
      let aborted = false;
      const abort = () => {
        aborted = true;
        reject(signal.reason);
      };
      signal.addEventListener("abort", abort, { once: true });
      this.#claiming = outage.retry(() => queue.fetch(limit), signal)
        .then(async (jobs) => {
          this.#waiting = Math.max(0, this.#waiting - jobs.length);
          const healthy = await this.#leaveSuspects(session, jobs);
          if (!aborted) return resolve(this.#handOut(session, healthy));
          await claims.leave(healthy);
        })
        .catch(reject)
        .finally(() => {
          signal.removeEventListener("abort", abort);
          this.#claiming = undefined;
        });
    });
  }

  /**
   * Gives suspects back until one can run alone; returns the rest. Only then may
   * the rest start, for this machine could die of it.
   */
  async #leaveSuspects(
    { claims }: Session<Y>,
    jobs: Job[],
  ): Promise<Job[]> {
    const suspects = jobs.filter((job) => this.#isSuspect(job, claims));
    const canRunAlone = jobs.length === 1 && this.#isolation.canAccuse();
    this.#wary = suspects.length > 0;
    if (!this.#wary) this.#isolation.acquit();
    if (!this.#wary || canRunAlone) return jobs;
    await claims.leave(suspects);
    return jobs.filter((job) => !suspects.includes(job));
  }

  #isSuspect(job: Job, claims: Claims<Y>): boolean {
    return job.deaths >= this.#aloneFrom && !this.#isGuilty(job) &&
      !claims.has(job);
  }

  #isGuilty({ deaths, failures, alone, spared }: Job): boolean {
    return alone && failures >= this.#maxAttempts ||
      deaths - spared >= this.#aloneFrom + this.#maxAttempts;
  }

  #handOut(session: Session<Y>, jobs: Job[]): Y[] {
    const { claims } = session;
    const updates: Y[] = [];
    for (const job of jobs) {
      const update: Y = JSON.parse(job.json);
      const isSuspect = this.#isSuspect(job, claims);
      if (this.#isGuilty(job) && !claims.has(job)) {
        this.#setAside(session, job, update);
      } else if (claims.add(job, update)) {
        if (isSuspect) this.#accuse(session, job, update);
        else this.#isolation.add(update.update_id);
        updates.push(update);
      } else reportFailureOf(claims.tell(), session);
    }
    if (this.#waiting < this.#maxBacklog) this.#wakeAppend?.();
    return updates;
  }

  /** Lets a suspect run by itself, for some time. */
  #accuse({ emit }: Session<Y>, { deaths }: Job, update: Y): void {
    const { update_id: id } = update;
    this.#isolation.accuse(id, deaths - this.#aloneFrom);
    emit({
      type: "inbox",
      level: "info",
      message:
        `The update ${id} runs by itself for a while, as machines died ${deaths} times while it was handled`,
      update,
    });
  }

  /** The suspect has run for long enough, or waited for long enough to do so. */
  #goOn(suspect: number | undefined): void {
    if (this.#session === undefined) return;
    const { queue, claims } = this.#session;
    const claim = suspect === undefined ? undefined : claims.of(suspect);
    if (claim !== undefined) {
      // Whatever this machine dies of from now on, it is not the suspect.
      reportFailureOf(queue.spare(claim), this.#session);
    }
    this.#look();
  }

  async #setAside(session: Session<Y>, job: Job, update: Y): Promise<void> {
    const { queue, outage, closing, emit } = session;
    const { update_id: id } = update;
    try {
      const call = () => queue.setAside(job, this.#keyOf(update));
      await outage.retry(call, closing.signal);
      this.#aside++;
      this.#look();
      emit({
        type: "inbox",
        level: "error",
        message:
          `The update ${id} is set aside, as machines died ${job.deaths} times while it was handled; \`release(${id})\` puts it back`,
        update,
      });
    } catch (error) {
      // It comes again when its claim has run out.
      if (!closing.signal.aborted) report(error, outage, emit);
    }
  }

  /** Leaves word for the others, with the last thing that this machine can do. */
  readonly #fail = (): void => {
    if (this.#session === undefined) return;
    const { queue, claims, witness } = this.#session;
    const running = claims.running();
    const failed = running.filter((claim) => !this.#failed.has(claim));
    if (failed.length === 0) return;
    for (const claim of failed) this.#failed.add(claim);
    // What ran out of patience before can still be there.
    const alone = this.#isolation.suspect !== undefined && running.length === 1;
    witness.send((db) => queue.countFailures(failed, 1, alone, db));
  };

  /** The machine has lived through what it left word of. */
  async #takeBack(queue: PostgresQueue): Promise<void> {
    const failed = [...this.#failed];
    if (failed.length === 0) return;
    await queue.countFailures(failed, -1, false);
    for (const claim of failed) this.#failed.delete(claim);
  }

  /** Shows that this machine is alive, whatever else takes its time. */
  #beat(session: Session<Y>): Promise<void> {
    return repeat(session, async () => {
      const { queue, claims, witness } = session;
      const lost = await claims.touch();
      if (lost > 0) session.emit(runsAgain(lost));
      await this.#takeBack(queue);
      await witness.prepare();
    });
  }

  /** Looks after the queue, and after machines that are not alive. */
  #keepHouse(session: Session<Y>): Promise<void> {
    const { queue, leadership } = session;
    let healthySince = Date.now();
    let planned = MANY;
    return repeat(session, async () => {
      try {
        await this.#count(queue);
        // PostgreSQL notices by itself how long the queue is, but after a minute.
        if (this.#waiting < MANY) planned = MANY;
        if (leadership.leads && this.#waiting > 2 * planned) {
          await queue.analyze();
          planned = this.#waiting;
        }
        // After an outage, all that are alive must be able to say so first.
        if (Date.now() - healthySince > HEARTBEAT_SECONDS * 1000) {
          await queue.supervise();
        }
      } catch (error) {
        healthySince = Date.now();
        throw error;
      }
    });
  }

  async #count(queue: PostgresQueue): Promise<void> {
    const { waiting, suspects, aside } = await queue.count(this.#aloneFrom);
    this.#waiting = waiting;
    this.#aside = aside;
    // Others may have run them.
    if (suspects === 0 && this.#isolation.suspect === undefined) {
      this.#wary = false;
      this.#isolation.acquit();
    }
    if (waiting < this.#maxBacklog) this.#wakeAppend?.();
  }
}

/** The event of updates that others have while they run here. */
function runsAgain(count: number): RunnerEvent<never> {
  return {
    type: "inbox",
    level: "error",
    message:
      `${count} updates that run here run on another machine, too, as this one was silent for ${HEARTBEAT_SECONDS} s`,
  };
}

/** Does something now and then until the inbox is closed. */
async function repeat<Y extends { update_id: number }>(
  { closing: { signal }, outage, emit }: Session<Y>,
  work: () => Promise<void>,
): Promise<void> {
  const isClosed = () => signal.aborted;
  while (true) {
    await sleep(BEAT_MS, signal).catch(() => {}); // it is closed
    if (isClosed()) return;
    try {
      await work();
    } catch (error) {
      if (!isClosed()) report(error, outage, emit);
    }
  }
}

/** Tells of the error of something that nobody waits for. */
function reportFailureOf<Y extends { update_id: number }>(
  work: Promise<unknown>,
  { outage, emit }: Session<Y>,
): void {
  work.catch((error) => report(error, outage, emit));
}

/** Tells of an error that does not end anything. */
function report(
  error: unknown,
  outage: Outage,
  emit: (event: RunnerEvent<never>) => void,
): void {
  if (isPassing(error)) return outage.failed(error);
  emit({
    type: "inbox",
    level: "error",
    message: "The inbox in PostgreSQL does not work as it should:",
    error,
  });
}

/** Rejects as soon as the signal aborts, whatever the call still waits for. */
function prompt<T>(call: () => Promise<T>, signal: AbortSignal): Promise<T> {
  return withDeadline(call, Infinity, "", signal);
}

/** Waits to be woken, but not for longer than some milliseconds. */
async function waitFor(
  ms: number,
  signal: AbortSignal,
  subscribe: (wake: () => void) => void,
): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  try {
    await wait(signal, (wake) => {
      timer = setTimeout(wake, ms);
      subscribe(wake);
    });
  } finally {
    clearTimeout(timer);
  }
}
