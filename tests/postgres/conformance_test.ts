import { PostgresServer } from "../../scripts/postgres.ts";
import { createPostgresInbox } from "../../postgres_inbox.ts";
import { testInboxConformance } from "../inbox_conformance.ts";

let server: PostgresServer;
Deno.test.beforeAll(async () => void (server = await PostgresServer.start()));
Deno.test.afterAll(() => server[Symbol.asyncDispose]());

testInboxConformance({
  name: "PostgreSQL inbox",
  create: async (lookahead) =>
    createPostgresInbox({
      connectionString: await server.createDatabase(),
      maxBacklog: lookahead,
    }),
  patience: 100,
});
