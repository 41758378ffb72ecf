// Random weights in safetensors files: the numbers, the file format, and the tensors of a FLUX transformer. Shared by
// tools/synthetic-snapshot.mjs and the benchmarks.
import { closeSync, openSync, writeSync } from 'node:fs';

/**
 * A tensor to be written.
 * @typedef {{ name: string, shape: number[], mean: number, scale: number }} RandomTensor
 */

/**
 * Normal draws. Tensors read one table from different offsets and with different scales: drawing every element anew
 * would take minutes for the larger files.
 * @param {{ seed?: number, size?: number }} [o] size of the table
 */
export function normalTable({ seed = 0, size = 1 << 20 } = {}) {
  let state = (seed * 2654435761 + 88172645) >>> 0 || 1;
  const uniform = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return ((state >>> 0) + 0.5) / 2 ** 32;
  };
  return Float32Array.from({ length: size }, () => {
    return Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  });
}

/** Number of elements of a shape. */
export const size = (/** @type {readonly number[]} */ shape) => shape.reduce((a, b) => a * b, 1);

/**
 * Writes one safetensors file: header, then every tensor streamed.
 * @param {string} path
 * @param {RandomTensor[]} tensors
 * @param {{ dtype: 'float32' | 'bfloat16', normals: Float32Array }} o
 * @returns {number} bytes of tensor data
 */
export function writeRandomSafetensors(path, tensors, { dtype, normals }) {
  const bf16 = dtype === 'bfloat16';
  const elementBytes = bf16 ? 2 : 4;
  let offset = 0;
  /** @type {Record<string, { dtype: string, shape: number[], data_offsets: [begin: number, end: number] }>} */
  const header = {};
  for (const { name, shape } of tensors) {
    const bytes = size(shape) * elementBytes;
    header[name] = { dtype: bf16 ? 'BF16' : 'F32', shape, data_offsets: [offset, offset + bytes] };
    offset += bytes;
  }
  const text = Buffer.from(JSON.stringify(header));
  const padded = Buffer.concat([text, Buffer.alloc((8 - (text.length % 8)) % 8, ' ')]);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  const file = openSync(path, 'w');
  writeSync(file, Buffer.concat([length, padded]));
  // There are few different scales, and encoding the table takes longer than writing most tensors.
  /** @type {Map<string, Buffer>} */
  const encoded = new Map();
  tensors.forEach(({ shape, mean, scale }, index) => {
    const key = `${mean} ${scale}`;
    const bytes = encoded.get(key) ?? encode(normals, mean, scale, bf16);
    encoded.set(key, bytes);
    let left = size(shape) * elementBytes;
    let at = ((index * 7919) % normals.length) * elementBytes;
    while (left > 0) {
      const part = Math.min(left, bytes.length - at);
      writeSync(file, bytes, at, part);
      left -= part;
      at = 0;
    }
  });
  closeSync(file);
  return offset;
}

/**
 * The table as mean + scale * normal, in the file's type.
 * @param {Float32Array} normals
 * @param {number} mean
 * @param {number} scale
 * @param {boolean} bf16
 */
function encode(normals, mean, scale, bf16) {
  const floats = normals.map((x) => mean + scale * x);
  if (!bf16) return Buffer.from(floats.buffer);
  const bits = new Uint32Array(floats.buffer);
  // Truncation is rounding enough for random numbers.
  return Buffer.from(Uint16Array.from(bits, (b) => b >>> 16).buffer);
}

/**
 * Tensors of a linear layer whose outputs have about the variance of its inputs, times gain^2.
 * @param {string} name
 * @param {number} out
 * @param {number} input
 * @param {{ bias?: boolean, gain?: number }} [o]
 * @returns {RandomTensor[]}
 */
export const linear = (name, out, input, { bias = true, gain = 1 } = {}) => [
  { name: `${name}.weight`, shape: [out, input], mean: 0, scale: gain / Math.sqrt(input) },
  ...(bias ? [{ name: `${name}.bias`, shape: [out], mean: 0, scale: 0.02 }] : []),
];

export const range = (/** @type {number} */ n) => Array.from({ length: n }, (_, i) => i);

/**
 * Tensors of a FLUX transformer under diffusers' names, scaled so that activations stay finite.
 * @param {import('jit-flux').FluxConfig} config
 * @returns {RandomTensor[]}
 */
export function fluxTransformerTensors(config) {
  const d = config.hiddenSize;
  const mlp = config.mlpRatio * d;
  const modulation = { gain: 0.3 };
  const embedder = (/** @type {string} */ name, /** @type {number} */ input) => [
    ...linear(`time_text_embed.${name}.linear_1`, d, input),
    ...linear(`time_text_embed.${name}.linear_2`, d, d),
  ];
  const headNorms = (/** @type {string} */ attention, /** @type {string[]} */ names) =>
    names.flatMap((name) => norm(`${attention}.${name}`, config.headDim, false));
  return [
    ...embedder('timestep_embedder', 256),
    ...(config.guidance ? embedder('guidance_embedder', 256) : []),
    ...embedder('text_embedder', config.pooledDim),
    ...linear('context_embedder', d, config.textDim),
    ...linear('x_embedder', d, config.inChannels),
    ...range(config.doubleBlocks).flatMap((i) => {
      const block = `transformer_blocks.${i}`;
      return [
        ...linear(`${block}.norm1.linear`, 6 * d, d, modulation),
        ...linear(`${block}.norm1_context.linear`, 6 * d, d, modulation),
        ...[
          'to_q',
          'to_k',
          'to_v',
          'add_q_proj',
          'add_k_proj',
          'add_v_proj',
          'to_out.0',
          'to_add_out',
        ].flatMap((name) => linear(`${block}.attn.${name}`, d, d)),
        ...headNorms(`${block}.attn`, ['norm_q', 'norm_k', 'norm_added_q', 'norm_added_k']),
        ...['ff', 'ff_context'].flatMap((name) => [
          ...linear(`${block}.${name}.net.0.proj`, mlp, d),
          ...linear(`${block}.${name}.net.2`, d, mlp),
        ]),
      ];
    }),
    ...range(config.singleBlocks).flatMap((i) => {
      const block = `single_transformer_blocks.${i}`;
      return [
        ...linear(`${block}.norm.linear`, 3 * d, d, modulation),
        ...['to_q', 'to_k', 'to_v'].flatMap((name) => linear(`${block}.attn.${name}`, d, d)),
        ...headNorms(`${block}.attn`, ['norm_q', 'norm_k']),
        ...linear(`${block}.proj_mlp`, mlp, d),
        ...linear(`${block}.proj_out`, d, d + mlp),
      ];
    }),
    ...linear('norm_out.linear', 2 * d, d, modulation),
    ...linear('proj_out', config.outChannels, d),
  ];
}

/**
 * The same under the names of the original checkpoints, in which q, k and v (in single blocks with the MLP's first layer)
 * are one matrix.
 * @param {import('jit-flux').FluxConfig} config
 * @returns {RandomTensor[]}
 */
export function originalFluxTensors(config) {
  const d = config.hiddenSize;
  const mlp = config.mlpRatio * d;
  const modulation = { gain: 0.3 };
  const embedder = (/** @type {string} */ name, /** @type {number} */ input) => [
    ...linear(`${name}.in_layer`, d, input),
    ...linear(`${name}.out_layer`, d, d),
  ];
  const headNorms = (/** @type {string} */ attention) =>
    ['query_norm', 'key_norm'].map((name) => ({
      name: `${attention}.${name}.scale`,
      shape: [config.headDim],
      mean: 1,
      scale: 0.05,
    }));
  return [
    ...embedder('time_in', 256),
    ...(config.guidance ? embedder('guidance_in', 256) : []),
    ...embedder('vector_in', config.pooledDim),
    ...linear('txt_in', d, config.textDim),
    ...linear('img_in', d, config.inChannels),
    ...range(config.doubleBlocks).flatMap((i) =>
      ['img', 'txt'].flatMap((stream) => {
        const part = `double_blocks.${i}.${stream}`;
        return [
          ...linear(`${part}_mod.lin`, 6 * d, d, modulation),
          ...linear(`${part}_attn.qkv`, 3 * d, d),
          ...headNorms(`${part}_attn.norm`),
          ...linear(`${part}_attn.proj`, d, d),
          ...linear(`${part}_mlp.0`, mlp, d),
          ...linear(`${part}_mlp.2`, d, mlp),
        ];
      }),
    ),
    ...range(config.singleBlocks).flatMap((i) => {
      const block = `single_blocks.${i}`;
      return [
        ...linear(`${block}.modulation.lin`, 3 * d, d, modulation),
        ...linear(`${block}.linear1`, 3 * d + mlp, d),
        ...headNorms(`${block}.norm`),
        ...linear(`${block}.linear2`, d, d + mlp),
      ];
    }),
    ...linear('final_layer.adaLN_modulation.1', 2 * d, d, modulation),
    ...linear('final_layer.linear', config.outChannels, d),
  ];
}

/**
 * Gain and, if there is one, bias of a norm.
 * @param {string} name
 * @param {number} width
 * @param {boolean} [bias]
 * @returns {RandomTensor[]}
 */
export const norm = (name, width, bias = true) => [
  { name: `${name}.weight`, shape: [width], mean: 1, scale: 0.05 },
  ...(bias ? [{ name: `${name}.bias`, shape: [width], mean: 0, scale: 0.02 }] : []),
];

/**
 * Tensors of a CLIP text encoder for 77 tokens under the names of transformers.
 * @param {{ width: number, mlp: number, vocab: number, layers: number }} config
 * @returns {RandomTensor[]}
 */
export function clipTensors({ width, mlp, vocab, layers }) {
  return [
    { name: 'text_model.embeddings.token_embedding.weight', shape: [vocab, width], mean: 0, scale: 1 },
    { name: 'text_model.embeddings.position_embedding.weight', shape: [77, width], mean: 0, scale: 0.3 },
    ...range(layers).flatMap((i) => {
      const layer = `text_model.encoder.layers.${i}`;
      return [
        ...norm(`${layer}.layer_norm1`, width),
        ...['q_proj', 'k_proj', 'v_proj', 'out_proj'].flatMap((n) =>
          linear(`${layer}.self_attn.${n}`, width, width),
        ),
        ...norm(`${layer}.layer_norm2`, width),
        ...linear(`${layer}.mlp.fc1`, mlp, width),
        ...linear(`${layer}.mlp.fc2`, width, mlp),
      ];
    }),
    ...norm('text_model.final_layer_norm', width),
  ];
}

/**
 * Tensors of a T5 v1.1 encoder under the names of transformers.
 * @param {{ width: number, mlp: number, heads: number, vocab: number, layers: number }} config
 * @returns {RandomTensor[]}
 */
export function t5Tensors({ width, mlp, heads, vocab, layers }) {
  const plain = { bias: false };
  return [
    { name: 'shared.weight', shape: [vocab, width], mean: 0, scale: 1 },
    ...range(layers).flatMap((i) => {
      const [attention, feed] = [`encoder.block.${i}.layer.0`, `encoder.block.${i}.layer.1`];
      return [
        // No 1/sqrt(d) in T5's attention: its queries are small instead.
        ...linear(`${attention}.SelfAttention.q`, width, width, { bias: false, gain: 1 / 8 }),
        ...['k', 'v', 'o'].flatMap((n) => linear(`${attention}.SelfAttention.${n}`, width, width, plain)),
        ...(i === 0
          ? [
              {
                name: `${attention}.SelfAttention.relative_attention_bias.weight`,
                shape: [32, heads],
                mean: 0,
                scale: 0.5,
              },
            ]
          : []),
        ...norm(`${attention}.layer_norm`, width, false),
        ...linear(`${feed}.DenseReluDense.wi_0`, mlp, width, plain),
        ...linear(`${feed}.DenseReluDense.wi_1`, mlp, width, plain),
        ...linear(`${feed}.DenseReluDense.wo`, width, mlp, plain),
        ...norm(`${feed}.layer_norm`, width, false),
      ];
    }),
    ...norm('encoder.final_layer_norm', width, false),
  ];
}

/**
 * @param {string} name
 * @param {number} out
 * @param {number} input
 * @param {number} [kernel]
 * @returns {RandomTensor[]}
 */
const conv = (name, out, input, kernel = 3) => [
  {
    name: `${name}.weight`,
    shape: [out, input, kernel, kernel],
    mean: 0,
    scale: 1 / Math.sqrt(input * kernel * kernel),
  },
  { name: `${name}.bias`, shape: [out], mean: 0, scale: 0.02 },
];

/**
 * @param {string} name
 * @param {number} out
 * @param {number} input
 * @returns {RandomTensor[]}
 */
const resnet = (name, out, input) => [
  ...norm(`${name}.norm1`, input),
  ...conv(`${name}.conv1`, out, input),
  ...norm(`${name}.norm2`, out),
  ...conv(`${name}.conv2`, out, out),
  ...(out === input ? [] : conv(`${name}.conv_shortcut`, out, input, 1)),
];

/**
 * Tensors of FLUX.1's autoencoder under diffusers' names.
 * @param {readonly number[]} channels of the four levels, from the picture down; FLUX.1's are 128, 256, 512, 512
 * @returns {RandomTensor[]}
 */
export function autoencoderTensors(channels) {
  /** @type {(name: string, width: number) => RandomTensor[]} */
  const middle = (name, width) => [
    ...resnet(`${name}.resnets.0`, width, width),
    ...norm(`${name}.attentions.0.group_norm`, width),
    ...['to_q', 'to_k', 'to_v', 'to_out.0'].flatMap((n) => linear(`${name}.attentions.0.${n}`, width, width)),
    ...resnet(`${name}.resnets.1`, width, width),
  ];
  const finest = channels[0] ?? 0;
  const coarsest = channels.at(-1) ?? 0;
  return [
    ...conv('encoder.conv_in', finest, 3),
    ...channels.flatMap((width, i) => {
      const input = channels[Math.max(0, i - 1)] ?? 0;
      const block = `encoder.down_blocks.${i}`;
      return [
        ...resnet(`${block}.resnets.0`, width, input),
        ...resnet(`${block}.resnets.1`, width, width),
        ...(i < 3 ? conv(`${block}.downsamplers.0.conv`, width, width) : []),
      ];
    }),
    ...middle('encoder.mid_block', coarsest),
    ...norm('encoder.conv_norm_out', coarsest),
    ...conv('encoder.conv_out', 32, coarsest),
    ...conv('decoder.conv_in', coarsest, 16),
    ...middle('decoder.mid_block', coarsest),
    ...[...channels].reverse().flatMap((width, i, widths) => {
      const block = `decoder.up_blocks.${i}`;
      return [
        ...resnet(`${block}.resnets.0`, width, widths[Math.max(0, i - 1)] ?? 0),
        ...resnet(`${block}.resnets.1`, width, width),
        ...resnet(`${block}.resnets.2`, width, width),
        ...(i < 3 ? conv(`${block}.upsamplers.0.conv`, width, width) : []),
      ];
    }),
    ...norm('decoder.conv_norm_out', finest),
    ...conv('decoder.conv_out', 3, finest),
  ];
}
