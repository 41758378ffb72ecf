// Models of random weights for the programs of this folder: small, but with matrices of 1 MiB and more, which are used
// from the mapping of their file.
import { Tensor } from '../../../dist/engine/index.js';
import {
  autoencoderTensors,
  fluxTransformerTensors,
  linear,
  norm,
  normalTable,
  range,
  writeRandomSafetensors,
} from '../../../tools/lib/random-weights.mjs';

const WIDTH = 512;
const VOCABULARY = 1024;
const normals = normalTable({ size: 1 << 14 });
const float32 = { dtype: /** @type {const} */ ('float32'), normals };

/** @type {[number, number, number]} */
export const ROPE_AXES = [16, 24, 24];

/** A FLUX transformer of one double and one single block, 60 MB. */
export function writeTransformer(/** @type {string} */ path) {
  const config = {
    doubleBlocks: 1,
    singleBlocks: 1,
    heads: WIDTH / 64,
    headDim: 64,
    hiddenSize: WIDTH,
    inChannels: 64,
    outChannels: 64,
    textDim: 64,
    pooledDim: 32,
    mlpRatio: 4,
    guidance: false,
    ropeAxes: ROPE_AXES,
  };
  writeRandomSafetensors(path, fluxTransformerTensors(config), float32);
  return path;
}

/** Velocity of a fixed input of `side` x `side` tokens. */
export async function step(/** @type {import('jit-flux').FluxTransformer} */ model, side = 16) {
  const prompt = Tensor.randn([1, 8, 64], { seed: 1 });
  const pooled = Tensor.randn([1, 32], { seed: 2 });
  const tokens = Tensor.randn([1, side * side, 64], { seed: 3 });
  const conditioning = await model.condition({ prompt, pooled, sigmas: [0.7] });
  const velocity = await model.forward({ tokens, grid: [side, side], conditioning, step: 0 });
  return velocity.toFloat32Array();
}

/** A T5 encoder of two layers, 36 MB. */
export function writeT5(/** @type {string} */ path) {
  const plain = { bias: false };
  const tensors = [
    { name: 'shared.weight', shape: [VOCABULARY, WIDTH], mean: 0, scale: 1 },
    ...range(2).flatMap((i) => {
      const [attention, feed] = [`encoder.block.${i}.layer.0`, `encoder.block.${i}.layer.1`];
      const bias = `${attention}.SelfAttention.relative_attention_bias.weight`;
      return [
        ...['q', 'k', 'v', 'o'].flatMap((n) =>
          linear(`${attention}.SelfAttention.${n}`, WIDTH, WIDTH, plain),
        ),
        ...(i === 0 ? [{ name: bias, shape: [32, 8], mean: 0, scale: 1 }] : []),
        ...norm(`${attention}.layer_norm`, WIDTH, false),
        ...['wi_0', 'wi_1'].flatMap((n) => linear(`${feed}.DenseReluDense.${n}`, 4 * WIDTH, WIDTH, plain)),
        ...linear(`${feed}.DenseReluDense.wo`, WIDTH, 4 * WIDTH, plain),
        ...norm(`${feed}.layer_norm`, WIDTH, false),
      ];
    }),
    ...norm('encoder.final_layer_norm', WIDTH, false),
  ];
  writeRandomSafetensors(path, tensors, float32);
  return path;
}

/** Text tokens of `images` prompts of 256 fixed ids. */
export async function encode(/** @type {import('jit-flux').T5Encoder} */ encoder, images = 1) {
  const ids = BigInt64Array.from({ length: images * 256 }, (_, i) => BigInt(i % VOCABULARY));
  const tokens = Tensor.from(ids, [images, 256]);
  const text = await encoder.encode(tokens);
  return text.toFloat32Array();
}

/** An autoencoder, 4 MB. */
export function writeAutoencoder(/** @type {string} */ path) {
  writeRandomSafetensors(path, autoencoderTensors([32, 32, 64, 64]), float32);
  return path;
}
