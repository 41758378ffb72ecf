// app.mjs for CommonJS.
const { BUNDLED_MODEL, FluxPipeline } = require('jit-flux');

async function main() {
  const pipeline = await FluxPipeline.load(BUNDLED_MODEL);
  const request = { prompt: 'a red circle', width: 64, height: 64, steps: 2, seed: 1 };
  const { images } = await pipeline.generate(request);
  const png = await images[0].toPNGAsync();
  const { tokens } = await pipeline.encodePrompt('a red circle '.repeat(1000));
  await pipeline.dispose();
  console.log(JSON.stringify({ png: png.length, prompts: tokens.length }));
}

void main();
