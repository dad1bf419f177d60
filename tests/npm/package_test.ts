/**
 * Builds the npm package, installs it as its users do, and runs it. All runtimes
 * and tools come from the npm registry.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { PostgresServer } from "../../scripts/postgres.ts";
import {
  compile,
  dir,
  ENTRY_POINTS,
  full,
  lean,
  run,
  RUNTIMES,
  setUp,
  tarball,
  tools,
  tryToRun,
  TYPESCRIPTS,
} from "./_projects.ts";

/** The lines that `workers_bot.ts` prints, sorted. */
const WORKERS_OUTPUT = [
  "",
  "Worker 1 crashed: [object Object]",
  "Worker 1 crashed: uncaught",
  "Worker 1 did not respond within 2000 ms",
  "Worker 1 exited with code 3",
  "closed",
  "local_test_bot",
  "thrown",
];

let postgres: PostgresServer;
Deno.test.beforeAll(async () => {
  postgres = await PostgresServer.start();
  await setUp();
});
Deno.test.afterAll(async () => {
  await postgres[Symbol.asyncDispose]();
  await Deno.remove(dir, { recursive: true });
});

Deno.test("the peers are what the package imports; all but grammY are optional", async () => {
  const imported = new Set<string>();
  for await (const { name } of Deno.readDir("npm")) {
    if (!/\.(js|d\.ts)$/.test(name)) continue;
    const code = (await Deno.readTextFile(`npm/${name}`))
      .replaceAll(/\/\*.*?\*\//gs, "");
    const imports = /(?:from|import)[\s(]+"((?:@[^/"]+\/)?\w[^/"]*)/g;
    for (const [, name] of code.matchAll(imports)) {
      if (!name.startsWith("node:")) imported.add(name);
    }
  }
  const { peerDependencies, peerDependenciesMeta = {} } = JSON.parse(
    await Deno.readTextFile("npm/package.json"),
  );
  assertEquals(Object.keys(peerDependencies).sort(), [...imported].sort());
  imported.delete("grammy");
  assertEquals(Object.keys(peerDependenciesMeta).sort(), [...imported].sort());
});

Deno.test("publint finds nothing to complain about", async () => {
  await run(`${tools}/.bin/publint`, ["--strict", "npm"]);
});

Deno.test("attw finds the types right for all ways to import them", async () => {
  await run(
    `${tools}/.bin/attw`,
    // Every version of Node that the package supports can `require()` them.
    [tarball, "--ignore-rules", "cjs-resolves-to-esm"],
  );
});

for (const [id, { name, modes }] of Object.entries(TYPESCRIPTS)) {
  for (const mode of modes) {
    Deno.test(`${name} takes the types in the mode "${mode}"`, async () => {
      for (const project of [full, lean]) {
        await compile(project, id, mode, "--noEmit");
      }
    });
  }
}

for (const [id, { name, bin }] of Object.entries(RUNTIMES)) {
  const command = `${tools}/${id}/${bin}`;

  // grammY finds abort signals by the name of their class, and esbuild renames
  // classes of modules if other modules use a global of that name.
  Deno.test(`${name} runs a bot that esbuild has put into one file`, async () => {
    const bundle = `${dir}/${id}.bundle.cjs`;
    await run(`${tools}/.bin/esbuild`, [
      ...["--bundle", "--platform=node", "--log-level=error"],
      ...[`--outfile=${bundle}`, `${full}/bot.cjs`],
    ]);
    const { stdout } = await run(command, [bundle]);
    assertEquals(stdout, "abcde,abcde,abcde 0\n");
  });

  for (const [how, extension] of [["import", "mjs"], ["require()", "cjs"]]) {
    Deno.test(`${name} runs a bot by ${how}`, async () => {
      for (const project of [full, lean]) {
        const { stdout } = await run(command, [`${project}/bot.${extension}`]);
        assertEquals(stdout, "abcde,abcde,abcde 0\n");
      }
    });

    Deno.test(`${name} runs a bot with workers by ${how}`, async () => {
      const files = [`${lean}/worker.${extension}`, `${full}/worker`];
      // Node 20 cannot run TypeScript.
      if (id !== "node20") {
        files.push(`${full}/worker.mts`, `${full}/native.cts`);
      }
      for (const file of files) {
        const program = file.replace(
          /[^/]*$/,
          `workers_bot.${extension}`,
        );
        const { stdout } = await run(command, [program, file]);
        assertEquals(stdout.split("\n").sort(), WORKERS_OUTPUT);
      }
    });

    if (id !== "bun") {
      Deno.test(`${name} runs a bot with workers by ${how} that a hook of require() compiles`, async () => {
        const { stdout } = await run(command, [
          ...["-r", `${full}/hook.cjs`],
          ...[`${full}/workers_bot.${extension}`, `${full}/worker.cts`],
        ]);
        assertEquals(stdout.split("\n").sort(), WORKERS_OUTPUT);
      });
    }

    const load = async (entryPoint: string) => {
      const path = `${full}/load.${extension}`;
      const code = extension === "mjs" ? "await import" : "require";
      await Deno.writeTextFile(path, `${code}("${entryPoint}");`);
      return await tryToRun(command, [path]);
    };

    if (id === "node20") {
      Deno.test(`${name} loads what it can by ${how}, and says what the rest needs`, async () => {
        const refused = [];
        for (const entryPoint of ENTRY_POINTS) {
          const { success, stderr } = await load(entryPoint);
          if (success) continue;
          refused.push(entryPoint);
          assertMatch(
            stderr,
            /Error: .* needs .*Node >= 22.*: this is Node 20/,
          );
        }
        assert(refused.includes("@grammyjs/runner/sqlite"));
        assert(!refused.includes("@grammyjs/runner"));
      });
    } else {
      Deno.test(`${name} loads every entry point by ${how}`, async () => {
        for (const entryPoint of ENTRY_POINTS) {
          const { success, stderr } = await load(entryPoint);
          assert(success, stderr);
        }
      });

      Deno.test(`${name} runs a bot on durable inboxes by ${how}`, async () => {
        const file = `${dir}/${id}.${extension}.db`;
        for (const path of [file, await postgres.createDatabase()]) {
          const { stdout } = await run(
            command,
            [`${full}/durable_bot.${extension}`, path],
          );
          assertEquals(stdout, "1 2 Hello\n");
        }
      });

      Deno.test(`${name} sets an update aside that fails the process three times by ${how}`, async () => {
        const path = `${dir}/${id}.${extension}.poison.db`;
        const program = [`${full}/poison.${extension}`, path];
        for (let deaths = 0; deaths < 3; deaths++) {
          const { stderr } = await tryToRun(command, program);
          assertMatch(stderr, /nobody catches this/);
        }
        const { stdout } = await run(command, program);
        const quarantined = [{ update: { update_id: 7 }, deaths: 3 }];
        assertEquals(JSON.parse(stdout), quarantined);
      });
    }
  }

  if (id === "node20") continue;
  Deno.test(`${name} passes the conformance test with durable inboxes`, async () => {
    const { stdout, stderr } = await run(
      command,
      [...id === "bun" ? ["test"] : [], `${full}/conformance.test.mjs`],
      { DATABASE_URL: await postgres.createDatabase() },
    );
    // In the words of the one or the other.
    const passed = /pass (\d+)|(\d+) pass/.exec(stdout + stderr);
    assert(Number(passed?.[1] ?? passed?.[2]) > 0, stdout + stderr);
  });
}
