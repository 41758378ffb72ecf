// Writes a diffusers snapshot with FLUX.1-dev's real widths and random weights, for measuring what a real one would do.
// Few blocks by default, so that it fits a small machine; files are named and sharded as in the published repository.
//   node tools/synthetic-snapshot.mjs <directory> [--double 1] [--single 1] [--t5-layers 4] [--clip-layers 12]
//                                     [--variant dev|schnell] [--dtype bfloat16|float32] [--seed 0] [--tiny]
// --tiny: the same structure at toy widths, a few megabytes; the end-to-end tests run on it.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import {
  autoencoderTensors,
  clipTensors,
  fluxTransformerTensors,
  normalTable,
  range,
  size,
  t5Tensors,
  writeRandomSafetensors,
} from './lib/random-weights.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    double: { type: 'string', default: '1' },
    single: { type: 'string', default: '1' },
    't5-layers': { type: 'string', default: '4' },
    'clip-layers': { type: 'string', default: '12' },
    variant: { type: 'string', default: 'dev' },
    dtype: { type: 'string', default: 'bfloat16' },
    seed: { type: 'string', default: '0' },
    tiny: { type: 'boolean', default: false },
  },
});
const [root] = positionals;
if (!root) {
  console.error('usage: node tools/synthetic-snapshot.mjs <directory> [options]');
  process.exit(2);
}
const count = (/** @type {'double' | 'single' | 't5-layers' | 'clip-layers'} */ name) => {
  const n = Number(values[name]);
  if (!Number.isInteger(n) || n < 1) throw new Error(`--${name} must be a positive integer`);
  return n;
};
const [doubles, singles] = [count('double'), count('single')];
const [t5Layers, clipLayers] = [count('t5-layers'), count('clip-layers')];
const dtype = values.dtype === 'bfloat16' ? 'bfloat16' : 'float32';
const normals = normalTable({ seed: Number(values.seed), size: values.tiny ? 1 << 16 : 1 << 20 });
const writeShard = (
  /** @type {string} */ path,
  /** @type {import('./lib/random-weights.mjs').RandomTensor[]} */ tensors,
) => writeRandomSafetensors(path, tensors, { dtype, normals });

/**
 * One component: a single file, or shards and an index, as diffusers and transformers write them.
 * @param {string} folder
 * @param {string} stem
 * @param {import('./lib/random-weights.mjs').RandomTensor[]} tensors
 * @param {number} shards
 */
function writeComponent(folder, stem, tensors, shards) {
  const directory = join(root, folder);
  mkdirSync(directory, { recursive: true });
  if (shards === 1) {
    const bytes = writeShard(join(directory, `${stem}.safetensors`), tensors);
    console.log(`${folder}: ${(bytes / 1e9).toFixed(2)} GB`);
    return;
  }
  const total = tensors.reduce((sum, { shape }) => sum + size(shape), 0);
  /** @type {import('./lib/random-weights.mjs').RandomTensor[][]} */
  const groups = Array.from({ length: shards }, () => []);
  let seen = 0;
  for (const tensor of tensors) {
    groups[Math.min(shards - 1, Math.floor((seen / total) * shards))].push(tensor);
    seen += size(tensor.shape);
  }
  /** @type {Record<string, string>} */
  const weightMap = {};
  let bytes = 0;
  groups.forEach((group, i) => {
    const part = (/** @type {number} */ n) => String(n).padStart(5, '0');
    const file = `${stem}-${part(i + 1)}-of-${part(shards)}.safetensors`;
    bytes += writeShard(join(directory, file), group);
    for (const { name } of group) weightMap[name] = file;
  });
  writeFileSync(
    join(directory, `${stem}.safetensors.index.json`),
    JSON.stringify({ metadata: { total_size: bytes }, weight_map: weightMap }, null, 2),
  );
  console.log(`${folder}: ${(bytes / 1e9).toFixed(2)} GB in ${shards} shards`);
}

const json = (/** @type {string} */ folder, /** @type {string} */ name, /** @type {object} */ value) => {
  mkdirSync(join(root, folder), { recursive: true });
  writeFileSync(join(root, folder, name), JSON.stringify(value, null, 2));
};

// ---- transformer
const headDim = values.tiny ? 32 : 128;
const d = values.tiny ? 64 : 3072;
// Widths of CLIP and T5.
const [clip, t5] = values.tiny ? [32, 48] : [768, 4096];
/** @type {import('jit-flux').FluxConfig} */
const transformer = {
  doubleBlocks: doubles,
  singleBlocks: singles,
  heads: d / headDim,
  headDim,
  hiddenSize: d,
  inChannels: 64,
  outChannels: 64,
  textDim: t5,
  pooledDim: clip,
  mlpRatio: 4,
  guidance: values.variant !== 'schnell',
  ropeAxes: values.tiny ? [8, 12, 12] : [16, 56, 56],
};
writeComponent('transformer', 'diffusion_pytorch_model', fluxTransformerTensors(transformer), 3);
json('transformer', 'config.json', {
  _class_name: 'FluxTransformer2DModel',
  patch_size: 1,
  in_channels: 64,
  num_layers: doubles,
  num_single_layers: singles,
  attention_head_dim: headDim,
  num_attention_heads: transformer.heads,
  joint_attention_dim: t5,
  pooled_projection_dim: clip,
  guidance_embeds: transformer.guidance,
  axes_dims_rope: transformer.ropeAxes,
});

// ---- CLIP-L text model
const [clipMlp, clipVocab] = [4 * clip, 49408];
writeComponent(
  'text_encoder',
  'model',
  clipTensors({ width: clip, mlp: clipMlp, vocab: clipVocab, layers: clipLayers }),
  1,
);
json('text_encoder', 'config.json', {
  architectures: ['CLIPTextModel'],
  model_type: 'clip_text_model',
  vocab_size: clipVocab,
  hidden_size: clip,
  intermediate_size: clipMlp,
  num_hidden_layers: clipLayers,
  num_attention_heads: values.tiny ? 2 : 12,
  max_position_embeddings: 77,
  hidden_act: 'quick_gelu',
  projection_dim: clip,
  layer_norm_eps: 1e-5,
  bos_token_id: 0,
  eos_token_id: 2,
  pad_token_id: 1,
});

// ---- T5 v1.1 XXL encoder
const [t5Mlp, t5Heads, t5Vocab] = values.tiny ? [96, 3, 32128] : [10240, 64, 32128];
writeComponent(
  'text_encoder_2',
  'model',
  t5Tensors({ width: t5, mlp: t5Mlp, heads: t5Heads, vocab: t5Vocab, layers: t5Layers }),
  2,
);
json('text_encoder_2', 'config.json', {
  architectures: ['T5EncoderModel'],
  model_type: 't5',
  vocab_size: t5Vocab,
  d_model: t5,
  d_kv: t5 / t5Heads,
  num_heads: t5Heads,
  d_ff: t5Mlp,
  num_layers: t5Layers,
  feed_forward_proj: 'gated-gelu',
  relative_attention_num_buckets: 32,
  relative_attention_max_distance: 128,
  layer_norm_epsilon: 1e-6,
});

// ---- autoencoder
const channels = values.tiny ? [32, 32, 64, 64] : [128, 256, 512, 512];
writeComponent('vae', 'diffusion_pytorch_model', autoencoderTensors(channels), 1);
json('vae', 'config.json', {
  _class_name: 'AutoencoderKL',
  block_out_channels: channels,
  norm_num_groups: 32,
  in_channels: 3,
  out_channels: 3,
  latent_channels: 16,
  layers_per_block: 2,
  act_fn: 'silu',
  use_quant_conv: false,
  use_post_quant_conv: false,
  mid_block_add_attention: true,
  scaling_factor: 0.3611,
  shift_factor: 0.1159,
});

// ---- tokenizers: the real ids of the special tokens, single characters, and a few merges
const bytes = (() => {
  // GPT-2's printable stand-ins for the 256 bytes.
  const printable = [
    ...range(94).map((i) => i + 33),
    ...range(12).map((i) => i + 161),
    ...range(82).map((i) => i + 174),
  ];
  let extra = 0;
  return range(256).map((b) => String.fromCodePoint(printable.includes(b) ? b : 256 + extra++));
})();
/** @type {Record<string, number>} */
const clipWords = {};
for (const unit of [...bytes, ...bytes.map((unit) => `${unit}</w>`)])
  clipWords[unit] = Object.keys(clipWords).length;
const merges = ['t h', 'th e</w>', 'a n', 'r e', 'e r</w>', 'o n</w>', 'i n', 'in g</w>'];
for (const merge of merges) clipWords[merge.replace(' ', '')] = Object.keys(clipWords).length;
clipWords['<|startoftext|>'] = 49406;
clipWords['<|endoftext|>'] = 49407;
json('tokenizer', 'vocab.json', clipWords);
writeFileSync(join(root, 'tokenizer', 'merges.txt'), `#version: 0.2\n${merges.join('\n')}\n`);
json('tokenizer', 'tokenizer_config.json', {
  tokenizer_class: 'CLIPTokenizer',
  model_max_length: 77,
  bos_token: '<|startoftext|>',
  eos_token: '<|endoftext|>',
  pad_token: '<|endoftext|>',
  unk_token: '<|endoftext|>',
});
json('tokenizer', 'special_tokens_map.json', {
  bos_token: '<|startoftext|>',
  eos_token: '<|endoftext|>',
  pad_token: '<|endoftext|>',
  unk_token: '<|endoftext|>',
});

const pieces = [
  ['<pad>', 0],
  ['</s>', 0],
  ['<unk>', 0],
  ['▁', -2],
  ...range(95).map((i) => [String.fromCharCode(32 + i), -5]),
  ...range(95).map((i) => [`▁${String.fromCharCode(32 + i)}`, -4.5]),
  ...['▁the', '▁a', '▁of', '▁and', 'ing', 'er', '▁in', '▁on'].map((piece, i) => [piece, -3 - i / 10]),
].filter(([piece], i, all) => piece !== ' ' && piece !== '▁ ' && all.findIndex(([p]) => p === piece) === i);
json('tokenizer_2', 'tokenizer.json', {
  version: '1.0',
  truncation: null,
  padding: null,
  added_tokens: ['<pad>', '</s>', '<unk>'].map((content, id) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  })),
  normalizer: { type: 'NFKC' },
  pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always', split: true },
  post_processor: {
    type: 'TemplateProcessing',
    single: [{ Sequence: { id: 'A', type_id: 0 } }, { SpecialToken: { id: '</s>', type_id: 0 } }],
    pair: [
      { Sequence: { id: 'A', type_id: 0 } },
      { SpecialToken: { id: '</s>', type_id: 0 } },
      { Sequence: { id: 'B', type_id: 0 } },
      { SpecialToken: { id: '</s>', type_id: 0 } },
    ],
    special_tokens: { '</s>': { id: '</s>', ids: [1], tokens: ['</s>'] } },
  },
  decoder: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always', split: true },
  model: { type: 'Unigram', unk_id: 2, vocab: pieces },
});
json('tokenizer_2', 'tokenizer_config.json', {
  tokenizer_class: 'T5Tokenizer',
  model_max_length: 512,
  eos_token: '</s>',
  pad_token: '<pad>',
  unk_token: '<unk>',
});

json('scheduler', 'scheduler_config.json', {
  _class_name: 'FlowMatchEulerDiscreteScheduler',
  num_train_timesteps: 1000,
  shift: values.variant === 'schnell' ? 1.0 : 3.0,
  use_dynamic_shifting: values.variant !== 'schnell',
  base_shift: 0.5,
  max_shift: 1.15,
  base_image_seq_len: 256,
  max_image_seq_len: 4096,
});
json('.', 'model_index.json', {
  _class_name: 'FluxPipeline',
  scheduler: ['diffusers', 'FlowMatchEulerDiscreteScheduler'],
  text_encoder: ['transformers', 'CLIPTextModel'],
  text_encoder_2: ['transformers', 'T5EncoderModel'],
  tokenizer: ['transformers', 'CLIPTokenizer'],
  tokenizer_2: ['transformers', 'T5TokenizerFast'],
  transformer: ['diffusers', 'FluxTransformer2DModel'],
  vae: ['diffusers', 'AutoencoderKL'],
});
