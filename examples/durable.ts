// Nothing is lost in a crash: the bot kills itself now and then, and goes on.
import { run, sequentialize } from "@grammyjs/runner";
import { createSqliteInbox } from "@grammyjs/runner/sqlite";
import { Bot } from "grammy";
import type { Update } from "grammy/types";

const FILE = Deno.env.get("INBOX") ?? Deno.makeTempDirSync() + "/updates.db";

if (Deno.env.get("INBOX")) runBot();
else await superviseBot();

/** Starts the bot again whenever it dies. */
async function superviseBot(): Promise<void> {
  let stopping = false;
  let child: Deno.ChildProcess;
  Deno.addSignalListener("SIGINT", () => {
    stopping = true;
    child.kill("SIGINT");
  });
  for (let crashes = 0; !stopping; crashes++) {
    child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", import.meta.url],
      env: { INBOX: FILE, CRASHES: `${crashes}` },
    }).spawn();
    const { signal } = await child.status;
    if (signal === "SIGKILL") {
      console.log("The bot was killed; it starts again");
    } else break;
  }
  const inbox = createSqliteInbox<Update>(FILE);
  console.log(`Set aside: ${inbox.quarantined().length} updates`);
  Deno.exit();
}

function runBot(): void {
  const bot = new Bot(Deno.env.get("BOT_TOKEN")!, {
    client: { apiRoot: Deno.env.get("BOT_API_ROOT") },
  });
  bot.use(sequentialize());
  // The first lives end in the middle of the third update.
  let left = Number(Deno.env.get("CRASHES")) < 2 ? 3 : Infinity;
  bot.on("message:text", async (ctx) => {
    if (--left === 0) Deno.kill(Deno.pid, "SIGKILL");
    await new Promise((resolve) => setTimeout(resolve, 100));
    await ctx.reply(`You said: ${ctx.msg.text}`);
  });
  bot.catch((error) => console.error(error.message));
  const handle = run(bot, { inbox: createSqliteInbox<Update>(FILE) });
  Deno.addSignalListener("SIGINT", () => handle.stop().then(() => Deno.exit()));
}
