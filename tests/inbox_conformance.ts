import { assert, assertEquals, assertRejects } from "@std/assert";
import type { UpdateInbox } from "../inbox.ts";
import { listenersOf } from "./_listeners.ts";

/** What is put through an inbox: durable ones want ids and something to store. */
export type ConformanceUpdate = { update_id: number };

/** How to put an implementation of an inbox through its contract. */
export interface InboxConformance {
  /** Stands before the names of the tests. */
  name: string;
  /**
   * Creates an inbox that no other test uses, empty for the bot that opens it,
   * which is another one in each test. It is full once `lookahead` updates are
   * untaken; `undefined` for whatever is the default.
   * Called once for each test.
   */
  create(
    lookahead?: number,
  ):
    | UpdateInbox<ConformanceUpdate>
    | Promise<UpdateInbox<ConformanceUpdate>>;
  /** Frees what `create` has made. Called after `close`. */
  dispose?(inbox: UpdateInbox<ConformanceUpdate>): void | Promise<void>;
  /**
   * How long to wait, in milliseconds, until a call that has not resolved counts
   * as waiting. 0 waits for whatever is ready.
   *
   * @default 0
   */
  patience?: number;
  /** Whether to leave out a test, because the inbox promises something else. */
  ignore?(test: string): boolean;
}

/**
 * Registers tests that put an implementation of `UpdateInbox` through the
 * contract that all inboxes share.
 */
export function testInboxConformance(options: InboxConformance): void {
  const { name, create, dispose, patience = 0, ignore } = options;
  let botId = 123456;

  function test(
    promise: string,
    lookahead: number | undefined,
    run: (inbox: UpdateInbox<ConformanceUpdate>) => Promise<void>,
  ): void {
    Deno.test({
      name: `${name} ${promise}`,
      ignore: ignore?.(promise) ?? false,
      fn: async () => {
        botId++;
        const inbox = await create(lookahead);
        try {
          await open(inbox);
          await run(inbox);
        } finally {
          await inbox.close();
          await dispose?.(inbox);
        }
      },
    });
  }

  function open(inbox: UpdateInbox<ConformanceUpdate>): Promise<void> {
    const { signal } = new AbortController();
    return inbox.open({ botId, signal, emit: () => {} });
  }

  /** Whether a promise has not settled after a while. */
  async function waits(promise: Promise<unknown>): Promise<boolean> {
    let settled = false;
    const done = () => settled = true;
    promise.then(done, done);
    await new Promise((resolve) => setTimeout(resolve, patience));
    return !settled;
  }

  const { signal } = new AbortController();

  test(
    "gives updates out in the order of their arrival",
    100,
    async (inbox) => {
      await inbox.append(updates(1, 3), signal);
      await inbox.append(updates(4, 4), signal);
      await inbox.append(updates(5, 9), signal);
      const taken = [];
      while (taken.length < 9) taken.push(...await inbox.take(2, signal));
      assertEquals(ids(taken), range(1, 9));
    },
  );

  test("gives out as many updates as asked for at most", 100, async (inbox) => {
    await inbox.append(updates(1, 10), signal);
    assertEquals(ids(await inbox.take(1, signal)), [1]);
    assertEquals(ids(await inbox.take(4, signal)), [2, 3, 4, 5]);
    assertEquals(ids(await inbox.take(100, signal)), [6, 7, 8, 9, 10]);
  });

  test("gives out all it has for a limit of Infinity", 100, async (inbox) => {
    await inbox.append(updates(1, 37), signal);
    assertEquals(ids(await inbox.take(Infinity, signal)), range(1, 37));
  });

  test("gives each update out once", 100, async (inbox) => {
    await inbox.append(updates(1, 2), signal);
    const [first] = await inbox.take(1, signal);
    assertEquals(ids(await inbox.take(9, signal)), [2]);
    await inbox.settle(first);
    await inbox.append(updates(3, 3), signal);
    assertEquals(ids(await inbox.take(9, signal)), [3]);
  });

  test("waits with taking until there are updates", 100, async (inbox) => {
    const take = inbox.take(5, signal);
    assert(await waits(take));
    await inbox.append(updates(1, 2), signal);
    assertEquals(ids(await take), [1, 2]);
  });

  test("goes on waiting when nothing was appended", 100, async (inbox) => {
    const take = inbox.take(5, signal);
    await inbox.append([], signal);
    assert(await waits(take));
    await inbox.append(updates(1, 1), signal);
    assertEquals(ids(await take), [1]);
  });

  test("takes nothing once the signal has aborted", 100, async (inbox) => {
    const controller = new AbortController();
    const take = inbox.take(5, controller.signal);
    assert(await waits(take));
    controller.abort();
    await assertRejects(() => take, DOMException);
    await inbox.append(updates(1, 2), signal);
    await assertRejects(() => inbox.take(5, controller.signal), DOMException);
    assertEquals(ids(await inbox.take(5, signal)), [1, 2]);
  });

  test("rejects with the reason of the signal", 1, async (inbox) => {
    const reason = new Error("stop");
    const aborted = AbortSignal.abort(reason);
    const error = await assertRejects(() => inbox.take(5, aborted));
    assert(error === reason, `${error}`);
    await inbox.append(updates(1, 1), signal);
    const full = await assertRejects(() =>
      inbox.append(updates(2, 2), aborted)
    );
    assert(full === reason, `${full}`);
  });

  test("takes nothing when woken and aborted at once", 100, async (inbox) => {
    const controller = new AbortController();
    const take = inbox.take(5, controller.signal);
    assert(await waits(take));
    const append = inbox.append(updates(1, 2), signal);
    controller.abort();
    // Either it has taken both, or none.
    const taken = await take.catch(() => []);
    await append;
    const rest = taken.length > 0 ? [] : await inbox.take(5, signal);
    assertEquals(ids([...taken, ...rest]), [1, 2]);
  });

  test("waits with appending while it is full", 3, async (inbox) => {
    await inbox.append(updates(1, 3), signal);
    const append = inbox.append(updates(4, 5), signal);
    assert(await waits(append));
    assertEquals(ids(await inbox.take(1, signal)), [1]);
    await append;
    assertEquals(ids(await inbox.take(9, signal)), [2, 3, 4, 5]);
  });

  test("is not full for updates that were taken", 3, async (inbox) => {
    await inbox.append(updates(1, 3), signal);
    await inbox.take(3, signal);
    await inbox.append(updates(4, 6), signal);
    assertEquals(ids(await inbox.take(3, signal)), [4, 5, 6]);
  });

  test(
    "stores a batch as a whole even if it is larger than the room",
    3,
    async (inbox) => {
      await inbox.append(updates(1, 2), signal);
      await inbox.append(updates(3, 12), signal);
      assertEquals(ids(await inbox.take(99, signal)), range(1, 12));
    },
  );

  test("stores nothing once the signal has aborted", 3, async (inbox) => {
    const controller = new AbortController();
    await inbox.append(updates(1, 3), signal);
    const append = inbox.append(updates(4, 5), controller.signal);
    assert(await waits(append));
    controller.abort();
    await assertRejects(() => append, DOMException);
    assertEquals(ids(await inbox.take(9, signal)), [1, 2, 3]);
    await assertRejects(
      () => inbox.append(updates(4, 5), controller.signal),
      DOMException,
    );
    await inbox.append(updates(6, 6), signal);
    assertEquals(ids(await inbox.take(9, signal)), [6]);
  });

  test(
    "appends again what an aborted call has not stored",
    1,
    async (inbox) => {
      const controller = new AbortController();
      await inbox.append(updates(1, 1), signal);
      const aborted = inbox.append(updates(2, 3), controller.signal);
      controller.abort();
      await assertRejects(() => aborted, DOMException);
      const again = inbox.append(updates(2, 3), signal);
      await inbox.take(1, signal);
      await again;
      assertEquals(ids(await inbox.take(9, signal)), [2, 3]);
    },
  );

  test("does not hold on to the arrays it is given", 100, async (inbox) => {
    const batch = updates(1, 2);
    await inbox.append(batch, signal);
    batch.push(...updates(3, 3));
    const taken = await inbox.take(1, signal);
    taken.length = 0;
    assertEquals(ids(await inbox.take(9, signal)), [2]);
  });

  test("removes its listeners from the signals", 1, async (inbox) => {
    const { signal } = new AbortController();
    const listeners = listenersOf(signal);
    const take = inbox.take(1, signal);
    assert(await waits(take));
    await inbox.append(updates(1, 1), signal);
    await take;
    await inbox.append(updates(2, 2), signal);
    const append = inbox.append(updates(3, 3), signal);
    assert(await waits(append));
    await inbox.take(1, signal);
    await append;
    assertEquals(listeners.size, 0);
  });

  test("lets appending and taking run side by side", 10, async (inbox) => {
    const count = 500;
    const taken: ConformanceUpdate[] = [];
    let most = 0;
    const handle = async () => {
      while (taken.length < count) {
        const batch = await inbox.take(1 + taken.length % 7, signal);
        taken.push(...batch);
        const buffered = inbox.stats?.().buffered;
        if (typeof buffered === "number") most = Math.max(most, buffered);
        for (const update of batch) await inbox.settle(update);
      }
    };
    const receive = async () => {
      for (let id = 1; id <= count; id += 5) {
        await inbox.append(updates(id, id + 4), signal);
      }
    };
    await Promise.all([handle(), receive()]);
    assertEquals(ids(taken), range(1, count));
    assert(most <= 14, `held ${most} updates`);
  });

  test("tells how many updates can be taken", 100, async (inbox) => {
    if (inbox.stats === undefined) return;
    assertEquals(inbox.stats().buffered, 0);
    await inbox.append(updates(1, 5), signal);
    assertEquals(inbox.stats().buffered, 5);
    const taken = await inbox.take(2, signal);
    assertEquals(inbox.stats().buffered, 3);
    await inbox.settle(taken[0]);
    assertEquals(inbox.stats().buffered, 3);
  });

  test(
    "keeps after close exactly what is unfinished if it is durable",
    100,
    async (inbox) => {
      await inbox.append(updates(1, 5), signal);
      const [first, second] = await inbox.take(3, signal);
      await inbox.settle(second);
      await inbox.close();
      await inbox.settle(first); // ignored
      await open(inbox);
      await inbox.append(updates(6, 6), signal);
      const expected = inbox.durable ? [1, 3, 4, 5, 6] : [6];
      const taken = [];
      while (taken.length < expected.length) {
        taken.push(...await inbox.take(99, signal));
      }
      assertEquals(ids(taken), expected);
    },
  );

  test(
    "drops updates that were seen before if it is durable",
    100,
    async (inbox) => {
      if (!inbox.durable) return;
      await inbox.append(updates(1, 3), signal);
      const [first] = await inbox.take(2, signal);
      await inbox.settle(first);
      await inbox.append(updates(1, 5), signal);
      const taken = [];
      while (taken.length < 3) taken.push(...await inbox.take(99, signal));
      assertEquals(ids(taken), [3, 4, 5]);
    },
  );
}

function updates(from: number, to: number): ConformanceUpdate[] {
  return range(from, to).map((update_id) => ({ update_id }));
}

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, i) => from + i);
}

function ids(updates: ConformanceUpdate[]): number[] {
  return updates.map((update) => update.update_id);
}
