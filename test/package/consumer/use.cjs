// A consumer's CommonJS module; prints the same as use.mjs.
'use strict';
const { createHash } = require('node:crypto');
const { BUNDLED_MODEL, FluxPipeline } = require('jit-flux');
const { createPlan } = require('jit-flux/sampler');

process.on('warning', (warning) => {
  throw warning;
});
async function use() {
  if ((await import('jit-flux')).FluxPipeline !== FluxPipeline)
    throw new Error('require and import gave two instances');
  const pipeline = await FluxPipeline.load(BUNDLED_MODEL);
  const request = { prompt: 'a red circle on a white background', width: 64, height: 64, steps: 4, seed: 0 };
  const { images } = await pipeline.generate(request);
  await pipeline.dispose();
  const pixels = createHash('sha256').update(images[0].data).digest('hex');
  console.log(JSON.stringify({ node: process.version, plan: typeof createPlan, pixels }));
}
void use();
