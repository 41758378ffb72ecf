// Peak memory of a process that loads a model and computes one velocity; bench/sections/load.mjs starts it afresh for
// every figure, as the peak is the process's. Prints one line of JSON.
//   node bench/programs/first-forward-memory.mjs <weights> <load options as JSON> <text tokens> <grid as JSON>
import { performance } from 'node:perf_hooks';
import { FluxTransformer, Tensor } from 'jit-flux';
import { processMemory } from '../lib/process-memory.mjs';

/**
 * What it prints; bytes, less what the engine takes by itself.
 * @typedef {object} FirstForward
 * @property {number} peak
 * @property {number} afterLoad
 * @property {number} resident after the first passes
 * @property {number} ownResident not mapped, the engine's included
 * @property {number} engine before loading
 * @property {number} prepareSeconds by which the first pass is longer than later ones
 */

const [path = '', options = '{}', textTokens, gridText = '[16, 16]'] = process.argv.slice(2);
/** @type {[number, number]} */
const grid = JSON.parse(gridText);

// Loads the engine and LibTorch, whose own memory is not the model's.
Tensor.randn([1], { seed: 0 }).dispose();
const before = processMemory('VmRSS');
const model = await FluxTransformer.load(path, JSON.parse(options));
const afterLoad = processMemory('VmRSS');
const { textDim, pooledDim, inChannels } = model.config;
const conditioning = await model.condition({
  prompt: Tensor.randn([1, Number(textTokens), textDim], { seed: 1 }),
  pooled: Tensor.randn([1, pooledDim], { seed: 2 }),
  sigmas: [0.75],
});
const tokens = Tensor.randn([1, grid[0] * grid[1], inChannels], { seed: 3 });
// The first pass prepares the weights.
const seconds = [];
for (let i = 0; i < 3; i++) {
  const started = performance.now();
  (await model.forward({ tokens, grid, conditioning, step: 0 })).dispose();
  seconds.push((performance.now() - started) / 1000);
}
/** @type {FirstForward} */
const found = {
  peak: processMemory('VmHWM') - before,
  afterLoad: afterLoad - before,
  resident: processMemory('VmRSS') - before,
  ownResident: processMemory('RssAnon'),
  engine: before,
  prepareSeconds: (seconds[0] ?? 0) - Math.min(...seconds.slice(1)),
};
console.log(JSON.stringify(found));
