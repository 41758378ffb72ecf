/**
 * A lock between processes, on one machine or on a directory that several share.
 *
 * The lock is a directory that holds one file, which tells its owner and carries a counter: the heartbeat. It is taken
 * by renaming a prepared directory to its name, which succeeds for one process alone and only where nothing or an empty
 * directory is. A dead owner is removed by deleting its file, whose name no other owner has: a process that is late
 * deletes nothing that is not dead.
 *
 * Whether an owner on another machine or in another container is alive shows by its counter alone. The watcher counts
 * the time on its own monotonic clock, and only while it watches: no clock of two machines is compared, and neither a
 * clock that is set nor a watcher that was stopped makes a living owner look dead.
 */
import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { lstat, mkdir, open, readFile, readdir, rename, rm, rmdir, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { abortedError, systemErrorOf, throwIfAborted } from '../errors.js';
import { livenessOf, ownIdentity, type ProcessIdentity } from './process-identity.js';

/** Who holds a lock. */
export type LockHolder = Pick<ProcessIdentity, 'pid' | 'host'>;

export interface LockOptions {
  signal?: AbortSignal | undefined;
  /** Called before every wait; with nothing if the lock does not tell who holds it. */
  onWait?: ((holder: LockHolder | undefined) => void) | undefined;
  /**
   * Milliseconds without a heartbeat after which an owner that cannot be asked is taken for dead. `Infinity` for owners
   * that block their event loop, which have no heartbeat. Default 60000.
   */
  staleAfter?: number;
  /** Milliseconds between heartbeats, and between two looks of a watcher. Default 500 and 250. */
  beat?: number;
  poll?: number;
}

/** A lock that is held. */
export interface Lock {
  /** Fires if another process has taken this one for dead (it was stopped for long) and works in its place. */
  readonly lost: AbortSignal;
  /** Proves that the lock is still held, to be called before what cannot be undone. */
  assertHeld(): Promise<void>;
  release(): Promise<void>;
}

/** A lock as it was seen. */
interface Sight {
  /** Name of the owner's file; undefined for a lock that is a file itself, as those of older versions. */
  name: string | undefined;
  /** Content with the heartbeat. */
  text: string;
  owner: ProcessIdentity | undefined;
}

const PREFIX = 'owner-';
const COUNTER_DIGITS = 16;
/** Heartbeats that must be missing although the owner cannot be found here: clones of a machine share its identity. */
const MISSING_BEATS = 3;

/**
 * Takes a lock and waits while a living process holds it.
 *
 * @throws ERR_JITFLUX_ABORTED when `o.signal` is aborted while waiting
 * @throws the system's error where the lock cannot be written, or a dead owner's not be removed
 */
export async function acquireLock(path: string, o: LockOptions = {}): Promise<Lock> {
  const { staleAfter = 60_000, beat = 500, poll = 250 } = o;
  const own = ownIdentity();
  const name = PREFIX + randomBytes(8).toString('hex');
  const watch = new Watch(own, { staleAfter, beat, poll });
  for (;;) {
    throwIfAborted(o.signal);
    const seen = await look(path);
    if (seen === undefined) {
      if (await place(path, name, own)) break;
      await sleep(Math.random() * 20);
      continue;
    }
    if (seen.name === name) break; // over NFS, a repeated request says that the first one had failed
    if (watch.isDead(seen)) {
      await evict(path, seen);
      continue;
    }
    o.onWait?.(seen.owner);
    try {
      await sleep(poll, undefined, o.signal ? { signal: o.signal } : {});
    } catch (error) {
      throw o.signal?.aborted ? abortedError(o.signal) : error;
    }
  }
  await sweep(path);
  return hold(path, name, beat);
}

/** Judges from looks that follow each other whether the owner is dead. */
class Watch {
  private last: { sight: Sight; at: number; unchanged: number } | undefined;

  constructor(
    private readonly own: ProcessIdentity,
    private readonly times: { staleAfter: number; beat: number; poll: number },
  ) {}

  isDead(sight: Sight): boolean {
    const { staleAfter, beat, poll } = this.times;
    const at = performance.now();
    let unchanged = 0;
    const { last } = this;
    if (last !== undefined && last.sight.name === sight.name && last.sight.text === sight.text) {
      // No single pause counts for more than it should have lasted: this process may have been stopped meanwhile.
      unchanged = last.unchanged + Math.min(at - last.at, 2 * poll);
    }
    this.last = { sight, at, unchanged };
    const state = sight.owner === undefined ? 'unknown' : livenessOf(sight.owner, this.own);
    if (state === 'alive') return false;
    if (state === 'unknown') return unchanged >= staleAfter;
    const hasHeartbeat = sight.name !== undefined;
    return !hasHeartbeat || unchanged >= MISSING_BEATS * beat;
  }
}

/** What holds the lock; undefined if nothing does. */
async function look(path: string): Promise<Sight | undefined> {
  let names: string[];
  try {
    const info = await lstat(path);
    if (info.isSymbolicLink()) throw notALock(path, 'it is a symbolic link');
    if (!info.isDirectory()) return await read(path, undefined);
    names = await readdir(path);
  } catch (error) {
    const { code = '' } = systemErrorOf(error);
    if (code === 'ENOENT') return undefined;
    throw error;
  }
  const name = names.find((each) => each.startsWith(PREFIX)) ?? names[0];
  return name === undefined ? undefined : await read(join(path, name), name);
}

function notALock(path: string, problem: string): Error {
  return new Error(`${path} cannot be used as a lock: ${problem}; remove it`);
}

async function read(file: string, name: string | undefined): Promise<Sight | undefined> {
  let text: string;
  try {
    text = await readFile(file, { encoding: 'utf8', flag: constants.O_RDONLY | constants.O_NOFOLLOW });
  } catch (error) {
    const { code = '' } = systemErrorOf(error);
    if (code === 'ENOENT') return undefined; // released this moment
    if (code !== 'EISDIR' && code !== 'ELOOP') throw error;
    text = '';
  }
  let owner: ProcessIdentity | undefined;
  try {
    const parsed = JSON.parse(text.split('\n', 1)[0]!) as ProcessIdentity | null;
    if (typeof parsed?.pid === 'number' && typeof parsed.host === 'string') owner = parsed;
  } catch {
    // Not written by this code: it is watched all the same.
  }
  return { name, text, owner };
}

/** False if another process was faster. */
async function place(path: string, name: string, own: ProcessIdentity): Promise<boolean> {
  const prepared = `${path}.${name}`;
  try {
    await mkdir(prepared, { mode: 0o755 });
    await writeFileOnce(join(prepared, name), `${JSON.stringify(own)}\n${counter(0)}\n`);
    await rename(prepared, path);
  } catch (error) {
    const { code = '' } = systemErrorOf(error);
    // ENOTDIR: a lock of an older version; ENOENT: the process that holds the lock has swept it away.
    if (!['ENOTEMPTY', 'EEXIST', 'ENOTDIR', 'ENOENT'].includes(code)) throw error;
    if (code === 'ENOENT') await readdir(dirname(path)); // or the folder itself is missing
    return false;
  } finally {
    await rm(prepared, { recursive: true, force: true });
  }
  // An empty directory, swept in part, could be renamed as well; it locks nothing.
  return (await readdir(path).catch(() => [] as string[])).includes(name);
}

async function writeFileOnce(path: string, text: string): Promise<void> {
  const file = await open(path, 'wx', 0o644);
  try {
    await file.writeFile(text);
  } finally {
    await file.close();
  }
}

async function evict(path: string, { name, owner }: Sight): Promise<void> {
  // Someone's files, or what an NFS client keeps of a deleted one.
  if (name !== undefined && !name.startsWith(PREFIX)) throw notALock(path, `it holds ${name}`);
  try {
    await unlink(name === undefined ? path : join(path, name));
    if (name !== undefined) await rmdir(path);
  } catch (error) {
    const { code = '' } = systemErrorOf(error);
    // Another process was faster with this, or has the lock already.
    if (['ENOENT', 'ENOTEMPTY', 'EEXIST', 'EISDIR'].includes(code)) return;
    const who = owner === undefined ? 'a process' : `process ${owner.pid} on ${owner.host}`;
    throw Object.assign(
      new Error(
        `the lock ${path} was left by ${who} that has ended, and cannot be removed here (${code}); remove it`,
        { cause: error },
      ),
      { code },
    );
  }
}

/** Removes what killed processes had prepared. One that lives notices and prepares it again. */
async function sweep(path: string): Promise<void> {
  const prefix = `${basename(path)}.${PREFIX}`;
  for (const name of await readdir(dirname(path)).catch(() => [] as string[]))
    if (name.startsWith(prefix))
      await rm(join(dirname(path), name), { recursive: true, force: true }).catch(() => undefined);
}

function hold(path: string, name: string, beat: number): Lock {
  const file = join(path, name);
  const lost = new AbortController();
  let count = 0;
  let running: Promise<void> | undefined;

  /** Opens the file anew each time: over NFS this is what shows that it is gone. */
  const strike = async (): Promise<void> => {
    try {
      const handle = await open(file, constants.O_WRONLY | constants.O_NOFOLLOW);
      try {
        const position = (await handle.stat()).size - COUNTER_DIGITS - 1;
        await handle.write(counter(++count), Math.max(position, 0));
      } finally {
        await handle.close();
      }
    } catch (error) {
      const { code = '' } = systemErrorOf(error);
      if (!['ENOENT', 'ENOTDIR', 'ESTALE'].includes(code)) throw error;
      lost.abort(new Error(`the lock ${path} was taken over by another process`));
    }
  };
  const timer = setInterval(() => {
    // A heartbeat that fails (a full disk, a server that is away) is repeated by the next one.
    running ??= strike()
      .catch(() => undefined)
      .finally(() => (running = undefined));
  }, beat);
  timer.unref();

  return {
    lost: lost.signal,
    async assertHeld() {
      await running;
      await strike();
      if (lost.signal.aborted) throw lost.signal.reason;
    },
    async release() {
      clearInterval(timer);
      await running;
      await evict(path, { name, text: '', owner: undefined }).catch(() => undefined);
    },
  };
}

/** Of constant length: it is overwritten in place, and no reader ever finds the file short. */
function counter(value: number): string {
  return String(value).padStart(COUNTER_DIGITS, '0');
}
