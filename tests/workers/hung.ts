/** A worker file that never gets to its end. */
import { setTimeout as sleep } from "node:timers/promises";

while (true) await sleep(1000);
