// Scripting the sampler: an activation policy of your own, every quantity in reach, any velocity model.
//   node examples/custom-sampler.mjs
import { jit, JitSampler, Tensor } from 'jit-flux';

/** @type {import('jit-flux').Grid} */
const grid = [16, 16];
const tokens = grid[0] * grid[1];

// A stand-in for a transformer: the flow towards one fixed picture x0, v = (x - x0) / sigma. Replace it by
// `transformer.bind(conditioning)`, or by a backbone of your own.
const x0 = Tensor.from(
  Float32Array.from({ length: tokens }, (_, i) => Math.sin(i / 9)),
  [1, tokens, 1],
);
/** @type {import('jit-flux').VelocityModel<Tensor>} */
const model = {
  async velocity({ tokens: x, anchors, sigma }) {
    const here = anchors ? await jit.gather(x0, anchors) : x0.clone();
    const [xs, goal] = [await x.toFloat32Array(), await here.toFloat32Array()];
    here.dispose();
    return Tensor.from(
      xs.map((value, i) => (value - goal[i]) / sigma),
      [...x.shape],
    );
  },
};

// Tokens join row by row from the top.
/** @type {import('jit-flux').ActivationPolicy} */
const topDown = ({ anchors, targetCount, grid: [rows, cols] }) => {
  const active = new Set(anchors);
  for (let token = 0; active.size < targetCount && token < rows * cols; token++) active.add(token);
  return Int32Array.from(active);
};

const latents = Tensor.randn([1, tokens, 1], { seed: 1 });
const sampler = new JitSampler(model, {
  grid,
  latents,
  preset: 'jit-7x',
  activation: topDown,
  microFlow: { mode: 'finite-time' },
});
for await (const { step, sigma, activeTokens, latents: state } of sampler) {
  const [values, goal] = [await state.toFloat32Array(), await x0.toFloat32Array()];
  const error = Math.sqrt(values.reduce((sum, value, i) => sum + (value - goal[i]) ** 2, 0) / tokens);
  console.log(
    `step ${step}: sigma ${sigma.toFixed(3)}, ${activeTokens} tokens, rms error ${error.toFixed(3)}`,
  );
}
sampler.dispose();
latents.dispose();
x0.dispose();
