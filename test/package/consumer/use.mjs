// A consumer's ES module: node use.mjs <output.png>. Prints what it got as JSON; any warning of the process is an error.
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { BUNDLED_MODEL, FluxPipeline } from 'jit-flux';
import { createPlan } from 'jit-flux/sampler';

process.on('warning', (warning) => {
  throw warning;
});
const required = createRequire(import.meta.url)('jit-flux');
if (required.FluxPipeline !== FluxPipeline) throw new Error('require and import gave two instances');
const pipeline = await FluxPipeline.load(BUNDLED_MODEL);
const request = { prompt: 'a red circle on a white background', width: 64, height: 64, steps: 4, seed: 0 };
const { images } = await pipeline.generate(request);
const png = await images[0].toPNGAsync();
if (Buffer.compare(png, images[0].toPNG()) !== 0) throw new Error('toPNGAsync gave other bytes');
if (process.argv[2]) writeFileSync(process.argv[2], png);
await pipeline.dispose();
const pixels = createHash('sha256').update(images[0].data).digest('hex');
console.log(JSON.stringify({ node: process.version, plan: typeof createPlan, pixels }));
