// The two models that are measured, and what goes into them.
import { FLUX_1_DEV } from 'jit-flux/sampler';

/**
 * @typedef {object} BenchModel
 * @property {string} name
 * @property {import('jit-flux').FluxConfig} config
 * @property {number} textTokens
 */

/** @type {Readonly<Record<'bench' | 'flux-slice', BenchModel>>} */
export const MODELS = {
  /** Small enough for whole sampler runs; at 64x64 tokens attention is more than half of its work. */
  bench: {
    name: 'bench',
    config: {
      doubleBlocks: 2,
      singleBlocks: 4,
      heads: 8,
      headDim: 64,
      hiddenSize: 512,
      inChannels: 64,
      outChannels: 64,
      textDim: 256,
      pooledDim: 128,
      mlpRatio: 4,
      guidance: true,
      ropeAxes: [16, 24, 24],
    },
    textTokens: 64,
  },
  /** One block of each kind at FLUX.1-dev's real widths. */
  'flux-slice': {
    name: 'flux-slice',
    config: { ...FLUX_1_DEV, doubleBlocks: 1, singleBlocks: 1 },
    textTokens: 512,
  },
};

/** Seeds of all random inputs; PyTorch draws the same numbers from them. */
export const SEEDS = { tokens: 11, prompt: 12, pooled: 13, microFlow: 14 };

export const GUIDANCE = 4;
/**
 * Noise level of single forward passes. A thousand times it, and a thousand times the guidance, are exact in bfloat16:
 * otherwise the embedded time would differ between the types far more than their arithmetic does.
 */
export const SIGMA = 0.5;

/** How the engine is asked for each type of arithmetic. */
export const ARITHMETIC = {
  float32: { dtype: 'float32' },
  bfloat16: { dtype: 'bfloat16' },
  int8: { dtype: 'bfloat16', quantize: 'int8' },
};

/** Grid at which results are compared: what is wrong at one size is wrong at all of them. */
export const CHECK_GRID = [16, 16];
