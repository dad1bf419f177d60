import type { Leftovers } from "./_leftovers.ts";
import { nextTurn, sleep } from "./_time.ts";
import { Unconfirmed } from "./_unconfirmed.ts";
import type {
  PollEvent,
  RunnerEvent,
  RunnerStats,
  WorkerEvent,
} from "./events.ts";
import type { UpdateInbox } from "./inbox.ts";
import type { TaskEnd, TaskObserver } from "./queue.ts";
import type { UpdateSink } from "./sink.ts";
import type { UpdateSource } from "./source.ts";

/** How long a closed source may take to end before it is left to itself. */
const CLOSE_GRACE_MS = 1000;

/** The number of updates that one call to `getUpdates` can return. */
const FULL_BATCH = 100;

/** The parts that a run joins, and whom it tells about what happens. */
export interface RunParts<Y> {
  source: UpdateSource<Y>;
  sink: UpdateSink<Y> & { room(): number };
  inbox: UpdateInbox<Y>;
  botId: number | undefined;
  /** Whether somebody wants to hear how each update ends. */
  observed: boolean;
  stats: () => RunnerStats;
  emit(event: RunnerEvent<Y>): void;
  onPoll(event: PollEvent): void;
  onReceived(updates: Y[]): void;
  onEnded(end: TaskEnd<Y>, receivedAt: number | undefined): void;
  /** Updates that an earlier run gave up while they were running. */
  leftovers: Leftovers<Y>;
}

/** One life of a runner, from a start to the end of the stop. */
export class Run<Y> implements TaskObserver<Y> {
  /** Resolves when everything is over; never rejects. */
  readonly done: Promise<void>;
  /** The error that the run ended with. */
  error: unknown;
  failed = false;
  stopping = false;
  over = false;
  /** Updates that were given up while they were running. */
  unfinished: Y[] = [];
  /** Updates that were given up before they got to run. */
  unstarted: Y[] = [];

  readonly #parts: RunParts<Y>;
  /** Aborts at the stop: nothing more is fetched. */
  readonly #stop = new AbortController();
  /** Aborts when the last moment to confirm in time has come. */
  readonly #hurry = new AbortController();
  /** Aborts when the time for the stop is up. */
  readonly #expiry = new AbortController();
  /** The same as its `aborted`, which is asked for after every update. */
  #expired = false;
  /** Resolves when the fetching half has ended. */
  #received: Promise<void> = Promise.resolve();
  /** Whether it has. */
  #receivedAll = false;
  /** `undefined` once they have been called, which is too late for others. */
  #stopHooks: Set<() => void | Promise<void>> | undefined = new Set();
  /** A batch that cannot be fetched again, for when this process leads again. */
  #unstored: Y[] = [];
  /** Updates that the sink or a leftover has, and that have not ended. */
  #outstanding = 0;
  #wakeDrained: (() => void) | undefined;
  #appended = 0;
  #taken = 0;
  /** When the wait for room began, or an update last ended meanwhile. */
  #blockedSince: number | undefined;
  /** Taken from the inbox, and not handed to the sink for lack of room. */
  #held: Y[] = [];

  readonly #unconfirmed = new Unconfirmed<Y>();
  /** Whether the source was asked for more than the newest batch. */
  #askedForMore = false;
  /** When updates were received; only if somebody wants to know. */
  readonly #receivedAt = new WeakMap<object, number>();

  /** The run before this one, until it is over. */
  #previous: Run<Y> | undefined;

  /** Set iff the inbox wants to hear of it. */
  readonly parked: ((update: Y) => void) | undefined;
  readonly resumed: ((update: Y) => boolean) | undefined;

  constructor(parts: RunParts<Y>, previous: Run<Y> | undefined) {
    this.#parts = parts;
    this.#previous = previous?.over ? undefined : previous;
    if (parts.inbox.running !== undefined) {
      this.parked = (update) => void this.#tellRunning(update, false);
      this.resumed = (update) => this.#tellRunning(update, true);
    }
    this.done = this.#main();
  }

  /** Number of updates in the run that the sink has not got yet. */
  get held(): number {
    return this.#held.length;
  }

  /** Milliseconds for which there was no room, and nothing ended. */
  get blockedMs(): number {
    const since = this.#blockedSince;
    return since === undefined ? 0 : Math.max(0, Date.now() - since);
  }

  /** Ends fetching; everything else follows from that. */
  stop(): void {
    if (this.stopping) return;
    this.stopping = true;
    this.#leaveRest();
    this.#parts.emit({ type: "draining", updates: this.#outstanding });
    this.#stop.abort(new DOMException("The runner was stopped", "AbortError"));
    this.#parts.source.close();
  }

  /**
   * Gives up whatever has not ended after a number of milliseconds. Resolves
   * when the run is over, and then at the latest.
   */
  async expireAfter(ms: number): Promise<void> {
    const finished = new AbortController();
    const expire = async () => {
      const lead = Math.min(1000, ms / 2);
      await sleep(ms - lead, finished.signal);
      this.#hurryUp();
      await sleep(lead, finished.signal);
      this.#expire();
      // Whatever can be cleaned up without waiting gets the chance to be.
      await sleep(0, finished.signal);
    };
    await Promise.race([this.done, expire()]);
    finished.abort();
  }

  /** Lets this run, and the one that it waits for, confirm now. */
  #hurryUp(): void {
    if (this.#previous) this.#previous.#hurryUp();
    this.#hurry.abort();
  }

  ended(end: TaskEnd<Y>): void {
    const { elem } = end;
    // A task that resumes can take the room before anybody hears of it.
    if (this.#blockedSince !== undefined) this.#blockedSince = Date.now();
    this.#parts.leftovers.ended(elem);
    const { observed } = this.#parts;
    this.#parts.onEnded(
      end,
      observed ? this.#receivedAt.get(elem as object) : undefined,
    );
    if (this.#expired) return;
    this.#settle(elem);
  }

  handlerFailed(error: unknown, update: Y): void {
    this.#parts.emit({ type: "handler-failed", error, update });
  }

  onStop(callback: () => void | Promise<void>): void {
    if (this.#stopHooks === undefined) {
      throw new DOMException("The runner was stopped", "AbortError");
    }
    this.#stopHooks.add(callback);
  }

  emit(event: WorkerEvent): void {
    this.#parts.emit(event);
  }

  async #main(): Promise<void> {
    const { source, inbox, botId, emit, onPoll, stats } = this.#parts;
    await this.#previous?.done;
    this.#previous = undefined;
    try {
      await inbox.open({ botId, signal: this.#stop.signal, emit });
    } catch (error) {
      this.#failUnlessStopped(error);
      return this.#finish();
    }
    if (!this.stopping) emit({ type: "started", stats });
    const ready = source.ready?.(this.#stop.signal, onPoll);
    const receive = async () => {
      await ready;
      await this.#receive();
    };
    const handle = async () => {
      await ready;
      await this.#handle();
    };
    this.#received = receive()
      .catch((error) => this.#failUnlessStopped(error))
      .then(() => {
        this.#receivedAll = true;
        this.#giveUp(this.#unstored);
      });
    const handled = handle()
      .catch((error) => this.#failUnlessStopped(error));
    const over = Promise.all([this.#received, handled]);
    const expired = aborted(this.#expiry.signal);
    // Another process that goes on with fetching need not wait for handlers here.
    const isShared = inbox.lead !== undefined;
    // A stop with a time limit confirms early enough to do so in time, even if
    // there is more to start; whatever does not make it then is reported.
    if (!isShared) await Promise.race([over, aborted(this.#hurry.signal)]);
    await Promise.race([this.#received, expired]);
    if (!isShared) await this.#drained(this.#hurry.signal);
    await Promise.race([this.#confirm(), expired]);
    inbox.resign?.();
    await Promise.race([over, expired]);
    await this.#drained(this.#expiry.signal);
    await this.#cleanUp();
    this.#finish();
  }

  /** Runs what wants to run at the stop, and closes the inbox. */
  async #cleanUp(): Promise<void> {
    const { inbox } = this.#parts;
    const expired = aborted(this.#expiry.signal);
    const hooks = this.#stopHooks!;
    this.#stopHooks = undefined;
    for (const hook of hooks) {
      // A stop that has run out of time waits for none of them.
      await Promise.race([this.#runHook(hook), expired]);
    }
    try {
      if (!inbox.durable && this.#expired) {
        await this.#reportBuffered();
      }
      await inbox.close();
    } catch (error) {
      this.#fail(error);
    }
  }

  async #runHook(hook: () => void | Promise<void>): Promise<void> {
    try {
      await hook();
    } catch (error) {
      this.#parts.emit({ type: "stop-hook-failed", error });
    }
  }

  #finish(): void {
    this.stopping = this.over = true;
    this.#parts.emit({
      type: "stopped",
      unfinished: this.unfinished.length,
      unstarted: this.unstarted.length,
    });
  }

  #failUnlessStopped(error: unknown): void {
    if (this.stopping && isAbort(error)) return;
    this.#fail(error);
  }

  #fail(error: unknown): void {
    if (!this.failed) {
      this.failed = true;
      this.error = error;
      this.#parts.emit({ type: "fatal", error });
    }
    this.stop();
  }

  /** The half that fetches: from the source into the inbox. */
  async #receive(): Promise<void> {
    const { source, inbox, onPoll } = this.#parts;
    const { signal } = this.#stop;
    source.setGeneratorPace(inbox.lookahead ?? 100);
    while (!signal.aborted) {
      const leading = await inbox.lead?.(signal);
      if (signal.aborted) break;
      // Others may have fetched in the meantime.
      if (leading !== undefined) source.rewind?.();
      const close = () => {
        // Another run may use the source once this one is over.
        if (!this.over) source.close();
      };
      leading?.addEventListener("abort", close, { once: true });
      const generator = source.generator(onPoll);
      try {
        if (leading?.aborted) continue;
        if (!await this.#drainSource(generator, leading)) break;
        // Only who fetches confirms.
        this.#unconfirmed.forget();
      } finally {
        leading?.removeEventListener("abort", close);
        close();
        // A generator that is stuck in a request never gets to hear of this.
        generator.return(undefined).catch(() => {});
      }
    }
    // A source that has come to its end ends the run.
    if (!signal.aborted) this.stop();
  }

  /** Returns whether to start over, as another process may fetch now. */
  async #drainSource(
    generator: AsyncGenerator<Y[]>,
    leading: AbortSignal | undefined,
  ): Promise<boolean> {
    const { source, inbox, onReceived } = this.#parts;
    const { signal } = this.#stop;
    const isOver = anyOf(signal, leading);
    // What cannot be fetched again is stored even though the runner stops.
    const lastMoment = source.confirm ? signal : this.#expiry.signal;
    const appendSignal = anyOf(lastMoment, leading);
    while (true) {
      let batch = this.#unstored.splice(0);
      if (batch.length === 0) {
        this.#askedForMore = true;
        let result: IteratorResult<Y[]> | undefined;
        try {
          result = await untilClosed(generator.next(), isOver);
        } catch (error) {
          // Closing the source has interrupted it.
          if (!isOver.aborted) throw error;
        }
        if (result === undefined || result.done) {
          return leading?.aborted ?? false;
        }
        batch = result.value;
        this.#note(batch);
        onReceived(batch);
      }
      if (signal.aborted && source.confirm) {
        this.#leaveRest();
        return false;
      }
      try {
        await inbox.append(batch, appendSignal);
      } catch (error) {
        if (leading?.aborted && !lastMoment.aborted) {
          if (!source.rewind) this.#unstored = batch;
          return true;
        }
        // Nothing of it was stored. Telegram keeps it, if it can.
        if (!source.confirm) this.#giveUp(batch);
        throw error;
      }
      this.#appended += batch.length;
      if (inbox.durable) {
        this.#unconfirmed.store();
        if (this.stopping) this.#leaveRest();
      }
      if (leading?.aborted) return true;
    }
  }

  #note(batch: Y[]): void {
    const { source, observed } = this.#parts;
    this.#askedForMore = false;
    if (batch.length === 0) return;
    if (source.confirm) this.#unconfirmed.receive(batch);
    if (!observed) return;
    const now = Date.now();
    for (const update of batch) {
      if (typeof update === "object" && update !== null) {
        this.#receivedAt.set(update, now);
      }
    }
  }

  /** Leaves on Telegram what the source has not acknowledged, for a stop. */
  #leaveRest(): void {
    const { source } = this.#parts;
    const acknowledged = source.acknowledged?.() ??
      (this.#askedForMore ? Infinity : -Infinity);
    this.#unconfirmed.leave(acknowledged);
  }

  /** The half that handles: from the inbox into the sink. */
  async #handle(): Promise<void> {
    const { sink, inbox } = this.#parts;
    while (!this.#expired) {
      let room = sink.room();
      while (room < 1) {
        await this.#handOver([]);
        if (this.#expired) return;
        room = sink.room();
      }
      if (this.#held.length === 0) {
        const taken = await this.#take(room);
        if (taken === undefined) return;
        this.#held = taken;
        // While there is a backlog, the next request goes out first: the network
        // and the handlers then work at the same time.
        if (taken.length >= FULL_BATCH) {
          await nextTurn();
          await nextTurn();
        }
        continue; // the room may be another one by now
      }
      if (this.stopping && this.#leavesRest) {
        const held = this.#held.splice(0); // still in the inbox
        if (held.length > 0) inbox.giveBack?.(held);
        return;
      }
      const batch = this.#held.splice(0, room).filter((u) => this.#mayRun(u));
      this.#outstanding += batch.length;
      if (batch.length > 0) await this.#handOver(batch);
    }
  }

  /** Hands updates to the sink, and waits until it has room for more. */
  async #handOver(batch: Y[]): Promise<void> {
    const { sink } = this.#parts;
    const handed = sink.handle(batch, this);
    if (sink.room() < 1) this.#blockedSince = Date.now();
    await handed;
    this.#blockedSince = undefined;
  }

  /** Takes updates from the inbox; `undefined` if there are none to come. */
  async #take(limit: number): Promise<Y[] | undefined> {
    const { inbox } = this.#parts;
    if (!this.stopping) {
      try {
        const taken = await inbox.take(limit, this.#stop.signal);
        this.#taken += taken.length;
        return taken;
      } catch (error) {
        if (!this.stopping || !isAbort(error)) throw error;
      }
    }
    // A clean stop leaves in a durable inbox what is there. Where the inbox is
    // in memory, or fetching has failed, what has been received still runs.
    if (this.#leavesRest) return undefined;
    if (this.buffered === 0) await this.#received;
    if (this.buffered === 0 || this.#leavesRest) return undefined;
    const taken = await inbox.take(limit, this.#expiry.signal);
    this.#taken += taken.length;
    return taken;
  }

  /** Whether a stop leaves what has not started in the inbox. */
  get #leavesRest(): boolean {
    const { source, inbox } = this.#parts;
    // A last batch that cannot be fetched again may need room to be stored.
    if (!source.confirm && !this.#receivedAll) return false;
    return inbox.durable && (!this.failed || inbox.lead !== undefined);
  }

  /** Number of updates in the inbox that can be taken. */
  get buffered(): number {
    const { inbox } = this.#parts;
    const buffered = inbox.stats?.().buffered;
    if (typeof buffered === "number") return buffered;
    return inbox.durable ? 0 : this.#appended - this.#taken;
  }

  /** Whether to hand an update to the sink. */
  #mayRun(update: Y): boolean {
    if (this.#unconfirmed.isLeft(update)) return false;
    if (this.#awaitLeftover(update)) return false;
    this.#unconfirmed.start(update);
    return true;
  }

  /** Whether an earlier run is still busy with the update. */
  #awaitLeftover(update: Y): boolean {
    const { leftovers } = this.#parts;
    if (leftovers.size === 0) return false;
    const isLeftover = leftovers.await(update, () => {
      if (!this.#expired) this.#settle(update);
    });
    if (isLeftover) this.#outstanding++;
    return isLeftover;
  }

  #settle(update: Y): void {
    try {
      const settled = this.#parts.inbox.settle(update);
      settled?.catch((error) => this.#fail(error));
    } catch (error) {
      this.#fail(error);
    }
    this.#noteEnd();
  }

  #noteEnd(): void {
    if (--this.#outstanding === 0) this.#wakeDrained?.();
  }

  /** Returns whether the update may go on. */
  #tellRunning(update: Y, running: boolean): boolean {
    try {
      const goesOn = this.#parts.inbox.running!(update, running) !== false;
      if (goesOn || !running) return true;
    } catch (error) {
      this.#fail(error);
      return true;
    }
    this.#noteEnd();
    return false;
  }

  /** Waits until all updates under way have ended, or the signal aborts. */
  #drained(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (this.#outstanding === 0 || signal.aborted) return resolve();
      const wake = () => {
        signal.removeEventListener("abort", wake);
        resolve();
      };
      this.#wakeDrained = wake;
      signal.addEventListener("abort", wake, { once: true });
    });
  }

  /** Tells Telegram where to go on next time. */
  async #confirm(): Promise<void> {
    const { source, emit } = this.#parts;
    const { offset } = this.#unconfirmed;
    if (!source.confirm || !Number.isFinite(offset)) return;
    try {
      await source.confirm(offset, this.#expiry.signal);
    } catch (error) {
      emit({ type: "confirm-failed", error });
    }
  }

  /** Gives up whatever has not ended. */
  #expire(): void {
    if (this.#expired) return;
    const { source, sink, inbox, leftovers } = this.#parts;
    const previous = this.#previous;
    if (previous) previous.#expire();
    const reason = new DOMException("The stop ran out of time", "AbortError");
    const given = sink.abandon?.(reason, this) ?? { running: [], parked: [] };
    // Only these can come again.
    if (inbox.durable || source.confirm) {
      for (const update of given.running) leftovers.add(update);
    }
    this.unfinished = [...previous?.unfinished ?? [], ...given.running];
    this.#giveUp(previous?.unstarted ?? []);
    this.#giveUp(given.parked);
    this.#giveUp(this.#held);
    this.#held = [];
    this.#hurry.abort();
    this.#expired = true;
    this.#expiry.abort(reason);
  }

  /** What a crash of memory would lose is at least reported. */
  async #reportBuffered(): Promise<void> {
    const { signal } = new AbortController();
    while (this.buffered > 0) {
      const taken = await this.#parts.inbox.take(Infinity, signal);
      this.#taken += taken.length;
      this.#giveUp(taken);
    }
  }

  /** Reports updates as unstarted, unless they stay on Telegram. */
  #giveUp(updates: Y[]): void {
    for (const update of updates) {
      if (!this.#unconfirmed.isLeft(update)) this.unstarted.push(update);
    }
  }
}

function isAbort(error: unknown): boolean {
  return (error as Error | undefined)?.name === "AbortError";
}

/**
 * A signal that aborts with the first of those there are. `globalThis` keeps
 * esbuild from renaming the class of that name that grammY's requests look for.
 */
function anyOf(signal: AbortSignal, other?: AbortSignal): AbortSignal {
  if (other === undefined) return signal;
  return globalThis.AbortSignal.any([signal, other]);
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

/**
 * Passes the result of a source on. Once the signal has aborted, a source that
 * goes on all the same is left to itself after a while: `undefined`.
 */
async function untilClosed<T>(
  request: Promise<T>,
  signal: AbortSignal,
): Promise<T | undefined> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let close: () => void;
  const left = new Promise<undefined>((resolve) => {
    close = () => timer = setTimeout(() => resolve(undefined), CLOSE_GRACE_MS);
    if (signal.aborted) close();
    else signal.addEventListener("abort", close, { once: true });
  });
  try {
    return await Promise.race([request, left]);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", close!);
  }
}
