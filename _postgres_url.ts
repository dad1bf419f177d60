import "./_postgres_runtime.ts";
// deno-lint-ignore no-import-prefix -- raw files have no import map
import pg from "npm:pg@^8.16";

/**
 * Whether a string is a URL of PostgreSQL to the driver, whose own errors would
 * tell it, and the password in it.
 */
export function isPostgresUrl(value: unknown): value is string {
  if (typeof value !== "string" || !/^postgres(ql)?:\/\//.test(value)) {
    return false;
  }
  // A password that is not encoded can end the address early.
  if (/#|^[^?]*\/[^?]*@/.test(value.slice(value.indexOf("//") + 2))) {
    return false;
  }
  try {
    new pg.Client({ connectionString: value });
    return true;
  } catch {
    return false;
  }
}
