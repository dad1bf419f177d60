import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { pushTexts, startServer } from "./_bot.ts";

const DEMO = new URL("../demo/demo.ts", import.meta.url).href;

/** Runs the demo to its end, without a terminal. */
async function runDemo(
  args: string[],
  env: Record<string, string> = {},
  onOutput?: (output: string, child: Deno.ChildProcess) => void,
): Promise<{ code: number; output: string; errors: string }> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", DEMO, ...args],
    env: { BOT_TOKEN: "", NO_COLOR: "1", ...env },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const errors = new Response(child.stderr).text();
  let output = "";
  for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
    output += text;
    onOutput?.(output, child);
  }
  const { code } = await child.status;
  return { code, output, errors: await errors };
}

/** The numbers of the report. */
function readReport(output: string): (name: string) => number {
  return (name) => {
    const [, digits] = new RegExp(`^ +${name} +([\\d,]+)`, "m").exec(output) ??
      [];
    assert(digits !== undefined, `no ${name} in: ${output}`);
    return Number(digits.replaceAll(",", ""));
  };
}

Deno.test("demo ends by itself and accounts for every message", async () => {
  const { code, output } = await runDemo(["--seconds", "3", "--rate", "50"]);
  const read = readReport(output);
  assert(read("handled") > 20, output);
  assertEquals(read("lost"), 0);
  const becameOf = ["handled", "failed", "timed out", "given up"]
    .concat("left on Telegram");
  assertEquals(
    becameOf.reduce((sum, name) => sum + read(name), 0),
    read("messages written"),
  );
  assertMatch(output, /^\d\d:\d\d:\d\d \w+ \| .* updates\/s \|/m);
  assert(!output.includes("\x1b"), "no control sequences without a terminal");
  assertEquals(code, 0);
});

Deno.test("demo stops gracefully when it is interrupted", async () => {
  let interrupted = false;
  const { code, output } = await runDemo([], {}, (output, child) => {
    if (interrupted || !output.includes("polling")) return;
    interrupted = true;
    child.kill("SIGINT");
  });
  assertMatch(output, /Stopped after .*: /);
  assertEquals(readReport(output)("lost"), 0);
  assertEquals(code, 0);
});

Deno.test("demo with a token answers whoever writes to the bot", async () => {
  await using server = await startServer();
  const env = { BOT_TOKEN: server.token, BOT_API_ROOT: server.url };
  pushTexts(server, 1);
  server.pushText("/start");
  const { code, output } = await runDemo(["--seconds", "2"], env);
  const texts = server.sent().map(({ text }) => text).sort();
  assertEquals(texts.length, 2);
  assertStringIncludes(texts[0]!, "/report takes a few seconds");
  assertEquals(texts[1], "You said: 0");
  assertEquals(readReport(output)("handled"), 2);
  assert(!output.includes("messages written"));
  assertEquals(code, 0);
});

Deno.test("demo with a wrong token fails and says why", async () => {
  await using server = await startServer();
  const env = { BOT_TOKEN: "1:wrong", BOT_API_ROOT: server.url };
  const { code, errors } = await runDemo([], env);
  assertStringIncludes(errors, "401: Unauthorized");
  assertEquals(code, 1);
});

for (
  const [args, message] of [
    [["--seconds", "0"], "--seconds must be a number above 0: received 0"],
    [
      ["--seconds", "soon"],
      "--seconds must be a number above 0: received soon",
    ],
    [["--rate", "-1"], "--rate"],
    [
      ["--rate", "1e9"],
      "--rate must be a number from 0 to 10,000: received 1e9",
    ],
    [["--speed", "5"], "--speed"],
  ] as const
) {
  Deno.test(`demo refuses ${args.join(" ")}`, async () => {
    const { code, errors } = await runDemo([...args]);
    assertStringIncludes(errors, message);
    assertStringIncludes(errors, "Usage: deno task demo");
    assertEquals(code, 2);
  });
}

Deno.test("demo tells its options", async () => {
  const { code, output } = await runDemo(["--help"]);
  assertStringIncludes(output, "--seconds N");
  assertEquals(code, 0);
});
