import { createHash } from "node:crypto";
import { Claims, type Found } from "./_postgres_claims.ts";
import { Leadership } from "./_postgres_lead.ts";
import { hintOf, Outage } from "./_postgres_outage.ts";
import {
  CHANNEL,
  type Db,
  deathsOf,
  type Entry,
  HEARTBEAT_SECONDS,
  PostgresQueue,
} from "./_postgres_queue.ts";
import { Suspects } from "./_postgres_suspects.ts";
import { Hotline } from "./_postgres_hotline.ts";
import { sleep, withDeadline } from "./_time.ts";
import { type InboxRun, wait } from "./inbox.ts";

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

/** Options of the inbox. */
export interface Settings<Y> {
  readonly connectionString: string;
  readonly key: (update: Y) => string | undefined;
  readonly maxBacklog: number;
  readonly maxAttempts: number;
}

/** An inbox in PostgreSQL from its opening on until it is closed. */
export class Session<Y extends { update_id: number }> {
  readonly #settings: Settings<Y>;
  readonly #emit: InboxRun<Y>["emit"];
  readonly #outage: Outage;
  readonly #queue: PostgresQueue;
  readonly #leadership: Leadership;
  readonly #hotline: Hotline;
  readonly #claims: Claims<Y>;
  readonly #suspects: Suspects<Y>;
  /** Aborts when the inbox is closed. */
  readonly #closing = new AbortController();
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

  private constructor(
    settings: Settings<Y>,
    botId: number,
    emit: InboxRun<Y>["emit"],
  ) {
    const { connectionString, maxAttempts } = settings;
    this.#settings = settings;
    this.#emit = emit;
    const outage = this.#outage = new Outage(emit);
    const queue = this.#queue = new PostgresQueue(connectionString, botId, {
      error: (error) => outage.report(error),
      warning: (message) => emit({ type: "inbox", level: "info", message }),
    });
    this.#leadership = new Leadership(
      connectionString,
      `grammy_runner/${queue.name}`,
      (run) => queue.whileBusy(run),
      () =>
        this.#tellNews("This machine fetches now, as another one does no more"),
    );
    const hotline = this.#hotline = new Hotline(connectionString, CHANNEL, {
      notified: (name) => name === queue.name && this.#look(),
      connected: () => this.#look(),
      missed: (error) => {
        if (outage.lasts || this.#closing.signal.aborted) return;
        emit({
          type: "inbox",
          level: "info",
          message:
            "There is no connection to leave word over if this machine fails, so that would count as a kill from outside",
          error,
        });
      },
    });
    const claims = this.#claims = new Claims<Y>({
      ...{ queue, outage, hotline, closing: this.#closing.signal },
      onTold: (left) => {
        this.#waiting += left;
        this.#look();
      },
    });
    const look = this.#look;
    const parts = { queue, claims, hotline, outage, emit, look };
    this.#suspects = new Suspects(maxAttempts, parts);
  }

  /**
   * Opens the inbox of a bot. Waits while PostgreSQL cannot be reached.
   *
   * @throws {Error} If the database cannot be used
   */
  static async open<Y extends { update_id: number }>(
    settings: Settings<Y>,
    botId: number,
    { signal, emit }: InboxRun<Y>,
  ): Promise<Session<Y>> {
    const session = new Session(settings, botId, emit);
    await session.#open(signal);
    return session;
  }

  async #open(signal: AbortSignal): Promise<void> {
    const start = () => this.#queue.open();
    const message = `PostgreSQL did not answer within ${OPEN_MS} ms`;
    try {
      await this.#outage.retry(
        () => withDeadline(start, OPEN_MS, message, signal),
        signal,
      );
      const count = () => this.#count();
      await prompt(() => this.#outage.retry(count, signal), signal);
      await prompt(() => this.#hotline.prepare(), signal);
    } catch (error) {
      this.#suspects.close();
      const closed = Promise.all([this.#queue.close(), this.#hotline.close()])
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
    this.#repeating = [this.#beat(), this.#tidy(), this.#keepHouse()];
  }

  async lead(signal: AbortSignal): Promise<AbortSignal> {
    const acquire = () => this.#leadership.acquire(signal);
    return await prompt(() => this.#outage.retry(acquire, signal), signal);
  }

  resign(): void {
    this.#leadership.lose();
  }

  async append(updates: Y[], signal: AbortSignal): Promise<void> {
    const entries = this.#entries(updates);
    while (this.#waiting >= this.#settings.maxBacklog) {
      await waitFor(FULL_MS, signal, (wake) => this.#wakeAppend = wake);
      const count = () => this.#count();
      await prompt(() => this.#outage.retry(count, signal), signal);
    }
    if (entries.length === 0) return;
    const store = async () => {
      await this.#leadership.acquire(signal);
      signal.throwIfAborted();
      const write = (db: Db) => this.#queue.append(entries, db);
      this.#waiting += await this.#leadership.write(write);
    };
    await prompt(() => this.#outage.retry(store, signal), signal);
    this.#look();
    // Others look by themselves after a while.
    this.#outage.observe(this.#queue.notify());
  }

  async take(limit: number, signal: AbortSignal): Promise<Y[]> {
    while (true) {
      signal.throwIfAborted();
      const most = this.#suspects.limit(Math.min(limit, MOST));
      if (most > 0) {
        this.#news = false;
        const updates = await this.#claim(most, signal);
        if (updates.length > 0) return updates;
        if (this.#news) continue;
      }
      await waitFor(LOOK_MS, signal, (wake) => this.#wakeTake = wake);
    }
  }

  settle(update: Y): void | Promise<void> {
    this.#suspects.end(update);
    return this.#claims.settle(update);
  }

  running(update: Y, running: boolean): boolean {
    // It has not started here yet, so it need not run twice.
    if (running && !this.#claims.isHeld(update)) {
      this.giveBack([update]);
      return false;
    }
    this.#suspects.run(update, running);
    this.#claims.park(update, !running);
    return true;
  }

  giveBack(updates: Y[]): void {
    for (const update of updates) this.#suspects.end(update);
    this.#outage.observe(this.#claims.giveBack(updates));
  }

  async close(): Promise<void> {
    this.#suspects.close();
    this.#closing.abort(
      new DOMException("The inbox was closed", "AbortError"),
    );
    const dismissed = this.#hotline.close();
    const end = async () => {
      await this.#claiming;
      try {
        await this.#suspects.takeBack()
          .catch((error) => this.#outage.report(error));
        await this.#claims.close();
      } finally {
        await this.#leadership.close();
        await Promise.all([this.#queue.close(), dismissed, ...this.#repeating]);
      }
    };
    const { signal } = new AbortController();
    const message = `PostgreSQL did not answer within ${CLOSE_MS} ms`;
    try {
      await withDeadline(end, CLOSE_MS, message, signal);
    } catch (error) {
      this.#leadership.lose();
      this.#emit({
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
      running: this.#claims.size,
      leading: this.#leadership.leads,
      quarantined: this.#aside,
    };
  }

  async quarantined(): Promise<{ update: Y; deaths: number }[]> {
    const aside = await this.#queue.aside();
    return aside.map(({ json, deaths }) => ({
      update: JSON.parse(json),
      deaths,
    }));
  }

  async release(id: number): Promise<boolean> {
    const released = await this.#queue.putBack(id);
    await this.#count().catch((error) => this.#outage.report(error));
    return released;
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
    const key = this.#settings.key(update) || `update:${update.update_id}`;
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
    this.#tellRoom();
  };

  #tellRoom(): void {
    if (this.#waiting < this.#settings.maxBacklog) this.#wakeAppend?.();
  }

  /** Claims what there is. What arrives after an abort is left to others. */
  async #claim(limit: number, signal: AbortSignal): Promise<Y[]> {
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
      this.#claiming = this.#outage.retry(() => this.#fetch(limit), signal)
        .then(async (jobs) => {
          const healthy = await this.#suspects.leave(jobs);
          if (!aborted) return resolve(this.#handOut(healthy));
          await this.#claims.leave(healthy);
        })
        .catch(reject)
        .finally(() => {
          signal.removeEventListener("abort", abort);
          this.#claiming = undefined;
        });
    });
  }

  async #fetch(limit: number): Promise<Found<Y>[]> {
    const jobs = await this.#queue.fetch(limit);
    this.#waiting = Math.max(0, this.#waiting - jobs.length);
    return jobs.map((job) => ({ ...job, update: JSON.parse(job.json) }));
  }

  #handOut(jobs: Found<Y>[]): Y[] {
    const updates: Y[] = [];
    const again = jobs.filter((job) => this.#runsAgain(job)).length;
    if (again > 0) {
      this.#tellNews(
        `Updates run again, as the machines that had them died or were silent for ${HEARTBEAT_SECONDS} s: ${again}`,
      );
    }
    for (const job of jobs) {
      if (this.#suspects.isGuilty(job)) {
        this.#setAside(job);
      } else if (this.#claims.has(job.update)) {
        this.#claims.regain(job);
      } else {
        this.#suspects.start(job);
        this.#claims.add(job);
        updates.push(job.update);
      }
    }
    this.#tellRoom();
    return updates;
  }

  /** Whether nothing else tells why an update is taken again. */
  #runsAgain(job: Found<Y>): boolean {
    return job.retryCount > 0 && !this.#claims.has(job.update) &&
      !this.#suspects.isGuilty(job) && !this.#suspects.isSuspect(job);
  }

  #tellNews(message: string): void {
    this.#emit({ type: "inbox", level: "info", message });
  }

  async #setAside(job: Found<Y>): Promise<void> {
    const { update } = job;
    const { update_id: id } = update;
    const { signal } = this.#closing;
    try {
      const call = () => this.#queue.setAside(job, this.#keyOf(update));
      if (!await this.#outage.retry(call, signal)) return;
      this.#aside++;
      this.#look();
      this.#emit({
        type: "inbox",
        level: "error",
        message: `The update ${id} is set aside, as machines died ${
          deathsOf(job)
        } times while it was handled; \`release(${id})\` puts it back`,
        update,
      });
    } catch (error) {
      // It comes again when its claim has run out.
      if (!signal.aborted) this.#outage.report(error);
    }
  }

  /** Shows that this machine is alive, whatever else takes its time. */
  #beat(): Promise<void> {
    return this.#repeat(async () => {
      const lost = await this.#touch();
      if (lost > 0) {
        this.#emit({
          type: "inbox",
          level: "error",
          message:
            `${lost} updates that run here run on another machine, too, as this one was silent for ${HEARTBEAT_SECONDS} s`,
        });
      }
    });
  }

  /** As a connection can hang, there are two, and no more than this is waited for. */
  async #touch(): Promise<number> {
    const { signal } = this.#closing;
    const message = `PostgreSQL did not answer within ${BEAT_MS} ms`;
    const touch = (db?: Db) =>
      withDeadline(() => this.#claims.touch(db), BEAT_MS, message, signal);
    const { db } = this.#hotline;
    if (db !== undefined) {
      try {
        return await touch(db);
      } catch {
        signal.throwIfAborted();
        this.#hotline.drop();
      }
    }
    return await touch();
  }

  /** Does what need not be done in time. */
  #tidy(): Promise<void> {
    return this.#repeat(async () => {
      await this.#suspects.takeBack();
      await this.#hotline.prepare();
    });
  }

  /** Looks after the queue, and after machines that are not alive. */
  #keepHouse(): Promise<void> {
    let healthySince = Date.now();
    let planned = MANY;
    return this.#repeat(async () => {
      try {
        await this.#count();
        // PostgreSQL notices by itself how long the queue is, but after a minute.
        if (this.#waiting < MANY) planned = MANY;
        if (this.#leadership.leads && this.#waiting > 2 * planned) {
          await this.#queue.analyze();
          planned = this.#waiting;
        }
        // After an outage, all that are alive must be able to say so first.
        if (Date.now() - healthySince > HEARTBEAT_SECONDS * 1000) {
          await this.#queue.supervise();
        }
      } catch (error) {
        healthySince = Date.now();
        throw error;
      }
    });
  }

  async #count(): Promise<void> {
    const { aloneFrom } = this.#suspects;
    const { waiting, suspects, aside } = await this.#queue.count(aloneFrom);
    this.#waiting = waiting;
    this.#aside = aside;
    this.#suspects.recount(suspects);
    this.#tellRoom();
  }

  /** Does something now and then until the inbox is closed. */
  async #repeat(work: () => Promise<void>): Promise<void> {
    const { signal } = this.#closing;
    const isClosed = () => signal.aborted;
    while (true) {
      await sleep(BEAT_MS, signal).catch(() => {}); // it is closed
      if (isClosed()) return;
      try {
        await work();
      } catch (error) {
        if (!isClosed()) this.#outage.report(error);
      }
    }
  }
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
