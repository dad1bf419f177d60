/** A Telegram of our own, where people write to the bot of the demo. */
import { type BotApiServer, startBotApiServer } from "../testing.ts";
import { Percentiles } from "../_dashboard_percentiles.ts";

const CHATS = 500;
const FIRST_NAMES =
  "Ada Alan Barbara Claude Dennis Donald Edsger Frances Grace Guido Hedy Ivan Joan John Karen Katherine Ken Kurt Leslie Linus Lynn Margaret Mary Niklaus Radia Rózsa Sophie Tim Tony Vint"
    .split(" ");
const LAST_NAMES =
  "Allen Berners-Lee Cerf Conway Dijkstra Engelbart Hamilton Hoare Hopper Johnson Kay Keller Knuth Lamarr Lamport Liskov Lovelace McCarthy Perlman Péter Ritchie Shannon Spärck Sutherland Thompson Turing Wilson Wirth"
    .split(" ");
const GROUPS = [
  "Price alerts",
  "Chess club",
  "Flat 4B",
  "Breaking news",
  "Family",
  "Meme factory",
];
const TEXTS = ["Hello!", "How are you?", "Thank you!", "See you", "Nice", "👍"];

/** Milliseconds between two rounds of writing. */
const ROUND_MS = 50;
const LATENCY_MS = 30;
const FIRST_OUTAGE_MS = 15_000;
const OUTAGE_EVERY_MS = 60_000;
const OUTAGE_MS = 4000;

interface Chat {
  id: number;
  name: string;
}

/** A chat that writes much faster than the bot can answer it. */
interface Flood {
  chat: Chat;
  left: number;
  perRound: number;
}

/** Starts the server; nobody writes yet. */
export async function startTelegram(
  note: (text: string) => void,
): Promise<Telegram> {
  const server = await startBotApiServer({ latencyMilliseconds: LATENCY_MS });
  return new Telegram(server, note);
}

export class Telegram implements AsyncDisposable {
  /** Messages per second, floods not included. */
  rate = 0;
  /** How long people have to wait for an answer. */
  readonly answerTimes = new Percentiles();
  /** How many updates ended that had ended before. */
  twice = 0;

  readonly #server: BotApiServer;
  readonly #note: (text: string) => void;
  /** When updates were written that have not ended, by their ids. */
  readonly #writtenAt = new Map<number, number>();
  readonly #chats = Array.from({ length: CHATS }, (_, i) => ({
    id: 1001 + i,
    name: `${FIRST_NAMES[i % FIRST_NAMES.length]} ${
      LAST_NAMES[i * 11 % LAST_NAMES.length]
    }`,
  }));
  #floods: Flood[] = [];
  #due = 0;
  #messageId = 0;
  #outage: ReturnType<typeof setTimeout> | undefined;
  readonly #timers: ReturnType<typeof setInterval>[] = [];

  constructor(server: BotApiServer, note: (text: string) => void) {
    this.#server = server;
    this.#note = note;
  }

  get url(): string {
    return this.#server.url;
  }

  get token(): string {
    return this.#server.token;
  }

  get isDown(): boolean {
    return this.#outage !== undefined;
  }

  /** Number of messages that people have written. */
  get written(): number {
    return this.#server.stats().pushed;
  }

  /** Number of messages that the bot has not confirmed. */
  get unconfirmed(): number {
    return this.#server.stats().unconfirmed;
  }

  /** Number of messages that neither have ended nor are still on the server. */
  get missing(): number {
    return this.#server.unconfirmed()
      .reduce(
        (n, { update_id }) => n - Number(this.#writtenAt.has(update_id)),
        this.#writtenAt.size,
      );
  }

  /** Lets people write. */
  open(): void {
    const every = (ms: number, callback: () => void) =>
      this.#timers.push(setInterval(callback, ms));
    every(ROUND_MS, () => this.#write());
    every(1000, () => {
      this.answerTimes.nextSecond();
      if (Math.random() < 0.15) this.#burst();
    });
    this.#timers.push(setTimeout(() => {
      this.causeOutage();
      every(OUTAGE_EVERY_MS, () => this.causeOutage());
    }, FIRST_OUTAGE_MS));
    this.#burst();
  }

  /** An update was handled, failed or timed out. */
  ended(updateId: number): void {
    const at = this.#writtenAt.get(updateId);
    if (at === undefined) this.twice++;
    else this.answerTimes.record(Date.now() - at);
    this.#writtenAt.delete(updateId);
  }

  /** One chat writes as many messages at once as others do in an hour. */
  flood(): void {
    const messages = 100;
    const chat = this.#randomGroup();
    this.#floods.push({ chat, left: messages, perRound: messages });
    this.#note(`“${chat.name}” floods the bot: ${messages} messages at once`);
  }

  /** Nothing works for a while. */
  causeOutage(): void {
    if (this.isDown) return;
    this.#note(`Telegram is down for ${OUTAGE_MS / 1000} seconds`);
    const fault = { status: 502, description: "Bad Gateway" };
    this.#server.fail(fault, { times: Infinity, method: "*" });
    this.#outage = setTimeout(() => {
      this.#outage = undefined;
      this.#server.clearFaults();
    }, OUTAGE_MS);
  }

  /** Nobody writes any more, and what is down comes back. */
  close(): void {
    for (const timer of this.#timers.splice(0)) clearTimeout(timer);
    clearTimeout(this.#outage);
    this.#outage = undefined;
    this.#server.clearFaults();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.#server.close();
  }

  /** A chat writes faster than it gets answers, for a few seconds. */
  #burst(): void {
    const chat = this.#randomGroup();
    this.#floods.push({ chat, left: 60, perRound: 0.7 });
  }

  #randomGroup(): Chat {
    const i = Math.floor(Math.random() * GROUPS.length);
    return { id: -1001 - i, name: GROUPS[i] };
  }

  #write(): void {
    this.#due += this.rate * ROUND_MS / 1000 * 2 * Math.random();
    for (; this.#due >= 1; this.#due--) {
      this.#push(pick(this.#chats), randomText());
    }
    for (const flood of this.#floods) {
      const n = Math.floor(flood.perRound + Math.random());
      for (let i = 0; i < n; i++, flood.left--) {
        this.#push(flood.chat, pick(TEXTS));
      }
    }
    this.#floods = this.#floods.filter(({ left }) => left > 0);
  }

  #push(chat: Chat, text: string): void {
    const [update] = this.#server.push({
      message: {
        message_id: ++this.#messageId,
        date: Math.floor(Date.now() / 1000),
        chat: chat.id < 0
          ? { id: chat.id, type: "group", title: chat.name }
          : { id: chat.id, type: "private", first_name: chat.name },
        from: { id: Math.abs(chat.id), is_bot: false, first_name: chat.name },
        text,
        ...(text.startsWith("/") && {
          entities: [{ type: "bot_command", offset: 0, length: text.length }],
        }),
      },
    });
    this.#writtenAt.set(update.update_id, Date.now());
  }
}

function randomText(): string {
  const dice = Math.random();
  if (dice < 0.002) return "/hang";
  if (dice < 0.01) return "/crash";
  return dice < 0.06 ? "/report" : pick(TEXTS);
}

function pick<T>(list: T[]): T {
  return list[Math.floor(Math.random() * list.length)];
}
