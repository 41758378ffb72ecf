// Loads a model, generates one picture and prints what it took: load time, memory against file size, time per stage.
//   node tools/measure-snapshot.mjs <model> [--size 1024] [--preset jit-7x] [--dtype bfloat16] [--out picture.png]
//                                   [--release-encoders]
// Run it in a fresh process: the peak is the process's.
import { readFileSync, statSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { FluxPipeline } from 'jit-flux';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    size: { type: 'string', default: '1024' },
    preset: { type: 'string', default: 'jit-7x' },
    dtype: { type: 'string', default: 'bfloat16' },
    out: { type: 'string' },
    'release-encoders': { type: 'boolean', default: false },
  },
});
const [model] = positionals;
const status = () => {
  const text = readFileSync('/proc/self/status', 'utf8');
  const field = (name) => Number(new RegExp(`${name}:\\s+(\\d+)`).exec(text)[1]) * 1024;
  return { peak: field('VmHWM'), resident: field('VmRSS'), own: field('RssAnon'), mapped: field('RssFile') };
};
const gb = (bytes) => (bytes / 1e9).toFixed(2);
const weights = (directory) =>
  readdirSync(directory, { withFileTypes: true }).reduce((sum, entry) => {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) return sum + weights(path);
    return /\.(safetensors|pt)$/.test(entry.name) ? sum + statSync(path).size : sum;
  }, 0);

const rows = [];
const note = (what, seconds) => {
  const { resident, own, mapped, peak } = status();
  rows.push([what, seconds.toFixed(2), gb(resident), gb(own), gb(mapped), gb(peak)]);
  console.error(what);
};
const files = weights(model);
note('start', 0);
let started = performance.now();
const pipeline = await FluxPipeline.load(model, {
  dtype: values.dtype,
  keepTextEncoders: !values['release-encoders'],
});
note('load', (performance.now() - started) / 1000);
let ownPeak = 0;
const watch = setInterval(() => (ownPeak = Math.max(ownPeak, status().own)), 50);
started = performance.now();
const size = Number(values.size);
const { images, timings, plan } = await pipeline.generate({
  prompt: 'a lighthouse on a cliff above the sea at dawn, oil painting',
  preset: values.preset,
  width: size,
  height: size,
  seed: 1,
});
clearInterval(watch);
note('generate', (performance.now() - started) / 1000);
if (values.out) writeFileSync(values.out, images[0].toPNG());
await pipeline.dispose();
note('disposed', 0);

const table = (header, lines) => {
  console.log(`| ${header.join(' | ')} |\n|${header.map(() => '---|').join('')}`);
  for (const line of lines) console.log(`| ${line.join(' | ')} |`);
  console.log();
};
console.log(`${model}: ${gb(files)} GB of weights, ${values.dtype}, ${size}x${size}, ${values.preset}\n`);
table(['after', 'seconds', 'resident GB', 'of it own GB', 'of it mapped GB', 'peak so far GB'], rows);
console.log(`Largest own (not mapped) memory seen while generating: ${gb(ownPeak)} GB\n`);
table(
  ['part', 'seconds', 'per step'],
  [
    ['text encoders', (timings.encode / 1000).toFixed(2), ''],
    ['condition', (timings.condition / 1000).toFixed(2), ''],
    ...timings.stages.map(({ stage, steps, activeTokens, milliseconds }) => [
      `stage ${stage}: ${steps} x ${activeTokens} of ${plan.totalTokens} tokens`,
      (milliseconds / 1000).toFixed(2),
      (milliseconds / 1000 / steps).toFixed(2),
    ]),
    ['decode', (timings.decode / 1000).toFixed(2), ''],
  ],
);
