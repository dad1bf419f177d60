import { inspect } from "node:util";
import { hideToken, type RunnerEvent } from "./events.ts";
import { duration } from "./_dashboard_text.ts";

/** Something that happened, however often in a row of others. */
export interface Message {
  text: string;
  level: "error" | "info";
  /** When it happened last, in milliseconds since the epoch. */
  at: number;
  /** How often it happened. */
  count: number;
}

/** How many different messages are kept. */
const KEPT = 50;

/** The latest things worth telling. What happens again is told once. */
export class Messages {
  /** In the order in which they happened last. */
  readonly #messages = new Map<string, Message>();

  add(text: string, level: Message["level"], at: number): void {
    const line = hideToken(text.split("\n").find((l) => l.trim() !== "") ?? "");
    const count = (this.#messages.get(line)?.count ?? 0) + 1;
    this.#messages.delete(line);
    this.#messages.set(line, { text: line, level, at, count });
    if (this.#messages.size > KEPT) {
      this.#messages.delete(this.#messages.keys().next().value!);
    }
  }

  /** Adds what an event tells, if anything. */
  record(event: RunnerEvent, at: number): void {
    const message = messageOf(event);
    if (message === undefined) return;
    this.add(message, isInfo(event) ? "info" : "error", at);
    if (event.type === "poll-failed" && event.hint) {
      this.add(event.hint, "info", at);
    }
  }

  /** The latest ones, newest first. */
  last(count: number): Message[] {
    return [...this.#messages.values()].reverse().slice(0, count);
  }
}

function isInfo(event: RunnerEvent): boolean {
  return event.type === "recovered" ||
    (event.type === "inbox" && event.level === "info");
}

function messageOf(event: RunnerEvent): string | undefined {
  switch (event.type) {
    case "ended":
      if (event.outcome === "failed") {
        return `Handler failed: ${brief(event.error)}`;
      }
      return event.outcome === "timedOut"
        ? `Handler exceeded the time limit`
        : undefined;
    case "handler-failed":
      return `Error handler failed itself: ${brief(event.error)}`;
    case "poll-failed":
      return `Cannot fetch updates: ${brief(event.error)}`;
    case "recovered":
      return `Fetching works again after ${duration(event.downMs)}`;
    case "confirm-failed":
      return `Cannot confirm the last updates: ${brief(event.error)}`;
    case "stop-hook-failed":
      return `Function run at the stop failed: ${brief(event.error)}`;
    case "fatal":
      return `Runner stops: ${brief(event.error)}`;
    case "inbox":
      return event.error === undefined
        ? event.message
        : `${event.message}: ${brief(event.error)}`;
  }
}

/** An error in one line: the one that grammY wrapped rather than the wrapping. */
function brief(error: unknown): string {
  const inner = (error as { error?: unknown } | undefined)?.error;
  if (inner instanceof Error) return brief(inner);
  return error instanceof Error ? error.message : inspect(error);
}
