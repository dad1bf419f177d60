/**
 * What the PostgreSQL inbox does: updates per second with one to three processes
 * and handlers that take 10 ms, and how long updates wait at 200 a second. The
 * database, the Bot API server and the processes share this machine.
 */
import { PostgresServer } from "../scripts/postgres.ts";
import { type BotApiServer, startBotApiServer } from "../testing.ts";

const COUNT = 10_000;
const CHATS = 1000;
const RATE = 200;
const SECONDS = 15;

class Machine implements AsyncDisposable {
  handled = -1;
  waits: number[] = [];
  readonly #process: Deno.ChildProcess;
  readonly #reading: Promise<void>;

  constructor(server: BotApiServer, database: string) {
    this.#process = new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "-A", "--quiet", "--no-check"],
        new URL("postgres_machine.ts", import.meta.url).href,
        ...[server.url, server.token, database],
      ],
      stdout: "piped",
      env: { NODE_NO_WARNINGS: "1" },
    }).spawn();
    this.#reading = this.#read();
  }

  async #read(): Promise<void> {
    let text = "";
    const decoder = new TextDecoder();
    for await (const chunk of this.#process.stdout) {
      const lines = (text + decoder.decode(chunk)).split("\n");
      text = lines.pop()!;
      for (const line of lines) {
        const { handled, waits } = JSON.parse(line);
        this.handled = handled;
        this.waits.push(...waits);
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.kill("SIGKILL");
    await this.#reading;
    await this.#process.status;
  }
}

class Cluster implements AsyncDisposable {
  readonly #parts = new AsyncDisposableStack();

  private constructor(
    readonly server: BotApiServer,
    readonly machines: Machine[],
  ) {}

  /** So many machines, which are up and poll. */
  static async start(postgres: PostgresServer, count: number) {
    const server = await startBotApiServer({ quirks: false });
    const database = await postgres.createDatabase();
    const machines = Array.from(
      { length: count },
      () => new Machine(server, database),
    );
    const cluster = new Cluster(server, machines);
    cluster.#parts.defer(() => server.close());
    for (const machine of machines) cluster.#parts.use(machine);
    await cluster.until(() => machines.every(({ handled }) => handled >= 0));
    await cluster.until(() => server.stats().polls > 0);
    return cluster;
  }

  push(count: number): void {
    for (let i = 0; i < count; i++) {
      const userId = 1 + Math.floor(Math.random() * CHATS);
      this.server.pushText(`${Date.now()}`, { userId });
    }
  }

  get handled(): number {
    return this.machines.reduce((sum, { handled }) => sum + handled, 0);
  }

  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await sleep(5);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#parts.disposeAsync();
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

await using postgres = await PostgresServer.start();
for (const count of [1, 2, 3]) {
  await using cluster = await Cluster.start(postgres, count);
  // PostgreSQL gets to know the queue.
  cluster.push(COUNT);
  await cluster.until(() => cluster.handled === COUNT);
  const start = performance.now();
  cluster.push(COUNT);
  await cluster.until(() => cluster.handled === 2 * COUNT);
  const rate = Math.round(COUNT / (performance.now() - start) * 1000);
  console.log(`${count} processes: ${rate} updates/s`);
}
for (const count of [1, 3]) {
  await using cluster = await Cluster.start(postgres, count);
  const start = performance.now();
  let pushed = 0;
  while (pushed < RATE * SECONDS) {
    const due = Math.floor((performance.now() - start) / 1000 * RATE);
    cluster.push(due - pushed);
    pushed = due;
    await sleep(5);
  }
  await cluster.until(() => cluster.handled === pushed);
  const waits = cluster.machines.flatMap(({ waits }) => waits)
    .sort((a, b) => a - b);
  const at = (share: number) => waits[Math.floor(waits.length * share)];
  console.log(
    `${count} processes, ${RATE} updates/s: started after ${
      at(0.5)
    } ms (p50), ${at(0.99)} ms (p99)`,
  );
}
