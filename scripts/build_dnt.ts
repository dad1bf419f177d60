/**
 * Builds the npm package like `build_npm.ts`, but as ES modules and as CommonJS:
 * for Node 18, and for all versions and modes of TypeScript. Needs JSR.
 */
// deno-lint-ignore no-import-prefix -- of no use to anything else
import { build, emptyDir } from "jsr:@deno/dnt@^0.42.1";
import config from "../deno.json" with { type: "json" };
import { FIELDS, findPeers, peerFields } from "./manifest.ts";

const peers = await findPeers();

await emptyDir("npm");
await build({
  entryPoints: Object.entries(config.exports)
    .map(([name, path]) => ({ name, path })),
  outDir: "npm",
  shims: {},
  test: false,
  compilerOptions: { target: "ES2022", lib: ["ESNext", "DOM"] },
  mappings: Object.fromEntries(
    peers.flatMap(({ name, range, specifiers }) =>
      [...specifiers].map((specifier) => {
        const [, subPath] = /^npm:(?:@[^/]+\/)?[^/]+(?:\/(.+))?$/
          .exec(specifier)!;
        return [
          specifier,
          { name, version: range, subPath, peerDependency: true },
        ];
      })
    ),
  ),
  package: {
    name: config.name,
    version: config.version,
    ...FIELDS,
    license: config.license,
    engines: { node: ">=18" },
    ...peerFields(peers),
    devDependencies: { "@types/node": "^22" },
  },
});
for (const file of ["README.md", "LICENSE", "CHANGELOG.md"]) {
  await Deno.copyFile(file, `npm/${file}`);
}
