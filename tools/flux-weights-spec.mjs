// Prints the tensors of a FLUX transformer with random weights, and its configuration, for tools/flux-random-weights.py:
// names, shapes, mean and scale as tools/lib/random-weights.mjs has them.
//   node tools/flux-weights-spec.mjs [--model flux|tiny] > spec.json
import { parseArgs } from 'node:util';
import { GPU_MODELS } from '../bench/gpu/models.mjs';
import { fluxTransformerTensors } from './lib/random-weights.mjs';

const { values } = parseArgs({ options: { model: { type: 'string', default: 'flux' } } });
const model = GPU_MODELS[values.model];
if (model === undefined) {
  console.error(`Unknown model ${values.model}; there are ${Object.keys(GPU_MODELS).join(', ')}`);
  process.exit(2);
}
console.log(
  JSON.stringify({
    dtype: 'bfloat16',
    config: { axes_dims_rope: model.config.ropeAxes },
    tensors: fluxTransformerTensors(model.config),
  }),
);
