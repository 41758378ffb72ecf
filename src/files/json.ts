/** Small files of settings. */
import { ERROR_CODES, JitFluxError } from '../errors.js';
import { isAbsent, readSmallFile } from './small-file.js';

/** Largest settings file. Those of models have a few kilobytes; one of this size is parsed in some 20 ms. */
export const MAX_JSON_BYTES = 1024 ** 2;

/**
 * Reads and parses a JSON file of at most {@link MAX_JSON_BYTES}.
 * @throws ERR_JITFLUX_FILE_NOT_FOUND if it cannot be opened, ERR_JITFLUX_INVALID_MODEL if it is no regular file, too large,
 *   changed meanwhile or not JSON, ERR_JITFLUX_ABORTED
 */
export async function readJsonFile(
  path: string,
  o: { signal?: AbortSignal | undefined } = {},
): Promise<unknown> {
  const text = (await readSmallFile(path, { maxBytes: MAX_JSON_BYTES, signal: o.signal })).toString('utf8');
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw new JitFluxError(
      ERROR_CODES.INVALID_MODEL,
      `${path} is not valid JSON: ${cause instanceof Error ? cause.message : String(cause)}`,
      { path },
      { cause },
    );
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
