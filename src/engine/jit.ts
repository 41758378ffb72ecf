import { checkFloat, type Names, readOptions } from '../arguments.js';
import { checkMicroFlow } from '../sampler/options.js';
import { readGrid } from '../sampler/stages.js';
import { runNative } from './call.js';
import type { Grid, JitOperators, MicroFlowOptions } from '../types.js';
import { handleOf } from './native-object.js';
import { Tensor, tensorOf } from './tensor.js';

type Options<Name extends keyof JitOperators> = NonNullable<
  Parameters<NonNullable<JitOperators<Tensor>[Name]>>[Name extends 'step'
    ? 2
    : Name extends 'microFlowTarget'
      ? 0
      : 1]
>;

const SELECT: Names<Options<'selectTokens'>> = { anchors: true, count: true, grid: true, perImage: true };
type MicroFlow = { mode: MicroFlowOptions['mode']; steps?: number } & Omit<Options<'microFlow'>, 'mode'>;
const MICRO_FLOW: Names<MicroFlow> = {
  mode: true,
  steps: true,
  newTokens: true,
  target: true,
  perImage: true,
};
const TARGET: Names<Options<'microFlowTarget'>> = {
  clean: true,
  noise: true,
  anchors: true,
  newTokens: true,
  sigma: true,
  grid: true,
  perImage: true,
};
const STEP: Names<Options<'step'>> = { anchors: true, grid: true, dSigma: true };

/** The JiT operators on native tensors; see {@link JitOperators} for their contracts. */
export const jit: { [Name in keyof JitOperators]-?: NonNullable<JitOperators<Tensor>[Name]> } = {
  async gather(latents, anchors, given = {}) {
    const { perImage = false } = readOptions(given, { perImage: true });
    const o = { latents: handleOf(latents, 'latents'), anchors, perImage };
    return tensorOf(await runNative((binding, job) => binding.gather(o, job)));
  },

  async lift(v, anchors, grid) {
    return lift(v, { anchors, grid, blur: true });
  },

  async liftNearest(v, anchors, grid) {
    return lift(v, { anchors, grid, blur: false });
  },

  async importance(velocity, grid) {
    const o = { velocity: handleOf(velocity, 'velocity'), grid: readGrid(grid) };
    return runNative((binding, job) => binding.importance(o, job));
  },

  async selectTokens(velocity, given) {
    const { grid, perImage = false, ...rest } = readOptions(given, SELECT);
    const o = { ...rest, perImage, grid: readGrid(grid), velocity: handleOf(velocity, 'velocity') };
    return runNative((binding, job) => binding.selectTokens(o, job));
  },

  async predictClean(latents, velocity, sigma) {
    const o = { latents: handleOf(latents, 'latents'), velocity: handleOf(velocity, 'velocity') };
    const level = checkFloat('sigma', sigma);
    return tensorOf(await runNative((binding, job) => binding.predictClean({ ...o, sigma: level }, job)));
  },

  async microFlow(latents, given) {
    const { mode, steps, newTokens, target } = readOptions<MicroFlow>(given, MICRO_FLOW);
    const weights = Float64Array.of(microFlowWeight(checkMicroFlow({ mode, steps })));
    const tensors = { latents: handleOf(latents, 'latents'), target: handleOf(target, 'target') };
    await runNative((binding, job) => binding.microFlow({ ...tensors, newTokens, weights }, job));
  },

  async microFlowTarget(given) {
    const { clean, noise, grid, sigma, perImage = false, ...rest } = readOptions(given, TARGET);
    const tensors = { clean: handleOf(clean, 'clean'), noise: handleOf(noise, 'noise') };
    const o = { ...rest, ...tensors, sigma: checkFloat('sigma', sigma), perImage, grid: readGrid(grid) };
    return tensorOf(await runNative((binding, job) => binding.microFlowTarget(o, job)));
  },

  async step(latents, velocity, given) {
    const { anchors, grid, dSigma } = readOptions(given, STEP);
    const tensors = { latents: handleOf(latents, 'latents'), velocity: handleOf(velocity, 'velocity') };
    const o = { ...tensors, anchors, grid: readGrid(grid), dSigma: checkFloat('dSigma', dSigma) };
    return tensorOf(await runNative((binding, job) => binding.step(o, job)));
  },
};

async function lift(
  v: Tensor,
  { anchors, grid, blur }: { anchors: Int32Array; grid: Grid; blur: boolean },
): Promise<Tensor> {
  const o = { velocity: handleOf(v, 'v'), anchors, grid: readGrid(grid), blur };
  return tensorOf(await runNative((binding, job) => binding.lift(o, job)));
}

/** Share of the way to the target. */
function microFlowWeight(o: MicroFlowOptions): number {
  return o.mode === 'finite-time' || o.steps <= 1 ? 1 : 1 / o.steps;
}
