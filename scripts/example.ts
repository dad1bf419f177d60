/**
 * Runs an example by its name. If BOT_TOKEN is not set, the example talks to a
 * local Bot API server, where a few simulated people write to it. The one that
 * wants PostgreSQL gets a server of its own, unless DATABASE_URL or BOT_TOKEN is
 * set.
 */
import { type BotApiServer, startBotApiServer } from "../testing.ts";
import { PostgresServer } from "./postgres.ts";

const PEOPLE = new Map([[1001, "Ada"], [1002, "Grace"], [1003, "Linus"]]);
const TEXTS = [["Hello!", "How are you?"], ["Thank you!", "/time"]];

/** Has Deno print what is recorded, unless it is told where to send that. */
const TO_CONSOLE: Record<string, string> = Deno.env.get("OTEL_DENO")
  ? {}
  : { OTEL_DENO: "true", OTEL_EXPORTER_OTLP_PROTOCOL: "console" };

const names = [...Deno.readDirSync(new URL("../examples", import.meta.url))]
  .map(({ name }) => name.replace(/\.ts$/, ""))
  .sort();
const [name] = Deno.args;
if (Deno.args.length !== 1 || !names.includes(name)) {
  if (name) console.error(`There is no example "${Deno.args.join(" ")}".`);
  console.error(`Usage: deno task example NAME\nNAME is ${names.join(", ")}`);
  Deno.exit(2);
}

// Ctrl-C reaches the example by itself; here, it must not end the server first.
let interrupted = false;
Deno.addSignalListener("SIGINT", () => interrupted = true);

if (Deno.env.get("BOT_TOKEN")) {
  console.log(`Running the example ${name}; Ctrl-C ends it`);
  Deno.exit((await start().status).code);
}

console.log(
  `Running the example ${name} on a local server; set BOT_TOKEN to run it on Telegram`,
);
await using server = await startBotApiServer({
  latencyMilliseconds: 50,
  // A new bot each time: a database would take its updates for known ones.
  token: `${Date.now()}:local-example`,
});
await using postgres = name === "many_machines" && !Deno.env.get("DATABASE_URL")
  ? await PostgresServer.start()
  : undefined;
const example = start({
  BOT_TOKEN: server.token,
  BOT_API_ROOT: server.url,
  ...(postgres && { DATABASE_URL: postgres.url() }),
});
const simulation = simulate(server);
const replies = printReplies(server, PEOPLE.size * TEXTS.flat().length);
const finished = Promise.all([simulation, replies]).then(() => true);
// This one shows how it ends what is under way; the others are just ended.
const done = name === "shutdown" ? simulation : finished;
done.finally(() => example.kill("SIGINT")).catch(() => {});

const { code, signal } = await example.status;
await server.close();
const complete = await finished.catch(() => false) || interrupted;
if (!complete) console.error("The example did not answer everyone");
Deno.exitCode = complete && (code === 0 || signal === "SIGINT") ? 0 : 1;

function start(env?: Record<string, string>): Deno.ChildProcess {
  const file = name === "workers" ? `${name}/main.ts` : `${name}.ts`;
  const path = new URL(`../examples/${file}`, import.meta.url).href;
  // These also start and kill themselves.
  const allow = ["durable", "many_machines"].includes(name)
    ? ["-A"]
    : ["--allow-net", "--allow-env", "--allow-read"];
  const args = ["run", ...allow, path];
  if (name === "telemetry") env = { ...TO_CONSOLE, ...env };
  return new Deno.Command(Deno.execPath(), { args, env }).spawn();
}

/** Resolves when the bot has received all that the people have written. */
async function simulate(server: BotApiServer): Promise<void> {
  const isThere = () =>
    server.polls().length > 0 || server.calls("setWebhook").length > 0;
  await server.waitFor(isThere, { timeout: 60_000 });
  for (const texts of TEXTS) {
    for (const [userId, person] of PEOPLE) {
      for (const text of texts) {
        console.log(`${person}: ${text}`);
        server.pushText(text, { userId });
      }
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  await server.waitFor(() => server.stats().unconfirmed === 0);
}

async function printReplies(server: BotApiServer, count: number) {
  for (let i = 0; i < count; i++) {
    const { chat, text } = await server.waitFor(
      () => server.sent()[i],
      { timeout: 60_000 },
    );
    console.log(`    bot to ${PEOPLE.get(chat.id)}: ${text}`);
  }
}
