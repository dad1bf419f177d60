import {
  closeSync,
  existsSync,
  linkSync,
  openSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
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
    alone INTEGER NOT NULL DEFAULT 0 -- whether a suspect runs, and nothing else
  );
  -- What each append stored: JSON arrays of updates. Gone when all have finished.
  CREATE TABLE batches (n INTEGER PRIMARY KEY, data TEXT NOT NULL);
  -- What each transaction recorded the end of: JSON arrays of ids.
  CREATE TABLE finished (n INTEGER PRIMARY KEY, data TEXT NOT NULL);
  -- Unfinished updates that were running when the process died.
  CREATE TABLE suspects (
    id INTEGER PRIMARY KEY,
    deaths INTEGER NOT NULL,
    alone INTEGER NOT NULL -- deaths in a row while it ran alone
  );
  CREATE TABLE quarantine (
    n INTEGER PRIMARY KEY,
    id INTEGER NOT NULL,
    deaths INTEGER NOT NULL,
    data TEXT NOT NULL -- JSON
  );
`;

/** SQLite's codes for "busy" and "locked", see https://sqlite.org/rescode.html. */
const LOCKED = [5, 6];

// A static import would fail with a message that does not tell what to do.
const sqlite = process.getBuiltinModule?.("node:sqlite");
if (sqlite === undefined) {
  throw new Error(
    `The SQLite inbox needs node:sqlite, which comes with Deno >= 2.2 and Node >= 22.13: this is ${
      process.versions.deno
        ? `Deno ${process.versions.deno}`
        : process.versions.bun
        ? `Bun ${process.versions.bun}`
        : `Node ${process.version.slice(1)}`
    }`,
  );
}

/**
 * The files that are open here. POSIX drops the locks of a process on a file when
 * the process closes that file anywhere, so it must not even be looked at again.
 */
const openFiles = new Map<DatabaseSync, string>();

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
  if (botId !== undefined && !existsSync(path)) create(path, botId);
  if (
    existsSync(path) && [...openFiles.values()].includes(realpathSync(path))
  ) {
    throw inUse(path, "another runner in this process has it open");
  }
  checkHeader(path);
  let db: DatabaseSync | undefined;
  try {
    db = new sqlite!.DatabaseSync(path, { readOnly: true });
    checkContent(db, path, botId);
    db.close();
    db = new sqlite!.DatabaseSync(path);
    db.exec("PRAGMA locking_mode = EXCLUSIVE");
    db.exec(`PRAGMA synchronous = ${synchronous}`);
    db.exec("PRAGMA journal_mode = WAL");
    // Takes the lock, and keeps it.
    db.exec("BEGIN IMMEDIATE; COMMIT");
    openFiles.set(db, realpathSync(path));
    return db;
  } catch (error) {
    if (db?.isOpen) db.close();
    throw explain(error, path);
  }
}

/** Writes back what is in the log, so that the file alone is the inbox. */
export function closeInboxFile(db: DatabaseSync): void {
  try {
    db.exec("PRAGMA journal_mode = DELETE");
  } finally {
    db.close();
    openFiles.delete(db);
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
      if ((error as { code?: string }).code !== "EEXIST") {
        renameSync(draft, path);
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

/** Reads what SQLite itself need not be trusted with yet. */
function checkHeader(path: string): void {
  const header = new Uint8Array(100);
  let length: number;
  try {
    const file = openSync(path, "r");
    try {
      length = readSync(file, header, 0, 100, 0);
    } finally {
      closeSync(file);
    }
  } catch (error) {
    throw new Error(
      `Cannot open inbox: ${path} must be a readable file: ${
        (error as Error).message
      }`,
      { cause: error },
    );
  }
  const magic = new TextDecoder().decode(header.subarray(0, 15));
  if (length < 100 || magic !== "SQLite format 3") {
    throw new Error(
      `Cannot open inbox: ${path} must be an SQLite database: received ${
        length === 0 ? "an empty file" : "another kind of file"
      }`,
    );
  }
  const view = new DataView(header.buffer);
  const applicationId = view.getUint32(68);
  if (applicationId !== APPLICATION_ID) {
    throw new Error(
      `Cannot open inbox: ${path} must be an inbox, with application id ${APPLICATION_ID}: received a database with application id ${applicationId}`,
    );
  }
  const version = view.getUint32(60);
  if (version > SCHEMA_VERSION) {
    throw new Error(
      `Cannot open inbox: the schema version of ${path} must be at most ${SCHEMA_VERSION}, update this module: received ${version}`,
    );
  }
}

function checkContent(
  db: DatabaseSync,
  path: string,
  botId: number | undefined,
): void {
  const problem = db.prepare("PRAGMA quick_check(1)").get()?.quick_check;
  if (problem !== "ok") throw new CorruptError(path, String(problem));
  const broken = db.prepare(`
    SELECT name, n FROM (
      SELECT 'batch' AS name, n, data, 'array' AS type FROM batches
      UNION ALL SELECT 'record of ends', n, data, 'array' FROM finished
      UNION ALL SELECT 'list of running updates', 1, running, 'array' FROM bot
      UNION ALL SELECT 'quarantined update', n, data, 'object' FROM quarantine
    ) WHERE CASE WHEN json_valid(data) THEN json_type(data) END IS NOT type
  `).get();
  if (broken !== undefined) {
    throw new CorruptError(path, `${broken.name} ${broken.n} is no valid JSON`);
  }
  const owner = db.prepare("SELECT id FROM bot").get()?.id;
  if (botId !== undefined && owner !== botId) {
    throw new Error(
      `Cannot open inbox: ${path} must belong to the bot ${botId}: received the inbox of the bot ${owner}`,
    );
  }
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
  const code = errcode === undefined ? undefined : errcode & 255;
  if (code === undefined) return error;
  if (LOCKED.includes(code)) {
    return inUse(path, `another process has it open (${message})`, error);
  }
  if (code === 8 || code === 14) {
    return new Error(
      `Cannot open inbox: ${path} and its directory must be writable: ${message}`,
      { cause: error },
    );
  }
  return new CorruptError(path, message, { cause: error });
}

function inUse(path: string, user: string, cause?: unknown): Error {
  return new Error(
    `Cannot open inbox: ${path} must not be in use: ${user}`,
    { cause },
  );
}
