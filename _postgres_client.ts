import "./_postgres_runtime.ts";
// deno-lint-ignore no-import-prefix -- raw files have no import map
import pg from "npm:pg@^8.16";

/**
 * What the server shall do about a machine that is silent in the middle of
 * something, such as one that was paused: it must not keep what it has locked from
 * the others, for less time than they need to show that they are alive.
 */
export const SESSION_SETTINGS = [
  "SET idle_in_transaction_session_timeout = 5000",
  // What is not received counts, too. Not every system has it.
  "SET tcp_user_timeout = 10000",
];

/** A connection of its own, outside the pool. */
export interface Client {
  // deno-lint-ignore no-explicit-any -- rows are what the statement makes them
  query(text: string, values?: unknown[]): Promise<{ rows: any[] }>;
  on(
    event: "notification",
    listener: (message: { payload?: string }) => void,
  ): unknown;
  end(): Promise<void>;
}

/**
 * Opens a connection.
 *
 * @param purpose What the server shows to those who look at its connections
 * @param queryMs How long a statement may take
 * @param idleMs After how long in idleness the server ends it; never if 0
 * @param onEnd Called when the connection has ended, whoever has ended it
 */
export async function connect(
  connectionString: string,
  purpose: string,
  queryMs: number,
  idleMs: number,
  onEnd: (client: Client) => void,
): Promise<Client> {
  const client = new pg.Client({
    connectionString,
    application_name: `grammy_runner ${purpose}`,
    connectionTimeoutMillis: 5000,
    query_timeout: queryMs,
    keepAlive: true,
    // What lies between can forget a connection that is idle.
    keepAliveInitialDelayMillis: 10_000,
  });
  client.on("error", () => onEnd(client));
  client.on("end", () => onEnd(client));
  try {
    await client.connect();
    // Besides, a pooler gives no session to those who have not asked for anything.
    await client.query(`SET idle_session_timeout = ${idleMs}`);
    for (const setting of SESSION_SETTINGS) await client.query(setting);
    return client;
  } catch (error) {
    client.end().catch(() => {}); // it may not even have begun
    throw error;
  }
}
