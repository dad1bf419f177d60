/** Bot API servers in a thread of their own. */
import { Bot } from "grammy";
import type { UserFromGetMe } from "grammy/types";
import type { Request } from "./server_worker.ts";

/** A server with a backlog of updates. */
export interface BenchServer {
  /** The address of the bot's API methods. */
  readonly api: string;
  /** Makes a bot that asks this server. */
  createBot(): Bot;
  /** Number of getUpdates calls so far. */
  polls(): Promise<number>;
  close(): Promise<void>;
}

/** Starts servers, one at a time. */
export class ServerThread implements Disposable {
  readonly #worker = new Worker(new URL("server_worker.ts", import.meta.url), {
    type: "module",
  });

  async start(
    updates: number,
    latencyMilliseconds = 0,
  ): Promise<BenchServer> {
    const { url, token, botInfo } = await this.#ask<
      { url: string; token: string; botInfo: UserFromGetMe }
    >({ type: "start", updates, latencyMilliseconds });
    return {
      api: `${url}/bot${token}`,
      createBot: () => new Bot(token, { botInfo, client: { apiRoot: url } }),
      polls: () => this.#ask({ type: "polls" }),
      close: () => this.#ask({ type: "close" }),
    };
  }

  #ask<T>(request: Request): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#worker.onmessage = ({ data }) => resolve(data);
      this.#worker.onerror = ({ message }) => reject(new Error(message));
      this.#worker.postMessage(request);
    });
  }

  [Symbol.dispose](): void {
    this.#worker.terminate();
  }
}
