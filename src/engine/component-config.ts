/**
 * What a component's `config.json` says: the one reader of these files, for models that are loaded alone and for whole
 * pipelines. Shapes of tensors tell the architecture; here is the rest, and what the file says of the architecture, so
 * that the two can be compared.
 */
import { stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';

import { z } from 'zod';

import { checkInteger, checkNumber, readFields } from '../arguments.js';
import { ERROR_CODES, JitFluxError } from '../errors.js';
import { readJsonFileIfPresent } from '../files/json.js';
import type { AutoencoderConfig, ClipConfig, FluxConfig, PartlyKnown, T5Config } from '../types.js';

/** What is read of a component's config.json. */
export interface ComponentSettings<Settings, Architecture> {
  /** What shapes cannot tell, with the defaults of FLUX.1's own component. */
  settings: Settings;
  /** What the file says of the architecture. */
  declared: Partial<Architecture>;
  /** The file; undefined if there is none. */
  path?: string | undefined;
}

/** Of a FLUX transformer. */
export interface TransformerSettings {
  ropeAxes?: FluxConfig['ropeAxes'] | undefined;
}

/** Of CLIP's text encoder. */
export interface ClipSettings {
  /** 0: heads of 64 channels. */
  heads: number;
  /** Epsilon of the layer norms. */
  eps: number;
  /** Id at whose first position the pooled vector is taken; 2 means "the largest id". */
  eosTokenId: number;
}

/** Of T5's encoder. */
export interface T5Settings {
  /** Distance from which all positions share the last bucket. */
  maxDistance: number;
  /** Epsilon of the RMS norms. */
  eps: number;
}

/** Of the autoencoder. */
export interface AutoencoderSettings {
  normGroups: number;
  /** Normalised latent = (z - shiftFactor) * scalingFactor. */
  scalingFactor: number;
  shiftFactor: number;
}

/** Where no config.json says otherwise: those of CLIP-L, T5-XXL and FLUX.1's autoencoder. */
export const CLIP_SETTINGS: Readonly<ClipSettings> = { heads: 0, eps: 1e-5, eosTokenId: 2 };
export const T5_SETTINGS: Readonly<T5Settings> = { maxDistance: 128, eps: 1e-6 };
export const AUTOENCODER_SETTINGS: Readonly<AutoencoderSettings> = {
  normGroups: 32,
  scalingFactor: 0.3611,
  shiftFactor: 0.1159,
};

/** Largest number of heads, groups, ids or positions in settings. */
const MOST = 1 << 24;

/**
 * Settings that a caller has given, each read once.
 * @param option what messages call them
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function checkClipSettings(given: ClipSettings, option = 'settings'): ClipSettings {
  const o = readFields<ClipSettings>(given, option, { heads: true, eps: true, eosTokenId: true });
  return {
    heads: checkInteger(`${option}.heads`, o.heads, 0, MOST),
    eps: checkEpsilon(option, o.eps),
    eosTokenId: checkInteger(`${option}.eosTokenId`, o.eosTokenId, 0, MOST),
  };
}

/** @throws ERR_JITFLUX_INVALID_ARGUMENT */
export function checkT5Settings(given: T5Settings, option = 'settings'): T5Settings {
  const o = readFields<T5Settings>(given, option, { maxDistance: true, eps: true });
  return {
    maxDistance: checkInteger(`${option}.maxDistance`, o.maxDistance, 1, MOST),
    eps: checkEpsilon(option, o.eps),
  };
}

/** @throws ERR_JITFLUX_INVALID_ARGUMENT */
export function checkAutoencoderSettings(
  given: AutoencoderSettings,
  option = 'settings',
): AutoencoderSettings {
  const names = { normGroups: true, scalingFactor: true, shiftFactor: true } as const;
  const o = readFields<AutoencoderSettings>(given, option, names);
  const scale = 'a finite number above 0';
  return {
    normGroups: checkInteger(`${option}.normGroups`, o.normGroups, 1, MOST),
    scalingFactor: checkNumber(`${option}.scalingFactor`, o.scalingFactor, scale, isPositive),
    shiftFactor: checkNumber(`${option}.shiftFactor`, o.shiftFactor, 'a finite number', Number.isFinite),
  };
}

function checkEpsilon(option: string, value: unknown): number {
  return checkNumber(`${option}.eps`, value, 'a finite number above 0', isPositive);
}

function isPositive(value: number): boolean {
  return Number.isFinite(value) && value > 0;
}

const size = z.int().positive();
const maybeSize = size.nullish().transform((value) => value ?? undefined);

const transformerJson = z.looseObject({
  num_layers: maybeSize,
  num_single_layers: maybeSize,
  num_attention_heads: maybeSize,
  attention_head_dim: maybeSize,
  in_channels: maybeSize,
  out_channels: maybeSize,
  joint_attention_dim: maybeSize,
  pooled_projection_dim: maybeSize,
  guidance_embeds: z.boolean().optional(),
  axes_dims_rope: z.tuple([size, size, size]).optional(),
});
/** The text model's own config.json, or that of a whole CLIP. */
const clipJson = z.preprocess(
  (json) => (json as { text_config?: unknown } | null)?.text_config ?? json,
  z.looseObject({
    vocab_size: maybeSize,
    max_position_embeddings: maybeSize,
    hidden_size: maybeSize,
    intermediate_size: maybeSize,
    num_hidden_layers: maybeSize,
    num_attention_heads: size.optional(),
    layer_norm_eps: z.number().positive().default(CLIP_SETTINGS.eps),
    eos_token_id: z.int().nonnegative().default(CLIP_SETTINGS.eosTokenId),
    hidden_act: z.literal('quick_gelu').default('quick_gelu'),
  }),
);
const t5Json = z.looseObject({
  vocab_size: maybeSize,
  d_model: maybeSize,
  num_heads: maybeSize,
  d_kv: maybeSize,
  d_ff: maybeSize,
  num_layers: maybeSize,
  relative_attention_num_buckets: maybeSize,
  relative_attention_max_distance: size.default(T5_SETTINGS.maxDistance),
  layer_norm_epsilon: z.number().positive().default(T5_SETTINGS.eps),
  feed_forward_proj: z.literal('gated-gelu').default('gated-gelu'),
});
const autoencoderJson = z.looseObject({
  latent_channels: maybeSize,
  block_out_channels: z.array(size).min(1).max(8).optional(),
  layers_per_block: maybeSize,
  norm_num_groups: size.default(AUTOENCODER_SETTINGS.normGroups),
  scaling_factor: z.number().positive().default(AUTOENCODER_SETTINGS.scalingFactor),
  shift_factor: z.number().nullish(),
  act_fn: z.literal('silu').default('silu'),
});

interface ReadOptions {
  signal?: AbortSignal | undefined;
}

/** @throws ERR_JITFLUX_INVALID_MODEL naming file and field, ERR_JITFLUX_ABORTED */
export async function readTransformerConfig(
  weights: string,
  o: ReadOptions = {},
): Promise<ComponentSettings<TransformerSettings, FluxConfig>> {
  const { path, json } = await configBeside(weights, transformerJson, ['FluxTransformer2DModel'], o.signal);
  const { num_attention_heads: heads, attention_head_dim: headDim } = json;
  return {
    path,
    settings: { ropeAxes: json.axes_dims_rope },
    declared: given<FluxConfig>({
      doubleBlocks: json.num_layers,
      singleBlocks: json.num_single_layers,
      heads,
      headDim,
      hiddenSize: heads && headDim && heads * headDim,
      inChannels: json.in_channels,
      outChannels: json.out_channels ?? json.in_channels,
      textDim: json.joint_attention_dim,
      pooledDim: json.pooled_projection_dim,
      guidance: json.guidance_embeds,
    }),
  };
}

/** @throws ERR_JITFLUX_INVALID_MODEL naming file and field, ERR_JITFLUX_ABORTED */
export async function readClipConfig(
  weights: string,
  o: ReadOptions = {},
): Promise<ComponentSettings<ClipSettings, ClipConfig>> {
  const kinds = ['clip', 'clip_text_model', 'CLIPTextModel', 'CLIPModel'];
  const { path, json } = await configBeside(weights, clipJson, kinds, o.signal);
  return {
    path,
    settings: {
      heads: json.num_attention_heads ?? CLIP_SETTINGS.heads,
      eps: json.layer_norm_eps,
      eosTokenId: json.eos_token_id,
    },
    declared: given<ClipConfig>({
      vocabulary: json.vocab_size,
      maxTokens: json.max_position_embeddings,
      width: json.hidden_size,
      mlpWidth: json.intermediate_size,
      layers: json.num_hidden_layers,
    }),
  };
}

/** @throws ERR_JITFLUX_INVALID_MODEL naming file and field, ERR_JITFLUX_ABORTED */
export async function readT5Config(
  weights: string,
  o: ReadOptions = {},
): Promise<ComponentSettings<T5Settings, T5Config>> {
  const kinds = ['t5', 'T5EncoderModel', 'T5ForConditionalGeneration'];
  const { path, json } = await configBeside(weights, t5Json, kinds, o.signal);
  return {
    path,
    settings: { maxDistance: json.relative_attention_max_distance, eps: json.layer_norm_epsilon },
    declared: given<T5Config>({
      vocabulary: json.vocab_size,
      width: json.d_model,
      mlpWidth: json.d_ff,
      layers: json.num_layers,
      heads: json.num_heads,
      headDim: json.d_kv,
      positionBuckets: json.relative_attention_num_buckets,
    }),
  };
}

/** @throws ERR_JITFLUX_INVALID_MODEL naming file and field, ERR_JITFLUX_ABORTED */
export async function readAutoencoderConfig(
  weights: string,
  o: ReadOptions = {},
): Promise<ComponentSettings<AutoencoderSettings, AutoencoderConfig>> {
  const { path, json } = await configBeside(weights, autoencoderJson, ['AutoencoderKL'], o.signal);
  return {
    path,
    settings: {
      normGroups: json.norm_num_groups,
      scalingFactor: json.scaling_factor,
      // diffusers' default is none; without a file the weights are taken for FLUX.1's own.
      shiftFactor: json.shift_factor ?? (path === undefined ? AUTOENCODER_SETTINGS.shiftFactor : 0),
    },
    declared: given<AutoencoderConfig>({
      latentChannels: json.latent_channels,
      channels: json.block_out_channels,
      spatialFactor: json.block_out_channels && 2 ** (json.block_out_channels.length - 1),
      layersPerBlock: json.layers_per_block,
    }),
  };
}

/**
 * Reads the first of `<name>.config.json` and `config.json` (in the weights' directory, if they are named by it) that
 * is not another model's; without one, what an empty file would say.
 * @param kinds values of `_class_name`, `model_type` or `architectures` that the file may have
 */
async function configBeside<T>(
  weights: string,
  schema: z.ZodType<T>,
  kinds: readonly string[],
  signal: AbortSignal | undefined,
): Promise<{ path: string | undefined; json: T }> {
  const stem = weights.replace(/(\.index\.json|\.safetensors|\.pt)+$/, '').replace(/\.[^./]*\.scripted$/, '');
  const isDirectory = (await stat(weights).catch(() => undefined))?.isDirectory() ?? false;
  const beside = isDirectory ? join(weights, 'config.json') : join(dirname(weights), 'config.json');
  for (const candidate of [`${stem}.config.json`, beside]) {
    const json = await readJsonFileIfPresent(candidate, { signal });
    if (json === undefined || !isOfKind(json, kinds)) continue;
    const parsed = schema.safeParse(json);
    if (parsed.success) return { path: candidate, json: parsed.data };
    const { path: field, message } = parsed.error.issues[0]!;
    throw new JitFluxError(
      ERROR_CODES.INVALID_MODEL,
      `${candidate}: ${field.join('.') || '(root)'}: ${message}`,
      { path: candidate, field: field.join('.') },
    );
  }
  return { path: undefined, json: schema.parse({}) };
}

/** Files that do not say what they describe are believed. */
function isOfKind(json: unknown, kinds: readonly string[]): boolean {
  if (typeof json !== 'object' || json === null) return true;
  const { _class_name, model_type, architectures } = json as Record<string, unknown>;
  const names = [_class_name, model_type, architectures].flat().filter((name) => typeof name === 'string');
  return names.length === 0 || names.some((name) => kinds.includes(name));
}

function given<T extends object>(values: PartlyKnown<T>): Partial<T> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as Partial<T>;
}
