import { keyOf } from "./_key.ts";

/** How much of a rate is left after a second without updates. */
const DECAY = 0.7;

/** A chat, or a user where there is no chat, that updates come from. */
export interface BusyChat {
  readonly name: string;
  /** Updates per second, a moving average. */
  rate: number;
  /** How long the last of its updates waited, in milliseconds. */
  waitedMs: number;
}

/** Which chats have the most updates; forgets those that have become quiet. */
export class BusyChats {
  readonly #chats = new Map<string, BusyChat & { count: number }>();

  record(update: unknown, waitedMs: number): void {
    if (typeof update !== "object" || update === null) return;
    const name = nameOf(update);
    if (name === undefined) return;
    const key = keyOf(update);
    let chat = this.#chats.get(key);
    if (chat === undefined) {
      this.#chats.set(key, chat = { name, rate: 0, waitedMs, count: 0 });
    }
    chat.count++;
    chat.waitedMs = waitedMs;
  }

  nextSecond(): void {
    for (const [key, chat] of this.#chats) {
      chat.rate = chat.rate * DECAY + chat.count * (1 - DECAY);
      chat.count = 0;
      if (chat.rate < 0.01) this.#chats.delete(key);
    }
  }

  /** The busiest ones, in descending order. */
  top(count: number): BusyChat[] {
    return [...this.#chats.values()]
      .filter(({ rate }) => rate > 0)
      .sort((a, b) => b.rate - a.rate)
      .slice(0, count);
  }
}

/** What a person would call the chat, else the user, of an update. */
export function nameOf(update: object): string | undefined {
  for (const value of Object.values(update)) {
    if (typeof value !== "object" || value === null) continue;
    const { id, title, first_name, last_name, username } = value.chat ??
      value.message?.chat ?? value.from ?? value.user ?? value.voter_chat ?? {};
    if (id === undefined) continue;
    if (title) return `${title}`;
    if (first_name) {
      return last_name ? `${first_name} ${last_name}` : first_name;
    }
    return username ? `@${username}` : `${id}`;
  }
}
