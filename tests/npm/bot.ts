/** A bot as users of the package write it: an ES module, or a CommonJS one. */
import { run, sequentialize } from "@grammyjs/runner";
import { startBotApiServer } from "@grammyjs/runner/testing";
import { Bot } from "grammy";

const CHATS = [1, 2, 3];
const TEXTS = ["a", "b", "c", "d", "e"];

async function main() {
  const server = await startBotApiServer({ quirks: false });
  const bot = new Bot(server.token, { client: { apiRoot: server.url } });
  bot.use(sequentialize((ctx) => ctx.chat?.id.toString()));
  bot.on("message:text", async (ctx) => {
    await ctx.reply(ctx.msg.text);
  });
  const handle = run(bot, { sink: { concurrency: 2 } });
  for (const text of TEXTS) {
    for (const userId of CHATS) server.pushText(text, { userId });
  }
  await server.waitFor(() => server.sent().length === 15);
  await handle.stop();
  const replies = CHATS.map((id) =>
    server.sent().filter(({ chat }) => chat.id === id).map(({ text }) => text)
      .join("")
  );
  console.log(replies.join(), server.stats().unconfirmed);
  await server.close();
}

main();
