// The models that are measured, and what goes into them.
import { FLUX_1_DEV } from 'jit-flux/sampler';

/**
 * How much is measured: `full`, `quick` (one figure per target), or `smoke` (tiny shapes, to see that all of it runs).
 * @typedef {'smoke' | 'quick' | 'full'} Mode
 */

/** @typedef {[rows: number, columns: number]} Grid */

/** @typedef {'bench' | 'flux-slice' | 'smoke-small' | 'smoke-wide'} ModelName */

/**
 * @typedef {object} BenchModel
 * @property {ModelName} name
 * @property {import('jit-flux').FluxConfig} config
 * @property {number} textTokens
 */

/** @type {import('jit-flux').FluxConfig} */
const TOY = {
  doubleBlocks: 1,
  singleBlocks: 2,
  heads: 2,
  headDim: 64,
  hiddenSize: 128,
  inChannels: 64,
  outChannels: 64,
  textDim: 48,
  pooledDim: 32,
  mlpRatio: 4,
  guidance: true,
  ropeAxes: [16, 24, 24],
};

/** @type {Readonly<Record<ModelName, BenchModel>>} */
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
  'smoke-small': { name: 'smoke-small', config: TOY, textTokens: 16 },
  /** With FLUX.1-dev's head size. */
  'smoke-wide': {
    name: 'smoke-wide',
    config: { ...TOY, headDim: 128, hiddenSize: 256, singleBlocks: 1, ropeAxes: [16, 56, 56] },
    textTokens: 16,
  },
};

/**
 * What stands for a small model and for FLUX.1-dev's widths, and the grid of a large picture, in each mode; the targets
 * are about these.
 * @type {Readonly<Record<Mode, { small: ModelName, wide: ModelName, grid: Grid }>>}
 */
export const SUBJECTS = {
  full: { small: 'bench', wide: 'flux-slice', grid: [64, 64] },
  quick: { small: 'bench', wide: 'flux-slice', grid: [64, 64] },
  smoke: { small: 'smoke-small', wide: 'smoke-wide', grid: [16, 16] },
};

/** Seeds of all random inputs; LibTorch draws the same numbers from them everywhere. */
export const SEEDS = { tokens: 11, prompt: 12, pooled: 13, microFlow: 14 };

export const GUIDANCE = 4;
/**
 * Noise level of single forward passes. A thousand times it, and a thousand times the guidance, are exact in bfloat16:
 * otherwise the embedded time would differ between the types far more than their arithmetic does.
 */
export const SIGMA = 0.5;

/** @typedef {'float32' | 'bfloat16' | 'int8'} Arithmetic */

/**
 * How the engine is asked for each type of arithmetic.
 * @type {Readonly<Record<Arithmetic, import('jit-flux').LoadOptions>>}
 */
export const ARITHMETIC = {
  float32: { dtype: 'float32' },
  bfloat16: { dtype: 'bfloat16' },
  int8: { dtype: 'bfloat16', quantize: 'int8' },
};

/**
 * Grid at which results are compared: what is wrong at one size is wrong at all of them.
 * @type {Grid}
 */
export const CHECK_GRID = [16, 16];

/** float32 on both sides must agree this well (relative L2), or they do not compute the same and times mean nothing. */
export const FLOAT32_TOLERANCE = 1e-4;
