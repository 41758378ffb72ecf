// What every project here runs: a picture, its PNG from the thread, and a prompt so long that a thread encodes it.
import { BUNDLED_MODEL, FluxPipeline } from 'jit-flux';

const pipeline = await FluxPipeline.load(BUNDLED_MODEL);
const request = { prompt: 'a red circle', width: 64, height: 64, steps: 2, seed: 1 };
const { images } = await pipeline.generate(request);
const png = await images[0].toPNGAsync();
const { tokens } = await pipeline.encodePrompt('a red circle '.repeat(1000));
await pipeline.dispose();
console.log(JSON.stringify({ png: png.length, prompts: tokens.length }));
