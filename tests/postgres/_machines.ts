/** Machines that run one bot: processes that can be killed, and their records. */
import { assert } from "@std/assert";
import { PostgresServer } from "../../scripts/postgres.ts";
import type { BotApiServer } from "../../testing.ts";
import { sleep, startServer } from "../_bot.ts";

export interface Entry {
  what: string;
  at: number;
  text: string;
  machine: Machine;
}

/** A process that runs the bot. */
export class Machine {
  readonly #process: Deno.ChildProcess;
  readonly #log: string;
  ended = false;

  constructor(readonly name: string, log: string, args: string[]) {
    this.#log = log;
    this.#process = new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "-A", "--no-check", "--quiet"],
        new URL("child.ts", import.meta.url).href,
        ...args,
      ],
      env: { NODE_NO_WARNINGS: "1" },
      stdout: "null",
    }).spawn();
    this.#process.status.then(() => this.ended = true);
  }

  /** What it has recorded so far. */
  entries(...whats: string[]): Entry[] {
    let log: string;
    try {
      log = Deno.readTextFileSync(this.#log);
    } catch {
      return []; // it has not got that far
    }
    // The last line can be half written.
    return log.slice(0, log.lastIndexOf("\n") + 1).split("\n").slice(0, -1)
      .map((line) => {
        const [, what, at, text] = /^(\S+) (\d+) (.*)$/.exec(line) ??
          ["", "info", "0", line];
        return { what, at: +at, text, machine: this };
      })
      .filter(({ what }) => whats.length === 0 || whats.includes(what));
  }

  /** The ids of the updates that it has started and not ended. */
  running(): Set<string> {
    const running = new Set<string>();
    for (const { what, text } of this.entries("start", "end")) {
      if (what === "start") running.add(text);
      else running.delete(text);
    }
    return running;
  }

  get leads(): boolean {
    return this.entries("leads", "follows").at(-1)?.what === "leads";
  }

  signal(signal: Deno.Signal): void {
    this.#process.kill(signal);
  }

  async end(signal: Deno.Signal = "SIGKILL"): Promise<void> {
    try {
      this.#process.kill(signal);
    } catch {
      // It has ended before.
    }
    await this.#process.status;
  }
}

/** A Bot API server, a database, and machines between them. */
export class World implements AsyncDisposable {
  readonly dir = Deno.makeTempDirSync();
  readonly machines: Machine[] = [];

  private constructor(
    readonly server: BotApiServer,
    readonly postgres: PostgresServer,
    readonly database: string,
  ) {}

  static async create(): Promise<World> {
    const postgres = await PostgresServer.start();
    const server = await startServer();
    return new World(server, postgres, await postgres.createDatabase());
  }

  start(count = 1, concurrency = 100, maxAttempts = 3): Machine[] {
    const started = Array.from({ length: count }, (_, i) => {
      const name = `m${this.machines.length + i}`;
      const log = `${this.dir}/${name}.log`;
      return new Machine(name, log, [
        ...[this.server.url, this.server.token, this.database],
        ...[log, `${concurrency}`, `${maxAttempts}`],
      ]);
    });
    this.machines.push(...started);
    return started;
  }

  alive(): Machine[] {
    return this.machines.filter(({ ended }) => !ended);
  }

  /** What all machines have recorded, in the order in which that happened. */
  entries(...whats: string[]): Entry[] {
    return this.machines.flatMap((machine) => machine.entries(...whats))
      .sort((a, b) => a.at - b.at);
  }

  ended(): Set<number> {
    return new Set(this.entries("end").map(({ text }) => +text));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const machine of this.machines) await machine.end();
    await this.server.close();
    await this.postgres[Symbol.asyncDispose]();
    Deno.removeSync(this.dir, { recursive: true });
  }
}

/** Waits for what happens in other processes. */
export async function waitUntil(
  condition: () => boolean | Promise<boolean>,
  seconds = 60,
): Promise<void> {
  for (const late = Date.now() + seconds * 1000; !await condition();) {
    assert(Date.now() < late, `Waited ${seconds} s in vain for ${condition}`);
    await sleep(20);
  }
}
