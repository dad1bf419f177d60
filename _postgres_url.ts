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
  } catch (error) {
    const { syscall, message } = error as { syscall?: string } & Error;
    if (syscall === undefined) return false;
    throw new TypeError(
      `Cannot create inbox: connectionString must name files that can be read: ${message}`,
      { cause: error },
    );
  }
}
