import { assert, assertEquals } from "@std/assert";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { startServer } from "./_bot.ts";

const UPDATES = 10_000;
const CHATS = 200;

/** How often workers are told to die in which way. */
const DEATHS = { exit: 15, throw: 15, reject: 15, memory: 2 };

Deno.test("workers that die at random lose no update, and disturb no order", async () => {
  await using server = await startServer();
  const folder = mkdtempSync(`${tmpdir()}/workers-`);
  const file = fileURLToPath(new URL("./workers/flow.ts", import.meta.url));
  const process = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", file],
    env: {
      TEST_API_ROOT: server.url,
      TEST_TOKEN: server.token,
      TEST_FOLDER: folder,
      TEST_MODE: "ordered",
    },
    stdout: "piped",
    stderr: "null", // the runtime prints uncaught errors
  }).spawn();

  const texts: string[] = new Array(UPDATES).fill("log");
  for (const [how, count] of Object.entries(DEATHS)) {
    for (let i = 0; i < count; i++) {
      texts[Math.floor(Math.random() * UPDATES)] = `die ${how}`;
    }
  }
  // Late, as Deno cannot end a thread that is stuck: it costs a core.
  texts[UPDATES - 500] = "die loop";
  const ids = new Map<number, number[]>();
  for (let chatId = 1; chatId <= CHATS; chatId++) ids.set(chatId, []);
  for (const text of texts) {
    const chatId = 1 + Math.floor(Math.random() * CHATS);
    const { update_id } = server.pushText(text, { userId: chatId });
    ids.get(chatId)!.push(update_id);
  }
  server.pushText("stop");
  const { code, stdout } = await process.output();
  assertEquals(code, 0);
  const deaths = new TextDecoder().decode(stdout).trim().split("\n");

  /** The ids of the updates that a file lists, by their chats. */
  const read = (name: string) => {
    const ids = new Map<number, number[]>();
    for (const line of readFileSync(`${folder}/${name}`, "utf8").split("\n")) {
      const [chatId, id] = line.split(" ").map(Number);
      ids.set(chatId, [...ids.get(chatId) ?? [], id]);
    }
    return ids;
  };
  const handled = read("log");
  const failed = read("failed");
  rmSync(folder, { recursive: true });
  let failures = 0;
  for (const [chatId, expected] of ids) {
    const done = handled.get(chatId) ?? [];
    assertEquals(done, done.toSorted((a, b) => a - b), `chat ${chatId}`);
    const lost = failed.get(chatId) ?? [];
    failures += lost.length;
    assertEquals(new Set([...done, ...lost]), new Set(expected));
  }
  // The others are so few that somebody else's death can come first.
  for (const how of [/exited/, /uncaught/, /unhandled/]) {
    assert(deaths.some((death) => how.test(death)), `${how}: ${deaths}`);
  }
  assert(failures >= deaths.length, `${failures} in ${deaths.length} deaths`);
  assert(failures <= 50 * deaths.length, `${failures}`);
});
