/**
 * What weight files say about themselves, without native code: names, shapes and types of safetensors, sizes of
 * everything. The weights themselves are read by native code only, which checks each file again on its own.
 */
import { open, readdir, readFile, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';

import { z } from 'zod';

import { ERROR_CODES, JitFluxError, throwIfAborted } from '../errors.js';
import type { AutoencoderConfig, ClipConfig, FluxConfig, T5Config } from '../types.js';

/** The reference implementation's limit. */
const MAX_HEADER_BYTES = 100_000_000;
const MAX_SHARDS = 4096;

/** Bytes of an element, by safetensors' name of its type. */
const ELEMENT_BYTES: Readonly<Record<string, number>> = { F64: 8, F32: 4, BF16: 2, F16: 2 };

const header = z.record(
  z.string(),
  z.looseObject({ dtype: z.string(), shape: z.array(z.number().int().nonnegative()) }),
);
const shardIndex = z.looseObject({ weight_map: z.record(z.string(), z.string()) });

/** One tensor of a header. */
interface HeaderTensor {
  /** As the file spells it: `F32`, `BF16`, ... */
  dtype: string;
  shape: number[];
}

/** A weight file, or the shards of an index. */
interface WeightSummary {
  /** The file, or the index. */
  path: string;
  format: 'safetensors' | 'torchscript';
  /** Bytes of all files. */
  fileBytes: number;
  /** Absent for TorchScript archives. */
  tensors?: ReadonlyMap<string, HeaderTensor>;
}

/** What a weight file (or the shards of an index) is, from its headers. Plain data. */
export interface WeightDescription {
  /** The file, or the index. */
  path: string;
  format: 'safetensors' | 'torchscript';
  /** Bytes of all files. */
  fileBytes: number;
  /** Elements of all tensors. Absent for TorchScript archives. */
  parameters?: number;
  /** The type that most bytes are stored in, if it is a floating type and known. */
  storedDType?: string;
  /** Which part of a model its tensors are, if they are recognised. */
  part?: ModelPart['part'];
  /** What the shapes tell of the part's architecture. */
  architecture?: ModelPart['architecture'];
}

/** A part of a model, recognised from tensors. */
export type ModelPart =
  | { part: 'transformer'; architecture: FluxConfig }
  | { part: 'clip'; architecture: Partial<ClipConfig> }
  | { part: 't5'; architecture: Partial<T5Config> }
  | { part: 'autoencoder'; architecture: Partial<AutoencoderConfig> };

/**
 * Describes a weight file. Reads headers and sizes; a few kilobytes to megabytes, whatever the size of the weights.
 * @param path a `.safetensors` file, a `.safetensors.index.json` or a `.pt` archive
 * @throws ERR_JITFLUX_FILE_NOT_FOUND (shards included), ERR_JITFLUX_CORRUPT_FILE, ERR_JITFLUX_UNSAFE_FILE (shards
 *   outside the folder), ERR_JITFLUX_UNSUPPORTED_FORMAT
 */
export async function describeWeights(
  path: string,
  o: { signal?: AbortSignal | undefined } = {},
): Promise<WeightDescription> {
  const summary = await readWeightSummary(path, o);
  const { tensors, ...file } = summary;
  if (!tensors) return file;
  const stored = storedDType(summary);
  return {
    ...file,
    parameters: countParameters(tensors.values()),
    ...(stored !== undefined && { storedDType: stored }),
    ...recognisePart(tensors),
  };
}

function recognisePart(tensors: ReadonlyMap<string, HeaderTensor>): ModelPart | undefined {
  const transformer = inferFluxConfig(tensors);
  if (transformer) return { part: 'transformer', architecture: transformer };
  const clip = inferClipConfig(tensors);
  if (clip) return { part: 'clip', architecture: clip };
  const t5 = inferT5Config(tensors);
  return t5 && { part: 't5', architecture: t5 };
}

function inferClipConfig(tensors: ReadonlyMap<string, HeaderTensor>): Partial<ClipConfig> | undefined {
  const of = tensorSizes(tensors);
  const [vocabulary, width] = of('embeddings.token_embedding.weight');
  const [maxTokens] = of('embeddings.position_embedding.weight');
  const [mlpWidth] = of('encoder.layers.0.mlp.fc1.weight');
  if (!vocabulary || !width || !maxTokens || !mlpWidth) return undefined;
  return { vocabulary, maxTokens, width, mlpWidth, layers: countLayers(tensors, /encoder\.layers\.(\d+)\./) };
}

function inferT5Config(tensors: ReadonlyMap<string, HeaderTensor>): Partial<T5Config> | undefined {
  const of = tensorSizes(tensors);
  const [vocabulary, width] = [...of('shared.weight'), ...of('encoder.embed_tokens.weight')];
  const attention = 'encoder.block.0.layer.0.SelfAttention';
  const [positionBuckets, heads] = of(`${attention}.relative_attention_bias.weight`);
  const [inner] = of(`${attention}.q.weight`);
  const [mlpWidth] = of('encoder.block.0.layer.1.DenseReluDense.wi_0.weight');
  if (!vocabulary || !width || !heads || !positionBuckets || !inner || !mlpWidth) return undefined;
  const layers = countLayers(tensors, /encoder\.block\.(\d+)\./);
  return { vocabulary, width, heads, headDim: inner / heads, mlpWidth, layers, positionBuckets };
}

/** Sizes of the tensor with this name, below any prefix. */
function tensorSizes(tensors: ReadonlyMap<string, HeaderTensor>): (name: string) => readonly number[] {
  return (name) => {
    for (const [found, { shape }] of tensors) {
      if (found === name || found.endsWith(`.${name}`)) return shape;
    }
    return [];
  };
}

function countLayers(tensors: ReadonlyMap<string, HeaderTensor>, pattern: RegExp): number {
  let count = 0;
  for (const name of tensors.keys()) {
    const match = pattern.exec(name);
    if (match) count = Math.max(count, Number(match[1]) + 1);
  }
  return count;
}

/**
 * The weights of a directory: its safetensors index, or else its one weight file. The same choice as the native
 * reader's.
 * @returns undefined if there are none
 * @throws ERR_JITFLUX_UNSUPPORTED_FORMAT if there are several
 */
export async function findWeights(directory: string): Promise<string | undefined> {
  const names = (await readdir(directory).catch(() => [])).filter((name) => !name.startsWith('.')).sort();
  const indices = names.filter((name) => name.endsWith('.safetensors.index.json'));
  const files = names.filter((name) => /\.(safetensors|pt)$/.test(name));
  const candidates = indices.length > 0 ? indices : files;
  if (candidates.length > 1) {
    throw new JitFluxError(
      ERROR_CODES.UNSUPPORTED_FORMAT,
      `${directory} holds several weight files (${candidates.slice(0, 20).join(', ')}); keep one of them`,
      { path: directory, candidates },
    );
  }
  return candidates[0] === undefined ? undefined : join(directory, candidates[0]);
}

/**
 * Reads headers and sizes; a few kilobytes to megabytes, whatever the size of the weights.
 * @param path a `.safetensors` file, a `.safetensors.index.json` or a `.pt` archive
 * @throws ERR_JITFLUX_FILE_NOT_FOUND (shards included), ERR_JITFLUX_CORRUPT_FILE, ERR_JITFLUX_UNSAFE_FILE (shards
 *   outside the folder), ERR_JITFLUX_UNSUPPORTED_FORMAT
 */
async function readWeightSummary(
  path: string,
  o: { signal?: AbortSignal | undefined } = {},
): Promise<WeightSummary> {
  throwIfAborted(o.signal);
  if (path.endsWith('.index.json')) return readShards(path, o.signal);
  const fileBytes = await fileSize(path);
  if (!path.endsWith('.safetensors')) return { path, format: 'torchscript', fileBytes };
  return { path, format: 'safetensors', fileBytes, tensors: await readHeader(path, fileBytes) };
}

async function readShards(path: string, signal: AbortSignal | undefined): Promise<WeightSummary> {
  const index = shardIndex.safeParse(parseJson(await readText(path), path));
  if (!index.success) {
    throw new JitFluxError(ERROR_CODES.UNSUPPORTED_FORMAT, `${path} is no safetensors index: no weight_map`, {
      path,
    });
  }
  const shards = [...new Set(Object.values(index.data.weight_map))].sort();
  if (shards.length > MAX_SHARDS) throw unsafe(path, 'it names too many shards');
  for (const shard of shards) {
    // An index may only name its neighbours.
    if (shard === '' || shard === '.' || shard.length > 255 || /\.\.|[/\\\0]/.test(shard)) {
      throw unsafe(path, `it names the shard ${JSON.stringify(shard)}, which is not a plain file name`);
    }
  }
  const directory = dirname(path);
  const sizes = await Promise.all(shards.map((shard) => stat(join(directory, shard)).catch(() => undefined)));
  const missing = shards.filter((_, i) => !sizes[i]?.isFile());
  if (missing.length > 0) {
    throw new JitFluxError(
      ERROR_CODES.FILE_NOT_FOUND,
      `${path} names ${missing.length === 1 ? 'a shard that is' : 'shards that are'} missing: ${missing.join(', ')}`,
      { path, missing },
    );
  }
  const tensors = new Map<string, HeaderTensor>();
  let fileBytes = 0;
  for (const [i, shard] of shards.entries()) {
    throwIfAborted(signal);
    const size = sizes[i]?.size ?? 0;
    fileBytes += size;
    for (const [name, tensor] of await readHeader(join(directory, shard), size)) tensors.set(name, tensor);
  }
  return { path, format: 'safetensors', fileBytes, tensors };
}

async function readHeader(path: string, size: number): Promise<Map<string, HeaderTensor>> {
  const corrupt = (why: string) => new JitFluxError(ERROR_CODES.CORRUPT_FILE, `${path}: ${why}`, { path });
  if (size < 8) throw corrupt('truncated safetensors file');
  const file = await open(path, 'r');
  let text: string;
  try {
    const prefix = Buffer.alloc(8);
    await file.read(prefix, 0, 8, 0);
    const length = prefix.readBigUInt64LE();
    if (prefix.toString('latin1').startsWith('version ')) {
      throw new JitFluxError(
        ERROR_CODES.UNSUPPORTED_FORMAT,
        `${path} is a Git LFS pointer; fetch the file itself with \`git lfs pull\``,
        { path },
      );
    }
    if (length > BigInt(MAX_HEADER_BYTES)) throw unsafe(path, 'its header is larger than 100 MB');
    if (length > BigInt(size - 8)) throw corrupt('truncated safetensors file (header incomplete)');
    const bytes = Buffer.alloc(Number(length));
    await file.read(bytes, 0, bytes.length, 8);
    text = bytes.toString('utf8');
  } finally {
    await file.close();
  }
  const json = parseJson(text, path, ERROR_CODES.CORRUPT_FILE);
  if (typeof json === 'object' && json !== null) delete (json as Record<string, unknown>)['__metadata__'];
  const parsed = header.safeParse(json);
  if (!parsed.success) throw corrupt('its safetensors header is malformed');
  return new Map(Object.entries(parsed.data));
}

/** Number of elements of all tensors. */
function countParameters(tensors: Iterable<HeaderTensor>): number {
  let count = 0;
  for (const { shape } of tensors) count += elements(shape);
  return count;
}

/** The type that holds most of the bytes, as `DType` spells it; undefined if it is no floating type. */
function storedDType(summary: WeightSummary): 'float32' | 'bfloat16' | 'float16' | 'float64' | undefined {
  const bytes = new Map<string, number>();
  for (const { dtype, shape } of summary.tensors?.values() ?? []) {
    bytes.set(dtype, (bytes.get(dtype) ?? 0) + elements(shape) * (ELEMENT_BYTES[dtype] ?? 1));
  }
  const [most] = [...bytes].sort((a, b) => b[1] - a[1])[0] ?? [];
  const names = { F32: 'float32', BF16: 'bfloat16', F16: 'float16', F64: 'float64' } as const;
  return most === undefined || !Object.hasOwn(names, most) ? undefined : names[most as keyof typeof names];
}

/**
 * Architecture of a FLUX transformer, from the shapes of its tensors under diffusers' or the original names. RoPE axes
 * cannot be seen there; they are FLUX.1's for heads of 128, else an even guess.
 * @returns undefined if the tensors are no FLUX transformer
 */
function inferFluxConfig(tensors: ReadonlyMap<string, HeaderTensor>): FluxConfig | undefined {
  const layouts = [
    {
      image: 'x_embedder.weight',
      text: 'context_embedder.weight',
      pooled: 'time_text_embed.text_embedder.linear_1.weight',
      guidance: 'time_text_embed.guidance_embedder.linear_1.weight',
      double: 'transformer_blocks.',
      single: 'single_transformer_blocks.',
      norm: 'transformer_blocks.0.attn.norm_q.weight',
      mlp: 'transformer_blocks.0.ff.net.0.proj.weight',
      out: 'proj_out.weight',
    },
    {
      image: 'img_in.weight',
      text: 'txt_in.weight',
      pooled: 'vector_in.in_layer.weight',
      guidance: 'guidance_in.in_layer.weight',
      double: 'double_blocks.',
      single: 'single_blocks.',
      norm: 'double_blocks.0.img_attn.norm.query_norm.scale',
      mlp: 'double_blocks.0.img_mlp.0.weight',
      out: 'final_layer.linear.weight',
    },
  ];
  for (const names of layouts) {
    const image = [...tensors.keys()].find(
      (name) => name === names.image || name.endsWith(`.${names.image}`),
    );
    if (image === undefined) continue;
    const prefix = image.slice(0, -names.image.length);
    const size = (name: string, axis: number) => tensors.get(prefix + name)?.shape[axis];
    const blocks = (root: string) => {
      const start = prefix + root;
      const numbers = [...tensors.keys()]
        .filter((name) => name.startsWith(start))
        .map((name) => parseInt(name.slice(start.length), 10));
      return numbers.reduce((most, i) => Math.max(most, i + 1), 0);
    };
    const hiddenSize = size(names.image, 0);
    const headDim = size(names.norm, 0);
    const values = [size(names.image, 1), size(names.out, 0), size(names.text, 1), size(names.pooled, 1)];
    const [inChannels, outChannels, textDim, pooledDim] = values;
    const mlp = size(names.mlp, 0);
    if (!hiddenSize || !headDim || !mlp || !inChannels || !outChannels || !textDim || !pooledDim)
      return undefined;
    const quarter = Math.floor(headDim / 16) * 2;
    return {
      doubleBlocks: blocks(names.double),
      singleBlocks: blocks(names.single),
      heads: hiddenSize / headDim,
      headDim,
      hiddenSize,
      inChannels,
      outChannels,
      textDim,
      pooledDim,
      mlpRatio: mlp / hiddenSize,
      guidance: tensors.has(prefix + names.guidance),
      ropeAxes: [quarter, (headDim - quarter) / 2, (headDim - quarter) / 2],
    };
  }
  return undefined;
}

function elements(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    throw notFound(path, cause);
  }
}

async function fileSize(path: string): Promise<number> {
  const info = await stat(path).catch((cause: unknown) => {
    throw notFound(path, cause);
  });
  return info.size;
}

function parseJson(
  text: string,
  path: string,
  code: 'ERR_JITFLUX_INVALID_MODEL' | 'ERR_JITFLUX_CORRUPT_FILE' = ERROR_CODES.INVALID_MODEL,
): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new JitFluxError(code, `${path} is not JSON: ${reason}`, { path }, { cause });
  }
}

function notFound(path: string, cause: unknown): JitFluxError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new JitFluxError(ERROR_CODES.FILE_NOT_FOUND, `Cannot read ${path}: ${reason}`, { path }, { cause });
}

function unsafe(path: string, why: string): JitFluxError {
  return new JitFluxError(ERROR_CODES.UNSAFE_FILE, `${path} is refused: ${why}`, { path });
}
