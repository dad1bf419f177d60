/** Projects that use the npm package, and the tools to try it with. */
import { assert } from "@std/assert";
import config from "../../deno.json" with { type: "json" };

/** By the names under which they are installed. */
export const RUNTIMES = {
  node20: { name: "Node 20", source: "node@20", bin: "bin/node" },
  node22: { name: "Node 22", source: "node@22", bin: "bin/node" },
  node24: { name: "Node 24", source: "node@24", bin: "bin/node" },
  bun: { name: "Bun", source: "bun@1", bin: "bin/bun.exe" },
};
export const TYPESCRIPTS = {
  typescript5: {
    name: "TypeScript 5.8", // the first that lets CommonJS import ES modules
    source: "typescript@5.8",
    modes: ["nodenext", "bundler", "node10"],
  },
  typescript7: {
    name: "TypeScript 7",
    source: "typescript@7",
    modes: ["nodenext", "bundler"],
  },
};
const COMPILER_OPTIONS = {
  nodenext: { module: "nodenext" },
  bundler: { module: "preserve", moduleResolution: "bundler" },
  // It does not find `grammy/types`.
  node10: {
    module: "commonjs",
    moduleResolution: "node10",
    skipLibCheck: true,
  },
};
export const ENTRY_POINTS = Object.keys(config.exports)
  .map((path) => config.name + path.slice(1));

export const dir = await Deno.makeTempDir();
export const tarball = `${dir}/package.tgz`;
export const tools = `${dir}/tools/node_modules`;
/** A project with all peers. */
export const full = `${dir}/full`;
/** A project with the oldest grammY, and no other peers. */
export const lean = `${dir}/lean`;

/** Builds the package in `npm/`, and installs it and whatever tries it. */
export async function setUp(): Promise<void> {
  await run(Deno.execPath(), ["task", "build:npm"]);
  const { stdout } = await run(
    "npm",
    ["pack", "--silent", "--pack-destination", dir, "./npm"],
  );
  await Deno.rename(`${dir}/${stdout.trim()}`, tarball);

  await install(
    `${dir}/tools`,
    ...Object.entries({ ...RUNTIMES, ...TYPESCRIPTS })
      .map(([id, { source }]) => `${id}@npm:${source}`),
    "esbuild@0.28",
    "publint@0.3",
    "@arethetypeswrong/cli@0.18",
  );
  const { peerDependencies } = JSON.parse(
    await Deno.readTextFile("npm/package.json"),
  );
  const peers = Object.entries(peerDependencies).map((peer) => peer.join("@"));
  const oldest = `grammy@${peerDependencies.grammy.replace("^", "")}`;
  // The types of grammY need those of node-fetch.
  const types = ["@types/node@20", "@types/node-fetch@2"];
  await install(full, tarball, ...types, ...peers);
  await install(lean, tarball, ...types, oldest);

  const bot = await Deno.readTextFile("tests/npm/bot.ts");
  const workersBot = await Deno.readTextFile("tests/npm/workers_bot.ts");
  const worker = await Deno.readTextFile("tests/npm/worker.ts");
  const durableBot = await Deno.readTextFile("tests/npm/durable_bot.ts");
  const poison = await Deno.readTextFile("tests/npm/poison.ts");
  await fill(lean, { bot, workers_bot: workersBot, worker });
  await fill(full, {
    bot,
    workers_bot: workersBot,
    worker,
    durable_bot: durableBot,
    poison,
    entry_points: ENTRY_POINTS
      .map((name, i) => `export * as _${i} from "${name}";\n`).join(""),
  });
  await Deno.writeTextFile(
    `${full}/native.cts`,
    `require("@grammyjs/runner") as unknown; require("./worker.cjs");`,
  );
  // As ts-node does it.
  await Deno.writeTextFile(
    `${full}/hook.cjs`,
    `require.extensions[".cts"] = (module, path) =>
      module._compile('require("./worker.cjs")', path);`,
  );
  await run(Deno.execPath(), [
    "bundle",
    "--quiet",
    "--external=@grammyjs/runner/*",
    `--output=${full}/conformance.test.mjs`,
    "tests/npm/conformance.ts",
  ]);
}

async function install(project: string, ...packages: string[]): Promise<void> {
  const quiet = ["--silent", "--no-audit", "--no-fund"];
  await run("npm", ["install", ...quiet, "--prefix", project, ...packages]);
}

/** Writes programs, each as an ES module and as a CommonJS one. */
async function fill(
  project: string,
  sources: Record<string, string>,
): Promise<void> {
  for (const [name, source] of Object.entries(sources)) {
    await Deno.writeTextFile(`${project}/${name}.mts`, source);
    await Deno.writeTextFile(`${project}/${name}.cts`, source);
  }
  for (const [mode, options] of Object.entries(COMPILER_OPTIONS)) {
    const compilerOptions = {
      ...{ target: "es2022", types: ["node"], strict: true },
      // Those of the oldest grammY take a minute.
      skipLibCheck: project === lean,
      ...options,
    };
    await Deno.writeTextFile(
      `${project}/tsconfig.${mode}.json`,
      JSON.stringify({ include: ["*.mts", "*.cts"], compilerOptions }),
    );
  }
  // Only here do imports in `.cts` files become calls of `require()`.
  await compile(project, "typescript7", "nodenext", "--noCheck");
}

/** Runs TypeScript on the programs of a project. */
export async function compile(
  project: string,
  typescript: string,
  mode: string,
  option: string,
): Promise<void> {
  const config = `${project}/tsconfig.${mode}.json`;
  await run(`${tools}/${typescript}/bin/tsc`, ["-p", config, option]);
}

/** Runs a program that must succeed. */
export async function run(
  command: string,
  args: string[],
  env: Record<string, string> = {},
): Promise<{ stdout: string; stderr: string }> {
  const { success, stdout, stderr } = await tryToRun(command, args, env);
  assert(success, `${command} ${args.join(" ")} failed:\n${stdout}${stderr}`);
  return { stdout, stderr };
}

/** Runs a program, and kills it if it does not end. */
export async function tryToRun(
  command: string,
  args: string[],
  env: Record<string, string> = {},
): Promise<{ success: boolean; stdout: string; stderr: string }> {
  const { success, stdout, stderr } = await new Deno.Command(command, {
    args,
    env: { NO_COLOR: "1", ...env },
    signal: AbortSignal.timeout(120_000),
  }).output();
  const decoder = new TextDecoder();
  return {
    success,
    stdout: decoder.decode(stdout),
    stderr: decoder.decode(stderr),
  };
}
