import { BotWorker } from "../../mod.ts";
import { burn } from "./bot.ts";

new BotWorker("123456:token").use(burn);
