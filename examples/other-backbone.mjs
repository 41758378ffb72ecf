// A backbone that is not FLUX: anything with a `velocity` can be sampled, and accelerated, the same way.
//   node examples/other-backbone.mjs
//
// This one has no weights. It is the ideal velocity model of a data set of three pictures: the mean of the pictures,
// weighted by how likely each is behind the noisy tokens, is where the flow leads. It sees the active tokens only.
import { JitSampler, Tensor } from 'jit-flux';

/** @type {import('jit-flux').Grid} */
const grid = [16, 16];
const tokens = grid[0] * grid[1];
const draw = (/** @type {(y: number, x: number) => number} */ value) =>
  Float32Array.from({ length: tokens }, (_, i) => value(Math.floor(i / grid[1]) - 7.5, (i % grid[1]) - 7.5));
const pictures = {
  disc: draw((y, x) => (x * x + y * y < 30 ? 1 : -1)),
  cross: draw((y, x) => (Math.abs(x) < 2 || Math.abs(y) < 2 ? 1 : -1)),
  stripes: draw((y) => (Math.floor((y + 8) / 4) % 2 === 0 ? 1 : -1)),
};

/** @type {import('jit-flux').VelocityModel<Tensor>} */
const backbone = {
  // tokens: [1, M, 1], anchors: where these M tokens lie, absent for all; sigma: share of noise in them.
  async velocity({ tokens: input, anchors, sigma }) {
    const x = await input.toFloat32Array();
    const at = (/** @type {Float32Array} */ picture, /** @type {number} */ i) =>
      picture[anchors ? anchors[i] : i];
    const candidates = Object.values(pictures);
    const logits = candidates.map((picture) => {
      const distance = x.reduce((sum, value, i) => sum + (value - (1 - sigma) * at(picture, i)) ** 2, 0);
      return -distance / (2 * sigma * sigma);
    });
    const weights = logits.map((logit) => Math.exp(logit - Math.max(...logits)));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    const velocity = x.map((value, i) => {
      const clean = candidates.reduce((sum, picture, k) => sum + (weights[k] / total) * at(picture, i), 0);
      return (value - clean) / sigma; // noise minus data
    });
    return Tensor.from(velocity, [...input.shape]);
  },
};

for (let seed = 0; seed < 6; seed++) {
  const latents = Tensor.randn([1, tokens, 1], { seed });
  const sampler = new JitSampler(backbone, { grid, latents, preset: 'jit-4x', seed });
  let evaluated = 0;
  for await (const { activeTokens } of sampler) evaluated += activeTokens;
  const result = await sampler.latents.toFloat32Array();
  const rms = (/** @type {Float32Array} */ picture) =>
    Math.sqrt(result.reduce((sum, value, i) => sum + (value - picture[i]) ** 2, 0) / tokens);
  const [name, picture] = Object.entries(pictures).sort(([, a], [, b]) => rms(a) - rms(b))[0];
  console.log(
    `seed ${seed}: ${name}, rms error ${rms(picture).toFixed(3)}, ${evaluated} of ${18 * tokens} tokens evaluated`,
  );
  sampler.dispose();
  latents.dispose();
}
