// deno-lint-ignore no-import-prefix -- nothing but the benchmark needs it
import { BotWorker } from "npm:@grammyjs/runner@2.0.3";
import type { Bot } from "grammy";
import { burn } from "./bot.ts";

(new BotWorker("123456:token") as unknown as Bot).use(burn);
