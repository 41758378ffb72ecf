import { ERROR_CODES, invalidArgument, JitFluxError } from '../errors.js';
import { runNative } from './call.js';
import type { JitOperators, MicroFlowOptions } from '../types.js';
import { Tensor } from './tensor.js';

/** The JiT operators on native tensors; see {@link JitOperators} for their contracts. */
export const jit: Required<JitOperators<Tensor>> = {
  async gather(latents, anchors, o) {
    const handle = latents.handle;
    return new Tensor(
      await runNative((binding, job) => binding.gather(handle, anchors, o?.perImage ?? false, job)),
    );
  },

  async lift(v, anchors, [rows, cols]) {
    const handle = v.handle;
    return new Tensor(await runNative((binding, job) => binding.lift(handle, anchors, rows, cols, job)));
  },

  async importance(velocity, [rows, cols]) {
    const handle = velocity.handle;
    return runNative((binding, job) => binding.importance(handle, rows, cols, job));
  },

  async selectTokens(velocity, { anchors, count, grid: [rows, cols], perImage = false }) {
    const handle = velocity.handle;
    return runNative((binding, job) =>
      binding.selectTokens(handle, anchors, perImage, count, rows, cols, job),
    );
  },

  async predictClean(latents, velocity, sigma) {
    const [x, v] = [latents.handle, velocity.handle];
    return new Tensor(await runNative((binding, job) => binding.predictClean(x, v, sigma, job)));
  },

  async microFlow(latents, o) {
    const weights = microFlowWeights(o);
    const [x, target] = [latents.handle, o.target.handle];
    await runNative((binding, job) => binding.microFlow(x, o.newTokens, target, weights, job));
  },

  async microFlowTarget(o) {
    const [clean, noise] = [o.clean.handle, o.noise.handle];
    const [rows, cols] = o.grid;
    return new Tensor(
      await runNative((binding, job) =>
        binding.microFlowTarget(
          clean,
          noise,
          o.anchors,
          o.newTokens,
          o.sigma,
          rows,
          cols,
          o.perImage ?? false,
          job,
        ),
      ),
    );
  },

  async step(latents, velocity, { anchors, grid: [rows, cols], dSigma }) {
    const [x, v] = [latents.handle, velocity.handle];
    return new Tensor(
      await runNative((binding, job) => binding.step(x, v, anchors, rows, cols, dSigma, job)),
    );
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
