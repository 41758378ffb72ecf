#!/usr/bin/env node
// FLUX.1-dev with random weights on one device, against eager PyTorch on the same one.
//   node bench/gpu/run.mjs --json FILE [--device cuda] [--model flux|tiny] [--tiny] [--only resident,peer,...]
//                          [--work DIR] [--python python3] [--budget SECONDS] [--keep]
// --keep leaves the weights where they are, for the next call. --tiny: a toy model, for trying the script out on any machine (with --device cpu). The result is written after every
// part, so that a run that is cut short leaves what it has. docs/gpu/README.md says what is measured; usually
// scripts/gpu-check runs this.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, statfsSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { clearTimeout } from 'node:timers';
import { parseArgs } from 'node:util';
import { anchorsFor } from '../lib/engine.mjs';
import { ROOT } from '../lib/paths.mjs';
import { relativeDifference } from '../lib/statistics.mjs';
import { fluxTransformerTensors } from '../../tools/lib/random-weights.mjs';
import { GPU_MODELS, GUIDANCE, SEEDS, SHARES, SIGMA } from './models.mjs';
import { runPart } from './part-process.mjs';
import { velocityName } from './parts.mjs';
import { StageRecord } from './record.mjs';

/**
 * In order of importance. `least`: with less time left a part is not begun; `most`: what it gets at most. Seconds at full
 * size.
 */
const SEQUENCE = [
  { name: 'weights', least: 20, most: 90 },
  { name: 'resident', least: 40, most: 110 },
  { name: 'peer', least: 30, most: 90 },
  { name: 'graphs', least: 30, most: 60 },
  { name: 'modulation', least: 25, most: 45 },
  { name: 'streaming', least: 25, most: 60 },
  { name: 'large', least: 30, most: 70 },
  { name: 'encoders', least: 45, most: 110 },
];

const { values } = parseArgs({
  options: {
    json: { type: 'string' },
    device: { type: 'string', default: 'cuda' },
    tiny: { type: 'boolean', default: false },
    only: { type: 'string' },
    work: { type: 'string' },
    python: { type: 'string', default: process.env.JIT_FLUX_PYTHON || 'python3' },
    budget: { type: 'string', default: '540' },
    keep: { type: 'boolean', default: false },
  },
});
if (!values.json) fail('Expected --json FILE');
const only = values.only?.split(',');
for (const name of only ?? []) {
  if (!SEQUENCE.some((part) => part.name === name)) fail(`Unknown part ${name}`);
}
const device = values.device;
const model = GPU_MODELS[values.tiny ? 'tiny' : 'flux'];
const weightBytes =
  2 * fluxTransformerTensors(model.config).reduce((sum, { shape }) => sum + product(shape), 0);
const deadline = performance.now() + Number(values.budget) * 1000;
const left = () => (deadline - performance.now()) / 1000;

const weightsName = `flux-${values.tiny ? 'tiny' : 'dev'}.safetensors`;
const work = resolve(values.work ?? placeFor(weightBytes));
mkdirSync(work, { recursive: true });
const weights = join(work, weightsName);
const snapshot = join(work, `encoders-${values.tiny ? 'tiny' : 'full'}`);
const record = new StageRecord(resolve(values.json), 'bench');

const RUN = {
  weights: async () => {
    // It gets its name when it is complete: an earlier call left it on a machine that is still the same.
    if (existsSync(weights)) return { work, bytes: statSync(weights).size, isReused: true };
    const spec = join(work, 'spec.json');
    writeFileSync(
      spec,
      JSON.stringify({
        dtype: 'bfloat16',
        config: { axes_dims_rope: model.config.ropeAxes },
        tensors: fluxTransformerTensors(model.config),
      }),
    );
    const generator = device === 'cpu' ? 'cpu' : 'cuda';
    return {
      work,
      ...(await python('tools/flux-random-weights.py', [spec, weights, '--device', generator])),
    };
  },
  peer: async (seconds) => {
    const { grid } = model;
    const request = join(work, 'peer.json');
    const savedBy = (share) => join(work, `peer-${velocityName(share)}`);
    writeFileSync(
      request,
      JSON.stringify({
        path: weights,
        config: model.config,
        dtype: 'bfloat16',
        device,
        textTokens: model.textTokens,
        seeds: SEEDS,
        guidance: GUIDANCE,
        sigma: SIGMA,
        rounds: 15,
        seconds: seconds * 0.4,
        cases: SHARES.map((share) => {
          const anchors = anchorsFor(grid, share);
          return {
            name: String(share),
            grid,
            ...(anchors && { anchors: [...anchors] }),
            save: savedBy(share),
          };
        }),
      }),
    );
    const answer = await python('bench/peer/gpu.py', [request]);
    // Ours were written by the part `resident`, if it ran in this folder.
    const differences = SHARES.map((share) => {
      const ours = join(work, velocityName(share));
      return {
        share,
        difference: existsSync(ours) ? relativeDifference(floats(ours), floats(savedBy(share))) : null,
      };
    });
    return { ...answer, differences };
  },
  encoders: async (seconds) => {
    const started = performance.now();
    if (!existsSync(join(snapshot, 'vae', 'config.json'))) {
      const args = values.tiny ? ['--tiny'] : ['--t5-layers', '24'];
      await run(process.execPath, [join(ROOT, 'tools', 'synthetic-snapshot.mjs'), snapshot, ...args]);
    }
    const writeSeconds = (performance.now() - started) / 1000;
    const found = await runPart('encoders', context(seconds - writeSeconds), seconds);
    const errors = Object.values(found).flatMap(({ error }) => error ?? []);
    // One that fails is a row of the report; all of them are a failure.
    if (errors.length === Object.keys(found).length) throw new Error(errors[0]);
    return { writeSeconds, ...found };
  },
};

for (const { name, least, most } of SEQUENCE) {
  if (only && !only.includes(name)) continue;
  const enough = values.tiny ? 1 : least;
  if (left() < enough) {
    record.skip(name, `${Math.max(0, left()).toFixed(0)} s were left, ${enough} s are needed`);
    continue;
  }
  if (name !== 'weights' && name !== 'encoders' && !existsSync(weights)) {
    record.skip(name, 'there are no weights');
    continue;
  }
  // What is left over is shared by the parts that come later.
  const seconds = Math.min(most, left());
  await record.step(name, () =>
    name in RUN ? RUN[name](seconds) : runPart(name, context(seconds), Math.min(seconds * 2, left() + 15)),
  );
}
if (!values.keep && !values.work) rmSync(work, { recursive: true, force: true });
record.finish();

/** @returns {import('./parts.mjs').Context} */
function context(seconds) {
  return { weights, snapshot, model, device, work, seconds, tiny: values.tiny };
}

/**
 * Where the weights are already, or where they fit: in memory if possible, because they are read several times. The
 * encoders' come on top.
 */
function placeFor(bytes) {
  const places = ['/dev/shm', tmpdir(), join(ROOT, 'build')].map((place) =>
    join(place, 'jit-flux-gpu-bench'),
  );
  const known = places.find((place) => existsSync(join(place, weightsName)));
  if (known) return known;
  const wanted = bytes + (values.tiny ? 2 ** 28 : 14e9);
  for (const place of places) {
    if (place.startsWith('/dev/shm/')) enlargeSharedMemory(wanted);
    try {
      const { bavail, bsize } = statfsSync(dirname(place));
      if (bavail * bsize > wanted) return place;
    } catch {
      // Not there: the next one.
    }
  }
  return fail(`No place for ${(wanted / 1e9).toFixed(0)} GB of weights; name one with --work`);
}

/** /dev/shm takes half of the memory that the machine had when it started, and a lent one starts with little. */
function enlargeSharedMemory(bytes) {
  if (process.getuid?.() !== 0 || device === 'cpu') return;
  const available =
    Number(/MemAvailable:\s+(\d+)/.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1] ?? 0) * 1024;
  const { blocks, bavail, bsize } = statfsSync('/dev/shm');
  if (bavail * bsize > bytes || available < 1.5 * bytes) return;
  const size = Math.ceil(blocks * bsize + bytes);
  const { status } = spawnSync('mount', ['-o', `remount,size=${size}`, '/dev/shm'], { stdio: 'inherit' });
  console.log(
    `bench: /dev/shm enlarged to ${(size / 1e9).toFixed(0)} GB: ${status === 0 ? 'done' : 'refused'}`,
  );
}

/** The JSON object in the last line that a Python program of ours prints. */
async function python(script, args) {
  const output = await run(values.python, [join(ROOT, script), ...args]);
  return JSON.parse(output.trim().split('\n').at(-1));
}

async function run(command, args) {
  const env = { ...process.env, PYTHONDONTWRITEBYTECODE: '1', PYTHONUNBUFFERED: '1' };
  const child = spawn(command, args, { cwd: ROOT, env, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  let errors = '';
  child.stdout.setEncoding('utf8').on('data', (text) => (output += text));
  child.stderr.setEncoding('utf8').on('data', (text) => (errors = (errors + text).slice(-4000)));
  const timer = setTimeout(() => child.kill('SIGKILL'), Math.max(1, left() + 15) * 1000);
  const [code, signal] = await once(child, 'close');
  clearTimeout(timer);
  if (code !== 0) throw new Error(`${args[0]} ended with ${signal ?? `code ${code}`}: ${errors.trim()}`);
  return output;
}

function floats(path) {
  const bytes = readFileSync(path);
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
}

function product(shape) {
  return shape.reduce((a, b) => a * b, 1);
}

function fail(message) {
  console.error(`error: ${message}`);
  process.exit(2);
}
