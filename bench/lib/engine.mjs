// Our side of every comparison: a loaded model with its inputs, and timed calls of it.
import { FluxTransformer, Tensor } from 'jit-flux';
import { Random, imageSeed, selectInitialAnchors, stageTokens, subSeed } from 'jit-flux/sampler';
import { timed } from './interleave.mjs';
import { ARITHMETIC, GUIDANCE, MODELS, SEEDS, SIGMA } from './models.mjs';
import { weightsFile } from './weights.mjs';

/** @typedef {'float32' | 'bfloat16' | 'int8'} Arithmetic */

/** A loaded model with prompt and conditioning for one noise level. */
export class BenchEngine {
  /**
   * @param {keyof typeof MODELS} name
   * @param {Arithmetic} arithmetic
   * @param {{ work: string, threads: number }} context
   */
  static async load(name, arithmetic, { work, threads }) {
    const model = await FluxTransformer.load(weightsFile(name, work), { ...ARITHMETIC[arithmetic], threads });
    const { config, textTokens } = MODELS[name];
    const prompt = Tensor.randn([1, textTokens, config.textDim], { seed: SEEDS.prompt });
    const pooled = Tensor.randn([1, config.pooledDim], { seed: SEEDS.pooled });
    const engine = new BenchEngine(model, prompt, pooled);
    engine.conditioning = await engine.condition([SIGMA]);
    return engine;
  }

  /** As {@link load}, but a kind of arithmetic that this build lacks gives its reason instead of failing. */
  static async loadIfAvailable(name, arithmetic, context) {
    try {
      return { engine: await BenchEngine.load(name, arithmetic, context) };
    } catch (error) {
      if (arithmetic !== 'int8' || error?.name !== 'JitFluxError') throw error;
      return { unavailable: error.message };
    }
  }

  constructor(model, prompt, pooled) {
    this.model = model;
    this.prompt = prompt;
    this.pooled = pooled;
    this.conditioning = undefined;
    this.tokens = new Map();
  }

  /** Conditioning for a list of noise levels. */
  condition(sigmas) {
    return this.model.condition({ prompt: this.prompt, pooled: this.pooled, guidance: GUIDANCE, sigmas });
  }

  /** Packed noise at the given number of tokens; kept. */
  latents(count) {
    if (!this.tokens.has(count)) {
      const shape = [1, count, this.model.config.inChannels];
      this.tokens.set(count, Tensor.randn(shape, { seed: SEEDS.tokens }));
    }
    return this.tokens.get(count);
  }

  /** Velocity at the anchors, or at all tokens; the caller disposes it. */
  velocity(grid, anchors) {
    return this.model.forward({
      tokens: this.latents(anchors?.length ?? grid[0] * grid[1]),
      grid,
      conditioning: this.conditioning,
      step: 0,
      ...(anchors && { anchors }),
    });
  }

  /** Seconds of one forward pass. */
  async forward(grid, anchors) {
    let velocity;
    const seconds = await timed(async () => (velocity = await this.velocity(grid, anchors)));
    velocity.dispose();
    return seconds;
  }

  dispose() {
    for (const tensor of this.tokens.values()) tensor.dispose();
    this.tokens.clear();
    for (const part of [this.conditioning, this.prompt, this.pooled, this.model]) part.dispose();
  }
}

/**
 * The sampler's own first anchors at a share of the grid's tokens; undefined for all of them.
 * @param {readonly [number, number]} grid
 * @param {number} share
 */
export function anchorsFor(grid, share) {
  if (share === 1) return undefined;
  return selectInitialAnchors({
    pattern: 'checkerboard',
    grid,
    count: stageTokens(grid[0] * grid[1], share),
    ratio: share,
    random: new Random(subSeed(imageSeed(0n, 0), 'anchors')),
  });
}
