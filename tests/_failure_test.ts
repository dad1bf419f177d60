import { assertEquals } from "@std/assert";
import process from "node:process";
import { onFailure } from "../_failure.ts";
import { failProcess } from "./_bot.ts";

const MODULE = new URL("../_failure.ts", import.meta.url).href;

/** How a process can end, and whether that is a failure of its own. */
const ENDS: [name: string, code: string, isFailure: boolean][] = [
  ["an exit with code 1", "Deno.exit(1)", true],
  ["an exit of Node with code 127", "process.exit(127)", true],
  ["an exit code that is set", "process.exitCode = 2", true],
  ["an error in a timer", "setTimeout(() => { throw new Error('x'); })", true],
  ["a rejection", "Promise.reject(new Error('x'))", true],
  ["an exit with code 0", "Deno.exit(0)", false],
  ["an exit with the code of a signal", "Deno.exit(143)", false],
  ["a kill", "Deno.kill(Deno.pid, 'SIGKILL')", false],
  ["having nothing left to do", "", false],
  ["an exit that it listens to no longer", "ignore(); Deno.exit(1)", false],
];

for (const [name, code, isFailure] of ENDS) {
  Deno.test(`${name} is ${isFailure ? "a" : "no"} failure of the process`, async () => {
    const program = `
      import process from "node:process";
      import { onFailure } from "${MODULE}";
      let told = false;
      const ignore = onFailure(() => {
        if (!told) console.log("failure");
        told = true;
      });
      ${code}
    `;
    const { stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["eval", "--ext=ts", program],
    }).output();
    assertEquals(
      new TextDecoder().decode(stdout),
      isFailure ? "failure\n" : "",
    );
  });
}

Deno.test("any number of inboxes listen as one, until the last is closed", () => {
  const before = process.listenerCount("exit");
  let told = 0;
  const ends = Array.from({ length: 12 }, () => onFailure(() => told++));
  assertEquals(process.listenerCount("exit"), before + 1);
  failProcess();
  assertEquals(told, 12);
  const last = ends.pop()!;
  for (const end of ends) end();
  failProcess();
  assertEquals(told, 13);
  last();
  failProcess();
  assertEquals(told, 13);
  assertEquals(process.listenerCount("exit"), before);
});
