/** What a run will do, known before it starts. */

import { invalidArgument } from '../errors.js';
import type { FluxConfig, Grid, JitOptions, JitPlan, StagePlan } from '../types.js';
import { checkAnchors } from './anchors.js';
import { fluxFlops } from './flops.js';
import { resolveOptions, type ResolvedOptions } from './options.js';
import { normalizeSeed } from './random.js';
import { scheduleSigmas } from './schedule.js';
import { divideStages, tokenCount } from './stages.js';

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
  seed?: number | bigint;
  /** Given this, the plan counts FLOPs (of one image). */
  model?: PlanModel;
}

/**
 * Computes noise levels, stages, token counts and, given a model, FLOPs of a run. Pure, takes well under a
 * millisecond, needs no native code; the result is plain data.
 *
 * FLOPs are those of the transformer's forward passes (`FluxFlops.total`); `speedup` compares them with 50 and with 28
 * steps over all tokens.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT, ERR_JITFLUX_INVALID_ANCHORS, ERR_JITFLUX_UNKNOWN_PRESET
 */
export function createPlan(o: PlanOptions): JitPlan {
  const settings = resolveOptions(o);
  if (o.seed !== undefined) normalizeSeed(o.seed);
  return planFor(settings, o.grid, o.model);
}

/** {@link createPlan} for settings that are complete and checked. */
export function planFor(settings: ResolvedOptions, grid: Grid, model?: PlanModel): JitPlan {
  const totalTokens = tokenCount(grid);
  const { steps, initialAnchors } = settings;
  const explicit = typeof initialAnchors === 'string' ? undefined : initialAnchors;
  if (explicit !== undefined) checkAnchors(explicit, totalTokens, 'initialAnchors');
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

function forwardFlops({ config, textTokens }: PlanModel): (imageTokens: number) => number {
  if (typeof config !== 'object' || config === null) {
    throw invalidArgument('model.config', 'a FluxConfig', config);
  }
  if (!Number.isSafeInteger(textTokens) || textTokens < 0) {
    throw invalidArgument('model.textTokens', 'an integer >= 0', textTokens);
  }
  return (imageTokens) => fluxFlops(config, imageTokens, textTokens).total;
}
