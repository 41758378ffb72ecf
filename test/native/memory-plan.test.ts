/** What the weights library plans for a decode, against what the core reserves for it. */
import { describe, expect, it } from 'vitest';

import { componentMemory } from '../../src/engine/describe.js';
import { Autoencoder } from '../../src/engine/index.js';
import { fixturePath } from '../support/safetensors.js';

describe('memory of a decode', () => {
  it.each(['float32', 'bfloat16'] as const)('is the bound of the native decoder in %s', async (dtype) => {
    const path = fixturePath('text-vae/vae.safetensors');
    using autoencoder = await Autoencoder.load(path, { dtype });
    const { config } = autoencoder;
    const pixels = (2 * config.spatialFactor) ** 2;
    for (const [rows, cols] of [
      [4, 4],
      [16, 24],
      [64, 64],
      [256, 128],
      [512, 512],
      // So wide that the fewest rows of a strip exceed its usual size.
      [4, 20_000],
    ] as const) {
      const { transientBytes } = componentMemory({
        part: 'autoencoder',
        architecture: { ...config, channels: [...config.channels] },
        fileBytes: 0,
        dtype,
        device: 'cpu',
        blockWeights: 'packed',
        keepModulation: true,
        mapWeights: true,
        work: { rows, cols, textTokens: 0, images: 1, steps: 1, runs: 1 },
      });
      const bound = Math.min(autoencoder.decodeBytes(2 * rows, 2 * cols), 2 * 1024 ** 3);
      expect(transientBytes).toBe(bound + rows * cols * pixels * 15);
    }
  });
});
