// Two copies of the package in one process: node copies.mjs <package> <package> [other LibTorch for the second].
// Prints what came of each: an image's size, or the error.
import { pathToFileURL } from 'node:url';
import { join } from 'node:path';

const [first, second, otherLibTorch] = process.argv.slice(2);
const results = [];
for (const directory of [first, second]) {
  if (directory === second && otherLibTorch) process.env.JIT_FLUX_LIBTORCH = otherLibTorch;
  const { BUNDLED_MODEL, FluxPipeline } = await import(
    pathToFileURL(join(directory, 'dist', 'index.js')).href
  );
  try {
    const pipeline = await FluxPipeline.load(BUNDLED_MODEL);
    const { images } = await pipeline.generate({
      prompt: 'a heart',
      width: 64,
      height: 64,
      steps: 4,
      seed: 0,
    });
    await pipeline.dispose();
    results.push({ width: images[0].width });
  } catch (error) {
    results.push({ code: error.code, message: error.message });
  }
}
console.log(JSON.stringify(results));
