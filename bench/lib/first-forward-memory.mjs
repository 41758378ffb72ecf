// Peak memory of a process that loads a model and computes one velocity; bench/sections/load.mjs starts it afresh for
// every figure, as the peak is the process's. Prints one line of JSON.
//   node bench/lib/first-forward-memory.mjs <weights> <load options as JSON> <text tokens> <grid as JSON>
import { readFileSync } from 'node:fs';
import { performance } from 'node:perf_hooks';
import { FluxTransformer, Tensor } from 'jit-flux';

const [path, options, textTokens, gridText] = process.argv.slice(2);
const grid = JSON.parse(gridText);

/** A field of /proc/self/status, in bytes. */
function status(field) {
  const text = readFileSync('/proc/self/status', 'utf8');
  return Number(new RegExp(`${field}:\\s+(\\d+) kB`).exec(text)[1]) * 1024;
}

// Loads the engine and LibTorch, whose own memory is not the model's.
Tensor.randn([1], { seed: 0 }).dispose();
const before = status('VmRSS');
const model = await FluxTransformer.load(path, JSON.parse(options));
const afterLoad = status('VmRSS');
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
console.log(
  JSON.stringify({
    peak: status('VmHWM') - before,
    afterLoad: afterLoad - before,
    resident: status('VmRSS') - before,
    ownResident: status('RssAnon'),
    engine: before,
    prepareSeconds: seconds[0] - Math.min(...seconds.slice(1)),
  }),
);
