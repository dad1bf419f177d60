// deno-lint-ignore no-import-prefix -- raw files have no import map
import { metrics } from "npm:@opentelemetry/api@1";
import {
  attributesBy,
  ERROR_TYPE,
  errorTypeOf,
  SCOPE,
  typeOf,
  UPDATE_TYPE,
} from "./_otel_attributes.ts";
import type { RunnerEvent, RunnerStats } from "./events.ts";

/** What the names of all metrics begin with. */
const PREFIX = "grammy.runner";

/** Upper bounds of the classes into which durations are sorted, in seconds. */
const BOUNDS =
  // deno-fmt-ignore -- one row
  [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];

/**
 * Records metrics of a runner. The result is for the option `onEvent`. It can
 * serve several runners, whose numbers are added up.
 *
 * | Name | Kind and unit | Attributes |
 * | --- | --- | --- |
 * | `grammy.runner.received.updates` | counter | `telegram.update.type` |
 * | `grammy.runner.handled.updates` | counter | `telegram.update.type` |
 * | `grammy.runner.failed.updates` | counter | `telegram.update.type` |
 * | `grammy.runner.timed_out.updates` | counter | `telegram.update.type` |
 * | `grammy.runner.wait.duration` | histogram, s | `telegram.update.type` |
 * | `grammy.runner.handle.duration` | histogram, s | `telegram.update.type` |
 * | `grammy.runner.poll.duration` | histogram, s | |
 * | `grammy.runner.failed.polls` | counter | `error.type` |
 * | `grammy.runner.running.updates` | up-down counter | |
 * | `grammy.runner.parked.updates` | up-down counter | |
 * | `grammy.runner.buffered.updates` | up-down counter | |
 * | `grammy.runner.inbox.updates` | gauge | `grammy.runner.inbox.state` |
 *
 * The type of an update is the name of its field, such as `message`. The type of
 * an error is the error code of the Bot API, or the name of the error. The state
 * is what the inbox calls its numbers, such as `buffered` or `unfinished`.
 *
 * @returns A function to be called with all events of a runner
 *
 * @example
 * Together with an observer of your own:
 * ```ts
 * import { run } from "@grammyjs/runner";
 * import { recordMetrics } from "@grammyjs/runner/otel";
 * import { Bot } from "grammy";
 *
 * function main() {
 *   const record = recordMetrics();
 *   run(new Bot("123456:token"), {
 *     onEvent(event) {
 *       record(event);
 *       if (event.type === "stalled") console.warn("Telegram does not answer");
 *     },
 *   });
 * }
 * ```
 */
export function recordMetrics(): (event: RunnerEvent) => void {
  const meter = metrics.getMeter(SCOPE);
  const count = (what: string, unit: string, description: string) =>
    meter.createCounter(`${PREFIX}.${what}`, { unit, description });
  const measure = (what: string, description: string) =>
    meter.createHistogram(`${PREFIX}.${what}.duration`, {
      unit: "s",
      description,
      advice: { explicitBucketBoundaries: BOUNDS },
    });

  const received = count(
    "received.updates",
    "{update}",
    "Updates that arrived",
  );
  const ended = {
    handled: count("handled.updates", "{update}", "Updates that ended well"),
    failed: count("failed.updates", "{update}", "Updates that failed"),
    timedOut: count(
      "timed_out.updates",
      "{update}",
      "Updates past the time limit",
    ),
  };
  const waited = measure("wait", "Time that an update waited until its end");
  const ran = measure("handle", "Time that an update ran");
  const polled = measure("poll", "Time until a call to getUpdates is answered");
  const failedPolls = count("failed.polls", "{poll}", "Failures to fetch");
  const byUpdate = attributesBy(UPDATE_TYPE, typeOf);
  const byError = attributesBy(ERROR_TYPE, errorTypeOf);
  const observe = observeStats();

  return (event) => {
    switch (event.type) {
      case "started":
        observe(event.stats);
        break;
      case "received":
        for (const update of event.updates) received.add(1, byUpdate(update));
        break;
      case "ended": {
        const attributes = byUpdate(event.update);
        ended[event.outcome].add(1, attributes);
        waited.record(event.waitedMs / 1000, attributes);
        ran.record(event.ranMs / 1000, attributes);
        break;
      }
      case "poll":
        polled.record(event.durationMs / 1000);
        break;
      case "poll-failed":
        failedPolls.add(1, byError(event.error));
        break;
    }
  };
}

/** Observes runners from when they have started until they have stopped. */
function observeStats(): (stats: () => RunnerStats) => void {
  const meter = metrics.getMeter(SCOPE);
  const level = (what: string, description: string) =>
    meter.createObservableUpDownCounter(`${PREFIX}.${what}.updates`, {
      unit: "{update}",
      description,
    });
  const running = level("running", "Updates that are running");
  const parked = level("parked", "Updates that wait for others");
  const buffered = level("buffered", "Updates that were not started yet");
  // Machines that share an inbox all tell the same, hence no sum.
  const inbox = meter.createObservableGauge(`${PREFIX}.inbox.updates`, {
    unit: "{update}",
    description: "Updates in the inbox",
  });
  const runners = new Set<() => RunnerStats>();

  meter.addBatchObservableCallback((result) => {
    const sum = { running: 0, parked: 0, buffered: 0 };
    const states = new Map<string, number>();
    for (const stats of runners) {
      const now = stats();
      if (now.state === "stopped" || now.state === "failed") {
        runners.delete(stats);
        continue;
      }
      sum.running += now.running;
      sum.parked += now.parked;
      sum.buffered += now.buffered;
      for (const [state, value] of Object.entries(now.inbox)) {
        if (typeof value !== "number") continue;
        states.set(state, (states.get(state) ?? 0) + value);
      }
    }
    result.observe(running, sum.running);
    result.observe(parked, sum.parked);
    result.observe(buffered, sum.buffered);
    for (const [state, value] of states) {
      result.observe(inbox, value, { [`${PREFIX}.inbox.state`]: state });
    }
  }, [running, parked, buffered, inbox]);
  return (stats) => void runners.add(stats);
}
