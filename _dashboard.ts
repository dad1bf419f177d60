import { inspect } from "node:util";
import { layOut, plainLine, type Size } from "./_dashboard_layout.ts";
import { Meter } from "./_dashboard_meter.ts";
import type { Terminal } from "./_dashboard_terminal.ts";
import type { RunnerEvent } from "./events.ts";

/** Milliseconds between two pictures, and between two lines. */
const REDRAW_MS = 250;
const LINE_MS = 5000;

/** Draws on a terminal what it is told about a runner. */
export class Dashboard {
  readonly #meter = new Meter();
  readonly #terminal: Terminal;
  readonly #footer: (() => string) | undefined;
  #timer: ReturnType<typeof setInterval> | undefined;
  /** The size of the last picture; set iff there is one. */
  #drawn: Size | undefined;
  #release: (() => void) | undefined;

  constructor(terminal: Terminal, footer: (() => string) | undefined) {
    this.#terminal = terminal;
    this.#footer = footer;
  }

  record(event: RunnerEvent): void {
    this.#meter.record(event, Date.now());
    if (event.type === "started") this.#open();
    if (event.type === "stopped") this.#close();
  }

  #open(): void {
    if (this.#timer !== undefined) return;
    const onTerminal = this.#terminal.size() !== undefined;
    if (onTerminal) {
      this.#release = this.#terminal.capture((text, isError) =>
        this.#meter.messages.add(text, isError ? "error" : "info", Date.now())
      );
    }
    this.#timer = setInterval(
      () => this.#show(),
      onTerminal ? REDRAW_MS : LINE_MS,
    );
    // A bot that is done must not be kept from ending.
    (this.#timer as { unref?: () => void }).unref?.();
    if (onTerminal) this.#show();
  }

  #close(): void {
    this.#show();
    this.#leave();
  }

  #leave(): void {
    clearInterval(this.#timer);
    this.#release?.();
    this.#timer = this.#release = this.#drawn = undefined;
  }

  /** Nobody could catch what this throws: the footer, or stats, can do so. */
  #show(): void {
    try {
      const now = Date.now();
      this.#meter.advance(now);
      const size = this.#terminal.size();
      if (size === undefined) this.#terminal.print(plainLine(this.#meter, now));
      else this.#draw(size, now);
    } catch (error) {
      this.#leave();
      this.#terminal.print(`The dashboard ends: ${inspect(error)}`);
    }
  }

  /**
   * Writes over the last picture in one go. After each picture, the cursor is
   * at the start of the last row, which is empty: so there is nothing to restore
   * whenever and however the process ends.
   */
  #draw(size: Size, now: number): void {
    const rows = size.rows - 1;
    let text = "";
    if (this.#drawn === undefined) {
      text += "\n".repeat(rows); // moves what was there out of the way
    } else if (
      size.columns !== this.#drawn.columns || size.rows !== this.#drawn.rows
    ) {
      text += "\x1b[2J"; // lines may have been wrapped
    }
    this.#drawn = size;
    const lines = layOut(
      this.#meter,
      { ...size, rows },
      now,
      this.#footer?.().split("\n") ?? [],
      this.#terminal.paint,
    );
    text += lines.map((line, i) => `\x1b[${i + 1};1H${line}\x1b[K`).join("");
    // Shown at once where supported, and with lines that do not wrap.
    this.#terminal.print(
      `\x1b[?2026h\x1b[?7l${text}\x1b[?7h\x1b[${rows};1H\x1b[?2026l`,
    );
  }
}
