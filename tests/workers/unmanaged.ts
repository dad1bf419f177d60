/** Handles one update by workers, and leaves it at that: the process must end. */
import { Bot } from "grammy";
import process from "node:process";
import { distribute } from "../../mod.ts";

const bot = new Bot(process.env.TEST_TOKEN!, {
  client: { apiRoot: process.env.TEST_API_ROOT },
});
await bot.init();
bot.use(distribute(new URL("./bot.ts", import.meta.url), { count: 2 }));
await bot.handleUpdate({
  update_id: 1,
  message: {
    message_id: 1,
    date: 1,
    chat: { id: 1, type: "private", first_name: "Ada" },
    from: { id: 1, is_bot: false, first_name: "Ada" },
    text: "sleep 100",
  },
});
