/** Command-line values that need more than yargs' parsing. */
import { invalidArgument } from '../errors.js';
import { checkLoadOptions } from '../model/component-options.js';
import { MAX_IMAGES, resolveTextLength, type RunOptions } from '../model/run.js';
import type { ModelInfo } from '../model/spec.js';
import type { InferredOptionTypes } from 'yargs';
import { choiceFlag } from './choice-flag.js';
import { LETTERS } from './flags.js';
import { numberFlag } from './number-flag.js';
import { ACTIVATIONS, ANCHOR_PATTERNS, LIFTERS } from '../sampler/options.js';
import {
  formsText,
  MICRO_FLOW_FORMS,
  readListText,
  readMicroFlowText,
  readScheduleText,
  SCHEDULE_FORMS,
} from '../sampler/settings-text.js';
import type { Device, JitOptions, LoadOptions, PresetName } from '../types.js';

/** Pictures of a run that does not say how many. */
export const ONE_IMAGE = 1;

/** Options that `generate` and `plan` share. */
export const SAMPLING_FLAGS = {
  preset: {
    type: 'string',
    requiresArg: true,
    describe: "dense, jit-4x or jit-7x (default: the model's, mostly jit-4x)",
  },
  width: { ...numberFlag('width', { describe: "pixels (default: the model's)" }), alias: LETTERS.width },
  height: { ...numberFlag('height', { describe: "pixels (default: the model's)" }), alias: LETTERS.height },
  steps: numberFlag('steps', { describe: "number of steps (default: the preset's)" }),
  'text-tokens': numberFlag('text-tokens', {
    describe: "text tokens per picture (default: the model's)",
  }),
  'num-images': {
    ...numberFlag('num-images', {
      default: ONE_IMAGE,
      describe: `pictures of one run, 1 to ${MAX_IMAGES}`,
    }),
    alias: LETTERS['num-images'],
  },
  'stage-ratios': {
    type: 'string',
    requiresArg: true,
    describe: 'share of the steps at which each stage ends, e.g. 0.4,0.65,1',
  },
  'token-ratios': {
    type: 'string',
    requiresArg: true,
    describe: 'share of tokens active in each stage, e.g. 0.35,0.62,1',
  },
  schedule: {
    type: 'string',
    requiresArg: true,
    describe: `noise levels: ${formsText(SCHEDULE_FORMS)}`,
  },
  anchors: choiceFlag('anchors', ANCHOR_PATTERNS, {
    describe: "pattern of the first stage's anchor tokens",
  }),
  activation: choiceFlag('activation', ACTIVATIONS, {
    describe: 'which tokens join at the next stage',
  }),
  'micro-flow': {
    type: 'string',
    requiresArg: true,
    describe: `how they are brought in: ${formsText(MICRO_FLOW_FORMS)}`,
  },
  lifter: choiceFlag('lifter', LIFTERS, {
    describe: "how the anchors' velocity is spread over all tokens (default: gaussian)",
  }),
} as const;

/** What `generate`, `encode` and `plan` take of the options with which a model is loaded. */
export const ENCODER_FLAGS = {
  'text-encoders': {
    type: 'string',
    requiresArg: true,
    describe: 'snapshot whose text encoders to use with an original checkpoint',
  },
  variant: {
    type: 'string',
    requiresArg: true,
    describe: 'which weights to take where the model has several: fp16 for model.fp16.safetensors',
  },
  device: { type: 'string', requiresArg: true, describe: 'cpu, cuda or cuda:<index> (default: cpu)' },
  dtype: choiceFlag('dtype', ['float32', 'bfloat16', 'float16'], {
    describe: 'type of weights and activations (default: float32, on a GPU bfloat16; float16: GPU only)',
  }),
  'quantize-text-encoders': choiceFlag('quantize-text-encoders', ['int8'], {
    describe: 'multiply 8-bit integers in T5: half of its memory, faster, slightly less exact; CPU only',
  }),
  threads: { ...numberFlag('threads', { describe: 'default: physical cores' }), alias: LETTERS.threads },
  'map-weights': {
    type: 'boolean',
    default: true,
    describe:
      'use weights from the mapped files (--no-map-weights: read them into memory, for files that may be changed meanwhile)',
  },
  'allow-torchscript-code': {
    type: 'boolean',
    default: false,
    describe:
      "let the code in the model's TorchScript text encoder and decoder run; only for models you trust",
  },
} as const;

/**
 * The options with which a model is loaded: `generate` and `plan` take all of them, so that a plan is of the very run
 * that would follow. A new one is added here and in {@link loadOptions}.
 */
export const LOAD_FLAGS = {
  ...ENCODER_FLAGS,
  quantize: choiceFlag('quantize', ['int8'], {
    describe: 'multiply 8-bit integers in the transformer: faster, slightly less exact; CPU only',
  }),
  'release-encoders': {
    type: 'boolean',
    default: false,
    describe: 'free the text encoders as soon as the prompt is encoded',
  },
  'stream-weights': {
    type: 'boolean',
    describe:
      "GPU: keep the transformer's weights in host memory and copy them in every step (default: if they do not fit)",
  },
  'cuda-graphs': { type: 'boolean', default: false, describe: 'GPU: launch recorded steps as CUDA graphs' },
  'encoders-on-cpu': {
    type: 'boolean',
    describe: 'leave the GPU to the transformer: text encoders and decoder compute on the CPU',
  },
} as const;

/** Of the commands that load a model; without it, it is the bundled one. */
export const MODEL_FLAG = {
  alias: LETTERS.model,
  type: 'string',
  requiresArg: true,
  describe: 'model directory or checkpoint (default: the bundled flux-tiny)',
} as const;

/** Words of a command that are prompts. @param describe what they may be */
export const promptWords = (describe: string) =>
  ({ alias: LETTERS.prompt, type: 'string', array: true, describe }) as const;

/** @param describe what one or several are for */
export const seedFlag = (describe: string) =>
  ({ alias: LETTERS.seed, type: 'string', requiresArg: true, describe }) as const;

export const GUIDANCE_FLAG = numberFlag('guidance', { describe: "default: the model's" });

/** @param describe what else it does without */
export const quietFlag = (describe: string) =>
  ({ alias: LETTERS.quiet, type: 'boolean', default: false, describe }) as const;

/** Of the commands that load a model. */
export const MEMORY_CHECK_FLAG = {
  type: 'boolean',
  default: true,
  describe: 'refuse early what cannot fit into memory (--no-memory-check: try anyway)',
} as const;

/** Parsed {@link LOAD_FLAGS}, or those that a command has. */
export type LoadArgs = Partial<InferredOptionTypes<typeof LOAD_FLAGS>>;

/**
 * The load options that the flags say, checked.
 * @param check `plan` has one that takes devices which are not there
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function loadOptions(args: LoadArgs, check: (o: LoadOptions) => void = checkLoadOptions): LoadOptions {
  const onCpu = args['encoders-on-cpu'] ? ('cpu' as const) : undefined;
  const options: LoadOptions = given({
    textEncoders: args['text-encoders'],
    variant: args.variant,
    // Checked with the others, by the one grammar that there is.
    device: args.device as Device | undefined,
    dtype: args.dtype,
    threads: args.threads,
    mapWeights: args['map-weights'] === false ? false : undefined,
    allowTorchScriptCode: args['allow-torchscript-code'],
    quantize: args.quantize,
    quantizeTextEncoders: args['quantize-text-encoders'],
    keepTextEncoders: args['release-encoders'] === undefined ? undefined : !args['release-encoders'],
    weightStreaming: args['stream-weights'],
    cudaGraphs: args['cuda-graphs'] || undefined,
    textEncoderDevice: onCpu,
    decoderDevice: onCpu,
  });
  check(options);
  return options;
}

/** Parsed {@link SAMPLING_FLAGS}. */
export interface SamplingArgs {
  preset: string | undefined;
  width: number | undefined;
  height: number | undefined;
  steps: number | undefined;
  'text-tokens': number | undefined;
  'stage-ratios': string | undefined;
  'token-ratios': string | undefined;
  schedule: string | undefined;
  anchors: (typeof ANCHOR_PATTERNS)[number] | undefined;
  activation: (typeof ACTIVATIONS)[number] | undefined;
  'micro-flow': string | undefined;
  lifter: (typeof LIFTERS)[number] | undefined;
}

/**
 * What was asked of a run: size, text tokens and sampling. Values are checked later, where the run is resolved; all but
 * the text tokens, whose flag has a name of its own.
 */
export function runOptions(args: SamplingArgs, model: ModelInfo): RunOptions {
  const { width, height, 'text-tokens': textTokens } = args;
  if (textTokens !== undefined) resolveTextLength(textTokens, model, 'text-tokens');
  return { ...samplingOptions(args), ...given({ width, height, maxSequenceLength: textTokens }) };
}

function samplingOptions(args: SamplingArgs): JitOptions {
  const list = (option: 'stage-ratios' | 'token-ratios') => {
    const text = args[option];
    return text === undefined ? undefined : readListText(text, option);
  };
  const { schedule, 'micro-flow': microFlow } = args;
  return given({
    preset: args.preset as PresetName | undefined,
    steps: args.steps,
    stageRatios: list('stage-ratios'),
    tokenRatios: list('token-ratios'),
    schedule: schedule === undefined ? undefined : readScheduleText(schedule),
    initialAnchors: args.anchors,
    activation: args.activation,
    lifter: args.lifter,
    microFlow: microFlow === undefined ? undefined : readMicroFlowText(microFlow, 'micro-flow'),
  });
}

/** A seed as exact integer: a number where that is exact, else a bigint. */
export function parseSeed(text: string | undefined): number | bigint | undefined {
  if (text === undefined) return undefined;
  if (!/^\d{1,20}$/.test(text)) throw invalidArgument('seed', 'an integer from 0 to 2^64 - 1', text);
  const seed = BigInt(text);
  return seed <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(seed) : seed;
}

/** Leaves out what is undefined, for interfaces with optional properties. */
export function given<T extends object>(values: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as never;
}
