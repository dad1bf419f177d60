/**
 * One HTTP request to a local Bot API server and the answer it gets, faults included.
 * @module
 */
import { Buffer } from "node:buffer";
import type {
  IncomingMessage,
  OutgoingHttpHeaders,
  ServerResponse,
} from "node:http";
import { ApiFailure } from "./_bot_api_answers.ts";
import type { Fault } from "./testing.ts";

/** One request and the one answer it gets, spoilt by a fault or not. */
export class Exchange {
  fault: Fault | undefined;
  keepAlive = true;
  /** Called when the connection ends before there was an answer. */
  onDisconnect: (() => void) | undefined;
  #response: ServerResponse;
  #delay: (send: () => void) => void;
  #isClosed = false;

  constructor(response: ServerResponse, delay: (send: () => void) => void) {
    this.#response = response;
    this.#delay = delay;
    response.on("close", () => {
      this.#isClosed = true;
      this.onDisconnect?.();
    });
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  answer(json: string): void {
    if (this.fault === undefined) this.#send(200, json);
    else this.#spoil(this.fault, json);
  }

  refuse(failure: ApiFailure): void {
    const json = JSON.stringify(failure);
    if (this.fault !== undefined) return this.#spoil(this.fault, json);
    this.#send(failure.status, json, JSON_TYPE, failure.retryAfter);
  }

  #spoil(fault: Fault, json: string): void {
    if (fault === "hang") return;
    if (fault === "reset") {
      this.#delay(() => this.#response.socket?.destroy());
    } else if (fault === "truncate") {
      this.#delay(() => {
        const body = Buffer.from(json);
        const half = body.subarray(0, body.length >> 1);
        this.#writeHead(200, body.length, JSON_TYPE);
        this.#response.write(half, () => this.#response.socket?.destroy());
      });
    } else if (fault === "garbage") {
      this.#send(200, "<html><body>It works!</body></html>", "text/html");
    } else if ("body" in fault) {
      this.#send(fault.status ?? 200, fault.body, fault.contentType);
    } else {
      const { status, retryAfter } = fault;
      const description = fault.description ?? describe(status, retryAfter);
      const failure = new ApiFailure(status, description, retryAfter);
      this.#send(status, JSON.stringify(failure), JSON_TYPE, retryAfter);
    }
  }

  #send(status: number, text: string, type = JSON_TYPE, retryAfter?: number) {
    this.#delay(() => {
      if (this.#isClosed) return;
      const body = Buffer.from(text);
      this.#writeHead(status, body.length, type, retryAfter);
      this.#response.end(body);
    });
  }

  #writeHead(status: number, length: number, type: string, retry?: number) {
    const headers: OutgoingHttpHeaders = {
      "content-type": type,
      "content-length": length,
    };
    if (!this.keepAlive) headers.connection = "close";
    if (retry !== undefined) headers["retry-after"] = String(retry);
    this.#response.writeHead(status, headers);
  }
}

const JSON_TYPE = "application/json";
/** Why a getUpdates call ends when another one arrives. */
export const OTHER_GET_UPDATES =
  "terminated by other getUpdates request; make sure that only one bot instance is running";
/** Why getUpdates is refused while a webhook is set. */
export const WEBHOOK_ACTIVE =
  "can't use getUpdates method while webhook is active; use deleteWebhook to delete the webhook first";
const DESCRIPTIONS: Record<number, string> = {
  400: "Bad Request",
  401: "Unauthorized",
  403: "Forbidden",
  404: "Not Found",
  409: `Conflict: ${OTHER_GET_UPDATES}`,
  500: "Internal Server Error",
  502: "Bad Gateway",
  503: "Service Unavailable",
  504: "Gateway Timeout",
};

function describe(status: number, retryAfter: number | undefined): string {
  if (status !== 429) return DESCRIPTIONS[status] ?? `Error ${status}`;
  const hint = retryAfter === undefined ? "" : `: retry after ${retryAfter}`;
  return `Too Many Requests${hint}`;
}

/** A 409 answer. */
export function conflict(reason: string): ApiFailure {
  return new ApiFailure(409, `Conflict: ${reason}`);
}

const MAX_BODY = 50 * 1024 * 1024;

/** Resolves with `undefined` if the body is too large to be kept. */
export function readBody(
  request: IncomingMessage,
): Promise<Buffer<ArrayBuffer> | undefined> {
  return new Promise((resolve, reject) => {
    const chunks: Uint8Array[] = [];
    let size = 0;
    request.on("data", (chunk: Uint8Array) => {
      size += chunk.length;
      if (size <= MAX_BODY) chunks.push(chunk);
      else chunks.length = 0;
    });
    request.on("end", () => {
      resolve(size <= MAX_BODY ? Buffer.concat(chunks) : undefined);
    });
    request.on("error", reject);
  });
}
