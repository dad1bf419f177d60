import { BusyChats } from "./_dashboard_chats.ts";
import { Messages } from "./_dashboard_messages.ts";
import { Percentiles } from "./_dashboard_percentiles.ts";
import type { RunnerEvent, RunnerStats } from "./events.ts";

/** For how many seconds rates are kept: as wide as a chart can get. */
const HISTORY_SECONDS = 600;

/**
 * Makes numbers of the events of a runner, in constant memory. It goes on
 * counting when the runner is started again, or another one in its place.
 */
export class Meter {
  readonly totals = { handled: 0, failed: 0, timedOut: 0 };
  polls = 0;
  /** How often fetching has come back after failures. */
  reconnects = 0;
  /** Updates that ended in each of the last seconds, newest last. */
  readonly rates: number[] = [];
  readonly waiting = new Percentiles();
  readonly handling = new Percentiles();
  readonly chats = new BusyChats();
  readonly messages = new Messages();
  /** When the first start was, in milliseconds since the epoch. */
  startedAt: number | undefined;
  /** Since when fetching has been failing. */
  downSince: number | undefined;
  /** Takes a snapshot of the runner that was started last. */
  stats: (() => RunnerStats) | undefined;

  /** The second that is being counted, since the epoch. */
  #second: number | undefined;
  #ended = 0;

  record(event: RunnerEvent, now: number): void {
    this.advance(now);
    this.messages.record(event, now);
    switch (event.type) {
      case "started":
        this.startedAt ??= now;
        this.stats = event.stats;
        break;
      case "poll":
        this.polls++;
        this.downSince = undefined;
        break;
      case "poll-failed":
        this.downSince ??= now;
        break;
      case "recovered":
        this.reconnects++;
        break;
      case "ended":
        this.#ended++;
        this.totals[event.outcome]++;
        this.waiting.record(event.waitedMs);
        this.handling.record(event.ranMs);
        this.chats.record(event.update, event.waitedMs);
        break;
    }
  }

  /** Closes the seconds that have passed. */
  advance(now: number): void {
    const second = Math.floor(now / 1000);
    this.#second ??= second;
    // After a long sleep of the machine, only what is kept counts. A clock that
    // was set back adds to the second that is being counted.
    this.#second = Math.max(this.#second, second - HISTORY_SECONDS);
    while (this.#second < second) {
      this.#second++;
      this.rates.push(this.#ended);
      this.#ended = 0;
      this.waiting.nextSecond();
      this.handling.nextSecond();
      this.chats.nextSecond();
    }
    this.rates.splice(0, this.rates.length - HISTORY_SECONDS);
  }

  /** Updates per second, over the last two whole seconds. */
  get rate(): number {
    const last = this.rates.slice(-2);
    return last.reduce((sum, n) => sum + n, 0) / Math.max(1, last.length);
  }
}
