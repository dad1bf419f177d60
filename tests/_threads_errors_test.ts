import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { GrammyError, HttpError } from "grammy";
import { batching } from "../_threads.ts";
import { decodeError, encodeError } from "../_threads_errors.ts";

/** What arrives in another thread. */
// deno-lint-ignore no-explicit-any -- whatever was thrown
function send(thrown: unknown): any {
  return decodeError(structuredClone(encodeError(thrown)));
}

Deno.test("errors keep their class, name, message, stack, and fields", () => {
  for (const Class of [Error, TypeError, RangeError, SyntaxError, URIError]) {
    const thrown = Object.assign(new Class("no"), { code: "ENO", at: [1, 2] });
    const error = send(thrown);
    assert(error instanceof Class);
    assertEquals(error.constructor, Class);
    assertEquals(error.name, Class.name);
    assertEquals(error.message, "no");
    assertEquals(error.stack, thrown.stack);
    assertEquals({ ...error }, { code: "ENO", at: [1, 2] });
  }
});

Deno.test("errors of unknown classes keep their name and the class below", () => {
  class LimitError extends RangeError {
    override name = "LimitError";
  }
  const error = send(new LimitError("too much"));
  assertEquals(error.constructor, RangeError);
  assertEquals(error.name, "LimitError");
  assertEquals(`${error}`, "LimitError: too much");
});

Deno.test("errors inside of errors stay errors", () => {
  const cause = new TypeError("inner");
  const error = send(new HttpError("outer", new Error("middle", { cause })));
  assert(error instanceof HttpError);
  assert((error.error as Error).cause instanceof TypeError);
  const several = send(new AggregateError([new RangeError("one"), "two"]));
  assert(several instanceof AggregateError);
  assert(several.errors[0] instanceof RangeError);
  assertEquals(several.errors[1], "two");
});

Deno.test("errors of the Bot API keep what they tell", () => {
  const answer = {
    ok: false,
    error_code: 429,
    description: "Too Many",
  } as const;
  const parameters = { retry_after: 3 };
  const payload = { chat_id: 1, file: () => "not to be sent" };
  const error = send(
    new GrammyError("Call failed!", { ...answer, parameters }, "send", payload),
  );
  assert(error instanceof GrammyError);
  assertEquals(error.message, "Call failed! (429: Too Many)");
  assertEquals(error.parameters, parameters);
  assertEquals(error.payload.chat_id, 1);
});

Deno.test("reasons of aborted signals stay what they are", () => {
  const error = send(AbortSignal.abort().reason);
  assert(error instanceof DOMException);
  assertEquals(error.name, "AbortError");
});

Deno.test("values that are no errors arrive as they are", () => {
  for (const value of ["text", 5, undefined, null, { a: [1, { b: 2 }] }, 3n]) {
    assertEquals(send(value), value);
  }
});

Deno.test("whatever cannot be sent is described", () => {
  assertStringIncludes(send(() => 5), "=>");
  assertEquals(send(Symbol("key")), "Symbol(key)");
  const circle: Error = new Error("round");
  circle.cause = circle;
  assertEquals(send(circle).cause.cause.message, "round");
  const hostile = Object.defineProperty(new Error(), "message", {
    get() {
      throw new Error("no message");
    },
  });
  assertEquals(send(hostile), "[object Error]");
});

Deno.test("a field that cannot be read takes no others with it", () => {
  const thrown = Object.defineProperty(new RangeError("too much"), "at", {
    enumerable: true,
    get() {
      throw new TypeError("unreadable");
    },
  });
  const error = send(Object.assign(thrown, { limit: 3 }));
  assertEquals(error.constructor, RangeError);
  assertEquals(error.stack, thrown.stack);
  assertEquals(error.limit, 3);
  assert(error.at instanceof TypeError);
});

Deno.test("errors that refer to each other do so on arrival, too", () => {
  const all: Error = new AggregateError(
    Array.from({ length: 100 }, (_, i) => new Error(`${i}`)),
  );
  const { errors } = all as AggregateError;
  for (const error of errors) error.cause = all;
  const error = send(all);
  assertEquals(error.errors.length, 100);
  assertEquals(error.errors[99].message, "99");
  assert(error.errors[99].cause === error);

  const tree = { name: "root", children: [] as object[] };
  for (let i = 0; i < 100; i++) tree.children.push({ i, parent: tree });
  const sent = send(Object.assign(new Error(), { tree })).tree;
  assertEquals(sent.children[99].i, 99);
  assert(sent.children[99].parent === sent);
});

Deno.test("what hangs on an error is sent up to a limit", () => {
  const grow = (depth: number): object =>
    depth === 0
      ? { deep: [[]] }
      : Array.from({ length: 30 }, () => grow(depth - 1));
  const error = Object.assign(new Error("large"), { data: grow(3) });
  assertEquals(send(error).message, "large");
  const { length } = JSON.stringify(encodeError(error));
  assert(length < 100_000, `${length}`);
  assertEquals(send(new Array(1_000_000).fill(0)).length, 999);
});

Deno.test("what an error says of itself is sent as strings", () => {
  for (const stack of [() => "stack", ["call", () => "site"], undefined]) {
    const error = new RangeError("no");
    Object.defineProperty(error, "stack", { value: stack });
    assertEquals(send(error).stack, undefined);
    assertEquals(`${send(error)}`, "RangeError: no");
  }
  const error = new Error();
  Object.assign(error, { message: ["a", "list"], name: 5 });
  assertEquals(send(error).message, "a,list");
  assertEquals(send(error).name, "5");
});

Deno.test("values that nothing can be done with are sent all the same", () => {
  const { proxy, revoke } = Proxy.revocable({}, {});
  revoke();
  assertEquals(send(proxy), "[object Object]");
  assertEquals(send(new Error("no", { cause: proxy })).message, "no");
  assertEquals(send({ toString: null, valueOf: null }).toString, null);
});

Deno.test("a message that cannot be sent takes no others with it", async () => {
  const sent: unknown[] = [];
  const post = (batch: unknown[]) => void sent.push(...structuredClone(batch));
  const send = batching(post, (_, error) => (error as Error).name);
  for (const message of [1, () => 2, 3]) send(message);
  await Promise.resolve();
  assertEquals(sent, [1, "DataCloneError", 3]);
});
