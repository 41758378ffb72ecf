/** The memory plan of FLUX.1-dev, from numbers alone. */
import { describe, expect, it } from 'vitest';
import { availableMemory, memAvailable, parseBytes } from '../../../src/pipeline/available-memory.js';
import { CLIP_L, FLUX_VAE, T5_XXL } from '../../../src/pipeline/component-shapes.js';
import { checkMemory, planModelMemory, RUNTIME_BYTES } from '../../../src/pipeline/memory-plan.js';
import type { ModelSource } from '../../../src/pipeline/model-source.js';
import { FLUX_1_DEV } from '../../../src/sampler/index.js';
import { expectError } from '../../support/errors.js';

const archive = (path: string, fileBytes: number) => ({ path, fileBytes, format: 'torchscript' as const });
const flux: ModelSource = {
  kind: 'diffusers',
  path: '/models/FLUX.1-dev',
  info: {
    name: 'FLUX.1-dev',
    text: { length: 512 },
    decoder: { channels: 16, spatialFactor: 8, scalingFactor: 0.3611, shiftFactor: 0.1159 },
    defaults: { width: 1024, height: 1024, guidance: 3.5 },
  },
  transformer: { weights: archive('transformer', 23.8e9), config: { ...FLUX_1_DEV }, ropeAxes: undefined },
  text: {
    kind: 'native',
    clip: { weights: archive('text_encoder', 0.25e9), tokenizer: 'tokenizer', shape: CLIP_L },
    t5: { weights: archive('text_encoder_2', 9.5e9), tokenizer: 'tokenizer_2', shape: T5_XXL },
  },
  decoder: { kind: 'native', weights: archive('vae', 0.17e9), settings: { ...FLUX_VAE } },
};
const gigabytes = (bytes: number) => ({ bytes: bytes * 1e9, limitedBy: 'machine' as const });

describe('planModelMemory', () => {
  it('counts two bytes a parameter in bfloat16, four in float32', () => {
    for (const [dtype, size] of [
      ['bfloat16', 2],
      ['float32', 4],
    ] as const) {
      const { components } = planModelMemory(flux, { dtype }, undefined);
      expect(components.map(({ component, residentBytes }) => [component, residentBytes])).toEqual([
        ['runtime', RUNTIME_BYTES],
        ['text_encoder', 123_060_480 * size],
        ['text_encoder_2', 4_762_310_656 * size],
        ['transformer', 11_901_408_320 * size],
        ['vae', 83_819_683 * size],
      ]);
    }
  });

  it('spares the text encoders while sampling when they are released', () => {
    const sampling = (keepTextEncoders: boolean) =>
      planModelMemory(flux, { dtype: 'bfloat16', keepTextEncoders }, undefined).phases.find(
        ({ phase }) => phase === 'sample',
      )!.bytes;
    expect(sampling(true) - sampling(false)).toBe(2 * (123_060_480 + 4_762_310_656));
  });

  it('grows with the picture and the batch', () => {
    const transient = (o: { width?: number; images?: number }) =>
      planModelMemory(flux, { dtype: 'bfloat16', ...o }, undefined).components.find(
        ({ component }) => component === 'transformer',
      )!.transientBytes;
    expect(transient({ width: 2048 })).toBeGreaterThan(1.5 * transient({}));
    expect(transient({ images: 4 })).toBeGreaterThan(3 * transient({}));
  });

  it('refuses what cannot fit, with the numbers and a way out', async () => {
    const plan = planModelMemory(flux, {}, gigabytes(32));
    expect(plan.fits).toBe(false);
    const error = await expectError(() => checkMemory(plan), 'ERR_JITFLUX_OUT_OF_MEMORY', /bfloat16/);
    expect(error.message).toMatch(/transformer 47\.6 GB/);
    expect(error.message).toMatch(/32\.0 GB/);
    const small = planModelMemory(flux, { dtype: 'bfloat16', keepTextEncoders: false }, gigabytes(64));
    expect(small.fits).toBe(true);
    checkMemory(small);
  });
});

describe('available memory', () => {
  it('reads sizes with units', () => {
    expect(parseBytes('1500')).toBe(1500);
    expect(parseBytes('2GB')).toBe(2e9);
    expect(() => parseBytes('much')).toThrow();
  });

  it('finds MemAvailable', () => {
    expect(memAvailable('MemTotal: 100 kB\nMemAvailable:   42 kB\n')).toBe(42 * 1024);
    expect(memAvailable('')).toBeUndefined();
  });

  it('is known on Linux', async () => {
    const available = await availableMemory();
    expect(available?.bytes).toBeGreaterThan(1e6);
  });
});
