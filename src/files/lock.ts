/** A lock file between processes, on one machine or on a directory that several share. */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { link, rename, rm, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';

import { throwIfAborted } from '../errors.js';

interface LockOwner {
  pid: number;
  host: string;
  /** The process's start time, since process ids are reused. */
  started: string | undefined;
}

/**
 * Takes a lock file and waits while a living process holds it. The file is created by link(2), complete with its
 * content, so that no process ever sees an empty one. A lock whose owner has ended is taken over.
 *
 * @param o.onWait called before every wait, about four times a second
 * @returns the release
 * @throws ERR_JITFLUX_ABORTED when `o.signal` is aborted while waiting
 */
export async function acquireLock(
  path: string,
  o: { signal?: AbortSignal | undefined; onWait?: (() => void) | undefined } = {},
): Promise<() => Promise<void>> {
  const owner: LockOwner = { pid: process.pid, host: hostname(), started: startTime(process.pid) };
  const content = JSON.stringify({ ...owner, token: randomBytes(8).toString('hex') });
  const own = `${path}.${process.pid}-${randomBytes(6).toString('hex')}`;
  await writeFile(own, content);
  try {
    for (;;) {
      throwIfAborted(o.signal);
      try {
        await link(own, path);
        break;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      }
      const seen = readLock(path);
      if (seen !== undefined && isStale(seen)) {
        await removeStale(path, seen, own);
        continue;
      }
      o.onWait?.();
      await sleep(250, undefined, o.signal ? { signal: o.signal } : {});
    }
  } finally {
    await rm(own, { force: true });
  }
  return async () => {
    if (readLock(path) === content) await rm(path, { force: true });
  };
}

/** Moves the stale lock away and, should another process have replaced it meanwhile, puts that one's back. */
async function removeStale(path: string, seen: string, own: string): Promise<void> {
  const aside = `${own}.stale`;
  try {
    await rename(path, aside);
  } catch {
    return;
  }
  if (readLock(aside) !== seen) await link(aside, path).catch(() => undefined);
  await rm(aside, { force: true });
}

function readLock(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

function isStale(content: string): boolean {
  let owner: LockOwner;
  try {
    owner = JSON.parse(content) as LockOwner;
  } catch {
    return true;
  }
  if (owner.host !== hostname()) return false; // a shared home directory: that process cannot be asked
  try {
    process.kill(owner.pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return true;
  }
  const started = startTime(owner.pid);
  return started !== undefined && owner.started !== undefined && started !== owner.started;
}

/** Field 22 of /proc/<pid>/stat; the command name before it may hold spaces and parentheses. */
function startTime(pid: number): string | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return text.slice(text.lastIndexOf(')') + 2).split(' ')[19];
  } catch {
    return undefined;
  }
}
