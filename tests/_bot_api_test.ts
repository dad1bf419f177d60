import { assertEquals } from "@std/assert";
import {
  decodeParams,
  History,
  pollParams,
  PollThrottle,
  UpdateStore,
} from "../_bot_api.ts";

function storeWith(...ids: number[]): UpdateStore {
  const store = new UpdateStore();
  push(store, ...ids);
  return store;
}

function push(store: UpdateStore, ...ids: number[]): void {
  for (const id of ids) store.push(id, "message", `{"update_id":${id}}`);
}

function take(store: UpdateStore, offset: number, limit = 100): number[] {
  return store.take(offset, limit).map(({ id }) => id);
}

Deno.test("store hands out updates again until an offset confirms them", () => {
  const store = storeWith(1, 2, 3);
  assertEquals(take(store, 0), [1, 2, 3]);
  assertEquals(take(store, 0), [1, 2, 3]);
  assertEquals(take(store, 3), [3]);
  assertEquals(take(store, 0), [3]);
  assertEquals(take(store, 4), []);
  assertEquals(store.confirmed.list(), [1, 2, 3]);
  assertEquals(store.delivered.list(), [1, 2, 3, 1, 2, 3, 3, 3]);
  assertEquals(store.counts, {
    pushed: 3,
    dropped: 0,
    delivered: 3,
    redelivered: 5,
    confirmed: 3,
  });
});

Deno.test("store hands out no more updates than the limit", () => {
  const store = storeWith(1, 2, 3);
  assertEquals(take(store, 0, 2), [1, 2]);
  assertEquals(take(store, 3, 2), [3]);
});

Deno.test("store keeps only the last updates for a negative offset", () => {
  const store = storeWith(1, 2, 3, 4);
  assertEquals(take(store, -2), [3, 4]);
  assertEquals(store.size, 2);
  assertEquals(take(store, -5), [3, 4]);
});

Deno.test("store hands out updates in the order they were pushed", () => {
  const store = storeWith(5, 3, 9, 4);
  assertEquals(take(store, 0), [5, 3, 9, 4]);
  assertEquals(take(store, 5), [5, 9]);
  assertEquals(store.confirmed.list(), [3, 4]);
  assertEquals(take(store, 10), []);
});

Deno.test("store ignores an offset of an earlier sequence of ids", () => {
  const store = storeWith(1000, 1001);
  assertEquals(take(store, 1002), []);
  push(store, 7, 8);
  assertEquals(take(store, 1002), [7, 8]);
  assertEquals(take(store, 9), []);
  assertEquals(store.nextId, 9);
});

Deno.test("store drops updates of types that are not allowed", () => {
  const store = new UpdateStore();
  const types = ["message", "chat_member", "message_reaction", "poll"];
  const pushAll = () => types.forEach((type, i) => store.push(i, type, type));
  const queued = () => {
    const list = store.list().map(({ json }) => json);
    store.drop();
    return list;
  };
  pushAll();
  assertEquals(queued(), ["message", "poll"]);
  store.allow(["poll", "chat_member"]);
  pushAll();
  assertEquals(queued(), ["chat_member", "poll"]);
  store.allow([]);
  pushAll();
  assertEquals(queued(), ["message", "poll"]);
});

Deno.test("store stays fast and small while many updates pass through", () => {
  const store = new UpdateStore(10);
  let offset = 0;
  for (let id = 1; id <= 100_000; id++) {
    push(store, id);
    if (id % 1000 === 0) offset = take(store, offset).at(-1)! + 1;
  }
  assertEquals(offset, 10_001);
  while (store.size > 0) offset = (take(store, offset).at(-1) ?? offset) + 1;
  assertEquals(store.counts.confirmed, 100_000);
  assertEquals(store.counts.redelivered, 0);
  assertEquals(store.confirmed.list().length, 10);
  assertEquals(store.confirmed.list().at(-1), 100_000);
});

Deno.test("history keeps the newest items", () => {
  for (
    const [limit, expected] of [
      [0, []],
      [1, [7]],
      [3, [5, 6, 7]],
      [Infinity, [1, 2, 3, 4, 5, 6, 7]],
    ] as const
  ) {
    const history = new History<number>(limit);
    for (let i = 1; i <= 7; i++) history.add(i);
    assertEquals(history.list(), [...expected]);
    history.clear();
    assertEquals(history.list(), []);
  }
});

Deno.test("getUpdates parameters move to the nearest bound", () => {
  const defaults = { offset: 0, limit: 100, timeout: 0 };
  assertEquals(pollParams({}), defaults);
  assertEquals(pollParams({ offset: "x", limit: "", timeout: null }), defaults);
  assertEquals(pollParams({ offset: "-3", limit: 1000, timeout: "90" }), {
    offset: -3,
    limit: 100,
    timeout: 50,
  });
  assertEquals(pollParams({ limit: 0, timeout: -1 }).limit, 1);
  assertEquals(pollParams({ limit: 0, timeout: -1 }).timeout, 0);
});

Deno.test("throttle slows down polls that repeat an offset", () => {
  let now = 0;
  const throttle = new PollThrottle(() => now);
  const apply = (after: number, offset: number, timeout = 0) => {
    now += after;
    const { limit, timeout: t } = throttle.apply({
      offset,
      limit: 100,
      timeout,
    });
    return [limit, t];
  };
  assertEquals(apply(0, 0), [100, 0]);
  assertEquals(apply(499, 0), [1, 3]);
  assertEquals(apply(500, 0), [100, 3]);
  assertEquals(apply(500, 0, 30), [100, 30]);
  assertEquals(apply(2999, 0), [100, 3]);
  assertEquals(apply(3000, 0), [100, 0]);
  assertEquals(apply(0, 5), [100, 0]);
  assertEquals(apply(0, 0), [100, 0]);
});

Deno.test("parameters come as JSON, forms, and in the query", () => {
  const encode = (text: string) => new TextEncoder().encode(text);
  assertEquals(decodeParams(undefined, "", encode("")), {});
  assertEquals(
    decodeParams(
      "a=1&b=[2]",
      "application/json",
      encode('{"b":{"c":3}}'),
    ),
    { a: "1", b: { c: 3 } },
  );
  assertEquals(
    decodeParams(
      undefined,
      "application/x-www-form-urlencoded; charset=utf-8",
      encode("text=[x]&list=[1]&broken={&flag=true&id=12"),
    ),
    { text: "[x]", list: [1], broken: "{", flag: true, id: "12" },
  );
  for (const bad of ["", "{", "[]", "1", "null"]) {
    const params = decodeParams(
      undefined,
      "application/json",
      encode(bad),
    );
    assertEquals(params, bad === "" ? {} : undefined, bad);
  }
  const multipart = decodeParams(
    undefined,
    "multipart/form-data",
    encode("x"),
  );
  assertEquals(multipart, undefined);
});

Deno.test("parameters come as multipart forms, their files described", async () => {
  const form = new FormData();
  form.append("caption", "[ä]\r\n");
  form.append("list", "[1]");
  form.append(
    "photo",
    new File([new Uint8Array(1000)], "a b.png", { type: "image/png" }),
  );
  form.append("chat_id", "5");
  const response = new Response(form);
  const type = response.headers.get("content-type")!;
  const body = new Uint8Array(await response.arrayBuffer());
  assertEquals(decodeParams(undefined, type, body), {
    caption: "[ä]\r\n",
    list: [1],
    photo: { name: "a b.png", type: "image/png", size: 1000 },
    chat_id: "5",
  });
});
