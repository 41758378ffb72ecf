// Compiled, never run: the types as a CommonJS module sees them, with both kinds of import.
import { BUNDLED_MODEL, FluxPipeline, JitFluxError, type GenerateResult, type JitPlan } from 'jit-flux';
import required = require('jit-flux');
import { createPlan, type PlanOptions, SamplerCore } from 'jit-flux/sampler';

export async function generate(signal: AbortSignal): Promise<GenerateResult> {
  const pipeline = await FluxPipeline.load(BUNDLED_MODEL);
  return await pipeline.generate({ prompt: 'a heart', preset: 'jit-4x', seed: 7, signal });
}
export const plan = (options: PlanOptions): JitPlan => createPlan(options);
export const isOurs = (error: unknown): error is JitFluxError => error instanceof JitFluxError;
export const sampler: typeof SamplerCore = SamplerCore;
// @ts-expect-error: the types are there, not `any`
export const wrong: number = BUNDLED_MODEL;
export const same: typeof FluxPipeline = required.FluxPipeline;
export type Result = required.GenerateResult;
