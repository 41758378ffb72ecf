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
    return parseJson(text);
  } catch (cause) {
    throw new JitFluxError(
      ERROR_CODES.INVALID_MODEL,
      `${path} is not valid JSON: ${whyNotJson(text, cause)}`,
      { path },
      { cause },
    );
  }
}

/** `JSON.parse`, which does not take the byte order mark that some editors put in front. */
export function parseJson(text: string): unknown {
  return JSON.parse(text.startsWith('\ufeff') ? text.slice(1) : text);
}

/** What a text is that is no JSON: files are fetched from where one has to be logged in, and by tools that fetch pointers. */
export function whyNotJson(text: string, cause: unknown): string {
  if (text.startsWith('version https://git-lfs')) {
    return 'a Git LFS pointer; fetch the file itself with `git lfs pull`';
  }
  const isPage = /^\s*<(!doctype|html|\?xml)/i.test(text);
  const isMessage =
    /^(access|invalid|unauthorized|forbidden|not found|entry not found|repository not found)\b/i.test(text);
  if (isPage || isMessage) {
    const beginning = text.slice(0, 60).replace(/\s+/g, ' ').trim();
    return `it begins with ${JSON.stringify(beginning)}: a failed or unauthorised download?`;
  }
  return cause instanceof Error ? cause.message : String(cause);
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
