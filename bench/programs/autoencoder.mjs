// Time and peak memory of one call of an autoencoder; bench/sections/autoencoder.mjs starts it afresh for every case, as
// the peak is the process's. Prints one line of JSON.
//   node bench/programs/autoencoder.mjs <vae.safetensors> decode|encode <dtype> <pixels> <tiling: true|false> <threads>
import { performance } from 'node:perf_hooks';
import { Autoencoder, Tensor } from 'jit-flux';
import { processMemory } from '../lib/process-memory.mjs';

/**
 * What it prints; bytes.
 * @typedef {object} AutoencoderCall
 * @property {number} seconds
 * @property {number} peak VmHWM after the call, less VmRSS before it
 * @property {number} [estimate] `Autoencoder.decodeBytes`, of a decode without tiles
 */

const [path = '', what, dtype, pixelText, tilingText, threads] = process.argv.slice(2);
const vae = await Autoencoder.load(path, {
  dtype: /** @type {'float32' | 'bfloat16'} */ (dtype),
  threads: Number(threads),
});
const pixels = Number(pixelText);
const tiling = tilingText === 'true';
const { latentChannels, spatialFactor } = vae.config;
const side = pixels / spatialFactor;
const isDecode = what === 'decode';
const input = Tensor.randn(isDecode ? [1, latentChannels, side, side] : [1, 3, pixels, pixels], { seed: 0 });
const before = processMemory('VmRSS');
const started = performance.now();
await (isDecode ? vae.decode(input, { tiling }) : vae.encode(input));
const seconds = (performance.now() - started) / 1000;
/** @type {AutoencoderCall} */
const found = {
  seconds,
  peak: processMemory('VmHWM') - before,
  ...(isDecode && !tiling && { estimate: vae.decodeBytes(side, side) }),
};
console.log(JSON.stringify(found));
