import { readdir } from 'node:fs/promises';
import { join } from 'node:path';

import { ERROR_CODES, JitFluxError } from '../errors.js';

/**
 * The weights of a directory: its safetensors index, or else its one weight file. The same choice as the native
 * reader's.
 * @returns undefined if there are none
 * @throws ERR_JITFLUX_UNSUPPORTED_FORMAT if there are several
 */
export async function findWeights(directory: string): Promise<string | undefined> {
  const names = (await readdir(directory).catch(() => [])).filter((name) => !name.startsWith('.')).sort();
  const indices = names.filter((name) => name.endsWith('.safetensors.index.json'));
  const files = names.filter((name) => /\.(safetensors|pt)$/.test(name));
  const candidates = indices.length > 0 ? indices : files;
  if (candidates.length > 1) {
    throw new JitFluxError(
      ERROR_CODES.UNSUPPORTED_FORMAT,
      `${directory} holds several weight files (${candidates.slice(0, 20).join(', ')}); keep one of them`,
      { path: directory, candidates },
    );
  }
  return candidates[0] === undefined ? undefined : join(directory, candidates[0]);
}
