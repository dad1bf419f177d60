/**
 * Builds the npm package in `npm/`: packs it with Deno, and adds to its
 * `package.json` what that leaves out.
 */
import { FIELDS, findPeers, peerFields, run } from "./manifest.ts";

const tarball = await Deno.makeTempFile({ suffix: ".tgz" });
try {
  await run(
    Deno.execPath(),
    ["pack", "--quiet", "--no-source-maps", "--allow-dirty", "-o", tarball],
  );
  await Deno.remove("npm", { recursive: true }).catch(() => {});
  await Deno.mkdir("npm");
  await run("tar", ["-xzf", tarball, "-C", "npm", "--strip-components=1"]);
} finally {
  await Deno.remove(tarball);
}

const manifest = JSON.parse(await Deno.readTextFile("npm/package.json"));
const { name, version, license, ...modules } = manifest;
// Deno makes a dependency of all that is imported when the package runs. As
// peers, they are those of the bot, and whoever does not use them needs none.
delete modules.dependencies;
await Deno.writeTextFile(
  "npm/package.json",
  JSON.stringify(
    {
      name,
      version,
      ...FIELDS,
      license,
      ...modules,
      // For TypeScript in the mode `node10`, which knows no `exports`.
      typesVersions: {
        "*": Object.fromEntries(
          Object.entries<{ types: string }>(modules.exports)
            .filter(([path]) => path !== ".")
            .map(([path, { types }]) => [path.slice(2), [types]]),
        ),
      },
      // The first versions that `require()` ES modules.
      engines: { node: "^20.19.0 || >=22.12.0" },
      ...peerFields(await findPeers()),
    },
    null,
    2,
  ) + "\n",
);
