/** What the npm package says about itself, apart from what `deno.json` says. */
import config from "../deno.json" with { type: "json" };

export const FIELDS = {
  description: "Run grammY bots on long polling, concurrently and reliably",
  keywords: ["grammy", "telegram", "bot", "long polling", "concurrency"],
  homepage: "https://grammy.dev/plugins/runner",
  bugs: "https://github.com/grammyjs/runner/issues",
  repository: {
    type: "git",
    url: "git+https://github.com/grammyjs/runner.git",
  },
};

/** The oldest versions that work, where these are not what the imports name. */
const OLDEST: Record<string, string> = { grammy: "1.13.1" };

/** A package on npm that a module imports. */
export interface Peer {
  /** Its name. */
  name: string;
  /** The versions that work. */
  range: string;
  /** Whether `mod.ts` works without it. */
  optional: boolean;
  /** How the modules import it. */
  specifiers: Set<string>;
}

/** Finds the packages that the entry points import, also for types alone. */
export async function findPeers(): Promise<Peer[]> {
  const peers = new Map<string, Peer>();
  for (const [entry, path] of Object.entries(config.exports)) {
    for (const specifier of await npmSpecifiers(path)) {
      const [, name, version] =
        /^npm:((?:@[^/]+\/)?[^/@]+)(?:@([^/]+))?/.exec(specifier) ?? [];
      if (name === undefined || version === undefined) {
        throw new Error(
          `Cannot find peers: an import from npm must name a version: received ${specifier} in ${path}`,
        );
      }
      const oldest = OLDEST[name] ?? version;
      const range = /^\d/.test(oldest) ? `^${oldest}` : oldest;
      const peer = peers.get(name) ??
        { name, range, optional: true, specifiers: new Set() };
      if (peer.range !== range) {
        throw new Error(
          `Cannot find peers: imports of ${name} must agree on its version: received ${peer.range} and ${range}`,
        );
      }
      if (entry === ".") peer.optional = false;
      peer.specifiers.add(specifier);
      peers.set(name, peer);
    }
  }
  return [...peers.values()];
}

/** The `peerDependencies` of a `package.json`, and what belongs to them. */
export function peerFields(peers: Peer[]): Record<string, unknown> {
  const optional = peers.filter((peer) => peer.optional);
  return {
    peerDependencies: Object.fromEntries(
      peers.map(({ name, range }) => [name, range]),
    ),
    ...(optional.length > 0 && {
      peerDependenciesMeta: Object.fromEntries(
        optional.map(({ name }) => [name, { optional: true }]),
      ),
    }),
  };
}

async function npmSpecifiers(path: string): Promise<string[]> {
  const { modules } = JSON.parse(
    await run(Deno.execPath(), ["info", "--json", path]),
  ) as {
    modules: { specifier: string; dependencies?: { specifier: string }[] }[];
  };
  return modules
    .filter((module) => module.specifier.startsWith("file:"))
    .flatMap((module) => module.dependencies ?? [])
    .map((dependency) => dependency.specifier)
    .filter((specifier) => specifier.startsWith("npm:"));
}

/** Runs a program to its end, and returns what it prints. */
export async function run(command: string, args: string[]): Promise<string> {
  const { success, stdout } = await new Deno.Command(command, {
    args,
    stderr: "inherit",
  }).output();
  if (!success) throw new Error(`${command} ${args.join(" ")} failed`);
  return new TextDecoder().decode(stdout);
}
