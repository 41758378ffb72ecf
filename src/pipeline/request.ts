/** From what the caller asked for to a complete request in which everything has been checked. */
import { randomInt } from 'node:crypto';

import {
  checkInteger,
  isArray,
  type Names,
  readFields,
  readOptions,
  readList,
  readPlain,
} from '../arguments.js';
import { ERROR_CODES, invalidArgument, JitFluxError, type JitFluxErrorCode } from '../errors.js';
import type { Tensor } from '../engine/index.js';
import { imageSeeds, normalizeSeed, readSeeds } from '../sampler/random.js';
import { JIT_OPTIONS } from '../sampler/options.js';
import { MAX_IMAGES, type ResolvedRun, resolveRun } from '../model/run.js';
import type { FluxConfig, StepEvent } from '../types.js';
import type { EncodedPrompts } from './encoded-prompts.js';
import type { ModelInfo } from '../model/spec.js';
import type { GenerateRequest, GenerateWarning } from './types.js';

/** Longest prompt. Every model cuts far earlier; this keeps a mistake from blocking the event loop. */
export const MAX_PROMPT_CHARACTERS = 20_000;

/** What is used of encoded prompts. */
export type Conditions = Pick<EncodedPrompts, 'prompt' | 'pooled' | 'prompts' | 'model' | 'warnings'>;

const CONDITIONS: Names<Conditions> = {
  prompt: true,
  pooled: true,
  prompts: true,
  model: true,
  warnings: true,
};
/** Most prompts that were encoded together: those of a safetensors file may be more than a request takes. */
const MOST_IMAGES = 1 << 20;
const MOST_WARNING_VALUES = 1 << 20;

/** A request with defaults filled in and every value checked. */
export interface ResolvedRequest extends ResolvedRun {
  prompts: readonly string[];
  /** Takes the place of encoding the prompts. */
  conditioning?: Conditions;
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
  onStep?: (event: StepEvent<Tensor>) => void | Promise<void>;
  signal?: AbortSignal;
}

const REQUEST_OPTIONS: Names<GenerateRequest> = {
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
  given: GenerateRequest,
  model: ModelInfo,
  config?: FluxConfig,
): ResolvedRequest {
  if (typeof given !== 'object' || given === null) {
    throw invalidArgument('request', 'an object with a prompt', given);
  }
  const request = readOptions(given, REQUEST_OPTIONS, 'request');
  const conditioning = request.conditioning && readConditioning(request, config);
  const prompts = conditioning?.prompts ?? checkPrompts(request.prompt);
  const list = isArray(request.seed)
    ? readSeeds(request.seed, `a seed, or a list of 1 to ${MAX_IMAGES} seeds`, [1, MAX_IMAGES])
    : undefined;
  const perPrompt = list && prompts.length > 0 ? Math.max(1, Math.floor(list.length / prompts.length)) : 1;
  const numImages = checkInteger('numImages', request.numImages ?? perPrompt, 1, MAX_IMAGES);
  const images = prompts.length * numImages;
  if (images > MAX_IMAGES) {
    throw invalidArgument(
      'numImages',
      `at most ${MAX_IMAGES} pictures in one request (${prompts.length} prompts)`,
      numImages,
    );
  }

  const run = resolveRun({ ...request, images, textTokens: conditioning?.textTokens }, model, config);
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

  if (list && list.length !== images) {
    const each = `${prompts.length} x ${numImages}`;
    throw invalidArgument('seed', `one seed, or one per picture (${each})`, `${list.length} seeds`);
  }
  const seed = list?.[0] ?? (request.seed as number | bigint | undefined) ?? randomInt(2 ** 32);
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
    seed: plainSeed(seed),
    seeds: list ?? imageSeeds(seed, images),
    output,
    ...(conditioning && { conditioning }),
    ...(request.latents && { latents: request.latents }),
    ...(request.onStep && { onStep: calledOn(given, request.onStep) }),
    ...(request.signal && { signal: request.signal }),
  };
}

/**
 * Checks encoded prompts against the transformer.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT, ERR_JITFLUX_INVALID_TENSOR, ERR_JITFLUX_DISPOSED
 */
function readConditioning(
  request: GenerateRequest,
  config: FluxConfig | undefined,
): Conditions & { textTokens: number } {
  const option = 'conditioning';
  if (request.prompt !== undefined) {
    throw invalidArgument('prompt', `no prompt beside "${option}": give one of both`, request.prompt);
  }
  if (request.maxSequenceLength !== undefined) {
    throw invalidArgument('maxSequenceLength', `no value beside "${option}"`, request.maxSequenceLength);
  }
  const expected = 'encoded prompts (encodePrompt, loadEncodedPrompts)';
  const { prompt, pooled, model, ...lists } = readFields<Conditions>(
    request.conditioning as Conditions,
    option,
    CONDITIONS,
    expected,
  );
  if (typeof model !== 'string') throw invalidArgument(option, expected, request.conditioning);
  const [text, summary] = [readTensor(prompt, option, expected), readTensor(pooled, option, expected)];
  const prompts = readList(lists.prompts, `${option}.prompts`, expected, [0, MOST_IMAGES]);
  for (const text of prompts) {
    if (typeof text !== 'string') throw invalidArgument(`${option}.prompts`, expected, text);
  }
  const warnings = readPlain(lists.warnings, `${option}.warnings`, MOST_WARNING_VALUES) as GenerateWarning[];
  if (!isArray(warnings)) throw invalidArgument(`${option}.warnings`, expected, warnings);
  if (text.disposed || summary.disposed) {
    throw new JitFluxError(ERROR_CODES.DISPOSED, 'The encoded prompts have been disposed', { option });
  }
  const rows = prompts.length;
  const fits =
    rows >= 1 &&
    text.shape.length === 3 &&
    summary.shape.length === 2 &&
    text.shape[0] === rows &&
    summary.shape[0] === rows &&
    (!config || (text.shape[2] === config.textDim && summary.shape[1] === config.pooledDim));
  if (fits) return { prompt, pooled, prompts, model, warnings, textTokens: text.shape[1]! };
  const wanted = config
    ? `[${rows}, tokens, ${config.textDim}] and [${rows}, ${config.pooledDim}]`
    : `[${rows}, tokens, width] and [${rows}, width]`;
  throw invalidArgument(
    option,
    `encoded prompts of shapes ${wanted}`,
    `[${text.shape.join(', ')}] and [${summary.shape.join(', ')}], encoded by ${model}`,
    ERROR_CODES.INVALID_TENSOR,
  );
}

/**
 * Checks one prompt or a list of them.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function checkPrompts(prompt: unknown): string[] {
  const isList = isArray(prompt);
  const expected = `a string, or an array of 1 to ${MAX_IMAGES} strings`;
  const list = isList ? readList(prompt, 'prompt', expected, [1, MAX_IMAGES]) : [prompt];
  return list.map((text, i) => {
    const option = isList ? `prompt[${i}]` : 'prompt';
    if (typeof text !== 'string') throw invalidArgument(option, 'a string', text);
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

/** A callback, called as the method of the object that it was given in. */
function calledOn<A extends unknown[]>(
  self: object,
  callback: (...args: A) => void | Promise<void>,
): (...args: A) => void | Promise<void> {
  return (...args) => Reflect.apply(callback, self, args);
}

/** A seed as a number where that is exact. */
export function plainSeed(seed: number | bigint): number | bigint {
  return seed <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(seed) : BigInt(seed);
}

/**
 * Checks packed latents. @param expected their shape; undefined: any number of images from 1 to {@link MAX_IMAGES}
 * @throws ERR_JITFLUX_INVALID_TENSOR, ERR_JITFLUX_DISPOSED
 */
export function checkLatents(latents: Tensor, expected: readonly (number | undefined)[]): void {
  const option = 'latents';
  const wanted = `a float32 tensor [${expected.map((size) => size ?? `1 to ${MAX_IMAGES}`).join(', ')}]`;
  const code = ERROR_CODES.INVALID_TENSOR;
  const { shape, dtype, disposed } = readTensor(latents, option, wanted, code);
  if (disposed) {
    throw new JitFluxError(ERROR_CODES.DISPOSED, `The tensor "${option}" has been disposed`, { option });
  }
  const isOne = (size: number, axis: number) =>
    expected[axis] === undefined ? size >= 1 && size <= MAX_IMAGES : size === expected[axis];
  const fits = shape.length === expected.length && shape.every(isOne);
  if (!fits || dtype !== 'float32') {
    throw invalidArgument(option, wanted, `${dtype} [${shape.join(', ')}]`, code);
  }
}

const TENSOR: Names<Pick<Tensor, 'shape' | 'dtype' | 'disposed'>> = {
  shape: true,
  dtype: true,
  disposed: true,
};
/** A tensor has at most 8. */
const MOST_DIMENSIONS = 8;

/** What a tensor says of itself. Whether it is one of ours, the engine checks, which this works without. */
function readTensor(
  tensor: Tensor,
  option: string,
  expected: string,
  code: JitFluxErrorCode = ERROR_CODES.INVALID_ARGUMENT,
): { shape: number[]; dtype: string; disposed: boolean } {
  if (typeof tensor !== 'object' || tensor === null) throw invalidArgument(option, expected, tensor, code);
  const { shape, dtype, disposed } = readFields<Pick<Tensor, 'shape' | 'dtype' | 'disposed'>>(
    tensor,
    option,
    TENSOR,
  );
  const sizes = readList(shape, option, expected, [0, MOST_DIMENSIONS], code);
  if (sizes.every(Number.isInteger))
    return { shape: sizes, dtype: String(dtype), disposed: disposed === true };
  throw invalidArgument(option, expected, tensor, code);
}
