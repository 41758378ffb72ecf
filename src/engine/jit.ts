import { ERROR_CODES, invalidArgument, JitFluxError } from '../errors.js';
import { runNative } from './call.js';
import type { JitOperators, MicroFlowOptions } from '../types.js';
import { Tensor } from './tensor.js';

/** The JiT operators on native tensors; see {@link JitOperators} for their contracts. */
export const jit: Required<JitOperators<Tensor>> = {
  async gather({ handle }, anchors, { perImage = false } = {}) {
    return new Tensor(
      await runNative((binding, job) => binding.gather({ latents: handle, anchors, perImage }, job)),
    );
  },

  async lift({ handle }, anchors, grid) {
    return new Tensor(
      await runNative((binding, job) => binding.lift({ velocity: handle, anchors, grid }, job)),
    );
  },

  async importance({ handle }, grid) {
    return runNative((binding, job) => binding.importance({ velocity: handle, grid }, job));
  },

  async selectTokens({ handle }, { anchors, count, grid, perImage = false }) {
    const o = { velocity: handle, anchors, perImage, count, grid };
    return runNative((binding, job) => binding.selectTokens(o, job));
  },

  async predictClean(latents, velocity, sigma) {
    const o = { latents: latents.handle, velocity: velocity.handle, sigma };
    return new Tensor(await runNative((binding, job) => binding.predictClean(o, job)));
  },

  async microFlow(latents, { mode, steps, newTokens, target }) {
    const weights = microFlowWeights({ mode, steps });
    const o = { latents: latents.handle, newTokens, target: target.handle, weights };
    await runNative((binding, job) => binding.microFlow(o, job));
  },

  async microFlowTarget({ clean, noise, anchors, newTokens, sigma, grid, perImage = false }) {
    const tensors = { clean: clean.handle, noise: noise.handle };
    const o = { ...tensors, anchors, newTokens, perImage, sigma, grid };
    return new Tensor(await runNative((binding, job) => binding.microFlowTarget(o, job)));
  },

  async step(latents, velocity, { anchors, grid, dSigma }) {
    const o = { latents: latents.handle, velocity: velocity.handle, anchors, grid, dSigma };
    return new Tensor(await runNative((binding, job) => binding.step(o, job)));
  },
};

/**
 * Shares of the way to the target, one per blend.
 *
 * finite-time: n Euler sub-steps of dy/dt = (y* - y)/(T - t) move 1/n, 1/(n-1), ..., 1 of the remaining way; the last
 * one lands on the target exactly. relax: the released code blends once by 1/steps; 0 and 1 replace.
 */
function microFlowWeights({ mode, steps }: MicroFlowOptions): Float64Array {
  if (!Number.isInteger(steps) || steps < 0) {
    throw invalidArgument('microFlow.steps', 'an integer >= 0', steps);
  }
  switch (mode) {
    case 'finite-time': {
      const count = Math.max(1, steps);
      return Float64Array.from({ length: count }, (_, i) => 1 / (count - i));
    }
    case 'relax':
      return Float64Array.of(steps <= 1 ? 1 : 1 / steps);
    default:
      throw new JitFluxError(
        ERROR_CODES.INVALID_ARGUMENT,
        `Expected 'finite-time' or 'relax' for "microFlow.mode" but received ${String(mode)}`,
      );
  }
}
