/** Sizes of a FLUX.1 snapshot's components: from their config.json or the shapes of their tensors, and what follows. */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';

import { z } from 'zod';

import { ERROR_CODES, JitFluxError } from '../errors.js';
import type { FluxConfig } from '../types.js';
import { inferFluxConfig, readJsonFile, type WeightSummary } from './weight-headers.js';

/** CLIP's text encoder. */
export interface ClipShape {
  vocabulary: number;
  /** Longest text. */
  positions: number;
  width: number;
  mlp: number;
  layers: number;
}

/** T5's encoder. */
export interface T5Shape {
  vocabulary: number;
  width: number;
  heads: number;
  headDim: number;
  mlp: number;
  layers: number;
  buckets: number;
}

/** An AutoencoderKL. */
export interface VaeShape {
  latentChannels: number;
  /** Of the levels, the finest first. */
  channels: number[];
  layersPerBlock: number;
}

/** An autoencoder's shape and how its latents are normalised. */
export interface VaeSettings extends VaeShape {
  scalingFactor: number;
  shiftFactor: number;
}

/** FLUX.1's own components; dev and schnell share them. */
export const CLIP_L: Readonly<ClipShape> = {
  vocabulary: 49408,
  positions: 77,
  width: 768,
  mlp: 3072,
  layers: 12,
};
export const T5_XXL: Readonly<T5Shape> = {
  vocabulary: 32128,
  width: 4096,
  heads: 64,
  headDim: 64,
  mlp: 10240,
  layers: 24,
  buckets: 32,
};
export const FLUX_VAE: Readonly<VaeSettings> = {
  latentChannels: 16,
  channels: [128, 256, 512, 512],
  layersPerBlock: 2,
  scalingFactor: 0.3611,
  shiftFactor: 0.1159,
};

const size = z.number().int().positive();
const transformerJson = z.looseObject({
  num_layers: size,
  num_single_layers: size,
  num_attention_heads: size,
  attention_head_dim: size,
  in_channels: size,
  out_channels: size.nullish(),
  joint_attention_dim: size,
  pooled_projection_dim: size,
  guidance_embeds: z.boolean().default(false),
  axes_dims_rope: z.tuple([size, size, size]).optional(),
});
const clipJson = z.preprocess(
  (json) => (json as { text_config?: unknown } | null)?.text_config ?? json,
  z.looseObject({
    vocab_size: size,
    max_position_embeddings: size.default(77),
    hidden_size: size,
    intermediate_size: size,
    num_hidden_layers: size,
  }),
);
const t5Json = z.looseObject({
  vocab_size: size,
  d_model: size,
  num_heads: size,
  d_kv: size,
  d_ff: size,
  num_layers: size,
  relative_attention_num_buckets: size.default(32),
});
const vaeJson = z.looseObject({
  latent_channels: size,
  block_out_channels: z.array(size).min(1).max(8),
  layers_per_block: size.default(2),
  scaling_factor: z.number().positive().default(FLUX_VAE.scalingFactor),
  shift_factor: z
    .number()
    .nullish()
    .transform((shift) => shift ?? 0),
});

/** Transformer: `config.json` beside the weights, else the tensors' shapes; undefined for an archive without it. */
export async function transformerShape(weights: WeightSummary): Promise<FluxConfig | undefined> {
  if (weights.tensors) {
    const config = inferFluxConfig(weights.tensors);
    if (config) return config;
  }
  const json = await configBeside(weights.path, transformerJson, 'FluxTransformer2DModel');
  if (json === undefined) return undefined;
  const hiddenSize = json.num_attention_heads * json.attention_head_dim;
  return {
    doubleBlocks: json.num_layers,
    singleBlocks: json.num_single_layers,
    heads: json.num_attention_heads,
    headDim: json.attention_head_dim,
    hiddenSize,
    inChannels: json.in_channels,
    outChannels: json.out_channels ?? json.in_channels,
    textDim: json.joint_attention_dim,
    pooledDim: json.pooled_projection_dim,
    mlpRatio: 4,
    guidance: json.guidance_embeds,
    ropeAxes: json.axes_dims_rope ?? [16, 56, 56],
  };
}

/** CLIP; see {@link transformerShape}. */
export async function clipShape(weights: WeightSummary): Promise<ClipShape | undefined> {
  const json = await configBeside(weights.path, clipJson);
  if (json !== undefined) {
    return {
      vocabulary: json.vocab_size,
      positions: json.max_position_embeddings,
      width: json.hidden_size,
      mlp: json.intermediate_size,
      layers: json.num_hidden_layers,
    };
  }
  const of = tensorSizes(weights);
  const [vocabulary, width] = of('embeddings.token_embedding.weight');
  const [positions] = of('embeddings.position_embedding.weight');
  const [mlp] = of('encoder.layers.0.mlp.fc1.weight');
  if (!vocabulary || !width || !positions || !mlp) return undefined;
  return { vocabulary, positions, width, mlp, layers: countLayers(weights, /encoder\.layers\.(\d+)\./) };
}

/** T5; see {@link transformerShape}. */
export async function t5Shape(weights: WeightSummary): Promise<T5Shape | undefined> {
  const json = await configBeside(weights.path, t5Json);
  if (json !== undefined) {
    return {
      vocabulary: json.vocab_size,
      width: json.d_model,
      heads: json.num_heads,
      headDim: json.d_kv,
      mlp: json.d_ff,
      layers: json.num_layers,
      buckets: json.relative_attention_num_buckets,
    };
  }
  const of = tensorSizes(weights);
  const [vocabulary, width] = [...of('shared.weight'), ...of('encoder.embed_tokens.weight')];
  const [buckets, heads] = of('encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight');
  const [inner] = of('encoder.block.0.layer.0.SelfAttention.q.weight');
  const [mlp] = of('encoder.block.0.layer.1.DenseReluDense.wi_0.weight');
  if (!vocabulary || !width || !heads || !buckets || !inner || !mlp) return undefined;
  const layers = countLayers(weights, /encoder\.block\.(\d+)\./);
  return { vocabulary, width, heads, headDim: inner / heads, mlp, layers, buckets };
}

/** Autoencoder: its `config.json`, or FLUX.1's settings if there is none (an original `ae.safetensors`). */
export async function vaeSettings(path: string): Promise<VaeSettings> {
  const json = await configBeside(path, vaeJson, 'AutoencoderKL');
  if (json === undefined) return { ...FLUX_VAE };
  return {
    latentChannels: json.latent_channels,
    channels: json.block_out_channels,
    layersPerBlock: json.layers_per_block,
    scalingFactor: json.scaling_factor,
    shiftFactor: json.shift_factor,
  };
}

const linear = (inputs: number, outputs: number) => (inputs + 1) * outputs;

/** Parameters of a FLUX transformer: 11,901,408,320 for FLUX.1-dev. */
export function transformerParameters(c: FluxConfig): number {
  const d = c.hiddenSize;
  const mlp = Math.round(c.mlpRatio * d);
  const embedder = (inputs: number) => linear(inputs, d) + linear(d, d);
  const double =
    2 * linear(d, 6 * d) + 8 * linear(d, d) + 4 * c.headDim + 2 * (linear(d, mlp) + linear(mlp, d));
  const single = linear(d, 3 * d) + 3 * linear(d, d) + linear(d, mlp) + linear(d + mlp, d) + 2 * c.headDim;
  return (
    linear(c.inChannels, d) +
    linear(c.textDim, d) +
    (c.guidance ? 2 : 1) * embedder(256) +
    embedder(c.pooledDim) +
    c.doubleBlocks * double +
    c.singleBlocks * single +
    linear(d, 2 * d) +
    linear(d, c.outChannels)
  );
}

/**
 * Parameters of a FLUX transformer that are copied even if the file holds the compute type: what is fused into one
 * matrix, q, k and v of double blocks, and with the MLP's input of single blocks.
 */
export function fusedParameters(c: FluxConfig): number {
  const d = c.hiddenSize;
  const mlp = Math.round(c.mlpRatio * d);
  return c.doubleBlocks * 2 * linear(d, 3 * d) + c.singleBlocks * linear(d, 3 * d + mlp);
}

/** Parameters of a FLUX transformer's block layers, whose weights can be packed or quantised. */
export function blockParameters(c: FluxConfig): number {
  const d = c.hiddenSize;
  const mlp = Math.round(c.mlpRatio * d);
  const stream = linear(d, 3 * d) + linear(d, d) + linear(d, mlp) + linear(mlp, d);
  return c.doubleBlocks * 2 * stream + c.singleBlocks * (linear(d, 3 * d + mlp) + linear(d + mlp, d));
}

/** Parameters of a FLUX transformer's adaptive norms. */
export function modulationParameters(c: FluxConfig): number {
  const d = c.hiddenSize;
  return c.doubleBlocks * 2 * linear(d, 6 * d) + c.singleBlocks * linear(d, 3 * d) + linear(d, 2 * d);
}

/** Parameters of a CLIP text encoder: 123,060,480 for CLIP-L. */
export function clipParameters(c: ClipShape): number {
  const layer = 4 * linear(c.width, c.width) + linear(c.width, c.mlp) + linear(c.mlp, c.width) + 4 * c.width;
  return (c.vocabulary + c.positions) * c.width + c.layers * layer + 2 * c.width;
}

/** Parameters of a T5 encoder: 4,762,310,656 for T5-XXL. */
export function t5Parameters(c: T5Shape): number {
  const inner = c.heads * c.headDim;
  const layer = 4 * c.width * inner + 3 * c.width * c.mlp + 2 * c.width;
  return c.vocabulary * c.width + c.layers * layer + c.buckets * c.heads + c.width;
}

/** Parameters of an autoencoder, encoder and decoder: 83,819,683 for FLUX.1's. */
export function vaeParameters(c: VaeShape): number {
  const conv = (inputs: number, outputs: number) => (9 * inputs + 1) * outputs;
  const norm = (channels: number) => 2 * channels;
  const residual = (inputs: number, outputs: number) =>
    norm(inputs) +
    conv(inputs, outputs) +
    norm(outputs) +
    conv(outputs, outputs) +
    (inputs === outputs ? 0 : linear(inputs, outputs));
  const { channels } = c;
  const first = channels[0] ?? 0;
  const top = channels.at(-1) ?? 0;
  const middle = 2 * residual(top, top) + norm(top) + 4 * linear(top, top);
  const network = (levels: readonly number[], blocks: number, input: number) => {
    let count = 0;
    let width = input;
    levels.forEach((out, level) => {
      for (let i = 0; i < blocks; i++) {
        count += residual(width, out);
        width = out;
      }
      if (level < levels.length - 1) count += conv(out, out);
    });
    return count;
  };
  const encoder =
    conv(3, first) +
    network(channels, c.layersPerBlock, first) +
    middle +
    norm(top) +
    conv(top, 2 * c.latentChannels);
  const decoder =
    conv(c.latentChannels, top) +
    middle +
    network([...channels].reverse(), c.layersPerBlock + 1, top) +
    norm(first) +
    conv(first, 3);
  return encoder + decoder;
}

/** The config.json in a weight file's directory, unless it is another kind of model's. */
async function configBeside<T>(
  path: string,
  schema: z.ZodType<T>,
  className?: string,
): Promise<T | undefined> {
  const config = join(dirname(path), 'config.json');
  if (!existsSync(config)) return undefined;
  const json = await readJsonFile(config);
  const found = (json as { _class_name?: unknown } | null)?._class_name;
  if (className !== undefined && typeof found === 'string' && found !== className) return undefined;
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const field = issue?.path.join('.') || '(root)';
  throw new JitFluxError(ERROR_CODES.INVALID_MODEL, `${config}: ${field}: ${issue?.message ?? 'invalid'}`, {
    path: config,
    field,
  });
}

/** Sizes of the tensor with this name, below any prefix. */
function tensorSizes(weights: WeightSummary): (name: string) => readonly number[] {
  return (name) => {
    for (const [found, { shape }] of weights.tensors ?? []) {
      if (found === name || found.endsWith(`.${name}`)) return shape;
    }
    return [];
  };
}

function countLayers(weights: WeightSummary, pattern: RegExp): number {
  let count = 0;
  for (const name of weights.tensors?.keys() ?? []) {
    const match = pattern.exec(name);
    if (match) count = Math.max(count, Number(match[1]) + 1);
  }
  return count;
}
