// Loads a model, generates one picture and tells what it took: load time, memory against file size, time per stage.
// bench/sections/snapshot.mjs starts it afresh, as the peak is the process's. Prints one line of JSON.
//   node bench/programs/snapshot.mjs <model> [--size 1024] [--preset jit-7x] [--dtype bfloat16] [--threads 2]
//                                    [--release-encoders] [--out picture.png]
import { readdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { parseArgs } from 'node:util';
import { FluxPipeline } from 'jit-flux';
import { processMemory } from '../lib/process-memory.mjs';

/**
 * After a phase; bytes, `peak` of the process so far.
 * @typedef {{ after: string, seconds: number, resident: number, own: number, mapped: number, peak: number }} Phase
 */

/**
 * What it prints.
 * @typedef {object} SnapshotRun
 * @property {number} fileBytes of all weights
 * @property {Phase[]} phases
 * @property {number} largestOwn bytes: most memory, not mapped, that was seen while generating
 * @property {{ part: string, seconds: number, steps?: number, activeTokens?: number, totalTokens?: number }[]} parts
 */

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    size: { type: 'string', default: '1024' },
    preset: { type: 'string', default: 'jit-7x' },
    dtype: { type: 'string', default: 'bfloat16' },
    threads: { type: 'string' },
    out: { type: 'string' },
    'release-encoders': { type: 'boolean', default: false },
  },
});
const [model] = positionals;
if (!model) {
  console.error('usage: node bench/programs/snapshot.mjs <model> [options]');
  process.exit(2);
}

/**
 * Bytes of all weight files below a directory.
 * @param {string} directory
 * @returns {number}
 */
const weightBytes = (directory) =>
  readdirSync(directory, { withFileTypes: true }).reduce((sum, entry) => {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) return sum + weightBytes(path);
    return /\.(safetensors|pt)$/.test(entry.name) ? sum + statSync(path).size : sum;
  }, 0);

/** @type {Phase[]} */
const phases = [];
/** @type {(after: string, started: number) => void} */
const note = (after, started) => {
  phases.push({
    after,
    seconds: (performance.now() - started) / 1000,
    resident: processMemory('VmRSS'),
    own: processMemory('RssAnon'),
    mapped: processMemory('RssFile'),
    peak: processMemory('VmHWM'),
  });
};

const fileBytes = weightBytes(model);
note('start', performance.now());
let started = performance.now();
const pipeline = await FluxPipeline.load(model, {
  dtype: /** @type {'bfloat16' | 'float32'} */ (values.dtype),
  keepTextEncoders: !values['release-encoders'],
  ...(values.threads !== undefined && { threads: Number(values.threads) }),
});
note('load', started);
let largestOwn = processMemory('RssAnon');
const watch = setInterval(() => (largestOwn = Math.max(largestOwn, processMemory('RssAnon'))), 50);
started = performance.now();
const size = Number(values.size);
const { images, timings, plan } = await pipeline.generate({
  prompt: 'a lighthouse on a cliff above the sea at dawn, oil painting',
  preset: /** @type {import('jit-flux').PresetName} */ (values.preset),
  width: size,
  height: size,
  seed: 1,
});
clearInterval(watch);
note('generate', started);
const [image] = images;
if (values.out && image) writeFileSync(values.out, image.toPNG());
started = performance.now();
await pipeline.dispose();
note('dispose', started);

/** @type {SnapshotRun} */
const found = {
  fileBytes,
  phases,
  largestOwn,
  parts: [
    { part: 'text encoders', seconds: timings.encode / 1000 },
    { part: 'condition', seconds: timings.condition / 1000 },
    ...timings.stages.map(({ stage, steps, activeTokens, milliseconds }) => ({
      part: `stage ${stage}`,
      seconds: milliseconds / 1000,
      steps,
      activeTokens,
      totalTokens: plan.totalTokens,
    })),
    { part: 'decode', seconds: timings.decode / 1000 },
  ],
};
console.log(JSON.stringify(found));
