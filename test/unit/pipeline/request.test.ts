import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

import { describe, expect, it } from 'vitest';

import { BUNDLED_MODEL } from '../../../src/model/bundled-model.js';
import { checkModelIndex } from '../../../src/model/model-directory.js';
import { MAX_IMAGES } from '../../../src/model/run.js';
import { plainSeed, resolveRequest } from '../../../src/pipeline/request.js';
import type { GenerateRequest } from '../../../src/pipeline/types.js';
import { FLUX_TINY } from '../../../src/sampler/index.js';

const model = checkModelIndex(JSON.parse(await readFile(join(BUNDLED_MODEL, 'model_index.json'), 'utf8')));
const resolve = (request: Partial<Record<keyof GenerateRequest, unknown>> = {}) =>
  resolveRequest({ prompt: 'a red circle', ...request } as GenerateRequest, model, FLUX_TINY);

describe('resolveRequest', () => {
  it('fills in the defaults', () => {
    const r = resolve();
    expect(r).toMatchObject({
      prompts: ['a red circle'],
      images: 1,
      width: 256,
      height: 256,
      grid: [32, 32],
      guidance: 3.5,
      guidanceGiven: false,
      textTokens: 24,
      output: 'image',
    });
    expect(r.plan).toMatchObject({ preset: 'jit-4x', steps: 18, totalTokens: 1024 });
    expect(r.plan.flops?.total).toBeGreaterThan(0);
    expect(Number.isSafeInteger(r.seed)).toBe(true);
    expect(r.seeds).toEqual([BigInt(r.seed)]);
  });

  it('gives every picture its own seed, prompt by prompt', () => {
    const r = resolve({ prompt: ['a', 'b'], numImages: 3, seed: 10 });
    expect(r.images).toBe(6);
    expect(r.seeds).toEqual([10n, 11n, 12n, 13n, 14n, 15n]);
    expect(resolve({ seed: 2n ** 64n - 1n }).seeds).toEqual([2n ** 64n - 1n]);
  });

  it('passes on sampling options that are set', () => {
    const r = resolve({ preset: 'jit-7x', steps: undefined, width: 128, height: 64, latents: undefined });
    expect(r.sampling).toEqual({ preset: 'jit-7x' });
    expect(r.grid).toEqual([8, 16]);
  });

  it.each<[keyof GenerateRequest, unknown, string?]>([
    ['prompt', 7],
    ['prompt', []],
    ['prompt', undefined],
    ['width', 100],
    ['width', 0],
    ['width', 24],
    ['width', -128],
    ['width', 1e9],
    ['width', '128'],
    ['height', NaN],
    ['height', 128.5],
    ['guidance', NaN],
    ['guidance', Infinity],
    ['guidance', -1],
    ['guidance', '3.5'],
    ['numImages', 0],
    ['numImages', MAX_IMAGES + 1],
    ['numImages', 1.5],
    ['seed', -1],
    ['seed', 1.5],
    ['seed', 2n ** 64n],
    ['seed', '7'],
    ['maxSequenceLength', 0],
    ['maxSequenceLength', 25],
    ['output', 'png'],
    ['onStep', 'log'],
    ['signal', {}],
    ['steps', -3],
    ['steps', 0],
    ['stageRatios', [0.4, 0.65, 0.9]],
    ['tokenRatios', [0, 0.62, 1]],
    ['tokenRatios', [0.35, 1]],
    ['schedule', { kind: 'cosine' }],
    ['preset', 'jit-5x', 'ERR_JITFLUX_UNKNOWN_PRESET'],
    ['initialAnchors', [1, 2], 'ERR_JITFLUX_INVALID_ANCHORS'],
    ['initialAnchors', Int32Array.of(1, 1), 'ERR_JITFLUX_INVALID_ANCHORS'],
    ['latents', [1], 'ERR_JITFLUX_INVALID_TENSOR'],
    ['latents', { shape: [1, 1024, 16], dtype: 'float32', disposed: false }, 'ERR_JITFLUX_INVALID_TENSOR'],
    ['latents', { shape: [1, 1024, 64], dtype: 'float16', disposed: false }, 'ERR_JITFLUX_INVALID_TENSOR'],
    ['latents', { shape: [1, 1024, 64], dtype: 'float32', disposed: true }, 'ERR_JITFLUX_DISPOSED'],
  ])('refuses %s %o', (option, value, code = 'ERR_JITFLUX_INVALID_ARGUMENT') => {
    expect(() => resolve({ [option]: value })).toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(new RegExp(option, 'i')) as string }),
    );
  });

  it('states the rule for sizes', () => {
    expect(() => resolve({ width: 100 })).toThrow(
      'Expected a multiple of 8 from 32 to 8192 (pixels, for flux-tiny; 104 is the nearest) for "width" but received 100 (number)',
    );
    const flux = { ...model, decoder: { ...model.decoder, spatialFactor: 8 } };
    expect(() => resolveRequest({ prompt: 'x', width: 1000 }, flux)).toThrow(/multiple of 16/);
  });

  it('limits the pictures of all prompts together', () => {
    expect(() => resolve({ prompt: Array(10).fill('x'), numImages: 7 })).toThrow(/at most 64 pictures/);
    expect(resolve({ prompt: Array(8).fill('x'), numImages: 8 }).images).toBe(64);
  });

  it('refuses unknown options, so that misspelt ones are noticed', () => {
    expect(() => resolve({ widht: 128 } as never)).toThrow(/Unknown option "widht"/);
    expect(() => resolveRequest(undefined as never, model)).toThrow(/request/);
  });
});

describe('plainSeed', () => {
  it('is a number where that is exact', () => {
    expect(plainSeed(5n)).toBe(5);
    expect(plainSeed(2n ** 53n - 1n)).toBe(Number.MAX_SAFE_INTEGER);
    expect(plainSeed(2n ** 53n)).toBe(2n ** 53n);
  });
});
