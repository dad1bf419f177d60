/** The conformance test of inboxes on the npm package, by the tests of Node. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import { createPostgresInbox } from "@grammyjs/runner/postgres";
import { createSqliteInbox } from "@grammyjs/runner/sqlite";
import { testInboxConformance } from "../inbox_conformance.ts";

const dir = mkdtempSync(join(tmpdir(), "conformance-"));
after(() => rmSync(dir, { recursive: true }));
let files = 0;

Object.assign(globalThis, {
  Deno: {
    test: ({ name, ignore, fn }: Deno.TestDefinition) =>
      test(name, { skip: ignore }, fn as () => Promise<void>),
  },
});

testInboxConformance({
  name: "SQLite inbox",
  create: (lookahead) =>
    createSqliteInbox(join(dir, `${files++}.db`), { lookahead }),
});

testInboxConformance({
  name: "PostgreSQL inbox",
  create: (lookahead) =>
    createPostgresInbox({
      connectionString: process.env.DATABASE_URL,
      maxBacklog: lookahead,
    }),
  patience: 100,
});
