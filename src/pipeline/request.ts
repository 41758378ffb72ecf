/** From what the caller asked for to a complete request in which everything has been checked. */
import { randomInt } from 'node:crypto';

import { ERROR_CODES, invalidArgument, JitFluxError } from '../errors.js';
import type { Tensor } from '../runtime/index.js';
import { createPlan, imageSeed, normalizeSeed, type PlanModel } from '../sampler/index.js';
import type { FluxConfig, JitOptions, JitPlan, StepEvent } from '../types.js';
import { type ModelIndex, pixelsPerToken } from './model-directory.js';
import { checkSide } from './size.js';
import type { GenerateRequest } from './types.js';

/** Most pictures of one request. They are sampled as one batch. */
export const MAX_IMAGES = 64;
/** Longest prompt. Every model cuts far earlier; this keeps a mistake from blocking the event loop. */
export const MAX_PROMPT_CHARACTERS = 20_000;

/** A request with defaults filled in and every value checked. */
export interface ResolvedRequest {
  prompts: string[];
  /** Pictures per prompt. */
  numImages: number;
  /** Pictures in all. */
  images: number;
  width: number;
  height: number;
  grid: [rows: number, cols: number];
  guidance: number;
  /** Whether guidance was asked for, rather than a default. */
  guidanceGiven: boolean;
  seed: number | bigint;
  /** Seed of every picture. */
  seeds: bigint[];
  textTokens: number;
  plan: JitPlan;
  /** The sampling options as given, for the sampler. */
  sampling: JitOptions;
  latents?: Tensor;
  output: 'image' | 'latent';
  onStep?: (event: StepEvent<Tensor>) => void;
  signal?: AbortSignal;
}

const SAMPLING_OPTIONS: Record<keyof JitOptions, true> = {
  preset: true,
  steps: true,
  stageRatios: true,
  tokenRatios: true,
  schedule: true,
  initialAnchors: true,
  activation: true,
  microFlow: true,
};

const REQUEST_OPTIONS: Record<keyof GenerateRequest, true> = {
  ...SAMPLING_OPTIONS,
  prompt: true,
  width: true,
  height: true,
  seed: true,
  guidance: true,
  latents: true,
  maxSequenceLength: true,
  numImages: true,
  onStep: true,
  signal: true,
  output: true,
};

/**
 * Checks a whole request against a model, before any work is done for it. Needs no native code.
 * @param config the transformer's architecture; with it the plan counts FLOPs
 * @throws ERR_JITFLUX_INVALID_ARGUMENT, ERR_JITFLUX_UNKNOWN_PRESET, ERR_JITFLUX_INVALID_ANCHORS,
 *   ERR_JITFLUX_INVALID_TENSOR (latents), ERR_JITFLUX_DISPOSED (latents)
 */
export function resolveRequest(
  request: GenerateRequest,
  model: ModelIndex,
  config?: FluxConfig,
): ResolvedRequest {
  if (typeof request !== 'object' || request === null) {
    throw invalidArgument('request', 'an object with a prompt', request);
  }
  for (const name of Object.keys(request)) {
    if (!Object.hasOwn(REQUEST_OPTIONS, name)) {
      throw new JitFluxError(
        ERROR_CODES.INVALID_ARGUMENT,
        `Unknown option "${name}"; known options are ${Object.keys(REQUEST_OPTIONS).join(', ')}`,
        { option: name, known: Object.keys(REQUEST_OPTIONS) },
      );
    }
  }
  const prompts = checkPrompts(request.prompt);
  const numImages = integer('numImages', request.numImages ?? 1, 1, MAX_IMAGES);
  const images = prompts.length * numImages;
  if (images > MAX_IMAGES) {
    throw invalidArgument(
      'numImages',
      `at most ${MAX_IMAGES} pictures in one request (${prompts.length} prompts)`,
      numImages,
    );
  }

  const unit = pixelsPerToken(model);
  const width = checkSide('width', request.width ?? model.defaults.width, unit, model.name);
  const height = checkSide('height', request.height ?? model.defaults.height, unit, model.name);
  const grid: [number, number] = [height / unit, width / unit];

  const guidance = request.guidance ?? model.defaults.guidance;
  if (typeof guidance !== 'number' || !Number.isFinite(guidance) || guidance < 0) {
    throw invalidArgument('guidance', 'a finite number >= 0', guidance);
  }
  const textTokens = integer(
    'maxSequenceLength',
    request.maxSequenceLength ?? model.text.length,
    1,
    model.text.length,
  );
  const output = request.output ?? 'image';
  if (output !== 'image' && output !== 'latent')
    throw invalidArgument('output', "'image' or 'latent'", output);
  if (request.onStep !== undefined && typeof request.onStep !== 'function') {
    throw invalidArgument('onStep', 'a function', request.onStep);
  }
  if (request.signal !== undefined && typeof (request.signal as AbortSignal | null)?.aborted !== 'boolean') {
    throw invalidArgument('signal', 'an AbortSignal', request.signal);
  }

  const seed = request.seed ?? randomInt(2 ** 32);
  normalizeSeed(seed);
  const sampling: JitOptions = Object.fromEntries(
    Object.entries(request).filter(
      ([name, value]) => Object.hasOwn(SAMPLING_OPTIONS, name) && value !== undefined,
    ),
  );
  const planModel: PlanModel | undefined = config && { config, textTokens };
  const plan = createPlan({ ...sampling, grid, ...(planModel && { model: planModel }) });

  if (request.latents !== undefined) {
    checkLatents(request.latents, [images, plan.totalTokens, model.decoder.channels * 4]);
  }
  return {
    prompts,
    numImages,
    images,
    width,
    height,
    grid,
    guidance,
    guidanceGiven: request.guidance !== undefined,
    seed,
    seeds: Array.from({ length: images }, (_, image) => imageSeed(seed, image)),
    textTokens,
    plan,
    sampling,
    output,
    ...(request.latents && { latents: request.latents }),
    ...(request.onStep && { onStep: request.onStep.bind(request) }),
    ...(request.signal && { signal: request.signal }),
  };
}

/**
 * Checks one prompt or a list of them.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function checkPrompts(prompt: unknown): string[] {
  const list: unknown[] = Array.isArray(prompt) ? prompt : [prompt];
  if (list.length < 1 || list.length > MAX_IMAGES) {
    throw invalidArgument('prompt', `a string, or an array of 1 to ${MAX_IMAGES} strings`, prompt);
  }
  return list.map((text, i) => {
    const option = Array.isArray(prompt) ? `prompt[${i}]` : 'prompt';
    if (typeof text !== 'string' || text.trim() === '')
      throw invalidArgument(option, 'a non-empty string', text);
    if (text.length > MAX_PROMPT_CHARACTERS) {
      throw invalidArgument(
        option,
        `at most ${MAX_PROMPT_CHARACTERS} characters`,
        `${text.length} characters`,
      );
    }
    return text;
  });
}

/** A seed as a number where that is exact. */
export function plainSeed(seed: number | bigint): number | bigint {
  return seed <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(seed) : BigInt(seed);
}

function integer(option: string, value: unknown, least: number, most: number): number {
  if (Number.isInteger(value) && (value as number) >= least && (value as number) <= most)
    return value as number;
  throw invalidArgument(option, `an integer from ${least} to ${most}`, value);
}

function checkLatents(latents: Tensor, expected: number[]): void {
  const option = 'latents';
  const wanted = `a float32 tensor [${expected.join(', ')}]`;
  if (typeof latents !== 'object' || latents === null || !Array.isArray(latents.shape)) {
    throw invalidArgument(option, wanted, latents, ERROR_CODES.INVALID_TENSOR);
  }
  if (latents.disposed) {
    throw new JitFluxError(ERROR_CODES.DISPOSED, `The tensor "${option}" has been disposed`, { option });
  }
  const fits =
    latents.shape.length === expected.length && latents.shape.every((size, axis) => size === expected[axis]);
  if (!fits || latents.dtype !== 'float32') {
    throw invalidArgument(
      option,
      wanted,
      `${latents.dtype} [${latents.shape.join(', ')}]`,
      ERROR_CODES.INVALID_TENSOR,
    );
  }
}
