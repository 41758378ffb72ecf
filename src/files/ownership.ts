/** Whether another user of the machine could have changed a file. */
import { realpathSync, statSync } from 'node:fs';
import { dirname } from 'node:path';

import { ERROR_CODES, JitFluxError } from '../errors.js';

const WRITABLE_BY_ALL = 0o002;
const STICKY = 0o1000;

/** What somebody else could have changed. */
export interface Exposure {
  path: string;
  /** Owner. */
  uid: number;
  /** Permission bits, octal: `0777`. */
  mode: string;
  problem: string;
}

export interface ExposureOptions {
  /**
   * The outermost directory whose owner and mode must be right, `directory` or above it; those further out need only
   * keep others from replacing what is in them. Default: `directory`.
   */
  within?: string;
  /** Users who are trusted besides root and the process's own. */
  trusted?: readonly number[];
}

/**
 * The first of `directory`, what it lies in and `files` that a user other than root and the process's own could have
 * changed: by owning it, or because everyone may write it. A group that may write is the owner's choice. Symbolic links
 * are resolved.
 *
 * @returns undefined if there is none
 * @throws the system's error if something cannot be looked at
 */
export function findExposure(
  directory: string,
  files: readonly string[] = [],
  o: ExposureOptions = {},
): Exposure | undefined {
  const trusted = new Set([0, process.geteuid?.() ?? 0, ...(o.trusted ?? [])]);
  const judge = (path: string): Exposure | undefined => {
    const { uid, mode } = statSync(path);
    const exposure = (problem: string): Exposure => ({ path, uid, mode: octal(mode), problem });
    if (!trusted.has(uid)) return exposure(`it belongs to user ${uid}`);
    return mode & WRITABLE_BY_ALL ? exposure('everyone may write it') : undefined;
  };
  const judged = new Map<string, Exposure | undefined>();
  const judgeDirectory = (path: string): Exposure | undefined => {
    if (!judged.has(path)) judged.set(path, judge(path));
    return judged.get(path);
  };

  const real = realpathSync(directory);
  const outermost = realpathSync(o.within ?? directory);
  const isWithin =
    real === outermost || real.startsWith(outermost.endsWith('/') ? outermost : `${outermost}/`);
  let isOutside = false;
  for (let path = real; ; path = dirname(path)) {
    if (isOutside) {
      // In a directory with the sticky bit, such as /tmp, others cannot rename what is not theirs.
      const { uid, mode } = statSync(path);
      if (mode & WRITABLE_BY_ALL && !(mode & STICKY))
        return { path, uid, mode: octal(mode), problem: 'everyone may replace what is in it' };
    } else {
      const exposure = judgeDirectory(path);
      if (exposure) return exposure;
    }
    if (path === outermost || !isWithin) isOutside = true;
    if (path === '/') break;
  }
  for (const file of files) {
    const target = realpathSync(file);
    const exposure = judge(target) ?? judgeDirectory(dirname(target));
    if (exposure) return exposure;
  }
  return undefined;
}

/** @param what `'The LibTorch in the cache'` @param remedy a sentence */
export function exposed(what: string, exposure: Exposure, remedy: string): JitFluxError {
  const { path, uid, mode, problem } = exposure;
  return new JitFluxError(
    ERROR_CODES.UNSAFE_FILE,
    `${what} is refused, because another user could have changed it: ${path} (owner ${uid}, mode ${mode}): ` +
      `${problem}. ${remedy}`,
    { path, uid, mode, problem },
  );
}

function octal(mode: number): string {
  return (mode & 0o7777).toString(8).padStart(4, '0');
}
