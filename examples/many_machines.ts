// Many machines run one bot: here they are three processes, one of which dies.
import { run } from "@grammyjs/runner";
import { createPostgresInbox } from "@grammyjs/runner/postgres";
import { Bot } from "grammy";

const machine = Deno.env.get("MACHINE");
if (machine) runBot(machine);
else await startMachines(3);

/** What each machine does; on real ones, this is the whole program. */
function runBot(name: string): void {
  const bot = new Bot(Deno.env.get("BOT_TOKEN")!, {
    client: { apiRoot: Deno.env.get("BOT_API_ROOT") },
  });
  bot.on("message:text", async (ctx) => {
    // The machine that gets the first update dies in the middle of it.
    if (isFirstUpdate()) Deno.kill(Deno.pid, "SIGKILL");
    await new Promise((resolve) => setTimeout(resolve, 300));
    await ctx.reply(`Machine ${name} got: ${ctx.msg.text}`);
  });
  bot.catch((error) => console.error(error.message));
  const handle = run(bot, {
    inbox: createPostgresInbox({
      connectionString: Deno.env.get("DATABASE_URL"),
    }),
    sink: { concurrency: 2 }, // what one of them can do, so that all have a share
  });
  Deno.addSignalListener("SIGINT", () => handle.stop().then(() => Deno.exit()));
}

/** Only one machine can make a directory. */
function isFirstUpdate(): boolean {
  try {
    Deno.mkdirSync(Deno.env.get("FIRST_UPDATE")!);
    return true;
  } catch {
    return false;
  }
}

/** Starts the machines, and tells when one has died. */
async function startMachines(count: number): Promise<void> {
  const dir = Deno.makeTempDirSync();
  const machines = Array.from(
    { length: count },
    (_, i) =>
      new Deno.Command(Deno.execPath(), {
        args: ["run", "-A", import.meta.url],
        env: { MACHINE: `${i + 1}`, FIRST_UPDATE: `${dir}/first` },
      }).spawn(),
  );
  Deno.addSignalListener("SIGINT", () => {
    for (const machine of machines) {
      try {
        machine.kill("SIGINT");
      } catch {
        // It is dead already.
      }
    }
  });
  await Promise.all(machines.map(async (machine, i) => {
    const { signal } = await machine.status;
    if (signal === "SIGKILL") {
      console.log(
        `Machine ${i + 1} has died; the others take over in 10 to 15 s`,
      );
    }
  }));
  Deno.removeSync(dir, { recursive: true });
  Deno.exit();
}
