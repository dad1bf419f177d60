/**
 * How a local Bot API server delivers updates to bots that ask for them with getUpdates.
 * @module
 */
import {
  History,
  type PollParams,
  type PollThrottle,
  type StoredUpdate,
  type UpdateStore,
} from "./_bot_api.ts";
import {
  conflict,
  type Exchange,
  OTHER_GET_UPDATES,
} from "./_bot_api_exchange.ts";
import type { Timers } from "./_bot_api_waiting.ts";
import type { Poll } from "./testing.ts";

/** A poll as recorded, before it has ended. */
export type OpenPoll = { -readonly [K in keyof Poll]: Poll[K] };

/** A getUpdates call that waits for updates. */
interface WaitingPoll {
  take(): void;
  end(reason: string): void;
}

/** Answers getUpdates calls from the store, and records them. */
export class LongPolling {
  readonly polls: History<OpenPoll>;
  count = 0;
  // At most one: a second getUpdates ends the first.
  #waiting: WaitingPoll | undefined;

  /** `changed` is called whenever a poll begins to wait or ends. */
  constructor(
    readonly store: UpdateStore,
    readonly throttle: PollThrottle | undefined,
    history: number,
    readonly timers: Timers,
    readonly changed: () => void,
  ) {
    this.polls = new History(history);
  }

  record(asked: PollParams, at: number): OpenPoll {
    const open = {
      throttled: false,
      at,
      outcome: "waiting",
      count: 0,
    } as const;
    const poll = { ...asked, ...open };
    this.count++;
    this.polls.add(poll);
    return poll;
  }

  ended(poll: OpenPoll, exchange: Exchange, outcome: Poll["outcome"]): void {
    poll.outcome = exchange.fault === undefined ? outcome : "failed";
    poll.endedAt = Date.now();
    this.changed();
  }

  poll(asked: PollParams, exchange: Exchange, at: number): void {
    const poll = this.record(asked, at);
    this.end(OTHER_GET_UPDATES);
    const { limit, timeout } = this.throttle?.apply(asked) ?? asked;
    poll.throttled = limit !== asked.limit || timeout !== asked.timeout;
    const answer = (updates: StoredUpdate[]) => {
      const list = updates.map(({ json }) => json).join(",");
      exchange.answer(`{"ok":true,"result":[${list}]}`);
      poll.count = updates.length;
      this.ended(poll, exchange, "answered");
    };
    const updates = this.store.take(asked.offset, limit);
    if (updates.length > 0 || timeout === 0) return answer(updates);
    // Nobody is there to wait if the client broke off in the meantime.
    if (exchange.isClosed) return this.ended(poll, exchange, "aborted");

    const leave = () => {
      this.timers.clear(timer);
      this.#waiting = undefined;
      exchange.onDisconnect = undefined;
    };
    const timer = this.timers.after(timeout * 1000, () => {
      leave();
      answer([]);
    });
    exchange.onDisconnect = () => {
      leave();
      this.ended(poll, exchange, "aborted");
    };
    this.#waiting = {
      take: () => {
        const updates = this.store.take(asked.offset, limit);
        if (updates.length === 0) return;
        leave();
        answer(updates);
      },
      end: (reason) => {
        leave();
        exchange.refuse(conflict(reason));
        this.ended(poll, exchange, "refused");
      },
    };
    this.changed();
  }

  /** Tells the waiting call that there are updates. */
  notify(): void {
    // Later, so that updates pushed in one go come in one answer.
    if (this.#waiting) queueMicrotask(() => this.#waiting?.take());
  }

  /** Ends the waiting call with a conflict. */
  end(reason: string): void {
    this.#waiting?.end(reason);
  }
}
