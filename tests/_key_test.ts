import { assertEquals, assertStrictEquals } from "@std/assert";
import { keyOf } from "../_key.ts";
import { abortSignal, linkSlot, slotOf } from "../_slot.ts";
import type { Slot } from "../queue.ts";

const chat = { id: -100 };
const from = { id: 7 };

const cases: [what: string, update: object, key: string][] = [
  ["message", { message: { chat, from } }, "chat:-100"],
  ["edited message", { edited_message: { chat, from } }, "chat:-100"],
  ["channel post", { channel_post: { chat } }, "chat:-100"],
  ["business message", { business_message: { chat, from } }, "chat:-100"],
  [
    "deleted business messages",
    { deleted_business_messages: { chat, message_ids: [1] } },
    "chat:-100",
  ],
  [
    "callback query below a message",
    { callback_query: { from, message: { chat } } },
    "chat:-100",
  ],
  [
    "callback query of an inline message",
    { callback_query: { from, inline_message_id: "1" } },
    "user:7",
  ],
  ["reaction", { message_reaction: { chat, user: from } }, "chat:-100"],
  ["member", { chat_member: { chat, from } }, "chat:-100"],
  ["join request", { chat_join_request: { chat, from } }, "chat:-100"],
  ["boost", { chat_boost: { chat, boost: {} } }, "chat:-100"],
  ["inline query", { inline_query: { from, query: "" } }, "user:7"],
  ["chosen result", { chosen_inline_result: { from } }, "user:7"],
  ["pre-checkout query", { pre_checkout_query: { from } }, "user:7"],
  ["paid media", { purchased_paid_media: { from } }, "user:7"],
  ["business connection", { business_connection: { user: from } }, "user:7"],
  ["poll answer", { poll_answer: { user: from } }, "user:7"],
  ["anonymous poll answer", { poll_answer: { voter_chat: chat } }, "user:-100"],
  ["poll", { poll: { id: "9" } }, "update:1"],
  ["nothing known", {}, "update:1"],
  ["empty places", { message: null, poll: { chat: null } }, "update:1"],
  ["chat with the id 0", { message: { chat: { id: 0 }, from } }, "chat:0"],
];

for (const [what, update, key] of cases) {
  Deno.test(`key of an update is ${key} for: ${what}`, () => {
    assertEquals(keyOf({ update_id: 1, ...update }), key);
  });
}

Deno.test("slot is found by the update object that it was linked to", () => {
  const signal = new AbortController().signal;
  const slot = { signal } as Slot;
  const update = {};
  linkSlot(update, slot);
  assertStrictEquals(slotOf({ update }), slot);
  assertStrictEquals(abortSignal({ update }), signal);
  assertEquals(slotOf({ update: {} }), undefined);
});

Deno.test("a frozen update has a slot, too", () => {
  const update = Object.freeze({ update_id: 1 });
  const slot = { signal: AbortSignal.abort() } as Slot;
  linkSlot(update, slot);
  assertStrictEquals(slotOf({ update }), slot);
});

Deno.test("values that cannot carry a slot are ignored", () => {
  const slot = {} as Slot;
  for (const update of [undefined, null, 1, "update", true]) {
    linkSlot(update, slot);
    assertEquals(slotOf({ update }), undefined);
  }
  for (const ctx of [undefined, null, 1, "ctx", {}]) {
    assertEquals(slotOf(ctx), undefined);
  }
  const update = {};
  linkSlot(update, undefined);
  assertEquals(slotOf({ update }), undefined);
});

Deno.test("signal outside of a runner never aborts", () => {
  assertEquals(abortSignal({ update: {} }).aborted, false);
});
