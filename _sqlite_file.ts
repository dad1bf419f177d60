import {
  constants,
  copyFileSync,
  existsSync,
  linkSync,
  rmSync,
  statSync,
} from "node:fs";
import process from "node:process";
import type { DatabaseSync } from "node:sqlite";

/** "gYin" in ASCII: tells an inbox from the databases of other programs. */
export const APPLICATION_ID = 0x6759696e;
/** Grows with every change that an older version of this module cannot read. */
export const SCHEMA_VERSION = 1;

const SCHEMA = `
  CREATE TABLE bot (
    id INTEGER PRIMARY KEY,
    deaths INTEGER NOT NULL DEFAULT 0, -- since the last clean close
    running TEXT NOT NULL DEFAULT '[]', -- JSON array of ids
    alone INTEGER, -- the id of the suspect that runs by itself, if any
    failed INTEGER NOT NULL DEFAULT 0 -- whether the process ended by itself
  );
  -- What each append stored: JSON arrays of updates. Gone when all have finished.
  CREATE TABLE batches (n INTEGER PRIMARY KEY, data TEXT NOT NULL);
  -- What each transaction recorded the end of: JSON arrays of ids.
  CREATE TABLE finished (n INTEGER PRIMARY KEY, data TEXT NOT NULL);
  -- Unfinished updates that were running when the process died.
  CREATE TABLE suspects (
    id INTEGER PRIMARY KEY,
    deaths INTEGER NOT NULL,
    failures INTEGER NOT NULL, -- deaths that were not kills from outside
    alone INTEGER NOT NULL -- deaths in a row while it ran alone
  );
  CREATE TABLE quarantine (
    n INTEGER PRIMARY KEY,
    id INTEGER NOT NULL,
    deaths INTEGER NOT NULL,
    data TEXT NOT NULL -- JSON
  );
`;

/** SQLite's result codes, see https://sqlite.org/rescode.html. */
const BUSY = 5,
  LOCKED = 6,
  READONLY = 8,
  IOERR = 10,
  CORRUPT = 11,
  CANTOPEN = 14,
  NOTADB = 26;
/** Deno leaves the codes out of some errors. */
const MESSAGES: [message: RegExp, code: number][] = [
  [/locked|busy/, BUSY],
  [/readonly/, READONLY],
  [/malformed/, CORRUPT],
  [/unable to open/, CANTOPEN],
  [/disk/, IOERR],
  [/not a database/, NOTADB],
];

/**
 * Two processes that start together get in each other's way for a moment. For as
 * long as this, in milliseconds, the whole process waits.
 */
const LOCK_WAIT = 100;

const { deno, bun, node } = process.versions;
// A static import would fail with a message that does not tell what to do.
const sqlite = process.getBuiltinModule?.("node:sqlite");
// Earlier versions of Deno have the module, but keep files locked for ever.
if (sqlite === undefined || /^2\.[0-3]\./.test(deno ?? "")) {
  throw new Error(
    `The SQLite inbox needs node:sqlite, as it comes with Deno >= 2.4, Node >= 22.13, and Bun >= 1.4.4: this is ${
      deno ? `Deno ${deno}` : bun ? `Bun ${bun}` : `Node ${node}`
    }`,
  );
}

/**
 * Opens the file for this process alone, and creates it if there is none. A file
 * that is refused is not written to.
 *
 * @param botId The bot that the file must belong to; any if `undefined`, and
 * then the file must exist
 */
export function openInboxFile(
  path: string,
  botId: number | undefined,
  synchronous: "full" | "normal",
): DatabaseSync {
  if (!existsSync(path)) {
    if (botId === undefined) {
      throw new Error(
        `Cannot open inbox: ${path} must be an inbox: there is no such file`,
      );
    }
    create(path, botId);
  }
  if (!statSync(path).isFile()) {
    throw new Error(
      `Cannot open inbox: ${path} must be a file: received a directory or a device`,
    );
  }
  // Nothing but SQLite may open the file: POSIX drops the locks of the whole
  // process on a file when any part of it closes that file.
  read(path, (db) => check(db, path, botId));
  const db = connect(path, false);
  try {
    db.exec("PRAGMA locking_mode = EXCLUSIVE");
    db.exec(`PRAGMA synchronous = ${synchronous}`);
    db.exec("PRAGMA journal_mode = WAL");
    // Takes the lock, and keeps it.
    db.exec("BEGIN IMMEDIATE; COMMIT");
    return db;
  } catch (error) {
    db.close();
    throw explain(error, path);
  }
}

/** Writes back what is in the log, so that the file alone is the inbox. */
export function closeInboxFile(db: DatabaseSync): void {
  try {
    db.exec("PRAGMA journal_mode = DELETE");
  } finally {
    db.close();
  }
}

/** The first row, or `undefined`. Some versions of `get` keep the file locked. */
export function first(
  db: DatabaseSync,
  query: string,
): Record<string, unknown> | undefined {
  return db.prepare(query).all()[0];
}

function connect(path: string, readOnly: boolean): DatabaseSync {
  try {
    const db = new sqlite!.DatabaseSync(path, { readOnly });
    db.exec(`PRAGMA busy_timeout = ${LOCK_WAIT}`);
    return db;
  } catch (error) {
    throw explain(error, path);
  }
}

/** Looks into a file without the means to change it. */
function read(path: string, look: (db: DatabaseSync) => void): void {
  const db = connect(path, true);
  try {
    look(db);
  } catch (error) {
    throw explain(error, path);
  } finally {
    db.close();
  }
}

/** Made aside and put in place at once: there is never half an inbox. */
function create(path: string, botId: number): void {
  const draft = `${path}.${process.pid}-${Date.now()}.new`;
  try {
    const db = new sqlite!.DatabaseSync(draft);
    try {
      db.exec(`
        PRAGMA synchronous = FULL;
        BEGIN;
        PRAGMA application_id = ${APPLICATION_ID};
        PRAGMA user_version = ${SCHEMA_VERSION};
        ${SCHEMA}
        INSERT INTO bot (id) VALUES (${botId});
        COMMIT;
      `);
    } finally {
      db.close();
    }
    try {
      linkSync(draft, path);
    } catch (error) {
      // Another process was faster, or the file system has no links.
      if (!existsSync(path)) {
        if ((error as { code?: string }).code === "EEXIST") throw error;
        copyFileSync(draft, path, constants.COPYFILE_EXCL);
      }
    }
  } catch (error) {
    throw new Error(
      `Cannot create inbox: ${path} must be a file in a directory that can be written to: ${
        (error as Error).message
      }`,
      { cause: error },
    );
  } finally {
    rmSync(draft, { force: true });
  }
}

function check(
  db: DatabaseSync,
  path: string,
  botId: number | undefined,
): void {
  const applicationId = first(db, "PRAGMA application_id")!.application_id;
  if (applicationId !== APPLICATION_ID) {
    throw new Error(
      `Cannot open inbox: ${path} must be an inbox, with application id ${APPLICATION_ID}: received a database with application id ${applicationId}`,
    );
  }
  const version = Number(first(db, "PRAGMA user_version")!.user_version);
  if (version > SCHEMA_VERSION) {
    throw new Error(
      `Cannot open inbox: the schema version of ${path} must be at most ${SCHEMA_VERSION}, update this module: received ${version}`,
    );
  }
  const problem = first(db, "PRAGMA quick_check(1)")?.quick_check;
  if (problem !== "ok") throw new CorruptError(path, String(problem));
  checkRecords(db, path, "batch", "SELECT n, data FROM batches", isUpdate);
  checkRecords(db, path, "record of ends", "SELECT * FROM finished", isId);
  checkRecords(db, path, "list of bot", "SELECT id, running FROM bot", isId);
  checkRecords(
    db,
    path,
    "quarantined update",
    "SELECT n, '[' || data || ']' FROM quarantine",
    isUpdate,
  );
  const owner = first(db, "SELECT id FROM bot")?.id;
  if (botId !== undefined && owner !== botId) {
    throw new Error(
      `Cannot open inbox: ${path} must belong to the bot ${botId}: received the inbox of the bot ${owner}`,
    );
  }
}

/** Checks that the second column of all rows is a JSON array of such elements. */
function checkRecords(
  db: DatabaseSync,
  path: string,
  name: string,
  query: string,
  isElement: (value: unknown) => boolean,
): void {
  for (const row of db.prepare(query).all()) {
    const [n, data] = Object.values(row);
    let elements: unknown;
    try {
      elements = JSON.parse(String(data));
    } catch {
      // Reported below.
    }
    if (!Array.isArray(elements) || !elements.every(isElement)) {
      throw new CorruptError(path, `${name} ${n} is damaged`);
    }
  }
}

function isId(value: unknown): boolean {
  return Number.isSafeInteger(value);
}

function isUpdate(value: unknown): boolean {
  return isId((value as { update_id?: unknown } | null)?.update_id);
}

class CorruptError extends Error {
  constructor(path: string, problem: string, options?: ErrorOptions) {
    super(
      `Cannot open inbox: ${path} must be intact; restore it from a copy or move it away: received a corrupt file: ${problem}`,
      options,
    );
  }
}

function explain(error: unknown, path: string): unknown {
  const { errcode, message } = error as Error & { errcode?: number };
  // Extended codes hold the plain one in the lowest byte.
  const code = errcode === undefined
    ? MESSAGES.find(([pattern]) => pattern.test(message))?.[1]
    : errcode & 255;
  switch (code) {
    case undefined:
      return error;
    case BUSY:
    case LOCKED:
      return new Error(
        `Cannot open inbox: ${path} must not be in use: another process, or another runner, has it open (${message})`,
        { cause: error },
      );
    case READONLY:
    case CANTOPEN:
      return new Error(
        `Cannot open inbox: ${path} must be a file that can be written to, like its directory: ${message}`,
        { cause: error },
      );
    case NOTADB:
      return new Error(
        `Cannot open inbox: ${path} must be an SQLite database: ${message}`,
        { cause: error },
      );
    case CORRUPT:
      return new CorruptError(path, message, { cause: error });
    default:
      return new Error(
        `Cannot open inbox: ${path} must be on a disk that works and has space left: ${message}`,
        { cause: error },
      );
  }
}
