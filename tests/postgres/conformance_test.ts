import { PostgresServer } from "../../scripts/postgres.ts";
import { createPostgresInbox } from "../../postgres_inbox.ts";
import { testInboxConformance } from "../inbox_conformance.ts";

let server: PostgresServer;
let connectionString: string;
Deno.test.beforeAll(async () => {
  server = await PostgresServer.start();
  connectionString = await server.createDatabase();
});
Deno.test.afterAll(() => server[Symbol.asyncDispose]());

testInboxConformance({
  name: "PostgreSQL inbox",
  create: (lookahead) =>
    createPostgresInbox({ connectionString, maxBacklog: lookahead }),
  patience: 100,
});
