// A preview after every step: the picture that the run is heading for, and how near it is already to the final one.
//   node examples/preview.mjs [prompt] [model directory]
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { BUNDLED_MODEL, FluxPipeline, psnr } from 'jit-flux';

const [prompt = 'a red circle over the sea', model = BUNDLED_MODEL] = process.argv.slice(2);
const folder = mkdtempSync(join(tmpdir(), 'jit-flux-preview-'));

const pipeline = await FluxPipeline.load(model);
try {
  /** @type {import('jit-flux').DecodedImage[]} */
  const previews = [];
  const { images } = await pipeline.generate({
    prompt,
    preset: 'jit-7x',
    seed: 7,
    // Waited for before the next step: decoding takes about as long here as in the end.
    onStep: async (event) => {
      const [preview] = await pipeline.decode(event);
      writeFileSync(join(folder, `step-${event.step + 1}.png`), await preview.toPNGAsync());
      previews.push(preview);
    },
  });
  for (const [step, preview] of previews.entries()) {
    console.log(`step ${step + 1}: ${psnr(preview, images[0]).toFixed(1)} dB from the picture`);
  }
  console.log(folder);
} finally {
  await pipeline.dispose();
}
