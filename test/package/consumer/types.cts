// Compiled, never run: the types as a CommonJS module sees them, with every kind of import.
import everything from 'jit-flux';
import {
  BUNDLED_MODEL,
  FluxPipeline,
  GeneratedImage,
  type GenerateResult,
  type Grid,
  JitFluxError,
  type JitPlan,
  Tensor,
} from 'jit-flux';
import * as namespace from 'jit-flux';
import required = require('jit-flux');
import { createPlan, type PlanOptions, SamplerCore } from 'jit-flux/sampler';
import sampling = require('jit-flux/sampler');

export async function generate(signal: AbortSignal): Promise<GenerateResult> {
  const pipeline = await FluxPipeline.load(BUNDLED_MODEL);
  return await pipeline.generate({ prompt: 'a heart', preset: 'jit-4x', seed: 7, signal });
}
export const plan = (options: PlanOptions): JitPlan => createPlan(options);
export const isOurs = (error: unknown): error is JitFluxError => error instanceof JitFluxError;
export const sampler: typeof SamplerCore = SamplerCore;
// @ts-expect-error: the types are there, not `any`
export const wrong: number = BUNDLED_MODEL;
export const same: (typeof FluxPipeline)[] = [
  required.FluxPipeline,
  everything.FluxPipeline,
  namespace.FluxPipeline,
];
export type Result = required.GenerateResult;
export type Sampler = SamplerCore<required.Tensor> | sampling.SamplerCore;

// Classes are types and values, and can be extended and narrowed to.
export class OwnError extends required.JitFluxError {}
export const promptOf = (value: unknown): string | undefined =>
  value instanceof GeneratedImage ? value.prompt : undefined;

const grid: Grid = [4, 4];
export const gridded = sampling.createPlan({ grid, seed: undefined });
// @ts-expect-error: private
export const tensor = new Tensor();
