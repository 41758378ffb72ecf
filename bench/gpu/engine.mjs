// Our side on a GPU: the loaded model, its inputs, and timed steps and runs of it.
import { FluxTransformer, JitSampler, Tensor, devices, engineInfo, resetPeakMemory } from 'jit-flux';
import { createPlan } from 'jit-flux/sampler';
import { anchorsFor } from '../lib/engine.mjs';
import { timed } from '../lib/interleave.mjs';
import { GUIDANCE, SEEDS, SIGMA } from './models.mjs';

/**
 * @typedef {object} Context
 * @property {import('./models.mjs').GpuModel} model
 * @property {boolean} smoke the toy model, few repetitions
 * @property {'cuda' | `cuda:${number}`} device
 * @property {string | undefined} emulation device library that stands for a GPU
 * @property {string} work folder of the weights, and of what later parts read
 * @property {string} python with PyTorch, for the comparison
 * @property {number} seconds that the part may take, about
 */

/** @typedef {import('./record.mjs').Emit} Emit */
/** @typedef {import('jit-flux').Conditioning} Conditioning */
/** @typedef {[number, number]} Grid */

/**
 * @template T
 * @param {() => T | Promise<T>} run
 * @returns {Promise<{ seconds: number, result: T }>}
 */
export async function clocked(run) {
  const started = performance.now();
  const result = await run();
  return { seconds: (performance.now() - started) / 1000, result };
}

/** A tiny step: the latents must stay in a sane range however often it is taken. */
const D_SIGMA = -1e-6;

/** Emits what tensors held at most, phase by phase: LibTorch's allocator counts it. */
export class MemoryWatch {
  /** @param {Context} context @param {Emit} emit */
  static async start({ device }, emit) {
    // The engine, LibTorch and the driver's context, which are nobody's weights.
    const warmup = Tensor.randn([1], { seed: 0, device });
    await warmup.toFloat32Array();
    warmup.dispose();
    resetPeakMemory(device);
    return new MemoryWatch(device, emit);
  }

  /** @param {Context['device']} device @param {Emit} emit */
  constructor(device, emit) {
    this.device = device;
    this.emit = emit;
    this.most = 0;
  }

  /** Ends a phase. @param {string} name */
  async phase(name) {
    const info = (await devices())[Number(this.device.split(':')[1] ?? 0)];
    if (info === undefined) throw new Error(`There is no ${this.device}`);
    this.emit(`peak memory: ${name}`, 'B', info.peakAllocatedBytes);
    this.most = Math.max(this.most, info.peakAllocatedBytes);
    resetPeakMemory(this.device);
    return info;
  }

  end() {
    this.emit('peak memory', 'B', this.most, 'over all phases');
  }
}

/** A loaded model with its inputs. */
export class GpuEngine {
  /**
   * @param {Context} context
   * @param {Emit} emit
   * @param {import('jit-flux').LoadOptions} [options]
   */
  static async load(context, emit, options = {}) {
    const memory = await MemoryWatch.start(context, emit);
    const { device } = context;
    const { seconds, result } = await clocked(() =>
      FluxTransformer.load(weightsPath(context), { device, dtype: 'bfloat16', ...options }),
    );
    emit('load', 's', seconds);
    const { allocatedBytes, totalBytes, freeBytes } = await memory.phase('load');
    emit('in tensors after load', 'B', allocatedBytes);
    emit('used on the device after load', 'B', totalBytes - freeBytes);
    return new GpuEngine(context, emit, result, memory);
  }

  /** @param {Context} context @param {Emit} emit @param {FluxTransformer} transformer @param {MemoryWatch} memory */
  constructor(context, emit, transformer, memory) {
    this.context = context;
    this.emit = emit;
    this.transformer = transformer;
    this.memory = memory;
    /** @type {Map<string, Tensor>} */
    this.inputs = new Map();
  }

  /** Conditioning for noise levels; one prompt per image. @param {number[]} sigmas */
  async condition(sigmas, images = 1) {
    const { config, textTokens } = this.context.model;
    const prompt = Tensor.randn([images, textTokens, config.textDim], { seed: SEEDS.prompt });
    const pooled = Tensor.randn([images, config.pooledDim], { seed: SEEDS.pooled });
    const request = { prompt, pooled, guidance: GUIDANCE, sigmas };
    const { seconds, result: conditioning } = await clocked(() => this.transformer.condition(request));
    prompt.dispose();
    pooled.dispose();
    return { conditioning, seconds };
  }

  /** Packed noise of a grid on the device; kept. @param {Grid} grid */
  latents(grid, images = 1) {
    const key = `${grid} ${images}`;
    const shape = [images, grid[0] * grid[1], this.context.model.config.inChannels];
    const known =
      this.inputs.get(key) ?? Tensor.randn(shape, { seed: SEEDS.tokens, device: this.context.device });
    this.inputs.set(key, known);
    return known;
  }

  /**
   * The velocity at a share of the tokens, without lift and update: what PyTorch's side computes. The caller disposes it.
   * @param {Conditioning} conditioning
   * @param {number} share
   */
  velocity(conditioning, share) {
    const { grid } = this.context.model;
    const anchors = anchorsFor(grid, share);
    return this.transformer.forward({
      latents: this.latents(grid),
      grid,
      conditioning,
      step: 0,
      ...(anchors && { anchors }),
    });
  }

  /**
   * A step as the sampler takes it, in one native call: gather, pass, lift, Euler update. The promise resolves when the
   * device is done.
   * @param {Conditioning} conditioning
   * @param {Grid} grid
   * @param {number} share
   * @returns {() => Promise<number>} seconds
   */
  step(conditioning, grid, share, images = 1) {
    const anchors = anchorsFor(grid, share);
    const latents = this.latents(grid, images);
    const bound = this.transformer.bind(conditioning);
    const request = { latents, ...(anchors && { anchors }), perImage: false, grid };
    const at = { step: 0, sigma: SIGMA, dSigma: D_SIGMA };
    return async () => {
      const { seconds, result } = await clocked(() => bound.advance?.({ ...request, ...at }));
      if (result === undefined) throw new Error('A bound transformer has no advance() any more');
      result.dispose();
      return seconds;
    };
  }

  /**
   * One run of the sampler: wall clock of its loop, and what of it passed inside and between the steps.
   * @param {Pick<import('jit-flux').JitOptions, 'preset' | 'steps'>} options
   */
  async run(options) {
    const { grid } = this.context.model;
    const settings = { ...options, grid, latents: this.latents(grid), seed: 1 };
    const { sigmas, stages } = createPlan({ ...options, grid });
    const { conditioning, seconds: condition } = await this.condition(sigmas);
    const sampler = new JitSampler(this.transformer.bind(conditioning), settings);
    /** @type {number[]} */
    const steps = [];
    const seconds = await timed(async () => {
      for await (const event of sampler) steps.push(event.milliseconds / 1e3);
    });
    const last = await sampler.latents.toFloat32Array();
    sampler.dispose();
    conditioning.dispose();
    if (!last.every(Number.isFinite))
      throw new Error(`The latents of ${JSON.stringify(options)} are not finite`);
    // JavaScript between the steps, while the device idles.
    const between = (seconds - steps.reduce((sum, step) => sum + step, 0)) / steps.length;
    return { seconds, condition, steps, stages, between };
  }

  dispose() {
    this.memory.end();
    for (const tensor of this.inputs.values()) tensor.dispose();
    this.inputs.clear();
    this.transformer.dispose();
  }
}

/** @param {Pick<Context, 'work'>} context */
export const weightsPath = ({ work }) => `${work}/transformer.safetensors`;

/**
 * What was called since `before`.
 * @param {Readonly<Record<string, number>>} before
 * @returns {[name: string, count: number][]}
 */
export function callsSince(before) {
  return Object.entries(engineInfo().kernelCalls)
    .map(([name, count]) => /** @type {[string, number]} */ ([name, count - (before[name] ?? 0)]))
    .filter(([, count]) => count > 0);
}
