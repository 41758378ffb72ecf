// Draws the pictures of a file of captions with the package itself, for evaluate.py to score:
//   node tools/flux-tiny/judge/draw.mjs --captions captions.txt --out pictures --size 512 --preset jit-4x
// Picture i has seed --seed + i, is written to 0000.png, 0001.png, ..., and left alone if it is there: an interrupted
// call is gone on with. --first and --count choose a part of the captions. Prints the time spent in sampling.
import { existsSync } from 'node:fs';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { BUNDLED_MODEL, FluxPipeline } from 'jit-flux';

const { values } = parseArgs({
  options: {
    model: { type: 'string', default: BUNDLED_MODEL },
    captions: { type: 'string' },
    out: { type: 'string' },
    size: { type: 'string', default: '256' },
    preset: { type: 'string', default: 'dense' },
    steps: { type: 'string' },
    guidance: { type: 'string', default: '3.5' },
    first: { type: 'string', default: '0' },
    count: { type: 'string' },
    seed: { type: 'string', default: '1234' },
    batch: { type: 'string', default: '1' },
    device: { type: 'string', default: 'cpu' },
    dtype: { type: 'string', default: 'float32' },
    // A model that was just exported is not among those whose code the package knows.
    'allow-torchscript-code': { type: 'boolean', default: false },
  },
});
const { captions: captionFile, out } = values;
if (!captionFile || !out) throw new Error('--captions and --out are needed');

const captions = (await readFile(captionFile, 'utf8')).trimEnd().split('\n');
const size = Number(values.size);
const path = (/** @type {number} */ i) => join(out, `${String(i).padStart(4, '0')}.png`);
await mkdir(out, { recursive: true });
const pipeline = await FluxPipeline.load(values.model, {
  // What they may be is checked by `load`, and the preset by `generate`.
  device: /** @type {import('jit-flux').Device} */ (values.device),
  dtype: /** @type {NonNullable<import('jit-flux').LoadOptions['dtype']>} */ (values.dtype),
  allowTorchScriptCode: values['allow-torchscript-code'],
});

const first = Number(values.first);
const last = Math.min(captions.length, first + Number(values.count ?? captions.length));
const open = Array.from({ length: Math.max(0, last - first) }, (_, i) => first + i).filter(
  (i) => !existsSync(path(i)),
);
let sampling = 0;
let drawn = 0;
// Images of one request have consecutive seeds, so a batch is a run of consecutive pictures.
while (open.length > 0) {
  let n = 1;
  while (n < Number(values.batch) && open[n] === open[0] + n) n++;
  const indices = open.splice(0, n);
  const { images, timings } = await pipeline.generate({
    prompt: indices.map((i) => captions[i]),
    preset: /** @type {import('jit-flux').PresetName} */ (values.preset),
    ...(values.steps && { steps: Number(values.steps) }),
    width: size,
    height: size,
    guidance: Number(values.guidance),
    seed: Number(values.seed) + indices[0],
  });
  for (const [k, i] of indices.entries()) {
    await writeFile(`${path(i)}.part`, await images[k].toPNGAsync());
    await rename(`${path(i)}.part`, path(i));
  }
  sampling += timings.stages.reduce((sum, stage) => sum + stage.milliseconds, 0);
  drawn += indices.length;
  if (drawn % 50 < n) console.log(`${out}: ${drawn} pictures, ${Math.round(sampling / drawn)} ms each`);
}
await pipeline.dispose();
console.log(
  `${out}: ${drawn} pictures drawn, ${drawn ? Math.round(sampling / drawn) : 0} ms of sampling each`,
);
