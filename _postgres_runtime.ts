/** Imported before pg-boss, whose own failure would not tell what to do. */
import process from "node:process";

/** The oldest Node that pg-boss runs on. */
const NODE = [22, 12];

/** Throws if this version of Node is too old. */
export function checkNode(version: string): void {
  const [major, minor] = version.split(".").map(Number);
  if (major > NODE[0] || (major === NODE[0] && minor >= NODE[1])) return;
  throw new Error(
    `The PostgreSQL inbox needs Node >= ${
      NODE.join(".")
    }, as pg-boss does: this is Node ${version}`,
  );
}

// Deno and Bun tell the version of Node that they are like.
if (!process.versions.deno && !process.versions.bun) {
  checkNode(process.versions.node);
}
