/** The network between a machine and PostgreSQL, where things go wrong. */
export class Proxy implements AsyncDisposable {
  /** How much later everything arrives, in milliseconds. */
  latency = 0;
  readonly #target: number;
  readonly #port: number;
  readonly #conns = new Set<Deno.Conn>();
  #listener: Deno.Listener | undefined;
  readonly #work = new Set<Promise<void>>();
  #flowing: Promise<void> = Promise.resolve();
  #flow = () => {};

  /** Where PostgreSQL is, as seen from the machine. */
  readonly url: string;

  constructor(url: string) {
    const target = new URL(url);
    this.#target = Number(target.port);
    this.#listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    this.#port = (this.#listener.addr as Deno.NetAddr).port;
    target.port = `${this.#port}`;
    this.url = target.href;
    this.#track(this.#accept(this.#listener));
  }

  /** Breaks all connections, and refuses new ones. */
  cut(): void {
    this.#listener?.close();
    this.#listener = undefined;
    for (const conn of this.#conns) conn.close();
    this.#conns.clear();
  }

  /** Lets connections be made again. */
  mend(): void {
    this.#listener = Deno.listen({ hostname: "127.0.0.1", port: this.#port });
    this.#track(this.#accept(this.#listener));
  }

  /** Keeps back whatever is sent, without breaking anything. */
  hang(): void {
    this.#flowing = new Promise((resolve) => this.#flow = resolve);
  }

  /** Lets it through. */
  flow(): void {
    this.#flow();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.flow();
    this.cut();
    await Promise.all(this.#work);
  }

  #track(work: Promise<void>): void {
    const tracked = work.catch(() => {}).finally(() => {
      this.#work.delete(tracked);
    });
    this.#work.add(tracked);
  }

  async #accept(listener: Deno.Listener): Promise<void> {
    for await (const conn of listener) this.#track(this.#connect(conn));
  }

  async #connect(near: Deno.Conn): Promise<void> {
    this.#conns.add(near);
    const far = await Deno.connect({
      hostname: "127.0.0.1",
      port: this.#target,
    });
    this.#conns.add(far);
    await Promise.allSettled([
      this.#pipe(near, far),
      this.#pipe(far, near),
    ]);
  }

  async #pipe(from: Deno.Conn, to: Deno.Conn): Promise<void> {
    const buffer = new Uint8Array(65536);
    try {
      for (let n; (n = await from.read(buffer)) !== null;) {
        const data = buffer.slice(0, n);
        if (this.latency > 0) {
          await new Promise((resolve) => setTimeout(resolve, this.latency));
        }
        await this.#flowing;
        for (let at = 0; at < n;) at += await to.write(data.subarray(at));
      }
    } finally {
      for (const conn of [from, to]) {
        if (this.#conns.delete(conn)) conn.close();
      }
    }
  }
}
