// Our side on a GPU, or on the CPU for trying things out: the loaded model, its inputs, and timed steps of it.
import { readFileSync } from 'node:fs';
import { JitSampler, FluxTransformer, Tensor, devices, engineInfo, resetPeakMemory } from 'jit-flux';
import { timed } from '../lib/interleave.mjs';
import { anchorsFor } from '../lib/engine.mjs';
import { GUIDANCE, SEEDS, SIGMA } from './models.mjs';

/** A tiny step: the latents must stay in a sane range however often it is taken. */
const D_SIGMA = -1e-6;

/** A loaded model with its prompt. */
export class GpuEngine {
  /**
   * @param {import('./parts.mjs').Context} context
   * @param {import('jit-flux').LoadOptions} [options]
   */
  static async load({ weights, model, device }, options = {}) {
    // The engine, LibTorch and the driver's context, which are nobody's weights.
    const warmup = Tensor.randn([1], { seed: 0, device });
    await warmup.toFloat32Array();
    warmup.dispose();
    const memory = new MemoryWatch(device);
    let transformer;
    const seconds = await timed(async () => {
      transformer = await FluxTransformer.load(weights, { device, dtype: 'bfloat16', ...options });
    });
    const engine = new GpuEngine(transformer, model, device, memory);
    engine.loaded = { seconds, ...(await memory.phase('load')) };
    return engine;
  }

  constructor(transformer, model, device, memory) {
    this.transformer = transformer;
    this.model = model;
    this.device = device;
    this.memory = memory;
    this.inputs = new Map();
  }

  /** Conditioning for noise levels; one prompt per image. */
  async condition(sigmas, images = 1) {
    const { config, textTokens } = this.model;
    const prompt = Tensor.randn([images, textTokens, config.textDim], { seed: SEEDS.prompt });
    const pooled = Tensor.randn([images, config.pooledDim], { seed: SEEDS.pooled });
    let conditioning;
    const seconds = await timed(async () => {
      conditioning = await this.transformer.condition({ prompt, pooled, guidance: GUIDANCE, sigmas });
    });
    prompt.dispose();
    pooled.dispose();
    return { conditioning, seconds };
  }

  /** Packed noise of a grid on the device; kept. */
  latents(grid, images = 1) {
    const key = `${grid} ${images}`;
    if (!this.inputs.has(key)) {
      const shape = [images, grid[0] * grid[1], this.model.config.inChannels];
      this.inputs.set(key, Tensor.randn(shape, { seed: SEEDS.tokens, device: this.device }));
    }
    return this.inputs.get(key);
  }

  /** The velocity at the anchors, or everywhere; the caller disposes it. */
  velocity(conditioning, grid, anchors, images = 1) {
    return this.transformer.forward({
      latents: this.latents(grid, images),
      grid,
      conditioning,
      step: 0,
      ...(anchors && { anchors }),
    });
  }

  /**
   * A step as the sampler takes it, in one native call: gather, pass, lift, Euler update. The promise resolves when the
   * device is done.
   * @returns {() => Promise<number>} seconds
   */
  step(conditioning, grid, share, images = 1) {
    const anchors = anchorsFor(grid, share);
    const latents = this.latents(grid, images);
    const bound = this.transformer.bind(conditioning);
    return async () => {
      let full;
      const seconds = await timed(async () => {
        full = await bound.advance({
          latents,
          ...(anchors && { anchors }),
          perImage: false,
          grid,
          step: 0,
          sigma: SIGMA,
          dSigma: D_SIGMA,
        });
      });
      full.dispose();
      return seconds;
    };
  }

  /**
   * One run of the sampler: wall clock of its loop, and what of it passed inside and between the steps.
   * @param {import('jit-flux').JitOptions} options
   */
  async run(options) {
    const { grid } = this.model;
    const settings = { ...options, grid, latents: this.latents(grid), seed: 1 };
    const { sigmas, stages } = new JitSampler({ velocity: () => undefined }, settings).plan;
    const { conditioning, seconds: conditionSeconds } = await this.condition(sigmas);
    const sampler = new JitSampler(this.transformer.bind(conditioning), settings);
    const steps = [];
    const seconds = await timed(async () => {
      for await (const event of sampler) {
        steps.push({ seconds: event.milliseconds / 1e3, tokens: event.activeTokens });
      }
    });
    const last = await sampler.latents.toFloat32Array();
    sampler.dispose();
    conditioning.dispose();
    const inSteps = steps.reduce((sum, step) => sum + step.seconds, 0);
    return {
      seconds,
      conditionSeconds,
      steps,
      stages: stages.map(({ steps: count, activeTokens }) => ({ steps: count, activeTokens })),
      // JavaScript between the steps, while the device idles.
      betweenSteps: (seconds - inSteps) / steps.length,
      finite: last.every(Number.isFinite),
    };
  }

  dispose() {
    for (const tensor of this.inputs.values()) tensor.dispose();
    this.inputs.clear();
    this.transformer.dispose();
  }
}

/** Memory over the phases of a process: of the device, or on the CPU of the process. */
export class MemoryWatch {
  constructor(device) {
    this.device = device;
    this.index = device === 'cpu' ? -1 : Number(device.split(':')[1] ?? 0);
    if (this.index >= 0) resetPeakMemory(device);
    this.baseline = this.index < 0 ? status('VmRSS') : 0;
    this.phases = {};
  }

  /** Ends a phase: what is allocated now, and the most that was since the phase before. */
  async phase(name) {
    let found;
    if (this.index < 0) {
      found = {
        allocatedBytes: status('VmRSS') - this.baseline,
        peakBytes: status('VmHWM') - this.baseline,
        ofProcess: true,
      };
    } else {
      const info = (await devices())[this.index];
      found = {
        allocatedBytes: info.allocatedBytes,
        reservedBytes: info.reservedBytes,
        usedOnDeviceBytes: info.totalBytes - info.freeBytes,
        peakBytes: info.peakAllocatedBytes,
      };
      resetPeakMemory(this.device);
    }
    this.phases[name] = found;
    return found;
  }

  /** Over all phases. */
  summary() {
    return {
      phases: this.phases,
      peakBytes: Math.max(...Object.values(this.phases).map(({ peakBytes }) => peakBytes)),
    };
  }
}

function status(field) {
  const text = readFileSync('/proc/self/status', 'utf8');
  return Number(new RegExp(`${field}:\\s+(\\d+) kB`).exec(text)[1]) * 1024;
}

/** What was called since `before`. */
export function callsSince(before) {
  const now = engineInfo().kernelCalls;
  return Object.fromEntries(
    Object.entries(now)
      .map(([name, count]) => [name, count - (before[name] ?? 0)])
      .filter(([, count]) => count > 0),
  );
}
