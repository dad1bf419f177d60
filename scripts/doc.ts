/** Runs `deno doc` on all entry points, with the arguments given. */
import config from "../deno.json" with { type: "json" };

const { code } = await new Deno.Command(Deno.execPath(), {
  args: [
    "doc",
    "--import-map=scripts/lint_doc_imports.json",
    ...Deno.args,
    ...Object.values(config.exports),
  ],
}).spawn().status;
Deno.exitCode = code;
