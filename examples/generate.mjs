// A picture from the bundled model, with progress and cancellation.
//   node examples/generate.mjs [output.png]
import { writeFile } from 'node:fs/promises';
import { BUNDLED_MODEL, FluxPipeline } from 'jit-flux';

const output = process.argv[2] ?? 'example.png';
const controller = new AbortController();
process.once('SIGINT', () => controller.abort());

const pipeline = await FluxPipeline.load(BUNDLED_MODEL);
try {
  const { images, seed, timings } = await pipeline.generate({
    prompt: 'a red circle left of a striped blue square on a grey background',
    preset: 'jit-4x',
    width: 128,
    height: 128,
    seed: 7,
    signal: controller.signal,
    onStep: ({ step, steps, stage, activeTokens, totalTokens }) =>
      console.log(`step ${step + 1}/${steps}, stage ${stage}: ${activeTokens} of ${totalTokens} tokens`),
  });
  await writeFile(output, images[0].toPNG());
  console.log(`${output}: seed ${seed}, ${Math.round(timings.total)} ms`);
} finally {
  await pipeline.dispose();
}
