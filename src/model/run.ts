/**
 * What a run of a model will do and cost, from what was asked for and the model's own defaults. `plan`, the memory plan,
 * `generate` and batching all start here.
 */
import { checkInteger } from '../arguments.js';
import { createPlan, type PlanModel } from '../sampler/index.js';
import { JIT_OPTIONS } from '../sampler/options.js';
import type { FluxConfig, JitOptions, JitPlan } from '../types.js';
import { checkSide, pixelsPerToken } from './size.js';
import type { ModelInfo } from './spec.js';

/** Most pictures of one request. They are sampled as one batch. */
export const MAX_IMAGES = 64;

/** What a run will do and cost, whoever asks: `plan`, the memory plan, `generate` and batching. */
export interface ResolvedRun {
  /** Pictures of the batch. */
  images: number;
  width: number;
  height: number;
  grid: [rows: number, cols: number];
  /** Text tokens per picture. */
  textTokens: number;
  plan: JitPlan;
  /** The sampling options as given, completed by the model's own; for the sampler. */
  sampling: JitOptions;
}

/** What a run is resolved from: the part of a request that decides what a run does and costs. */
export interface RunOptions extends JitOptions {
  /** Pixels; a multiple of the model's pixels per token (16 for FLUX.1, 8 for flux-tiny). Default: the model's. */
  width?: number | undefined;
  height?: number | undefined;
  /** Number of text tokens, at most the model's (512 for FLUX.1). Default: the model's (512 for dev, 256 for schnell). */
  maxSequenceLength?: number | undefined;
}

/**
 * Size, text tokens and sampling of a run: the part of a request that decides what it does and costs. The one place
 * where a model's defaults complete a request.
 * @param o sampling options and sizes as asked for; other fields are ignored
 * @param o.textTokens of prompts that are encoded already; else `maxSequenceLength` or the model's default
 * @param config the transformer's architecture; with it the plan counts FLOPs
 * @throws ERR_JITFLUX_INVALID_ARGUMENT, ERR_JITFLUX_UNKNOWN_PRESET, ERR_JITFLUX_INVALID_ANCHORS
 */
export function resolveRun(
  o: RunOptions & { images?: number | undefined; textTokens?: number | undefined },
  model: ModelInfo,
  config?: FluxConfig,
): ResolvedRun {
  const { width, height, grid } = resolveSize(o, model);
  const textTokens = o.textTokens ?? resolveTextLength(o.maxSequenceLength, model);
  const sampling: JitOptions = Object.fromEntries(
    Object.entries(o).filter(([name, value]) => Object.hasOwn(JIT_OPTIONS, name) && value !== undefined),
  );
  const planModel: PlanModel | undefined = config && { config, textTokens };
  const geometry = { grid, ...(planModel && { model: planModel }) };
  const { own, asAsked } = applyModelDefaults(sampling, model);
  const plan = createPlan({ ...own, ...geometry });
  // The model's own schedule does not make its dense preset another one.
  if (plan.preset === 'custom' && asAsked) plan.preset = createPlan({ ...asAsked, ...geometry }).preset;
  const images = checkInteger('numImages', o.images ?? 1, 1, MAX_IMAGES);
  return { images, width, height, grid, textTokens, plan, sampling: own };
}

/**
 * Size of a picture: what was asked for, or the model's.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function resolveSize(
  o: { width?: number | undefined; height?: number | undefined },
  model: SizedModel,
): { width: number; height: number; grid: [rows: number, cols: number] } {
  const unit = pixelsPerToken(model);
  const width = checkSide('width', o.width ?? model.defaults.width, unit, model.name);
  const height = checkSide('height', o.height ?? model.defaults.height, unit, model.name);
  return { width, height, grid: [height / unit, width / unit] };
}

/** What of a model decides sizes. */
export interface SizedModel {
  name: string;
  decoder: { spatialFactor: number };
  defaults: { width: number; height: number };
}

/**
 * Number of text tokens: what was asked for, at most the model's, or the model's default.
 * @param option name for the message
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function resolveTextLength(
  asked: number | undefined,
  { text }: ModelInfo,
  option: string = 'maxSequenceLength',
): number {
  return checkInteger(option, asked ?? text.defaultLength ?? text.length, 1, text.length);
}

/**
 * The model's own preset, and for its dense preset its own steps and schedule.
 * @returns `own` with what the request leaves open filled in; `asAsked` without the schedule, if that was filled in
 */
function applyModelDefaults(
  sampling: JitOptions,
  { defaults }: ModelInfo,
): { own: JitOptions; asAsked?: JitOptions } {
  const preset = sampling.preset ?? defaults.preset;
  const named: JitOptions = preset === undefined ? sampling : { ...sampling, preset };
  if (preset !== 'dense' || defaults.dense === undefined || sampling.schedule !== undefined) {
    return { own: named };
  }
  const asAsked = { ...named, steps: sampling.steps ?? defaults.dense.steps };
  return { own: { ...asAsked, schedule: defaults.dense.schedule }, asAsked };
}
