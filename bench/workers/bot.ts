/** What the workers of the benchmark do. */
import type { Context } from "grammy";

/** Keeps the processor busy: a text says for how many rounds. */
export function burn(ctx: Context): void {
  let value = Number(ctx.msg!.text);
  for (let rounds = value; rounds > 0; rounds--) value = Math.sqrt(value + 1);
  if (value < 0) throw new Error("Never"); // so that it is not optimized away
}
