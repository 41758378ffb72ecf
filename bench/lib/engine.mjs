// Our side of every comparison: a loaded model with its inputs, and timed calls of it.
import { performance } from 'node:perf_hooks';
import { FluxTransformer, jit, Tensor } from 'jit-flux';
import { Random, imageSeed, selectInitialAnchors, stageTokens, subSeed } from 'jit-flux/sampler';
import { ARITHMETIC, GUIDANCE, MODELS, SEEDS, SIGMA } from './models.mjs';
import { weightsFile } from './weights.mjs';

/** @typedef {import('./models.mjs').Arithmetic} Arithmetic */
/** @typedef {import('./models.mjs').Grid} Grid */

/** A loaded model with prompt and conditioning for one noise level. */
export class BenchEngine {
  /**
   * @param {import('./models.mjs').ModelName} name
   * @param {Arithmetic} arithmetic
   * @param {{ work: string, threads: number, textTokens?: number, path?: string }} context number of text tokens and
   *   weight file: the model's own unless given
   */
  static async load(name, arithmetic, context) {
    const { work, threads, textTokens = MODELS[name].textTokens } = context;
    const path = context.path ?? (await weightsFile(name, work));
    const model = await FluxTransformer.load(path, { ...ARITHMETIC[arithmetic], threads });
    const { textDim, pooledDim } = model.config;
    const prompt = Tensor.randn([1, textTokens, textDim], { seed: SEEDS.prompt });
    const pooled = Tensor.randn([1, pooledDim], { seed: SEEDS.pooled });
    const condition = { prompt, pooled, guidance: GUIDANCE, sigmas: [SIGMA] };
    return new BenchEngine(model, prompt, pooled, await model.condition(condition));
  }

  /**
   * As {@link load}, but a kind of arithmetic that this build lacks gives its reason instead of failing.
   * @param {import('./models.mjs').ModelName} name
   * @param {Arithmetic} arithmetic
   * @param {{ work: string, threads: number }} context
   * @returns {Promise<{ engine: BenchEngine } | { unavailable: string }>}
   */
  static async loadIfAvailable(name, arithmetic, context) {
    try {
      return { engine: await BenchEngine.load(name, arithmetic, context) };
    } catch (error) {
      if (arithmetic !== 'int8' || !(error instanceof Error) || error.name !== 'JitFluxError') throw error;
      return { unavailable: error.message };
    }
  }

  /**
   * @param {FluxTransformer} model
   * @param {Tensor} prompt
   * @param {Tensor} pooled
   * @param {import('jit-flux').Conditioning} conditioning for one noise level
   */
  constructor(model, prompt, pooled, conditioning) {
    this.model = model;
    this.prompt = prompt;
    this.pooled = pooled;
    this.conditioning = conditioning;
    /** @type {Map<number, Tensor>} */
    this.noise = new Map();
  }

  /**
   * Conditioning for a list of noise levels.
   * @param {ArrayLike<number>} sigmas
   */
  condition(sigmas) {
    return this.model.condition({
      prompt: this.prompt,
      pooled: this.pooled,
      guidance: GUIDANCE,
      sigmas: Array.from(sigmas),
    });
  }

  /**
   * Packed noise of a whole grid; kept.
   * @param {Grid} grid
   * @returns {Tensor}
   */
  latents(grid) {
    const count = grid[0] * grid[1];
    const found = this.noise.get(count);
    if (found) return found;
    const tensor = Tensor.randn([1, count, this.model.config.inChannels], { seed: SEEDS.tokens });
    this.noise.set(count, tensor);
    return tensor;
  }

  /**
   * One forward pass at the anchors, or at all tokens.
   * @param {Grid} grid
   * @param {Int32Array} [anchors]
   * @returns {Promise<{ velocity: Tensor, seconds: number }>} the caller disposes the velocity; the anchors' tokens are
   *   taken out beforehand
   */
  async run(grid, anchors) {
    const latents = this.latents(grid);
    const tokens = anchors ? await jit.gather(latents, anchors) : latents;
    const { conditioning } = this;
    try {
      const started = performance.now();
      const velocity = await this.model.forward({
        tokens,
        grid,
        conditioning,
        step: 0,
        ...(anchors && { anchors }),
      });
      return { velocity, seconds: (performance.now() - started) / 1000 };
    } finally {
      if (anchors) tokens.dispose();
    }
  }

  /**
   * @param {Grid} grid
   * @param {Int32Array} [anchors]
   */
  async velocity(grid, anchors) {
    const { velocity } = await this.run(grid, anchors);
    const values = await velocity.toFloat32Array();
    velocity.dispose();
    return values;
  }

  /**
   * @param {Grid} grid
   * @param {Int32Array} [anchors]
   */
  async seconds(grid, anchors) {
    const { velocity, seconds } = await this.run(grid, anchors);
    velocity.dispose();
    return seconds;
  }

  dispose() {
    for (const tensor of this.noise.values()) tensor.dispose();
    this.noise.clear();
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
