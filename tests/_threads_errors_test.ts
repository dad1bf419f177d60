import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { GrammyError, HttpError } from "grammy";
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
