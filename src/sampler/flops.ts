/**
 * Floating-point operations of a FLUX forward pass, as a function of the token counts. A multiply-add counts as two.
 * Only matrix products are counted; norms, activations and rotations are below one percent.
 */

import { checkBoolean, checkInteger, checkNumber, type Names, readFields } from '../arguments.js';
import type { FluxConfig } from '../types.js';

/** Architecture of FLUX.1-dev: 11.9 billion parameters. */
export const FLUX_1_DEV: Readonly<FluxConfig> = Object.freeze<FluxConfig>({
  doubleBlocks: 19,
  singleBlocks: 38,
  heads: 24,
  headDim: 128,
  hiddenSize: 3072,
  inChannels: 64,
  outChannels: 64,
  textDim: 4096,
  pooledDim: 768,
  mlpRatio: 4,
  guidance: true,
  ropeAxes: [16, 56, 56],
});

/** Architecture of the bundled demonstration model. */
export const FLUX_TINY: Readonly<FluxConfig> = Object.freeze<FluxConfig>({
  doubleBlocks: 2,
  singleBlocks: 4,
  heads: 2,
  headDim: 64,
  hiddenSize: 128,
  inChannels: 64,
  outChannels: 64,
  textDim: 128,
  pooledDim: 64,
  mlpRatio: 4,
  guidance: true,
  ropeAxes: [4, 30, 30],
});

/** Where the operations of one forward pass of one image go. */
export interface FluxFlops {
  /** Linear layers of all blocks, both streams. */
  linear: number;
  /** Attention: scores and weighted sum over text and image tokens, no causal saving. */
  attention: number;
  /** Token embedders (`x_embedder`, `context_embedder`) and the final projection. */
  embedding: number;
  /**
   * Time, guidance and pooled-prompt embedders and all modulation layers. They see one vector per step; this engine
   * computes all steps' vectors together before sampling.
   */
  modulation: number;
  /** Sum of all of these. */
  total: number;
}

/** Largest size of an architecture, and largest number of tokens, whose operations are counted. */
const MAX_SIZE = 1 << 24;

const CONFIG: Names<FluxConfig> = {
  doubleBlocks: true,
  singleBlocks: true,
  heads: true,
  headDim: true,
  hiddenSize: true,
  inChannels: true,
  outChannels: true,
  textDim: true,
  pooledDim: true,
  mlpRatio: true,
  guidance: true,
  ropeAxes: true,
};

/**
 * A copy of an architecture of which operations can be counted.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function readFluxConfig(given: FluxConfig, option = 'config'): FluxConfig {
  const config = readFields(given, option, CONFIG, 'a FluxConfig');
  for (const [name, value] of Object.entries({ ...CONFIG, ...config })) {
    if (name === 'guidance') checkBoolean(`${option}.guidance`, config.guidance);
    else if (name !== 'ropeAxes') {
      const expected = `a number from 0 to ${MAX_SIZE}`;
      checkNumber(
        `${option}.${name}`,
        value === true ? undefined : value,
        expected,
        (n) => n >= 0 && n <= MAX_SIZE,
      );
    }
  }
  return config;
}

/** @throws ERR_JITFLUX_INVALID_ARGUMENT */
export function checkTextTokens(option: string, tokens: unknown): number {
  return checkInteger(option, tokens, 0, MAX_SIZE);
}

/**
 * Operations of one forward pass.
 * @param imageTokens active image tokens M
 * @param textTokens text tokens T
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function fluxFlops(config: FluxConfig, imageTokens: number, textTokens: number): FluxFlops {
  checkInteger('imageTokens', imageTokens, 0, MAX_SIZE);
  return countFlops(readFluxConfig(config), imageTokens, checkTextTokens('textTokens', textTokens));
}

/** {@link fluxFlops} of what has been checked. */
export function countFlops(config: FluxConfig, imageTokens: number, textTokens: number): FluxFlops {
  const d = config.hiddenSize;
  const tokens = imageTokens + textTokens;
  const blocks = config.doubleBlocks + config.singleBlocks;
  // Per token a block applies q, k, v, out (4 d^2) and two MLP matrices (2 mlpRatio d^2). A double block does so once
  // for each stream's tokens; a single block does the same with fused matrices.
  const linear = 2 * (4 + 2 * config.mlpRatio) * d * d * blocks * tokens;
  const attention = 4 * tokens * tokens * config.heads * config.headDim * blocks;
  const embedding =
    2 * d * (imageTokens * (config.inChannels + config.outChannels) + textTokens * config.textDim);
  const sinusoid = 256;
  const embedders = (config.guidance ? 2 : 1) * (sinusoid + d) + (config.pooledDim + d);
  const modulation = 2 * d * (embedders + d * (12 * config.doubleBlocks + 3 * config.singleBlocks + 2));
  const total = linear + attention + embedding + modulation;
  return { linear, attention, embedding, modulation, total };
}
