// Draws docs/images/presets.png and docs/gallery.md: four prompts, three presets, with times and token counts.
//   node tools/gallery.mjs      (after npm run build:all)
import { mkdir, writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { encode } from 'fast-png';
import { BUNDLED_MODEL, engineInfo, FluxPipeline, PRESET_NAMES } from 'jit-flux';

const PROMPTS = [
  'a red circle left of a striped blue square on a grey background',
  'a large yellow star in the night sky',
  'a large orange circle at the top over the sea',
  'a checkered black square on a cyan background',
];
const SIZE = 256;
const SEED = 7;
const GAP = 4;

const pipeline = await FluxPipeline.load(BUNDLED_MODEL);
const rows = [];
// The first run of a process pays for page faults and code paths never taken before.
await pipeline.generate({ prompt: PROMPTS[0], preset: 'jit-7x', width: SIZE, height: SIZE, seed: 0 });
for (const prompt of PROMPTS) {
  const row = [];
  for (const preset of PRESET_NAMES) {
    const { images, plan, timings } = await pipeline.generate({
      prompt,
      preset,
      seed: SEED,
      width: SIZE,
      height: SIZE,
    });
    const sampling = timings.stages.reduce((sum, stage) => sum + stage.milliseconds, 0);
    row.push({ preset, plan, sampling, data: images[0].data });
    console.log(`${preset}: ${Math.round(sampling)} ms  ${prompt}`);
  }
  rows.push({ prompt, row });
}
await pipeline.dispose();

const columns = PRESET_NAMES.length;
const width = columns * SIZE + (columns - 1) * GAP;
const height = rows.length * SIZE + (rows.length - 1) * GAP;
const sheet = new Uint8Array(width * height * 3).fill(255);
rows.forEach(({ row }, r) =>
  row.forEach(({ data }, c) => {
    for (let y = 0; y < SIZE; y++) {
      const to = ((r * (SIZE + GAP) + y) * width + c * (SIZE + GAP)) * 3;
      sheet.set(data.subarray(y * SIZE * 3, (y + 1) * SIZE * 3), to);
    }
  }),
);
const docs = new URL('../docs/', import.meta.url);
await mkdir(new URL('images/', docs), { recursive: true });
await writeFile(
  new URL('images/presets.png', docs),
  encode({ width, height, data: sheet, channels: 3, depth: 8 }),
);

const tokens = (/** @type {import('jit-flux').JitPlan} */ plan) =>
  plan.stages.map(({ steps, activeTokens }) => `${steps} x ${activeTokens}`).join(', ');
const [, ...others] = PRESET_NAMES;
const lines = [
  '# Presets side by side',
  '',
  `Bundled model, ${SIZE}x${SIZE} (1024 tokens), seed ${SEED}, nothing picked. Columns: ${PRESET_NAMES.join(', ')}.`,
  'Written by `node tools/gallery.mjs`.',
  '',
  '![presets](images/presets.png)',
  '',
  'On this model as few dense steps as cost the same come closer to 50 dense steps than JiT does, since its flow is nearly straight;',
  'on FLUX.1-dev the paper measured the opposite ([README](../README.md#jit-flux)).',
  '',
  `Sampling time in seconds on ${cpus().length} cores (${engineInfo().isa}); this machine is shared, so only the ratios`,
  'mean anything. flux-tiny is so small that attention and overhead weigh more than in FLUX.1-dev, where the presets',
  'save 4.14x and 6.96x of the FLOPs (`npx jit-flux plan`).',
  '',
  `| prompt | ${PRESET_NAMES.join(' | ')} | ${others.map((name) => `dense / ${name}`).join(' | ')} |`,
  `|---|${'---|'.repeat(columns + others.length)}`,
  ...rows.map(({ prompt, row }) => {
    const times = row.map(({ sampling }) => (sampling / 1000).toFixed(2));
    const ratios = row.slice(1).map(({ sampling }) => `${(row[0].sampling / sampling).toFixed(2)}x`);
    return `| ${prompt} | ${times.join(' | ')} | ${ratios.join(' | ')} |`;
  }),
  '',
  '| preset | steps x active tokens |',
  '|---|---|',
  ...rows[0].row.map(({ preset, plan }) => `| ${preset} | ${tokens(plan)} |`),
  '',
];
await writeFile(new URL('gallery.md', docs), lines.join('\n'));
