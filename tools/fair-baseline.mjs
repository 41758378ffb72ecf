#!/usr/bin/env node
// The comparison that says the most: JiT against dense sampling of the same cost. Pictures of the bundled model by every preset,
// and by as many dense steps as cost the same FLOPs, against those of 50 dense steps from the same noise (PSNR, dB).
//   node tools/fair-baseline.mjs [--prompts n] [--size pixels]
import { parseArgs } from 'node:util';
import { BUNDLED_MODEL, createPlan, FluxPipeline, psnr } from '../dist/index.js';

const { values } = parseArgs({
  options: { prompts: { type: 'string', default: '16' }, size: { type: 'string', default: '256' } },
});
const COLOURS = ['red', 'orange', 'yellow', 'green', 'cyan', 'blue', 'purple', 'pink'];
const SHAPES = ['circle', 'square', 'triangle', 'star', 'heart', 'diamond', 'ring', 'cross'];
const BACKGROUNDS = ['white', 'black', 'grey', 'brown'];
// Drawn by a rule, not picked.
const prompts = Array.from({ length: Number(values.prompts) }, (_, i) => {
  const colour = COLOURS[(3 * i) % COLOURS.length];
  const shape = SHAPES[(5 * i + 1) % SHAPES.length];
  const other = COLOURS[(3 * i + 4) % COLOURS.length];
  const second = SHAPES[(5 * i + 3) % SHAPES.length];
  return `a ${colour} ${shape} above a ${other} ${second} on a ${BACKGROUNDS[i % BACKGROUNDS.length]} background`;
});

const pipeline = await FluxPipeline.load(BUNDLED_MODEL);
const side = Number(values.size);
const picture = async (/** @type {string} */ prompt, /** @type {number} */ seed, /** @type {object} */ o) => {
  const { images } = await pipeline.generate({ prompt, seed, width: side, height: side, ...o });
  return /** @type {import('../dist/index.js').GeneratedImage} */ (images[0]);
};

const tokens = side / 8;
const model = { config: pipeline.config, textTokens: pipeline.model.text.length };
const rows = ['jit-4x', 'jit-7x'].map((preset) => {
  const plan = createPlan({ preset: /** @type {'jit-4x'} */ (preset), grid: [tokens, tokens], model });
  const speedup = plan.flops?.speedup.dense50 ?? 1;
  return { preset, speedup, steps: Math.round(50 / speedup), jit: /** @type {number[]} */ ([]), dense: /** @type {number[]} */ ([]) };
}); // prettier-ignore
for (const [seed, prompt] of prompts.entries()) {
  const reference = await picture(prompt, seed, { preset: 'dense' });
  for (const row of rows) {
    row.jit.push(psnr(await picture(prompt, seed, { preset: row.preset }), reference));
    row.dense.push(psnr(await picture(prompt, seed, { preset: 'dense', steps: row.steps }), reference));
  }
  process.stderr.write(`${seed + 1} of ${prompts.length}\r`);
}
await pipeline.dispose();

const mean = (/** @type {number[]} */ list) =>
  (list.reduce((sum, value) => sum + value, 0) / list.length).toFixed(1);
console.log(`flux-tiny, ${side}x${side}, ${prompts.length} prompts, PSNR against 50 dense steps`);
for (const { preset, speedup, steps, jit, dense } of rows) {
  const better = dense.filter((value, i) => value > Number(jit[i])).length;
  console.log(
    `${preset} (${speedup.toFixed(2)}x): ${mean(jit)} dB; ${steps} dense steps: ${mean(dense)} dB, closer in ${better} of ${jit.length}`,
  );
}
