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

const output = Deno.args.find((arg) => arg.startsWith("--output="))?.slice(9);
if (output !== undefined) linkSources(output);

/** Has the pages link to the sources on GitHub, not to those on this machine. */
function linkSources(dir: string): void {
  const here = new URL("..", import.meta.url).href;
  for (const { name, isDirectory } of Deno.readDirSync(dir)) {
    const path = `${dir}/${name}`;
    if (isDirectory) linkSources(path);
    else if (name.endsWith(".html")) {
      const page = Deno.readTextFileSync(path);
      Deno.writeTextFileSync(
        path,
        page.replaceAll(here, "https://github.com/grammyjs/runner/blob/main/"),
      );
    }
  }
}
