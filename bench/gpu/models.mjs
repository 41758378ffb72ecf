// What is measured on a GPU: FLUX.1-dev itself, and a toy of the same structure for the smoke test.
import { FLUX_1_DEV } from 'jit-flux/sampler';

/**
 * @typedef {object} GpuModel
 * @property {import('jit-flux').FluxConfig} config
 * @property {number} textTokens
 * @property {[number, number]} grid packed tokens of the picture
 * @property {[number, number]} largeGrid of the large picture
 */

/** @type {Readonly<Record<'flux' | 'toy', GpuModel>>} */
export const GPU_MODELS = {
  // 1024x1024 and 2048x2048.
  flux: { config: FLUX_1_DEV, textTokens: 512, grid: [64, 64], largeGrid: [128, 128] },
  toy: {
    config: {
      doubleBlocks: 1,
      singleBlocks: 1,
      heads: 2,
      headDim: 32,
      hiddenSize: 64,
      inChannels: 64,
      outChannels: 64,
      textDim: 48,
      pooledDim: 32,
      mlpRatio: 4,
      guidance: true,
      ropeAxes: [8, 12, 12],
    },
    textTokens: 8,
    grid: [8, 8],
    largeGrid: [12, 12],
  },
};

/**
 * Whole runs, as the sampler's options.
 * @type {Readonly<Record<string, Pick<import('jit-flux').JitOptions, 'preset' | 'steps'>>>}
 */
export const RUNS = {
  'dense-50': { preset: 'dense' },
  'dense-28': { preset: 'dense', steps: 28 },
  'jit-4x': { preset: 'jit-4x' },
  'jit-7x': { preset: 'jit-7x' },
};

/** Shares of the tokens in the presets' sparse stages, and all of them. */
export const SHARES = [1, 0.62, 0.6, 0.35, 0.32];

export const SEEDS = { tokens: 11, prompt: 12, pooled: 13, noise: 14 };
export const GUIDANCE = 3.5;
/** Noise level of single steps: a thousand times it is exact in bfloat16. */
export const SIGMA = 0.5;
