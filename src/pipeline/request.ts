/** From what the caller asked for to a complete request in which everything has been checked. */
import { randomInt } from 'node:crypto';

import { checkInteger } from '../arguments.js';
import { checkSignal, ERROR_CODES, invalidArgument, JitFluxError } from '../errors.js';
import type { Tensor } from '../engine/index.js';
import { imageSeed, normalizeSeed } from '../sampler/index.js';
import { JIT_OPTIONS } from '../sampler/options.js';
import { MAX_IMAGES, type ResolvedRun, resolveRun } from '../model/run.js';
import type { FluxConfig, StepEvent } from '../types.js';
import type { EncodedPrompts } from './encoded-prompts.js';
import type { ModelInfo } from '../model/spec.js';
import type { GenerateRequest } from './types.js';

/** Longest prompt. Every model cuts far earlier; this keeps a mistake from blocking the event loop. */
export const MAX_PROMPT_CHARACTERS = 20_000;

/** A request with defaults filled in and every value checked. */
export interface ResolvedRequest extends ResolvedRun {
  prompts: readonly string[];
  /** Takes the place of encoding the prompts. */
  conditioning?: EncodedPrompts;
  /** Pictures per prompt. */
  numImages: number;
  guidance: number;
  /** Whether guidance was asked for, rather than a default. */
  guidanceGiven: boolean;
  seed: number | bigint;
  /** Seed of every picture. */
  seeds: bigint[];
  latents?: Tensor;
  output: 'image' | 'latent';
  onStep?: (event: StepEvent<Tensor>) => void;
  signal?: AbortSignal;
}

const REQUEST_OPTIONS: Record<keyof GenerateRequest, true> = {
  ...JIT_OPTIONS,
  prompt: true,
  conditioning: true,
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
  model: ModelInfo,
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
  const { conditioning } = request;
  if (conditioning !== undefined) checkConditioning(request, config);
  const prompts = conditioning?.prompts ?? checkPrompts(request.prompt);
  const numImages = checkInteger('numImages', request.numImages ?? 1, 1, MAX_IMAGES);
  const images = prompts.length * numImages;
  if (images > MAX_IMAGES) {
    throw invalidArgument(
      'numImages',
      `at most ${MAX_IMAGES} pictures in one request (${prompts.length} prompts)`,
      numImages,
    );
  }

  const run = resolveRun({ ...request, images, textTokens: conditioning?.prompt.shape[1] }, model, config);
  const { plan } = run;

  const guidance = request.guidance ?? model.defaults.guidance;
  if (typeof guidance !== 'number' || !Number.isFinite(guidance) || guidance < 0) {
    throw invalidArgument('guidance', 'a finite number >= 0', guidance);
  }
  const output = request.output ?? 'image';
  if (output !== 'image' && output !== 'latent')
    throw invalidArgument('output', "'image' or 'latent'", output);
  if (request.onStep !== undefined && typeof request.onStep !== 'function') {
    throw invalidArgument('onStep', 'a function', request.onStep);
  }
  checkSignal(request.signal);

  const seed = request.seed ?? randomInt(2 ** 32);
  normalizeSeed(seed);
  if (request.latents !== undefined) {
    checkLatents(request.latents, [images, plan.totalTokens, model.decoder.channels * 4]);
  }
  return {
    ...run,
    prompts,
    numImages,
    guidance,
    guidanceGiven: request.guidance !== undefined,
    seed,
    seeds: Array.from({ length: images }, (_, image) => imageSeed(seed, image)),
    output,
    ...(conditioning && { conditioning }),
    ...(request.latents && { latents: request.latents }),
    ...(request.onStep && { onStep: request.onStep.bind(request) }),
    ...(request.signal && { signal: request.signal }),
  };
}

/**
 * Checks encoded prompts against the transformer.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT, ERR_JITFLUX_INVALID_TENSOR, ERR_JITFLUX_DISPOSED
 */
function checkConditioning(request: GenerateRequest, config: FluxConfig | undefined): void {
  const option = 'conditioning';
  const { conditioning } = request;
  if (request.prompt !== undefined) {
    throw invalidArgument('prompt', `no prompt beside "${option}": give one of both`, request.prompt);
  }
  if (request.maxSequenceLength !== undefined) {
    throw invalidArgument('maxSequenceLength', `no value beside "${option}"`, request.maxSequenceLength);
  }
  if (typeof conditioning !== 'object' || conditioning === null || !Array.isArray(conditioning.prompts)) {
    throw invalidArgument(option, 'encoded prompts (encodePrompt, loadEncodedPrompts)', conditioning);
  }
  if (conditioning.disposed) {
    throw new JitFluxError(ERROR_CODES.DISPOSED, 'The encoded prompts have been disposed', { option });
  }
  const { prompt, pooled, prompts } = conditioning;
  const rows = prompts.length;
  const fits =
    rows >= 1 &&
    prompt.shape.length === 3 &&
    pooled.shape.length === 2 &&
    prompt.shape[0] === rows &&
    pooled.shape[0] === rows &&
    (!config || (prompt.shape[2] === config.textDim && pooled.shape[1] === config.pooledDim));
  if (fits) return;
  const wanted = config
    ? `[${rows}, tokens, ${config.textDim}] and [${rows}, ${config.pooledDim}]`
    : `[${rows}, tokens, width] and [${rows}, width]`;
  throw invalidArgument(
    option,
    `encoded prompts of shapes ${wanted}`,
    `[${prompt.shape.join(', ')}] and [${pooled.shape.join(', ')}], encoded by ${conditioning.model}`,
    ERROR_CODES.INVALID_TENSOR,
  );
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
