import { arch, availableParallelism, cpus, platform } from "node:os";

/** What a run of the benchmark has measured. All numbers are medians. */
export interface Results {
  /** The day of the run, as in "2026-01-31". */
  date: string;
  machine: string;
  /** The load average of a minute at the start: what else the machine did. */
  load: number;
  /** Updates per second. */
  rates: { name: string; old: number; current: number; target: number }[];
  /** Parts of what is possible, 0..1. */
  slots: { name: string; old: number; current: number }[];
}

/** What the numbers of a benchmark depend on, in one line. */
export function machine(): string {
  const model = cpus()[0]?.model.replace(/\s+/g, " ").trim() || arch();
  const cores = availableParallelism();
  return `${model}, ${cores} ${
    cores === 1 ? "core" : "cores"
  }, ${platform()}, Deno ${Deno.version.deno}`;
}
