import { describe, expect, it } from 'vitest';

import { CLIP_L, FLUX_AUTOENCODER, T5_XXL } from '../../../src/model/known-models.js';
import {
  blockParameters,
  clipParameters,
  fusedParameters,
  modulationParameters,
  t5Parameters,
  transformerParameters,
  vaeParameters,
} from '../../../src/model/parameters.js';
import { describeWeights } from '../../../src/model/weight-headers.js';
import type { FluxConfig } from '../../../src/types.js';
import { FLUX_1_DEV, FLUX_TINY } from '../../../src/sampler/index.js';
import { MINI, originalLayoutMini } from '../../support/mini.js';
import { fixturePath } from '../../support/safetensors.js';

describe('parameter counts', () => {
  it('are those of the published models', () => {
    expect(transformerParameters(FLUX_1_DEV)).toBe(11_901_408_320);
    expect(transformerParameters({ ...FLUX_1_DEV, guidance: false })).toBe(11_891_178_560);
    expect(fusedParameters(FLUX_1_DEV)).toBe(380 * 3072 * 3072 + 380 * 3072);
    expect(blockParameters(FLUX_1_DEV)).toBe(912 * 3072 * 3072 + 646 * 3072);
    expect(modulationParameters(FLUX_1_DEV)).toBe(344 * 3072 * 3073);
    expect(transformerParameters(FLUX_TINY)).toBe(2_366_784);
    expect(clipParameters(CLIP_L)).toBe(123_060_480);
    expect(t5Parameters(T5_XXL)).toBe(4_762_310_656);
    expect(vaeParameters(FLUX_AUTOENCODER)).toBe(83_819_683);
  });

  it.each([
    ['diffusers', MINI],
    ['original', originalLayoutMini()],
    ['shards', fixturePath('weights/sharded/model.safetensors.index.json')],
  ])('agree with the tensors of a file: %s', async (_, path) => {
    const { part, architecture, parameters } = await describeWeights(path);
    expect(part).toBe('transformer');
    expect(transformerParameters(architecture as FluxConfig)).toBe(parameters);
  });
});
