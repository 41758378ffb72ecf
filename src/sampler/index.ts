/**
 * `jit-flux/sampler`: Just-in-Time sampling without native code. Plans, schedules and anchor policies as pure
 * functions, and the sampling loop over any tensor library through {@link SamplerBackend}.
 */

import '../disposal.js';
export { SamplerCore, type SamplerBackend } from './sampler.js';
export { createPlan, type PlanModel, type PlanOptions } from './plan.js';
export { resolveOptions, type ResolvedOptions } from './options.js';
export { DEFAULT_PRESET, PRESET_NAMES, PRESETS, getPreset, type Preset } from './presets.js';
export { betaSigmas, scheduleSigmas, shiftMu, shiftSigmas, staticSigmas } from './schedule.js';
export { betaQuantile, regularizedBeta } from './beta.js';
export {
  divideStages,
  normalizeStageRatios,
  normalizeTokenRatios,
  stageBorders,
  stageTokens,
  type Stage,
} from './stages.js';
export {
  activateAll,
  activateByImportance,
  activateOnGrid,
  checkerboardBase,
  fitAnchors,
  selectInitialAnchors,
  stridedBase,
} from './anchors.js';
export { Random, imageSeed, normalizeSeed, subSeed } from './random.js';
export { FLUX_1_DEV, FLUX_TINY, fluxFlops, type FluxFlops } from './flops.js';
export { ERROR_CODES, JitFluxError, type JitFluxErrorCode } from '../errors.js';
export type {
  ActivationContext,
  ActivationPolicy,
  DType,
  FluxConfig,
  Grid,
  JitOperators,
  JitOptions,
  JitPlan,
  Lifter,
  MicroFlowOptions,
  PresetName,
  SampleOptions,
  ScheduleOptions,
  StagePlan,
  StepEvent,
  TensorLike,
  VelocityModel,
} from '../types.js';
