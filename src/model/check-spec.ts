/** A model's description that a caller has made, or read from JSON: every field is checked before anything uses it. */
import { z } from 'zod';

import { readPlain } from '../arguments.js';
import { ERROR_CODES, JitFluxError } from '../errors.js';
import { PRESET_NAMES } from '../sampler/presets.js';
import type { ModelSpec } from './spec.js';

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

/** Sizes of an architecture; those that are not known may be absent. */
const sizes = (...names: string[]) =>
  z.looseObject(Object.fromEntries(names.map((name) => [name, size.optional()])));

const file = z.looseObject({ path, format: z.enum(['torchscript', 'safetensors']), fileBytes: count });
const weights = file.extend({
  files: z.array(path),
  parameters: count,
  storedTypes: z.record(z.string(), count),
  part: z.enum(['transformer', 'clip', 't5', 'autoencoder']).optional(),
  layout: z.enum(['diffusers', 'original']).optional(),
  prefix: z.string().optional(),
  fingerprint: z.string().max(100),
  extra: z.looseObject({ count, names: z.array(z.string()) }).optional(),
  architecture: z.record(z.string(), z.unknown()).optional(),
  problem: z.looseObject({ code: z.string(), message: z.string() }).optional(),
});

const info = z.looseObject({
  name: z.string().min(1).max(1000),
  description: z.string().optional(),
  license: z.string().optional(),
  text: z.looseObject({
    length: z.int().min(1).max(4096),
    defaultLength: z.int().min(1).optional(),
    examples: z.array(z.string()).optional(),
  }),
  decoder: z.looseObject({
    channels: z.int().min(1).max(1024),
    spatialFactor: z.int().min(1).max(64),
    scalingFactor: positive,
    shiftFactor: z.number(),
  }),
  defaults: z.looseObject({
    width: side,
    height: side,
    guidance: z.number().min(0),
    preset: z.enum(PRESET_NAMES).optional(),
    // The schedule is checked where a plan is made of it.
    dense: z.looseObject({ steps: z.int().min(1).max(1000), schedule: z.looseObject({}) }).optional(),
  }),
});

const fluxConfig = z.looseObject({
  ...Object.fromEntries(['doubleBlocks', 'singleBlocks'].map((name) => [name, count.max(1 << 24)])),
  ...Object.fromEntries(
    ['heads', 'headDim', 'hiddenSize', 'inChannels', 'outChannels', 'textDim', 'pooledDim'].map((name) => [
      name,
      size,
    ]),
  ),
  mlpRatio: positive.max(1 << 24),
  guidance: z.boolean(),
  ropeAxes: z.tuple([size, size, size]),
});

const nativeText = z.looseObject({
  kind: z.literal('native'),
  clip: z.looseObject({
    weights: weights.optional(),
    tokenizer: path.optional(),
    architecture: sizes('vocabulary', 'maxTokens', 'width', 'mlpWidth', 'layers', 'heads'),
    settings: z.looseObject({ heads: count, eps: positive, eosTokenId: count }),
  }),
  t5: z.looseObject({
    weights: weights.optional(),
    tokenizer: path.optional(),
    architecture: sizes('vocabulary', 'width', 'mlpWidth', 'layers', 'heads', 'headDim', 'positionBuckets'),
    settings: z.looseObject({ maxDistance: size, eps: positive }),
  }),
});
const nativeDecoder = z.looseObject({
  kind: z.literal('native'),
  weights: weights.optional(),
  architecture: sizes('latentChannels', 'layersPerBlock', 'spatialFactor').extend({
    channels: z.array(size).min(1).max(8),
  }),
  settings: z.looseObject({ normGroups: size, scalingFactor: positive, shiftFactor: z.number() }),
});

const modelSpec = z.looseObject({
  kind: z.enum(['jit-flux', 'diffusers', 'checkpoint', 'named']),
  path: path.optional(),
  info,
  transformer: z.looseObject({
    weights: weights.optional(),
    config: fluxConfig,
    ropeAxes: z.tuple([size, size, size]).optional(),
  }),
  text: z
    .discriminatedUnion('kind', [
      nativeText,
      z.looseObject({ kind: z.literal('torchscript'), weights: file, tokenizer: path }),
    ])
    .optional(),
  textEncoders: z.union([path, z.literal(false)]).optional(),
  decoder: z.discriminatedUnion('kind', [
    nativeDecoder,
    z.looseObject({ kind: z.literal('torchscript'), weights: file }),
  ]),
  inferred: z
    .array(
      z.looseObject({
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
  if (parsed.success) return parsed.data as unknown as ModelSpec;
  const [issue] = parsed.error.issues;
  const field = issue!.path.join('.') || '(root)';
  throw new JitFluxError(
    ERROR_CODES.INVALID_ARGUMENT,
    `Expected the path or name of a model, or what resolveModel returned, for "${option}" but its field ${field} is not ` +
      `valid: ${issue!.message}`,
    { option, field },
  );
}
