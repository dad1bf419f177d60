/** A worker file that never gets to its end. */
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { BotWorker } from "../../mod.ts";

if (process.env.TEST_MODE === "after its bot") {
  new BotWorker(process.env.TEST_TOKEN!);
}
while (true) await sleep(1000);
