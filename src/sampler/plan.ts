/** What a run will do, known before it starts. */

import { type Names, readFields, readOptions } from '../arguments.js';
import type { FluxConfig, Grid, JitOptions, JitPlan, StagePlan } from '../types.js';
import { readAnchors } from './anchors.js';
import { checkTextTokens, countFlops, readFluxConfig } from './flops.js';
import { JIT_OPTIONS, resolveOptions, type ResolvedOptions } from './options.js';
import { normalizeSeed } from './random.js';
import { scheduleSigmas } from './schedule.js';
import { divideStages, readGrid } from './stages.js';

/** The model whose operations a plan counts. */
export interface PlanModel {
  config: FluxConfig;
  /** Text tokens per image, e.g. 512. */
  textTokens: number;
}

/** Options of {@link createPlan}. */
export interface PlanOptions extends JitOptions {
  grid: Grid;
  /** Checked, but without influence on the plan. */
  seed?: number | bigint | undefined;
  /** Given this, the plan counts FLOPs (of one image). */
  model?: PlanModel | undefined;
}

const PLAN_OPTIONS: Names<PlanOptions> = { ...JIT_OPTIONS, grid: true, seed: true, model: true };

/**
 * Computes noise levels, stages, token counts and, given a model, FLOPs of a run. Pure, takes well under a
 * millisecond, needs no native code; the result is plain data.
 *
 * FLOPs are those of the transformer's forward passes (`FluxFlops.total`); `speedup` compares them with 50 and with 28
 * steps over all tokens.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT, ERR_JITFLUX_INVALID_ANCHORS, ERR_JITFLUX_UNKNOWN_PRESET
 */
export function createPlan(o: PlanOptions): JitPlan {
  const { grid, seed, model, ...options } = readOptions(o, PLAN_OPTIONS);
  const settings = resolveOptions(options);
  if (seed !== undefined) normalizeSeed(seed);
  return planFor(settings, grid, model);
}

/** {@link createPlan} for settings that are complete and checked. */
export function planFor(settings: ResolvedOptions, given: Grid, model?: PlanModel): JitPlan {
  const grid = readGrid(given);
  const totalTokens = grid[0] * grid[1];
  const { steps, initialAnchors } = settings;
  const explicit = typeof initialAnchors === 'string' ? undefined : initialAnchors;
  if (explicit !== undefined) readAnchors(explicit, totalTokens, 'initialAnchors');
  const stages = divideStages({
    steps,
    tokens: totalTokens,
    stageRatios: settings.stageRatios,
    tokenRatios: settings.tokenRatios,
    ...(explicit !== undefined && { initialCount: explicit.length }),
  });
  const sigmas = scheduleSigmas(settings.schedule, steps, totalTokens);
  const stepFlops = model === undefined ? undefined : forwardFlops(model);

  const stagePlans = stages.map((s): StagePlan => ({
    stage: s.stage,
    firstStep: s.firstStep,
    steps: s.steps,
    tokenRatio: s.tokenRatio,
    activeTokens: s.activeTokens,
    flops: stepFlops === undefined ? 0 : s.steps * stepFlops(s.activeTokens),
  }));
  const perStep = <V>(value: (s: StagePlan) => V) =>
    stagePlans.flatMap((s) => Array.from({ length: s.steps }, () => value(s)));

  const plan: JitPlan = {
    preset: settings.preset,
    grid: [grid[0], grid[1]],
    totalTokens,
    steps,
    sigmas,
    sigmasWithTerminal: [...sigmas, 0],
    stages: stagePlans,
    stageOfStep: perStep((s) => s.stage),
    tokensPerStep: perStep((s) => s.activeTokens),
    microFlow: { ...settings.microFlow },
  };
  if (stepFlops !== undefined) {
    const flops = plan.tokensPerStep.map(stepFlops);
    const total = flops.reduce((sum, f) => sum + f, 0);
    const dense = stepFlops(totalTokens);
    plan.flops = {
      total,
      perStep: flops,
      speedup: { dense50: (50 * dense) / total, dense28: (28 * dense) / total },
    };
  }
  return plan;
}

function forwardFlops(given: PlanModel): (imageTokens: number) => number {
  const model = readFields(given, 'model', { config: true, textTokens: true }, '{ config, textTokens }');
  const config = readFluxConfig(model.config, 'model.config');
  const textTokens = checkTextTokens('model.textTokens', model.textTokens);
  return (imageTokens) => countFlops(config, imageTokens, textTokens).total;
}
