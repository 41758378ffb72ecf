/** Small files that strangers may have made: read whole, within a limit, and never waited for. */
import { constants } from 'node:fs';
import { open, readdir, stat } from 'node:fs/promises';

import { untilAborted } from '../abort.js';
import { ERROR_CODES, JitFluxError, systemErrorOf, throwIfAborted } from '../errors.js';

/** Why a file that is there was not read. */
export type FileProblem = 'irregular' | 'large' | 'changed' | 'unreadable';

export interface SmallFileOptions {
  /** Largest size that is read. */
  maxBytes: number;
  signal?: AbortSignal | undefined;
  /**
   * Makes the error for a file that is there.
   * @param why goes on where a path ends: "is not a regular file"
   */
  invalid?: (problem: FileProblem, why: string, cause?: unknown) => JitFluxError;
}

/** Between two looks at the signal. */
const CHUNK_BYTES = 4 * 1024 ** 2;

/**
 * Reads a whole file: the one way in which this package reads files of a model, beside the mapping of weights. Only
 * regular files are read, because a pipe, a terminal or a device would never end, or would do something when it is
 * opened. The size is asked of the open file; one that becomes longer or shorter meanwhile is refused. An abort settles the
 * promise at once, also where a file system does not answer.
 * @throws ERR_JITFLUX_FILE_NOT_FOUND if it cannot be opened, ERR_JITFLUX_INVALID_MODEL or what `invalid` makes if it is no
 *   regular file, too large, or changes while it is read, ERR_JITFLUX_OUT_OF_MEMORY, ERR_JITFLUX_ABORTED
 */
export async function readSmallFile(path: string, o: SmallFileOptions): Promise<Buffer> {
  throwIfAborted(o.signal);
  // An abandoned read stops at its next chunk.
  return untilAborted(readWhole(path, o), o.signal);
}

async function readWhole(path: string, { maxBytes, signal, invalid }: SmallFileOptions): Promise<Buffer> {
  const refuse = (problem: FileProblem, why: string, cause?: unknown): JitFluxError =>
    invalid?.(problem, why, cause) ??
    new JitFluxError(ERROR_CODES.INVALID_MODEL, `${path} ${why}`, { path }, { cause });
  const check = (info: { isFile(): boolean; size: number }): number => {
    if (!info.isFile()) throw refuse('irregular', 'is not a regular file');
    if (info.size > maxBytes) throw refuse('large', `is larger than ${maxBytes} bytes`);
    return info.size;
  };
  // Looked at first, because opening a device can have effects; what counts is what the open file says.
  check(await stat(path).catch((cause: unknown) => notFound(path, cause)));
  // Opening a pipe that has taken its place would wait for a writer, and a terminal would become ours.
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY).catch(
    (cause: unknown) => notFound(path, cause),
  );
  try {
    const size = check(await file.stat());
    const data = allocate(path, size);
    for (let at = 0; at < size;) {
      throwIfAborted(signal);
      const { bytesRead } = await file.read(data, at, Math.min(CHUNK_BYTES, size - at), at);
      if (bytesRead === 0) throw refuse('changed', 'became shorter while it was read');
      at += bytesRead;
    }
    throwIfAborted(signal);
    const { bytesRead } = await file.read(Buffer.alloc(1), 0, 1, size);
    if (bytesRead > 0) throw refuse('changed', 'became longer while it was read');
    return data;
  } catch (cause) {
    if (cause instanceof JitFluxError) throw cause;
    throw refuse('unreadable', `cannot be read: ${reasonOf(cause)}`, cause);
  } finally {
    await file.close();
  }
}

/**
 * Names in a directory, sorted, without hidden ones.
 * @throws ERR_JITFLUX_FILE_NOT_FOUND
 */
export async function listDirectory(path: string): Promise<string[]> {
  const names = await readdir(path).catch((cause: unknown) => notFound(path, cause));
  return names.filter((name) => !name.startsWith('.')).sort();
}

/** Whether an error of the system says that there is no such file. */
export function isAbsent(cause: unknown): boolean {
  const code = systemErrorOf(cause).code;
  return code === 'ENOENT' || code === 'ENOTDIR';
}

function allocate(path: string, bytes: number): Buffer {
  try {
    return Buffer.allocUnsafeSlow(bytes);
  } catch (cause) {
    throw new JitFluxError(
      ERROR_CODES.OUT_OF_MEMORY,
      `There is no memory for the ${bytes} bytes of ${path}`,
      { path, bytes },
      { cause },
    );
  }
}

function notFound(path: string, cause: unknown): never {
  throw new JitFluxError(
    ERROR_CODES.FILE_NOT_FOUND,
    `Cannot read ${path}: ${reasonOf(cause)}`,
    { path },
    { cause },
  );
}

function reasonOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
