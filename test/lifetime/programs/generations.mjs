// Makes 1000 small pictures with one pipeline, now and then aborted, batched or left.
import { BUNDLED_MODEL, FluxPipeline } from '../../../dist/index.js';
import { sample } from './resources.mjs';

const pipeline = await FluxPipeline.load(BUNDLED_MODEL, { dynamicBatching: { maxImages: 2 } });
const request = { prompt: 'a red circle', width: 96, height: 96, steps: 3 };
const signal = new AbortController().signal;
const samples = [];
for (let i = 0; i < 1000; i += 4) {
  const gone = new AbortController();
  const outcomes = await Promise.allSettled([
    // A signal that outlives its requests must not collect listeners.
    pipeline.generate({ ...request, seed: i, signal }),
    pipeline.generate({ ...request, seed: i + 1 }),
    pipeline.generate({ ...request, seed: i + 2 }),
    pipeline.generate({ ...request, seed: i + 3, signal: gone.signal, onStep: () => gone.abort() }),
  ]);
  const ends = outcomes.map(({ status }) => status).join();
  if (ends !== 'fulfilled,fulfilled,fulfilled,rejected') throw new Error(ends);
  for await (const event of pipeline.steps({ ...request, seed: i })) if (event.step === 0) break;
  samples.push(sample());
}
await pipeline.dispose();
console.log(JSON.stringify(samples));
