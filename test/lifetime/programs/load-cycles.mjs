// Loads the bundled model, makes a picture and disposes the model, 200 times.
import { BUNDLED_MODEL, FluxPipeline } from '../../../dist/index.js';
import { sample } from './resources.mjs';

const samples = [];
for (let i = 0; i < 200; i++) {
  const pipeline = await FluxPipeline.load(BUNDLED_MODEL);
  await pipeline.generate({
    prompt: 'a red circle',
    width: 64,
    height: 64,
    steps: 1,
    preset: 'dense',
    seed: i,
  });
  await pipeline.dispose();
  samples.push(sample());
}
console.log(JSON.stringify(samples));
