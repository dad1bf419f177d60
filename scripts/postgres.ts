/**
 * Starts private PostgreSQL servers for tests, the benchmark and the example: on
 * loopback, on a free port, with their data in a temporary directory. Needs the
 * binaries of Debian's package: `apt-get install -y postgresql`.
 *
 * As a program, it runs a command with such a server's DATABASE_URL:
 * `deno run -A scripts/postgres.ts deno run -A bench/postgres.ts`.
 */
const USER = "postgres";

/** A PostgreSQL server of one's own. */
export class PostgresServer implements AsyncDisposable {
  #databases = 0;
  #process: Deno.ChildProcess | undefined;

  private constructor(
    readonly dir: string,
    readonly port: number,
    readonly bin: string,
    readonly ids: { uid?: number; gid?: number },
  ) {}

  static async start(): Promise<PostgresServer> {
    const dir = await Deno.makeTempDir({ prefix: "postgres-" });
    // The server refuses to run as root.
    const ids = Deno.uid() === 0
      ? { uid: await idOf("-u"), gid: await idOf("-g") }
      : {};
    if (ids.uid !== undefined) await Deno.chown(dir, ids.uid, ids.gid);
    const server = new PostgresServer(dir, freePort(), await binaries(), ids);
    await server.#command("initdb", [
      ...["-D", dir, "-U", USER, "-A", "trust", "-E", "UTF8"],
      ...["--no-locale", "--no-sync"],
    ]);
    await server.restart();
    return server;
  }

  /** Where a database of it is. */
  url(database = USER): string {
    return `postgres://${USER}@127.0.0.1:${this.port}/${database}`;
  }

  /** Creates an empty database, and tells where it is. */
  async createDatabase(): Promise<string> {
    const name = `db${this.#databases++}`;
    await this.query(`CREATE DATABASE ${name}`);
    return this.url(name);
  }

  /** Runs a statement; returns the lines of its result, columns separated by "|". */
  async query(sql: string, url: string = this.url()): Promise<string[]> {
    const text = await this.#command("psql", ["-XAtqc", sql, url]);
    return text.split("\n").filter((line) => line !== "");
  }

  /** Sends a signal to the server; waits for its end if that is one to end it. */
  async kill(signal: Deno.Signal): Promise<void> {
    const process = this.#process!;
    process.kill(signal);
    if (signal === "SIGSTOP" || signal === "SIGCONT") return;
    await process.status;
    this.#process = undefined;
  }

  /** Starts the server again after its end. */
  async restart(): Promise<void> {
    for (let tries = 0;; tries++) {
      // What a killed server leaves behind can keep the next one from starting.
      // In a session of its own, it does not end when Ctrl-C ends its users.
      const process = new Deno.Command("setsid", {
        args: [
          `${this.bin}/postgres`,
          ...["-D", this.dir, "-p", `${this.port}`, "-h", "127.0.0.1"],
          ...["-k", "", "-c", "fsync=off"],
        ],
        ...this.ids,
        cwd: this.dir,
        stdout: "null",
        stderr: "null",
      }).spawn();
      this.#process = process;
      process.status.then(() => {
        if (this.#process === process) this.#process = undefined;
      });
      while (this.#process === process) {
        if (await this.#answers()) return;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      if (tries === 20) throw new Error("PostgreSQL does not start");
      await new Promise((resolve) => setTimeout(resolve, 250));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#process) await this.kill("SIGINT");
    await Deno.remove(this.dir, { recursive: true });
  }

  async #answers(): Promise<boolean> {
    const { success } = await new Deno.Command(`${this.bin}/pg_isready`, {
      args: ["-q", "-h", "127.0.0.1", "-p", `${this.port}`],
    }).output();
    return success;
  }

  async #command(name: string, args: string[]): Promise<string> {
    const { success, stdout, stderr } = await new Deno.Command(
      `${this.bin}/${name}`,
      { args, ...this.ids, cwd: this.dir, env: { LC_ALL: "C.UTF-8" } },
    ).output();
    if (!success) throw new Error(new TextDecoder().decode(stderr));
    return new TextDecoder().decode(stdout);
  }
}

async function idOf(flag: string): Promise<number> {
  const { stdout } = await new Deno.Command("id", { args: [flag, USER] })
    .output();
  const id = parseInt(new TextDecoder().decode(stdout));
  if (Number.isInteger(id)) return id;
  throw new Error("PostgreSQL is missing: apt-get install -y postgresql");
}

/** The newest of the installed versions; Debian does not put them on the PATH. */
async function binaries(): Promise<string> {
  const root = "/usr/lib/postgresql";
  const versions: number[] = [];
  try {
    for await (const { name } of Deno.readDir(root)) versions.push(+name);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  if (versions.length === 0) {
    throw new Error("PostgreSQL is missing: apt-get install -y postgresql");
  }
  return `${root}/${Math.max(...versions)}/bin`;
}

function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

if (import.meta.main) {
  const [command, ...args] = Deno.args;
  await using server = await PostgresServer.start();
  const env = { DATABASE_URL: server.url() };
  const { code } = await new Deno.Command(command, { args, env }).spawn()
    .status;
  Deno.exitCode = code;
}
