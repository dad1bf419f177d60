/** Handles an update of which the process dies, until it is set aside. */
import { createSqliteInbox } from "@grammyjs/runner/sqlite";
import { argv } from "node:process";

async function main() {
  const inbox = createSqliteInbox(argv[2]);
  const { signal } = new AbortController();
  await inbox.open({ botId: 1, signal, emit() {} });
  await inbox.append([{ update_id: 7 }], signal);
  const quarantined = inbox.quarantined();
  if (quarantined.length === 0) {
    await inbox.take(1, signal);
    setTimeout(() => {
      throw new Error("nobody catches this");
    });
    return;
  }
  console.log(JSON.stringify(quarantined));
  await inbox.close();
}

main();
