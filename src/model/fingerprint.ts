import { createHash } from 'node:crypto';

import type { ModelWithFiles } from './spec.js';

/** Characters of the result; 64 bits tell any models that somebody has apart. */
const LENGTH = 16;

/**
 * What tells one model from another without reading all of its weights: a hash of the fingerprints of its weight files, which
 * are of their sizes and of samples of their bytes, and of the sizes of archives whose code is run. Two models of the same
 * architecture (a fine-tuned one, say) differ in it; one in which single numbers were changed may not. It does not depend on
 * where the files lie.
 */
export function modelFingerprint({ transformer, text, decoder }: ModelWithFiles): string {
  const parts: { fileBytes: number; fingerprint?: string }[] = [
    transformer.weights,
    ...(text?.kind === 'native' ? [text.clip.weights, text.t5.weights] : text ? [text.weights] : []),
    decoder.weights,
  ];
  const hash = createHash('sha256');
  for (const { fileBytes, fingerprint = '' } of parts) hash.update(`${fileBytes} ${fingerprint}\n`);
  return hash.digest('hex').slice(0, LENGTH);
}
