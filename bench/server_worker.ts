/// <reference lib="webworker" />
/**
 * Runs local Bot API servers in a thread of their own, so that they do not share
 * the one that is measured. See `server.ts` for the other side.
 */
import { type BotApiServer, startBotApiServer } from "../testing.ts";

/** What the worker can be asked for, one thing after another. */
export type Request =
  | { type: "start"; updates: number; latencyMilliseconds: number }
  | { type: "polls" }
  | { type: "close" };

let server: BotApiServer | undefined;

async function answer(request: Request): Promise<unknown> {
  if (request.type === "start") {
    const { updates, latencyMilliseconds } = request;
    server = await startBotApiServer({ quirks: false, latencyMilliseconds });
    for (let i = 0; i < updates; i++) {
      server.pushText(`Message ${i}`, { userId: 1 + i % 1000 });
    }
    const { url, token, botInfo } = server;
    return { url, token, botInfo };
  }
  if (request.type === "polls") return server?.stats().polls;
  await server?.close();
  server = undefined;
}

self.onmessage = async ({ data }: MessageEvent<Request>) => {
  self.postMessage(await answer(data));
};
