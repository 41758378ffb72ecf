/** The memory plan, which knows no native code, against what the native code says of itself. */
import { describe, expect, it } from 'vitest';

import { decodeBytes } from '../../src/model/memory-plan.js';
import { Autoencoder } from '../../src/engine/index.js';
import { fixturePath } from '../support/safetensors.js';

describe('decodeBytes', () => {
  it.each([
    ['float32', 4],
    ['bfloat16', 2],
  ] as const)('is the bound of the native decoder in %s', async (dtype, size) => {
    const path = fixturePath('text-vae/vae.safetensors');
    using autoencoder = await Autoencoder.load(path, { dtype });
    const shape = autoencoder.config;
    for (const [h, w] of [
      [8, 8],
      [32, 48],
      [128, 128],
      [512, 256],
      [1024, 1024],
      // So wide that the fewest rows of a strip exceed its usual size.
      [8, 40_000],
    ] as const) {
      expect(decodeBytes(shape, h, w, size)).toBe(autoencoder.decodeBytes(h, w));
    }
  });
});
