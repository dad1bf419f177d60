import { log, type WorkerEvent } from "./events.ts";

/**
 * How the task of an element ended: its worker's promise resolved
 * (`"handled"`), it rejected and the error handler was called (`"failed"`), or
 * it ran longer than the time limit and the timeout handler was called
 * (`"timedOut"`).
 *
 * @example
 * ```ts
 * import { type RunnerEvent, type TaskOutcome } from "@grammyjs/runner";
 *
 * const counts: Record<TaskOutcome, number> = {
 *   handled: 0,
 *   failed: 0,
 *   timedOut: 0,
 * };
 *
 * function count(event: RunnerEvent) {
 *   if (event.type === "ended") counts[event.outcome]++;
 * }
 * ```
 */
export type TaskOutcome = "handled" | "failed" | "timedOut";

/**
 * The right to run, as the worker of a {@link DecayingDeque} gets it for its
 * element. A task that has to wait for another one gives its slot up for as
 * long, so that waiting costs nothing but memory.
 *
 * @example
 * ```ts
 * import { createConcurrentSink, type Slot } from "@grammyjs/runner";
 *
 * const consumer = {
 *   async consume(url: string, slot?: Slot) {
 *     // Ends together with the update's time limit.
 *     await fetch(url, { signal: slot?.signal });
 *   },
 * };
 * createConcurrentSink(consumer, (error) => Promise.reject(error));
 * ```
 */
export interface Slot {
  /**
   * Gives the slot up: the task no longer counts as running, and its time limit
   * stands still. Resolves when the task has its slot back, which takes a call
   * to {@link Slot.resume} and a free slot; the time limit starts afresh then.
   * Rejects with the reason of the stop if the task will never get it back.
   */
  park(): Promise<void>;
  /**
   * Asks for the slot back. Parked tasks are served in the order in which they
   * ask, and before any new element. Does nothing unless the task is parked.
   */
  resume(): void;
  /**
   * Aborts with a `TimeoutError` when the task exceeds the time limit, and with
   * an `AbortError` when a stop gives the task up. Made on first use.
   */
  readonly signal: AbortSignal;
  /**
   * Calls the function when the task exceeds the time limit: a cheaper form of
   * {@link Slot.signal}. At once if that has already happened.
   *
   * @param callback The function to call; must not throw
   */
  onTimeout(callback: () => void): void;
  /**
   * Calls the function when the run that the task belongs to has stopped and
   * all its updates have ended. The stop waits for the returned promise. A
   * function is called once per run, however often it is passed.
   *
   * @param callback The function to call
   * @throws {DOMException} `AbortError` if that has happened, as for an update
   * that a stop has given up and that still goes on
   */
  onStop(callback: () => void | Promise<void>): void;
  /**
   * Passes an event on to whoever observes the run that the task belongs to.
   *
   * @param event What happened
   */
  emit(event: WorkerEvent): void;
}

/**
 * What a {@link TaskObserver} is told about a task that ended.
 *
 * @typeParam Y Type of the elements
 *
 * @example
 * ```ts
 * import type { TaskEnd } from "@grammyjs/runner";
 *
 * function describe({ elem, outcome, ranMs, parkedMs }: TaskEnd<string>): string {
 *   return `${elem} ${outcome} after ${ranMs} ms, and ${parkedMs} ms of waiting`;
 * }
 * ```
 */
export interface TaskEnd<Y> {
  /** The element that was worked on. */
  readonly elem: Y;
  /** How the task ended. */
  readonly outcome: TaskOutcome;
  /** The rejection of the task if `outcome` is `"failed"`. */
  readonly error: unknown;
  /** Milliseconds for which the task was parked. */
  readonly parkedMs: number;
  /** Milliseconds for which the task was running. */
  readonly ranMs: number;
}

/**
 * Hears of what happens to the elements it was passed along with. The functions
 * must not throw, except for {@link TaskObserver.onStop}.
 *
 * @typeParam Y Type of the elements
 *
 * @example
 * ```ts
 * import { DecayingDeque, type TaskObserver } from "@grammyjs/runner";
 *
 * const observer: TaskObserver<string> = {
 *   ended: ({ elem, outcome }) => console.log(elem, outcome),
 *   handlerFailed: (error, elem) => console.error(elem, error),
 *   onStop: () => {}, // never stopped
 * };
 * const queue = new DecayingDeque<string>(
 *   10_000,
 *   (elem) => elem === "bad" ? Promise.reject(elem) : Promise.resolve(),
 *   5,
 *   () => {},
 *   () => {},
 * );
 * await queue.add(["good", "bad"], observer); // good handled, bad failed
 * await queue.empty();
 * ```
 */
export interface TaskObserver<Y> {
  /**
   * The task of an element ended; called exactly once for each element, unless
   * the element was given up by a stop. The object is valid during the call.
   */
  ended(end: TaskEnd<Y>): void;
  /** An error handler or a timeout handler itself failed. */
  handlerFailed(error: unknown, elem: Y): void;
  /** See {@link Slot.onStop}. */
  onStop(callback: () => void | Promise<void>): void;
  /** See {@link Slot.emit}. */
  emit?(event: WorkerEvent): void;
  /** The task of an element gave up its slot. */
  parked?(elem: Y): void;
  /**
   * The task of an element has its slot back, and is about to go on. It is given
   * up instead if this returns `false`: somebody else has the element by now.
   */
  resumed?(elem: Y): boolean | void;
}

/**
 * Further options of a {@link DecayingDeque}.
 *
 * @example
 * ```ts
 * import { DecayingDeque, type DequeOptions } from "@grammyjs/runner";
 *
 * const options: DequeOptions = { backlog: 1000 };
 * const queue = new DecayingDeque<string>(
 *   10_000,
 *   async (url) => void await fetch(url),
 *   5,
 *   (error, url) => console.error(url, error),
 *   (url) => console.error(url, "took longer than 10 s"),
 *   options,
 * );
 * ```
 */
export interface DequeOptions {
  /**
   * Number of parked elements up to which the queue still has capacity, an
   * integer of at least 0, or `Infinity`.
   *
   * @default Infinity
   */
  backlog?: number;
}

/** Timers cannot wait for longer; runtimes would fire at once. */
const MAX_TIMER_MS = 2 ** 31 - 1;

const RESOLVED = Promise.resolve();

/** Linked list that its tasks leave from any position. */
class TaskList<Y, R> {
  /** Oldest task, `null` iff the list is empty. */
  head: Task<Y, R> | null = null;
  /** Newest task, `null` iff the list is empty. */
  tail: Task<Y, R> | null = null;
  length = 0;

  push(task: Task<Y, R>): void {
    task.list = this;
    task.prev = this.tail;
    if (this.tail === null) this.head = task;
    else this.tail.next = task;
    this.tail = task;
    this.length++;
  }

  remove(task: Task<Y, R>): void {
    const { prev, next } = task;
    if (prev === null) this.head = next;
    else prev.next = next;
    if (next === null) this.tail = prev;
    else next.prev = prev;
    task.list = task.prev = task.next = null;
    this.length--;
  }
}

interface Waiting {
  promise: Promise<void>;
  resolve: () => void;
  reject: (reason: unknown) => void;
}

/** Promises of other realms and libraries are promises, too. */
function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as PromiseLike<unknown> | undefined)?.then ===
    "function";
}

/** What only few tasks need, so that the others do not pay for it. */
interface Extras {
  controller?: AbortController;
  /** Why the signal is aborted, whether or not anybody asked for one. */
  reason?: DOMException;
  /** Why a stop has given the task up: it never gets a slot again. */
  abandoned?: DOMException;
  timeoutCallbacks?: (() => void)[];
  /** The promise of `park()`; set iff the task waits for its slot. */
  waiting?: Waiting;
  error?: unknown;
  parkedMs: number;
  /** Without the time since the task last got its slot. */
  ranMs: number;
}

let parkTask: <Y, R>(task: Task<Y, R>) => Promise<void>;
let resumeTask: <Y, R>(task: Task<Y, R>) => void;
let canTimeOut: <Y, R>(queue: DecayingDeque<Y, R>) => boolean;

/** A queued element: the list node, the slot, and the report in one object. */
class Task<Y, R> implements Slot, TaskEnd<Y> {
  prev: Task<Y, R> | null = null;
  next: Task<Y, R> | null = null;
  nextEnded: Task<Y, R> | null = null;
  /** The list that holds the task, `null` iff it has left the queue. */
  list: TaskList<Y, R> | null = null;
  promise: Promise<void> = RESOLVED;
  outcome: TaskOutcome = "handled";
  extras: Extras | undefined = undefined;

  constructor(
    readonly queue: DecayingDeque<Y, R>,
    readonly elem: Y,
    readonly observer: TaskObserver<Y> | undefined,
    /** Position in the order of arrival. */
    readonly seq: number,
    /** When the task last got its slot, or gave it up. */
    public since: number,
  ) {}

  more(): Extras {
    return this.extras ??= { parkedMs: 0, ranMs: 0 };
  }

  abort(reason: DOMException): void {
    const extras = this.more();
    extras.reason ??= reason;
    extras.controller?.abort(extras.reason);
  }

  park(): Promise<void> {
    return parkTask(this);
  }

  resume(): void {
    resumeTask(this);
  }

  get signal(): AbortSignal {
    const extras = this.more();
    if (extras.controller === undefined) {
      extras.controller = new AbortController();
      if (extras.reason) extras.controller.abort(extras.reason);
    }
    return extras.controller.signal;
  }

  onTimeout(callback: () => void): void {
    if (this.list === null) {
      if (this.outcome === "timedOut") callback();
    } else if (canTimeOut(this.queue)) {
      (this.more().timeoutCallbacks ??= []).push(callback);
    }
  }

  onStop(callback: () => void | Promise<void>): void {
    this.observer?.onStop(callback);
  }

  emit(event: WorkerEvent): void {
    this.observer?.emit?.(event);
  }

  get error(): unknown {
    return this.outcome === "failed" ? this.extras?.error : undefined;
  }

  get parkedMs(): number {
    return this.extras?.parkedMs ?? 0;
  }

  get ranMs(): number {
    return (this.extras?.ranMs ?? 0) + Math.max(0, Date.now() - this.since);
  }
}

/**
 * A queue that starts a task for each element at once, and that decays: it
 * holds its elements in the order of their arrival, and each leaves from
 * whatever position it has reached when its task ends or exceeds the time limit.
 *
 * The concurrency of the queue is what {@link DecayingDeque.capacity} counts
 * against; it is up to the caller to add no more elements than that. Tasks that
 * wait for other tasks can give up their {@link Slot} in the meantime.
 *
 * All operations take constant time, and the memory per element is constant.
 *
 * @typeParam Y Type of the elements
 * @typeParam R Type of the rejections of tasks
 *
 * @example
 * ```ts
 * import { DecayingDeque } from "@grammyjs/runner";
 *
 * const queue = new DecayingDeque<string>(
 *   10_000,
 *   async (url) => void await fetch(url),
 *   5,
 *   (error, url) => console.error(url, error),
 *   (url) => console.error(url, "took longer than 10 s"),
 * );
 * const capacity = await queue.add([]);
 * console.log(capacity); // 5
 * ```
 */
export class DecayingDeque<Y, R = unknown> {
  /** Number of running tasks up to which the queue has capacity. */
  readonly concurrency: number;

  readonly #taskTimeout: number;
  readonly #worker: (elem: Y, slot: Slot) => Promise<void>;
  readonly #catchError: (error: R, elem: Y) => void | Promise<void>;
  readonly #catchTimeout: (elem: Y, task: Promise<void>) => void;
  readonly #backlog: number;

  /** Ordered by the time at which they got their slot. */
  readonly #running = new TaskList<Y, R>();
  /** Without a slot, waiting for other tasks. */
  readonly #parked = new TaskList<Y, R>();
  /** Without a slot, waiting for one; empty unless all slots are taken. */
  readonly #resuming = new TaskList<Y, R>();
  /** Tasks that the next flush removes; one is under way iff there are any. */
  #endedHead: Task<Y, R> | null = null;
  #endedTail: Task<Y, R> | null = null;
  #seq = 0;
  /** Elements that an `add` under way has yet to start; they have a slot. */
  #unstarted = 0;
  /** Whether to note when tasks start that nobody observes. */
  #clocked: boolean;
  /** Fires when the oldest running task may have expired, or earlier. */
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Shared by all who wait for capacity; both are set iff somebody does. */
  #nextCapacity: Promise<number> | undefined;
  #resolveCapacity: ((capacity: number) => void) | undefined;
  #emptyWaiters: (() => void)[] = [];

  static {
    parkTask = (task) => task.queue.#park(task);
    resumeTask = (task) => task.queue.#resume(task);
    canTimeOut = (queue) => queue.#taskTimeout <= MAX_TIMER_MS;
  }

  /**
   * Creates an empty queue.
   *
   * @param taskTimeout Time limit per task in milliseconds; counts only while
   * the task runs, and never ends if it is above 2^31 - 1, or `Infinity`
   * @param worker Starts the task of an element; gets the element and its slot
   * @param concurrency Number of tasks up to which the queue has capacity;
   * `false` and numbers below 1 mean 1, `true` means `Infinity`
   * @param catchError Called with the rejection of a task and its element; the
   * element leaves the queue when the result has settled
   * @param catchTimeout Called with an element whose task exceeded the time
   * limit, and the promise that its worker returned; the element leaves the
   * queue right afterwards, and a later rejection of the task is ignored
   * @param options Further options
   * @throws {RangeError} If a number is `NaN` or out of bounds
   */
  constructor(
    taskTimeout: number,
    worker: (elem: Y, slot: Slot) => Promise<void>,
    concurrency: boolean | number,
    catchError: (error: R, elem: Y) => void | Promise<void>,
    catchTimeout: (elem: Y, task: Promise<void>) => void,
    options: DequeOptions = {},
  ) {
    const { backlog = Infinity } = options;
    if (!(taskTimeout >= 0)) {
      throw new RangeError(
        `Cannot create queue: taskTimeout must be at least 0 ms: received ${taskTimeout}`,
      );
    }
    if (Number.isNaN(concurrency)) {
      throw new RangeError(
        "Cannot create queue: concurrency must be a number or a boolean: received NaN",
      );
    }
    if (!(backlog >= 0)) {
      throw new RangeError(
        `Cannot create queue: backlog must be at least 0: received ${backlog}`,
      );
    }
    this.#taskTimeout = taskTimeout;
    this.#worker = worker;
    this.#catchError = catchError;
    this.#catchTimeout = catchTimeout;
    this.#backlog = backlog;
    this.#clocked = taskTimeout <= MAX_TIMER_MS;
    this.concurrency = concurrency === true
      ? Infinity
      : concurrency === false
      ? 1
      : Math.max(1, concurrency);
  }

  /**
   * Adds elements and starts their tasks at once, also beyond the concurrency.
   *
   * @param elems Elements in the order of their arrival
   * @param observer Hears of what happens to these elements
   * @returns The same as {@link DecayingDeque.capacity}
   */
  add(elems: Y[], observer?: TaskObserver<Y>): Promise<number> {
    const count = elems.length;
    if (count > 0) {
      // Asking for the time is a good part of what a task costs.
      const now = this.#clocked || observer ? Date.now() : NaN;
      // Counted from the start: workers can park and resume synchronously.
      this.#unstarted += count;
      for (let i = 0; i < count; i++) this.#start(elems[i], observer, now);
      this.#startTimer();
    }
    return this.capacity();
  }

  /**
   * Resolves as soon as the queue holds no element.
   *
   * @returns A promise that never rejects
   */
  empty(): Promise<void> {
    if (this.length === 0) return Promise.resolve();
    return new Promise((resolve) => this.#emptyWaiters.push(resolve));
  }

  /**
   * Resolves with {@link DecayingDeque.room} at the first moment at which it is
   * positive.
   *
   * @returns A promise that never rejects
   */
  capacity(): Promise<number> {
    const room = this.room;
    if (room > 0) return Promise.resolve(room);
    return this.#nextCapacity ??= new Promise((resolve) => {
      this.#resolveCapacity = resolve;
    });
  }

  /**
   * How many elements can be added now: the number of free slots, but no more
   * than what the backlog of parked elements leaves. Zero or negative if none.
   */
  get room(): number {
    const free = this.concurrency - this.running - this.#resuming.length;
    if (this.#parked.length === 0) return free;
    return Math.min(free, this.concurrency + this.#backlog - this.length);
  }

  /** Number of elements in the queue, parked ones included. */
  get length(): number {
    return this.running + this.parked;
  }

  /** Number of elements whose tasks hold a slot. */
  get running(): number {
    return this.#running.length + this.#unstarted;
  }

  /** Number of elements whose tasks have given up their slot. */
  get parked(): number {
    return this.#parked.length + this.#resuming.length;
  }

  /**
   * Milliseconds since the task that has been running for longest got its slot,
   * or 0 if none is running. Without a time limit and an observer, the clock of
   * a task starts with the first call.
   */
  get oldestRunningMs(): number {
    const now = Date.now();
    if (!this.#clocked) {
      this.#clocked = true;
      for (let task = this.#running.head; task !== null; task = task.next) {
        if (Number.isNaN(task.since)) task.since = now;
      }
    }
    const { head } = this.#running;
    return head === null ? 0 : Math.max(0, now - head.since);
  }

  /**
   * Takes a snapshot of the elements in the queue.
   *
   * @returns The elements in the order of their arrival
   */
  pendingTasks(): Y[] {
    return this.#tasks().map((task) => task.elem);
  }

  /**
   * Gives up tasks: aborts their signals, and lets parked ones never get their
   * slot back. Parked elements leave the queue at once and nobody hears of
   * their end; running ones stay until they end.
   *
   * @param reason What signals abort with, and what parked tasks fail with
   * @param observer Gives up only the elements that were added with this
   * observer; all if absent
   * @returns The elements that were running and those that were parked
   */
  abandon(
    reason: DOMException,
    observer?: TaskObserver<Y>,
  ): { running: Y[]; parked: Y[] } {
    const running: Y[] = [];
    const parked: Y[] = [];
    const tasks = this.#tasks()
      .filter((task) => observer === undefined || task.observer === observer);
    for (const task of tasks) {
      if (task.list === this.#running) {
        task.more().abandoned ??= reason;
        running.push(task.elem);
      } else {
        parked.push(task.elem);
        this.#giveUp(task, reason);
      }
    }
    // Listeners of signals are foreign code: only now is the queue in order.
    for (const task of tasks) task.abort(reason);
    this.#serve();
    return { running, parked };
  }

  /** Lets a task that waits never get its slot back. */
  #giveUp(task: Task<Y, R>, reason: DOMException): void {
    const extras = task.more();
    extras.abandoned ??= reason;
    task.list!.remove(task);
    const waiting = extras.waiting!;
    extras.waiting = undefined;
    waiting.promise.catch(() => {}); // perhaps nobody awaits it
    waiting.reject(reason);
  }

  #tasks(): Task<Y, R>[] {
    const tasks: Task<Y, R>[] = [];
    for (const list of [this.#running, this.#parked, this.#resuming]) {
      for (let task = list.head; task !== null; task = task.next) {
        tasks.push(task);
      }
    }
    return tasks.sort((a, b) => a.seq - b.seq);
  }

  #start(elem: Y, observer: TaskObserver<Y> | undefined, now: number): void {
    const task = new Task(this, elem, observer, this.#seq++, now);
    this.#running.push(task);
    this.#unstarted--;
    let promise: Promise<void>;
    try {
      promise = this.#worker(elem, task);
      if (!(promise instanceof Promise)) promise = Promise.resolve(promise);
    } catch (error) {
      promise = Promise.reject(error);
    }
    task.promise = promise;
    promise.then(
      () => this.#end(task),
      (error) => this.#fail(task, error),
    );
  }

  #fail(task: Task<Y, R>, error: R): void {
    if (task.list === null) return;
    task.outcome = "failed";
    task.more().error = error;
    try {
      const handled = this.#catchError(error, task.elem);
      if (isThenable(handled)) {
        Promise.resolve(handled).then(() => this.#end(task), (error) => {
          this.#handlerFailed(error, task);
          this.#end(task);
        });
        return;
      }
    } catch (error) {
      this.#handlerFailed(error, task);
    }
    this.#end(task);
  }

  /** Lets the reactions of the task's promise run before the task is removed. */
  #end(task: Task<Y, R>): void {
    const tail = this.#endedTail;
    this.#endedTail = task;
    if (tail !== null) {
      tail.nextEnded = task;
    } else {
      this.#endedHead = task;
      RESOLVED.then(this.#flush);
    }
  }

  readonly #flush = (): void => {
    let task = this.#endedHead;
    this.#endedHead = this.#endedTail = null;
    while (task !== null) {
      const next: Task<Y, R> | null = task.nextEnded;
      task.nextEnded = null;
      this.#remove(task);
      task = next;
    }
  };

  #remove(task: Task<Y, R>): void {
    const { list } = task;
    if (list === null) return;
    list.remove(task);
    if (list !== this.#running) this.#book(task, "parkedMs");
    if (this.#running.length === 0) this.#stopTimer();
    task.observer?.ended(task);
    this.#serve();
  }

  #handlerFailed(error: unknown, task: Task<Y, R>): void {
    if (task.observer) task.observer.handlerFailed(error, task.elem);
    else log("The handler of an error or a timeout failed:", error);
  }

  #park(task: Task<Y, R>): Promise<void> {
    const extras = task.more();
    if (extras.waiting) return extras.waiting.promise;
    if (extras.abandoned) return Promise.reject(extras.abandoned);
    // Node 20 has no `Promise.withResolvers` yet.
    const waiting = extras.waiting = {} as Waiting;
    waiting.promise = new Promise((resolve, reject) => {
      waiting.resolve = resolve;
      waiting.reject = reject;
    });
    // Without a place in the queue, the task has no slot to give up.
    if (task.list !== null) {
      this.#running.remove(task);
      this.#book(task, "ranMs");
      this.#parked.push(task);
      task.observer?.parked?.(task.elem);
      if (this.#running.length === 0) this.#stopTimer();
      this.#serve();
    }
    return waiting.promise;
  }

  #resume(task: Task<Y, R>): void {
    if (task.extras?.waiting === undefined) return;
    if (task.list === null) {
      // Timed out: it has no slot to get back, and nobody waits for it.
      task.extras.waiting.resolve();
      task.extras.waiting = undefined;
    } else if (task.list === this.#parked) {
      this.#parked.remove(task);
      this.#resuming.push(task);
      this.#serve();
    }
  }

  /** Books the time since the task last got its slot, or gave it up. */
  #book(task: Task<Y, R>, as: "ranMs" | "parkedMs"): void {
    const now = Date.now();
    task.more()[as] += Math.max(0, now - task.since);
    task.since = now;
  }

  /** Serves those who wait for room: resuming tasks before new elements. */
  #serve(): void {
    while (
      this.#resuming.head !== null && this.running < this.concurrency
    ) {
      const task = this.#resuming.head;
      this.#resuming.remove(task);
      this.#book(task, "parkedMs");
      this.#running.push(task);
      this.#startTimer();
      const goesOn = task.observer?.resumed?.(task.elem) !== false;
      if (!goesOn && task.list !== null) {
        const message = "Another process has the update by now";
        const reason = new DOMException(message, "AbortError");
        this.#giveUp(task, reason);
        if (this.#running.length === 0) this.#stopTimer();
        task.abort(reason);
        continue;
      }
      task.extras!.waiting!.resolve();
      task.extras!.waiting = undefined;
    }
    if (this.#resolveCapacity !== undefined) {
      const room = this.room;
      if (room > 0) {
        const resolve = this.#resolveCapacity;
        this.#nextCapacity = this.#resolveCapacity = undefined;
        resolve(room);
      }
    }
    if (this.#emptyWaiters.length > 0 && this.length === 0) {
      const waiters = this.#emptyWaiters;
      this.#emptyWaiters = [];
      for (const resolve of waiters) resolve();
    }
  }

  #startTimer(): void {
    const { head } = this.#running;
    if (
      this.#timer !== undefined || head === null ||
      this.#taskTimeout > MAX_TIMER_MS
    ) return;
    const left = head.since + this.#taskTimeout - Date.now();
    // More than the limit is left only if the clock was set back.
    const ms = Math.min(this.#taskTimeout, Math.max(0, left));
    this.#timer = setTimeout(this.#expire, ms);
  }

  #stopTimer(): void {
    if (this.#timer === undefined) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  readonly #expire = (): void => {
    this.#timer = undefined;
    const now = Date.now();
    let task: Task<Y, R> | null;
    while (
      (task = this.#running.head) !== null &&
      task.since + this.#taskTimeout <= now
    ) this.#timeOut(task);
    this.#startTimer();
  };

  #timeOut(task: Task<Y, R>): void {
    task.outcome = "timedOut";
    try {
      const handled: unknown = this.#catchTimeout(task.elem, task.promise);
      if (isThenable(handled)) {
        Promise.resolve(handled)
          .catch((error) => this.#handlerFailed(error, task));
      }
    } catch (error) {
      this.#handlerFailed(error, task);
    }
    this.#remove(task);
    for (const callback of task.extras?.timeoutCallbacks ?? []) callback();
    task.abort(
      new DOMException("The task exceeded its time limit", "TimeoutError"),
    );
  }
}
