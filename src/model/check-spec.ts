/** A model's description that a caller has made, or read from JSON: every field is checked before anything uses it. */
import { z } from 'zod';

import { readPlain } from '../arguments.js';
import { ERROR_CODES, JitFluxError } from '../errors.js';
import { PRESET_NAMES } from '../sampler/presets.js';
import type { AutoencoderSettings, ClipSettings, T5Settings } from '../engine/component-config.js';
import type { UnknownPart, WeightDescription } from '../engine/describe.js';
import type { ClipConfig, FluxConfig, PartlyKnown, ScheduleOptions, T5Config } from '../types.js';
import type {
  Inference,
  ModelInfo,
  ModelSpec,
  NativeDecoder,
  NativeText,
  ProgramFile,
  TorchScriptText,
} from './spec.js';

/** Values in all of a description. One of FLUX.1-dev, with its shards, has some 200. */
const MOST_VALUES = 20_000;

const count = z.int().nonnegative();
const size = z
  .int()
  .positive()
  .max(1 << 24);
const positive = z.number().positive();
const path = z
  .string()
  .min(1)
  .refine((text) => !text.includes('\0'), 'must not contain NUL');
const side = z.int().positive().max(65536);

/** The names of an interface's fields, and what each may be; of a union, those of all its members. */
type FieldOf<T> = T extends unknown ? keyof T : never;
type ValueOf<T, Field> = T extends unknown ? (Field extends keyof T ? T[Field] : never) : never;

/**
 * A schema of an object. The interface is written once, in spec.ts and what it names: the compiler asks here for a schema of
 * every field, of its type, and for no other.
 */
function objectOf<T>() {
  return <Fields extends { [Field in FieldOf<T>]: z.ZodType<ValueOf<T, Field>> }>(
    fields: Fields & { [Name in Exclude<keyof Fields, FieldOf<T>>]: never },
  ) => z.looseObject(fields);
}

/** For what others check, where they use it. */
const checkedLater = <T>() => z.looseObject({}) as z.ZodType<unknown> as z.ZodType<T>;

const format = z.enum(['torchscript', 'safetensors']);
const file = objectOf<ProgramFile>()({ path, format, fileBytes: count });
const weights = objectOf<WeightDescription>()({
  path,
  format,
  fileBytes: count,
  files: z.array(path),
  parameters: count,
  storedTypes: z.record(z.string(), count),
  part: z.enum(['transformer', 'clip', 't5', 'autoencoder']).optional(),
  layout: z.enum(['diffusers', 'original']).optional(),
  prefix: z.string().optional(),
  fingerprint: z.string().max(100),
  extra: objectOf<NonNullable<WeightDescription['extra']>>()({
    count,
    names: z.array(z.string()),
  }).optional(),
  architecture: checkedLater<WeightDescription['architecture']>().optional(),
  problem: objectOf<UnknownPart['problem']>()({
    code: z.string(),
    message: z.string(),
    details: checkedLater<Record<string, unknown>>().optional(),
  }).optional(),
  // Which of these fields go together, whoever uses them asks.
}) as z.ZodType<unknown> as z.ZodType<WeightDescription>;

const info = objectOf<ModelInfo>()({
  name: z.string().min(1).max(1000),
  description: z.string().optional(),
  license: z.string().optional(),
  text: objectOf<ModelInfo['text']>()({
    length: z.int().min(1).max(4096),
    defaultLength: z.int().min(1).optional(),
    examples: z.array(z.string()).optional(),
  }),
  decoder: objectOf<ModelInfo['decoder']>()({
    channels: z.int().min(1).max(1024),
    spatialFactor: z.int().min(1).max(64),
    scalingFactor: positive,
    shiftFactor: z.number(),
  }),
  defaults: objectOf<ModelInfo['defaults']>()({
    width: side,
    height: side,
    guidance: z.number().min(0),
    preset: z.enum(PRESET_NAMES).optional(),
    dense: objectOf<NonNullable<ModelInfo['defaults']['dense']>>()({
      steps: z.int().min(1).max(1000),
      // Where a plan is made of it.
      schedule: checkedLater<ScheduleOptions>(),
    }).optional(),
  }),
});

const blocks = count.max(1 << 24);
const ropeAxes = z.tuple([size, size, size]);
const fluxConfig = objectOf<FluxConfig>()({
  doubleBlocks: blocks,
  singleBlocks: blocks,
  heads: size,
  headDim: size,
  hiddenSize: size,
  inChannels: size,
  outChannels: size,
  textDim: size,
  pooledDim: size,
  mlpRatio: positive.max(1 << 24),
  guidance: z.boolean(),
  ropeAxes,
});

const known = size.optional();
const nativeText = objectOf<NativeText>()({
  kind: z.literal('native'),
  clip: objectOf<NativeText['clip']>()({
    weights: weights.optional(),
    tokenizer: path.optional(),
    architecture: objectOf<PartlyKnown<ClipConfig>>()({
      vocabulary: known,
      maxTokens: known,
      width: known,
      mlpWidth: known,
      layers: known,
      heads: known,
      eosTokenId: count.optional(),
    }),
    settings: objectOf<ClipSettings>()({ heads: count, eps: positive, eosTokenId: count }),
  }),
  t5: objectOf<NativeText['t5']>()({
    weights: weights.optional(),
    tokenizer: path.optional(),
    architecture: objectOf<PartlyKnown<T5Config>>()({
      vocabulary: known,
      maxTokens: known,
      width: known,
      mlpWidth: known,
      layers: known,
      heads: known,
      headDim: known,
      positionBuckets: known,
      maxDistance: known,
    }),
    settings: objectOf<T5Settings>()({ maxDistance: size, eps: positive }),
  }),
});
const nativeDecoder = objectOf<NativeDecoder>()({
  kind: z.literal('native'),
  weights: weights.optional(),
  architecture: objectOf<NativeDecoder['architecture']>()({
    latentChannels: size,
    layersPerBlock: size,
    spatialFactor: size,
    channels: z.array(size).min(1).max(8),
  }),
  settings: objectOf<AutoencoderSettings>()({
    normGroups: size,
    scalingFactor: positive,
    shiftFactor: z.number(),
  }),
});
const torchScript = z.literal('torchscript');

const modelSpec = objectOf<ModelSpec>()({
  kind: z.enum(['jit-flux', 'diffusers', 'checkpoint', 'named']),
  path: path.optional(),
  info,
  transformer: objectOf<ModelSpec['transformer']>()({
    weights: weights.optional(),
    config: fluxConfig,
    ropeAxes: ropeAxes.optional(),
  }),
  text: z
    .discriminatedUnion('kind', [
      nativeText,
      objectOf<TorchScriptText>()({ kind: torchScript, weights: file, tokenizer: path }),
    ])
    .optional(),
  textEncoders: z.union([path, z.literal(false)]).optional(),
  decoder: z.discriminatedUnion('kind', [
    nativeDecoder,
    objectOf<Exclude<ModelSpec['decoder'], NativeDecoder>>()({ kind: torchScript, weights: file }),
  ]),
  inferred: z
    .array(
      objectOf<Inference>()({
        what: z.string(),
        value: z.string(),
        why: z.string(),
        doubtful: z.literal(true).optional(),
      }),
    )
    .max(100),
});

/**
 * A copy of a description, complete and in range; fields that are not known are kept.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT naming the first bad field
 */
export function checkSpec(given: ModelSpec): ModelSpec {
  const option = 'model';
  const parsed = modelSpec.safeParse(readPlain(given, option, MOST_VALUES));
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const field = issue!.path.join('.') || '(root)';
  throw new JitFluxError(
    ERROR_CODES.INVALID_ARGUMENT,
    `Expected the path or name of a model, or what resolveModel returned, for "${option}" but its field ${field} is not ` +
      `valid: ${issue!.message}`,
    { option, field },
  );
}
