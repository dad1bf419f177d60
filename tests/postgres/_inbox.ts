/** What the tests of the PostgreSQL inbox share: a server, and inboxes on it. */
import {
  createPostgresInbox,
  type PostgresInboxOptions,
} from "../../postgres_inbox.ts";
import type { RunnerEvent } from "../../events.ts";
import { PostgresServer } from "../../scripts/postgres.ts";
import { waitUntil } from "./_machines.ts";

export let postgres: PostgresServer;
Deno.test.beforeAll(async () => void (postgres = await PostgresServer.start()));
Deno.test.afterAll(() => postgres[Symbol.asyncDispose]());

export const NEVER = new AbortController().signal;

export interface Tiny {
  update_id: number;
  key?: string;
  text?: string;
}

export function tiny(...ids: number[]): Tiny[] {
  return ids.map((update_id) => ({ update_id }));
}

export function ids(updates: Tiny[]): number[] {
  return updates.map((update) => update.update_id);
}

export async function openInbox(
  connectionString: string,
  options: Partial<PostgresInboxOptions<Tiny>> = {},
  botId = 1,
) {
  const inbox = createPostgresInbox<Tiny>({
    connectionString,
    key: (update) => update.key,
    ...options,
  });
  const events: RunnerEvent<Tiny>[] = [];
  const emit = (event: RunnerEvent<Tiny>) => void events.push(event);
  await inbox.open({ botId, signal: NEVER, emit });
  return Object.assign(inbox, {
    events,
    [Symbol.asyncDispose]: () => inbox.close(),
  });
}

export function levels<Y>(events: RunnerEvent<Y>[]): string[] {
  return events.flatMap((event) => event.type === "inbox" ? [event.level] : []);
}

/** As many updates as there are, whether they come at once or not. */
export async function takeAll(
  inbox: { take(limit: number, signal: AbortSignal): Promise<Tiny[]> },
  count: number,
): Promise<Tiny[]> {
  const taken: Tiny[] = [];
  while (taken.length < count) taken.push(...await inbox.take(99, NEVER));
  return taken;
}

/** Runs code in another process; "~/" stands for where the modules are. */
export function runElsewhere(
  code: string,
  ...args: string[]
): Deno.ChildProcess {
  const from = import.meta.resolve("../../");
  return new Deno.Command(Deno.execPath(), {
    args: ["eval", "--no-check", code.replaceAll("~/", from), ...args],
    env: { NODE_NO_WARNINGS: "1" },
  }).spawn();
}

/** The same with code that pauses the process in the middle of something. */
export async function pause(
  code: string,
  ...args: string[]
): Promise<AsyncDisposable> {
  const child = runElsewhere(code, ...args);
  const state = () => Deno.readTextFileSync(`/proc/${child.pid}/stat`);
  await waitUntil(() => / T /.test(state()));
  return {
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await child.status;
    },
  };
}
