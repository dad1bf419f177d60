/**
 * Builds the npm package, installs it as its users do, and runs it. All runtimes
 * and tools come from the npm registry.
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import config from "../../deno.json" with { type: "json" };

/** By the names under which they are installed. */
const RUNTIMES = {
  node20: { name: "Node 20", source: "node@20", bin: "bin/node" },
  node22: { name: "Node 22", source: "node@22", bin: "bin/node" },
  node24: { name: "Node 24", source: "node@24", bin: "bin/node" },
  bun: { name: "Bun", source: "bun@1", bin: "bin/bun.exe" },
};
const TYPESCRIPTS = {
  // The first version that lets CommonJS import ES modules.
  typescript58: { name: "TypeScript 5.8", source: "typescript@5.8" },
  typescript: { name: "the latest TypeScript", source: "typescript" },
};
const COMPILER_OPTIONS = {
  nodenext: { module: "nodenext" },
  bundler: { module: "preserve", moduleResolution: "bundler" },
};
const FORMATS = [["import", "mjs"], ["require()", "cjs"]];
const NO_SQLITE =
  "The SQLite inbox needs node:sqlite, which comes with Deno >= 2.2 and Node >= 22.13: this is Node 20";

const dir = await Deno.makeTempDir();
const tarball = `${dir}/package.tgz`;
const tools = `${dir}/tools/node_modules`;
/** Projects: one with all peers, and one with the oldest grammY alone. */
const full = `${dir}/full`;
const lean = `${dir}/lean`;

let peers: Record<string, string>;
let optionalPeers: string[];

Deno.test.beforeAll(async () => {
  await run(Deno.execPath(), ["task", "build:npm"]);
  const manifest = JSON.parse(await Deno.readTextFile("npm/package.json"));
  peers = manifest.peerDependencies;
  optionalPeers = Object.keys(manifest.peerDependenciesMeta ?? {});
  const { stdout } = await run(
    "npm",
    ["pack", "--silent", "--pack-destination", dir, "./npm"],
  );
  await Deno.rename(`${dir}/${stdout.trim()}`, tarball);

  await install(
    `${dir}/tools`,
    ...Object.entries({ ...RUNTIMES, ...TYPESCRIPTS })
      .map(([id, { source }]) => `${id}@npm:${source}`),
    "publint",
    "@arethetypeswrong/cli",
  );
  // The types of grammY need those of node-fetch.
  const types = ["@types/node@20", "@types/node-fetch@2"];
  const latest = Object.entries(peers).map((peer) => peer.join("@"));
  const oldest = `grammy@${peers.grammy.replace("^", "")}`;
  await install(full, tarball, ...types, ...latest);
  await install(lean, tarball, ...types, oldest);

  await writeConsumer(full, "entry_points", importsOfEntryPoints());
  for (const project of [full, lean]) {
    for (const name of ["bot", "sqlite_bot"]) {
      const source = await Deno.readTextFile(`tests/npm/${name}.ts`);
      await writeConsumer(project, name, source);
    }
    for (const [mode, options] of Object.entries(COMPILER_OPTIONS)) {
      const compilerOptions = {
        ...{ target: "es2022", types: ["node"], strict: true },
        // Checking the whole of that one takes a minute.
        skipLibCheck: project === lean,
        ...options,
      };
      await Deno.writeTextFile(
        `${project}/tsconfig.${mode}.json`,
        JSON.stringify({ include: ["*.mts", "*.cts"], compilerOptions }),
      );
    }
    await compile(project, "typescript", "nodenext", "--noCheck");
  }
  await run(Deno.execPath(), [
    "bundle",
    "--quiet",
    "--external=@grammyjs/runner/sqlite",
    `--output=${full}/conformance.test.mjs`,
    "tests/npm/conformance.ts",
  ]);
});

Deno.test.afterAll(() => Deno.remove(dir, { recursive: true }));

Deno.test("the peers of the package are what it imports", async () => {
  const imported = new Set<string>();
  for await (const { name } of Deno.readDir("npm")) {
    if (!/\.(js|d\.ts)$/.test(name)) continue;
    const text = await Deno.readTextFile(`npm/${name}`);
    const code = text.replaceAll(/\/\*.*?\*\//gs, "");
    for (
      const [, specifier] of code.matchAll(
        /(?:from|import)[\s(]+"([\w@][^"]*)"/g,
      )
    ) {
      if (specifier.startsWith("node:")) continue;
      imported.add(/^(@[^/]+\/)?[^/]+/.exec(specifier)![0]);
    }
  }
  assertEquals(Object.keys(peers).sort(), [...imported].sort());
  assert(!optionalPeers.includes("grammy"));
});

Deno.test("publint finds nothing to complain about", async () => {
  await run(`${tools}/.bin/publint`, ["--strict", "npm"]);
});

Deno.test("the types are right for all supported ways to import them", async () => {
  await run(`${tools}/.bin/attw`, [
    tarball,
    // All but `node10`, which knows no `exports`, and is gone in TypeScript 7.
    ...["--profile", "node16"],
    // Every version of Node that the package supports can `require()` them.
    ...["--ignore-rules", "cjs-resolves-to-esm"],
  ]);
});

for (const [id, { name }] of Object.entries(TYPESCRIPTS)) {
  for (const mode of Object.keys(COMPILER_OPTIONS)) {
    Deno.test(`${name} takes the types in the mode "${mode}"`, async () => {
      for (const project of [full, lean]) {
        await compile(project, id, mode, "--noEmit");
      }
    });
  }
}

for (const [id, { name, bin }] of Object.entries(RUNTIMES)) {
  const command = `${tools}/${id}/${bin}`;

  for (const [how, extension] of FORMATS) {
    Deno.test(`${name} runs a bot by ${how}`, async () => {
      for (const project of [full, lean]) {
        const { stdout } = await run(command, [`${project}/bot.${extension}`]);
        assertEquals(stdout, "abcde,abcde,abcde 0\n");
      }
    });

    Deno.test(`${name} loads the other entry points by ${how}`, async () => {
      await run(command, [`${full}/entry_points.${extension}`]);
    });

    if (id === "node20") {
      Deno.test(`${name} tells what SQLite inboxes need by ${how}`, async () => {
        const { success, stderr } = await execute(
          command,
          [`${full}/sqlite_bot.${extension}`],
        );
        assert(!success);
        assertStringIncludes(stderr, NO_SQLITE);
      });
    } else {
      Deno.test(`${name} runs a bot on an SQLite inbox by ${how}`, async () => {
        const { stdout } = await run(
          command,
          [`${full}/sqlite_bot.${extension}`, `${dir}/${id}.${extension}.db`],
        );
        assertEquals(stdout, "1 2 Hello\n");
      });
    }
  }

  if (id === "node20") continue;
  Deno.test(`SQLite inboxes conform to the contract on ${name}`, async () => {
    const { stdout, stderr } = await run(
      command,
      [...id === "bun" ? ["test"] : [], `${full}/conformance.test.mjs`],
    );
    // In the words of the one or the other.
    const passed = /pass (\d+)|(\d+) pass/.exec(stdout + stderr);
    assert(Number(passed?.[1] ?? passed?.[2]) > 0, stdout + stderr);
  });
}

async function install(project: string, ...packages: string[]): Promise<void> {
  const quiet = ["--silent", "--no-audit", "--no-fund"];
  await run("npm", ["install", ...quiet, "--prefix", project, ...packages]);
}

/** All but the one that Node 20 has not, which has a consumer of its own. */
function importsOfEntryPoints(): string {
  return Object.keys(config.exports)
    .filter((path) => path !== "./sqlite")
    .map((path, i) =>
      `export * as e${i} from "${config.name}${path.slice(1)}";\n`
    )
    .join("");
}

/** TypeScript makes an ES module of the one, and a CommonJS one of the other. */
async function writeConsumer(
  project: string,
  name: string,
  source: string,
): Promise<void> {
  await Deno.writeTextFile(`${project}/${name}.mts`, source);
  await Deno.writeTextFile(`${project}/${name}.cts`, source);
}

/** Compiles all consumers in a project. */
async function compile(
  project: string,
  typescript: string,
  mode: string,
  option: string,
): Promise<void> {
  const config = `${project}/tsconfig.${mode}.json`;
  await run(`${tools}/${typescript}/bin/tsc`, ["-p", config, option]);
}

async function run(
  command: string,
  args: string[],
): Promise<{ stdout: string; stderr: string }> {
  const { success, stdout, stderr } = await execute(command, args);
  assert(success, `${command} ${args.join(" ")} failed:\n${stdout}${stderr}`);
  return { stdout, stderr };
}

async function execute(
  command: string,
  args: string[],
): Promise<{ success: boolean; stdout: string; stderr: string }> {
  const output = await new Deno.Command(command, {
    args,
    env: { NO_COLOR: "1" },
    signal: AbortSignal.timeout(120_000),
  }).output();
  const decoder = new TextDecoder();
  return {
    success: output.success,
    stdout: decoder.decode(output.stdout),
    stderr: decoder.decode(output.stderr),
  };
}
