/** Small files of settings. */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';

import { ERROR_CODES, JitFluxError, throwIfAborted } from '../errors.js';

/** Largest settings file: an index of 4096 shards is far smaller. */
export const MAX_JSON_BYTES = 64 * 1024 ** 2;

/**
 * Reads and parses a JSON file of at most {@link MAX_JSON_BYTES}. Only regular files are read: a pipe or a device
 * would never end.
 * @throws ERR_JITFLUX_FILE_NOT_FOUND if it cannot be read, ERR_JITFLUX_INVALID_MODEL if it is no regular file, too large
 *   or not JSON, ERR_JITFLUX_ABORTED
 */
export async function readJsonFile(
  path: string,
  o: { signal?: AbortSignal | undefined } = {},
): Promise<unknown> {
  throwIfAborted(o.signal);
  const text = await readSmallFile(path, o.signal);
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw invalid(path, `is not valid JSON: ${reasonOf(cause)}`, cause);
  }
}

/** {@link readJsonFile} of a file that may be absent: undefined then. */
export async function readJsonFileIfPresent(
  path: string,
  o: { signal?: AbortSignal | undefined } = {},
): Promise<unknown> {
  try {
    return await readJsonFile(path, o);
  } catch (error) {
    const absent = error instanceof JitFluxError && isAbsent(error.cause);
    if (absent) return undefined;
    throw error;
  }
}

async function readSmallFile(path: string, signal: AbortSignal | undefined): Promise<string> {
  // Opening a pipe without a writer would wait for one.
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK).catch((cause: unknown) => {
    throw new JitFluxError(
      ERROR_CODES.FILE_NOT_FOUND,
      `Cannot read ${path}: ${reasonOf(cause)}`,
      { path },
      { cause },
    );
  });
  try {
    const info = await file.stat();
    if (!info.isFile()) throw invalid(path, 'is not a regular file');
    if (info.size > MAX_JSON_BYTES) throw invalid(path, `is larger than ${MAX_JSON_BYTES} bytes`);
    return await file.readFile({ encoding: 'utf8', ...(signal && { signal }) });
  } catch (cause) {
    throwIfAborted(signal);
    if (cause instanceof JitFluxError) throw cause;
    throw invalid(path, `cannot be read: ${reasonOf(cause)}`, cause);
  } finally {
    await file.close();
  }
}

function isAbsent(cause: unknown): boolean {
  const code = (cause as NodeJS.ErrnoException | undefined)?.code;
  return code === 'ENOENT' || code === 'ENOTDIR';
}

function invalid(path: string, problem: string, cause?: unknown): JitFluxError {
  return new JitFluxError(ERROR_CODES.INVALID_MODEL, `${path} ${problem}`, { path }, { cause });
}

function reasonOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
