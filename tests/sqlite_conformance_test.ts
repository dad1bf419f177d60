import { createSqliteInbox } from "../sqlite_inbox.ts";
import { testInboxConformance } from "./inbox_conformance.ts";

const dir = Deno.makeTempDirSync();
let files = 0;

testInboxConformance({
  name: "SQLite inbox",
  create: (lookahead) =>
    createSqliteInbox(`${dir}/${files++}.db`, { lookahead }),
});

Deno.test("SQLite inboxes of the conformance test are removed", () => {
  Deno.removeSync(dir, { recursive: true });
});
