// A runner from your own parts: skip what is outdated, handle commands first.
import {
  createRunner,
  createSource,
  createUpdateSupplier,
  type UpdateSink,
  type UpdateSupplier,
} from "@grammyjs/runner";
import { Bot } from "grammy";
import type { Update } from "grammy/types";

const bot = new Bot(Deno.env.get("BOT_TOKEN") ?? "", {
  client: { apiRoot: Deno.env.get("BOT_API_ROOT") },
});

bot.command("time", (ctx) => ctx.reply(new Date().toLocaleTimeString()));
bot.on("message:text", (ctx) => ctx.reply(`You said: ${ctx.msg.text}`));
bot.catch((error) => console.error(error.message));

/** Fetches updates as usual, and drops messages older than five minutes. */
const telegram = createUpdateSupplier(bot);
const supplier: UpdateSupplier<Update> = {
  ...telegram,
  async supply(...args) {
    const updates = await telegram.supply(...args);
    const oldest = Date.now() / 1000 - 5 * 60;
    return updates.filter(({ message }) => !message || message.date >= oldest);
  },
};

/** Handles one update at a time, commands before all others. */
class CommandsFirstSink implements UpdateSink<Update> {
  readonly #updates: Update[] = [];
  #work = Promise.resolve();

  async handle(updates: Update[]): Promise<number> {
    const wasIdle = this.size() === 0;
    this.#updates.push(...updates);
    if (wasIdle) this.#work = this.#handleAll();
    if (this.size() >= 100) await this.#work;
    return 100 - this.size();
  }

  size = () => this.#updates.length;
  snapshot = () => [...this.#updates];

  async #handleAll(): Promise<void> {
    while (this.size() > 0) {
      const update = this.#updates.find(isCommand) ?? this.#updates[0];
      await bot.handleUpdate(update).catch(bot.errorHandler);
      this.#updates.splice(this.#updates.indexOf(update), 1);
    }
  }
}

function isCommand({ message }: Update): boolean {
  return message?.entities?.[0]?.type === "bot_command";
}

createRunner(createSource(supplier), new CommandsFirstSink()).start();
