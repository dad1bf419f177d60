/** Every step that the runner waits for fails or hangs once. */
import { assertEquals } from "@std/assert";
import { run, type UpdateInbox } from "../mod.ts";
import type { Update } from "../deps.ts";
import type { BotApiServer, Fault } from "../testing.ts";
import { createBot, pushTexts, sleep, startServer, until } from "./_bot.ts";
import { DurableInbox } from "./_inbox.ts";

const STEPS = ["open", "append", "take", "settle", "close"] as const;
type Step = typeof STEPS[number];

/** Lets a call of one step fail or hang, before or after it has done its work. */
function withFault(
  inbox: DurableInbox,
  step: Step,
  how: "fails" | "hangs",
  when: "before" | "after",
  call: number,
): UpdateInbox<Update> {
  let calls = 0;
  return new Proxy(inbox, {
    get(target, key) {
      // deno-lint-ignore no-explicit-any
      const value = (target as any)[key];
      if (typeof value !== "function") return value;
      return async (...args: unknown[]) => {
        const strikes = key === step && ++calls === call;
        const strike = () =>
          how === "fails"
            ? Promise.reject(new Error(`${step} fails`))
            : new Promise<never>(() => {});
        if (strikes && when === "before") await strike();
        const result = value.apply(target, args);
        if (key === "stats") return result;
        await result;
        if (strikes && when === "after") await strike();
        return await result;
      };
    },
  });
}

/** What Telegram was told to forget must be in the inbox, or have been handled. */
function assertNothingLost(
  server: BotApiServer,
  inbox: DurableInbox,
  handled: Set<number>,
): void {
  const lost = server.confirmed()
    .filter((id) => !handled.has(id) && !inbox.stored.has(id));
  assertEquals(lost, []);
}

async function runThrough(
  server: BotApiServer,
  inbox: DurableInbox,
  broken: UpdateInbox<Update>,
  act: () => Promise<unknown>,
): Promise<void> {
  const handled = new Set<number>();
  const bot = createBot(server);
  bot.use(async (ctx) => {
    assertNothingLost(server, inbox, handled);
    await sleep(1);
    handled.add(ctx.update.update_id);
  });
  const errors: unknown[] = [];
  bot.catch(({ error }) => void errors.push(error));
  const options = {
    runner: {
      silent: true,
      fetch: { timeout: 0 },
      pollGrace: 20,
      retryInterval: 2,
    },
    sink: { concurrency: 3 },
  };
  const handle = run(bot, { ...options, inbox: broken });
  handle.task()!.catch(() => {});
  const pushed = pushTexts(server, 20).map((update) => update.update_id);
  await act();
  pushed.push(...pushTexts(server, 20).map((update) => update.update_id));
  await act();
  await handle.stop({ timeout: 30 });
  assertNothingLost(server, inbox, handled);
  // The process starts anew, and now everything works.
  const next = run(bot, { ...options, inbox });
  await until(() => inbox.stored.size === 0 && handled.size === pushed.length);
  await next.stop();
  assertNothingLost(server, inbox, handled);
  assertEquals(errors, []);
  assertEquals(server.unconfirmed(), []);
}

for (const step of STEPS) {
  for (const how of ["fails", "hangs"] as const) {
    for (const when of ["before", "after"] as const) {
      Deno.test(`nothing is lost if ${step} of the inbox ${how} ${when} it does its work`, async () => {
        for (const call of [1, 2, 5]) {
          await using server = await startServer();
          const inbox = new DurableInbox();
          const broken = withFault(inbox, step, how, when, call);
          await runThrough(server, inbox, broken, () => sleep(15));
        }
      });
    }
  }
}

const FAULTS: Record<string, Fault> = {
  "hangs": "hang",
  "breaks the connection": "reset",
  "breaks off its answer": "truncate",
  "answers nonsense": "garbage",
  "is down": { status: 502 },
  "is flooded": { status: 429, retryAfter: 0.01 },
  "is polled by another process": {
    status: 409,
    description: "Conflict: terminated by other getUpdates request",
  },
};

for (const [how, fault] of Object.entries(FAULTS)) {
  for (const method of ["getMe", "getUpdates"]) {
    for (const processed of [false, true]) {
      const when = processed ? "after" : "before";
      Deno.test(`nothing is lost if the server ${how} ${when} it does ${method}`, async () => {
        await using server = await startServer();
        server.setLatency(1);
        server.fail(fault, { method, processed });
        const inbox = new DurableInbox();
        await runThrough(server, inbox, inbox, async () => {
          const polls = server.polls().length;
          await until(() => server.polls().length > polls + 1);
          server.fail(fault, { method, processed });
        });
      });
    }
  }
}
