/** Which requests may share a sampling run. */
import { describe, expect, it } from 'vitest';

import { knownModel } from '../../../src/model/known-models.js';
import { batchKey } from '../../../src/pipeline/batching.js';
import { type ResolvedRequest, resolveRequest } from '../../../src/pipeline/request.js';
import type { GenerateRequest } from '../../../src/pipeline/types.js';

const { info, transformer } = knownModel('flux.1-dev')!;
const resolve = (request: GenerateRequest): ResolvedRequest =>
  resolveRequest(
    { prompt: 'a red circle', width: 256, height: 256, seed: 1, ...request },
    info,
    transformer.config,
  );
const keyOf = (request: GenerateRequest = {}) => batchKey(resolve(request));

describe('batchKey', () => {
  it('is the same for requests whose pictures may differ', () => {
    for (const request of [
      { prompt: 'a blue square' },
      { prompt: ['a', 'b'] },
      { seed: 2 },
      { guidance: 7 },
      { numImages: 3 },
      { onStep: () => undefined },
      { signal: new AbortController().signal },
      // The same settings, spelt out.
      { preset: 'jit-4x', steps: 18 },
      { maxSequenceLength: 512 },
    ] satisfies GenerateRequest[]) {
      expect(keyOf(request), JSON.stringify(request)).toBe(keyOf());
    }
  });

  it('differs where one run cannot serve both', () => {
    const requests: GenerateRequest[] = [
      { width: 512 },
      { height: 128, width: 512 },
      { preset: 'jit-7x' },
      { preset: 'dense' },
      { steps: 17 },
      { stageRatios: [0.5, 0.75, 1] },
      { tokenRatios: [0.3, 0.62, 1] },
      { schedule: { kind: 'shift' } },
      { initialAnchors: 'strided' },
      { initialAnchors: Int32Array.from({ length: 89 }, (_, token) => token) },
      { initialAnchors: Int32Array.from({ length: 89 }, (_, token) => token + 1) },
      { activation: 'grid' },
      { microFlow: { mode: 'finite-time' } },
      { maxSequenceLength: 256 },
      { output: 'latent' },
    ];
    const keys = [keyOf(), ...requests.map(keyOf)];
    expect(keys.every((key) => typeof key === 'string')).toBe(true);
    expect(new Set(keys).size).toBe(keys.length);
  });

  it('is undefined for what shares with none', () => {
    expect(keyOf({ activation: ({ anchors }) => anchors })).toBeUndefined();
    const latents = { shape: [1, 256, 64], dtype: 'float32', disposed: false } as GenerateRequest['latents'] &
      object;
    expect(keyOf({ latents })).toBeUndefined();
  });
});
