/** Output files that are either complete or not there. */
import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { access, open, realpath, rename, stat, unlink } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';

import { ERROR_CODES, JitFluxError, throwIfAborted } from '../errors.js';

/**
 * Writes a file through a temporary one in the same directory and a rename: other processes see the old content or
 * the new one, never half of it. If writing fails or is aborted, the temporary file is removed and an existing file
 * is left as it was. A symbolic link is followed.
 *
 * @throws ERR_JITFLUX_WRITE_FAILED with the system's error as cause, or ERR_JITFLUX_ABORTED
 */
export async function writeFileAtomic(
  path: string,
  data: Uint8Array | string,
  o: { signal?: AbortSignal | undefined } = {},
): Promise<void> {
  throwIfAborted(o.signal);
  const target = await assertWritable(path);
  const temporary = join(
    dirname(target),
    `.${basename(target)}.${process.pid}-${randomBytes(6).toString('hex')}.tmp`,
  );
  try {
    const file = await open(temporary, 'wx');
    try {
      await file.writeFile(data);
      await file.sync();
    } finally {
      await file.close();
    }
    throwIfAborted(o.signal);
    await rename(temporary, target);
  } catch (cause) {
    await unlink(temporary).catch(() => undefined);
    throw cause instanceof JitFluxError ? cause : writeFailed(path, cause);
  }
}

/**
 * Checks that {@link writeFileAtomic} could write here: the directory exists and may be written, and the path is
 * free or a regular file. For finding a bad path before the work and not after it.
 *
 * @returns the absolute path that would be written, symbolic links resolved
 * @throws ERR_JITFLUX_WRITE_FAILED
 */
export async function assertWritable(path: string): Promise<string> {
  try {
    const target = await realpath(path).catch(async (error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') throw error;
      const absolute = resolve(path);
      return join(await realpath(dirname(absolute)), basename(absolute));
    });
    const existing = await stat(target).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') throw error;
      return undefined;
    });
    if (existing !== undefined && !existing.isFile()) {
      throw writeFailed(
        path,
        undefined,
        existing.isDirectory() ? 'it is a directory' : 'it is not a regular file',
      );
    }
    await access(dirname(target), constants.W_OK | constants.X_OK);
    return target;
  } catch (cause) {
    throw cause instanceof JitFluxError ? cause : writeFailed(path, cause);
  }
}

const REASONS: Record<string, string> = {
  ENOENT: 'the directory does not exist',
  ENOTDIR: 'a part of the path is not a directory',
  EACCES: 'permission denied',
  EPERM: 'operation not permitted',
  EROFS: 'the file system is read-only',
  ENOSPC: 'no space left on the device',
  EDQUOT: 'the disk quota is used up',
  ENAMETOOLONG: 'the name is too long',
};

function writeFailed(path: string, cause: unknown, reason?: string): JitFluxError {
  const code = (cause as NodeJS.ErrnoException | undefined)?.code;
  const why =
    reason ??
    (code !== undefined ? REASONS[code] : undefined) ??
    (cause instanceof Error ? cause.message : String(cause));
  return new JitFluxError(
    ERROR_CODES.WRITE_FAILED,
    `Cannot write ${path}: ${why}`,
    { path, reason: why },
    { cause },
  );
}
