// Compiled, never run: the types as an ES module sees them.
import {
  BUNDLED_MODEL,
  EncodedPrompts,
  FluxPipeline,
  GeneratedImage,
  type GenerateResult,
  type Grid,
  jit,
  JitFluxError,
  type JitPlan,
  Tensor,
  type VelocityModel,
} from 'jit-flux';
import { type ActivationPolicy, createPlan, type PlanOptions, SamplerCore } from 'jit-flux/sampler';

export async function generate(signal: AbortSignal): Promise<GenerateResult> {
  await using pipeline = await FluxPipeline.load(BUNDLED_MODEL);
  return await pipeline.generate({ prompt: 'a heart', preset: 'jit-4x', seed: 7, signal });
}
export const plan = (options: PlanOptions): JitPlan => createPlan(options);
export const isOurs = (error: unknown): error is JitFluxError => error instanceof JitFluxError;
export const sampler: typeof SamplerCore = SamplerCore;
// @ts-expect-error: the types are there, not `any`
export const wrong: number = BUNDLED_MODEL;

// A grid that is readonly, wherever one is taken and given.
const grid: Grid = [4, 4];
export const lifted = (v: Tensor): Promise<Tensor> => jit.lift(v, Int32Array.of(0), grid);
export const gridded = createPlan({ grid });
export const asked = (model: VelocityModel<Tensor>, tokens: Tensor): Promise<Tensor> =>
  model.velocity({ tokens, grid, step: 0, sigma: 1 });
const area = ([rows, cols]: Grid): number => rows * cols;
export const policy: ActivationPolicy = (ctx) => new Int32Array(area(ctx.grid));
export const own: VelocityModel<Tensor> = {
  velocity: async (i: { tokens: Tensor; grid: Grid }) => (area(i.grid) > 0 ? i.tokens.clone() : i.tokens),
  advance: undefined,
};

// Options that may be undefined.
export const maybe = (seed?: bigint, signal?: AbortSignal, device?: 'cpu'): Promise<unknown>[] => [
  FluxPipeline.load(BUNDLED_MODEL, { device, signal, memoryCheck: { width: undefined } }),
  generate(signal ?? AbortSignal.timeout(1)),
];
export const seeded = (pipeline: FluxPipeline, seed?: bigint): Promise<GenerateResult> =>
  pipeline.generate({ prompt: 'a heart', seed, steps: undefined, onStep: undefined });

// What only the package constructs.
// @ts-expect-error: private
export const pipeline = new FluxPipeline();
// @ts-expect-error: private
export const tensor = new Tensor();
// @ts-expect-error: private
export const prompts = new EncodedPrompts();
// @ts-expect-error: private
export const image = new GeneratedImage();
