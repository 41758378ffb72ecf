// What is measured on a GPU, part by part, each in a process of its own (bench.mjs starts it): the device's memory goes
// back between parts, and a crash ends only the part.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Autoencoder, ClipTextEncoder, T5Encoder, Tensor, engineInfo } from 'jit-flux';
import {
  fluxTransformerTensors,
  normalTable,
  writeRandomSafetensors,
} from '../../tools/lib/random-weights.mjs';
import { anchorsFor } from '../lib/engine.mjs';
import { timed } from '../lib/interleave.mjs';
import { ROOT } from '../lib/paths.mjs';
import { median, relativeDifference } from '../lib/statistics.mjs';
import { GpuEngine, MemoryWatch, callsSince, clocked, weightsPath } from './engine.mjs';
import {
  measureOperators,
  measurePasses,
  measureRoundTrip,
  measureRuns,
  measureSteps,
  percent,
  rounds,
} from './measure.mjs';
import { GUIDANCE, RUNS, SEEDS, SHARES, SIGMA } from './models.mjs';
import { NotHere } from './record.mjs';

/** @typedef {import('./engine.mjs').Context} Context */
/** @typedef {import('./record.mjs').Emit} Emit */
/** @typedef {(context: Context, emit: Emit) => Promise<void>} PartOfBench */

/**
 * Random weights of the transformer, written once.
 * @type {PartOfBench}
 */
async function weights(context, emit) {
  const { config } = context.model;
  const path = weightsPath(context);
  if (!existsSync(path)) {
    const options = { dtype: /** @type {const} */ ('bfloat16'), normals: normalTable({ seed: 4 }) };
    const tensors = fluxTransformerTensors(config);
    emit('written', 's', await timed(() => writeRandomSafetensors(`${path}.partial`, tensors, options)));
    const beside = JSON.stringify({ axes_dims_rope: config.ropeAxes });
    writeFileSync(path.replace('.safetensors', '.config.json'), beside);
    renameSync(`${path}.partial`, path);
  }
  emit('transformer', 'B', statSync(path).size, `bfloat16, in ${context.work}`);
}

/**
 * The model as it is meant to be used: modulation dropped after condition(), everything else on the device.
 * @type {PartOfBench}
 */
async function resident(context, emit) {
  const { grid } = context.model;
  const engine = await GpuEngine.load(context, emit, { keepModulation: false });
  const { conditioning } = await engine.condition([SIGMA]);
  await engine.memory.phase('condition');
  // First passes: memory for the activations, choice of cuBLASLt's kernels.
  emit('first dense step of the process', 's', await engine.step(conditioning, grid, 1)());
  const before = { ...engineInfo().kernelCalls };
  await engine.step(conditioning, grid, 1)();
  for (const [name, count] of callsSince(before)) emit(`calls in a dense step: ${name}`, '', count);
  await measureSteps(engine, conditioning, SHARES, 0.25);
  // For the comparison with PyTorch (`peer`), which reads the same numbers.
  for (const share of SHARES) {
    const velocity = await engine.velocity(conditioning, share);
    const { buffer, byteOffset, byteLength } = await velocity.toFloat32Array();
    velocity.dispose();
    writeFileSync(velocityPath(context, 'ours', share), new Uint8Array(buffer, byteOffset, byteLength));
  }
  await measurePasses(engine, conditioning);
  const runs = await measureRuns(engine, Object.keys(RUNS), 0.4);
  await engine.memory.phase('steps and runs');
  const trip = await measureRoundTrip(engine);
  for (const preset of ['jit-4x', 'jit-7x'])
    await measureOperators(engine, conditioning, preset, runs.get(preset) ?? [], trip);
  conditioning.dispose();
  engine.dispose();
}

/**
 * Steps and runs of the model loaded in another way.
 * @param {import('jit-flux').LoadOptions} options
 * @param {readonly number[]} shares
 * @param {readonly string[]} names of the runs
 * @returns {PartOfBench}
 */
const variant = (options, shares, names) => async (context, emit) => {
  const engine = await GpuEngine.load(context, emit, options);
  const { conditioning } = await engine.condition([SIGMA]);
  await measureSteps(engine, conditioning, shares, 0.35);
  conditioning.dispose();
  const before = { ...engineInfo().kernelCalls };
  await measureRuns(engine, names, 0.4);
  const launches = callsSince(before).find(([name]) => name === 'graphLaunch')?.[1] ?? 0;
  emit('graph launches in the runs', '', launches);
  await engine.memory.phase('steps and runs');
  engine.dispose();
};

const GRAPHS = { keepModulation: false, cudaGraphs: true };
const graphs = variant(GRAPHS, SHARES, ['dense-50', 'jit-4x', 'jit-7x']);
const modulation = variant({ keepModulation: true }, [1], ['jit-7x']);

/**
 * Weights in page-locked host memory, copied for every pass.
 * @type {PartOfBench}
 */
async function streaming(context, emit) {
  const engine = await GpuEngine.load(context, emit, { keepModulation: false, weightStreaming: true });
  const { conditioning } = await engine.condition([SIGMA]);
  for (const share of [1, 0.62, 0.32]) {
    const name = `step ${percent(share)}`;
    const step = engine.step(conditioning, context.model.grid, share);
    await step();
    await engine.transformer.transferStatistics();
    const samples = [];
    for (let i = 0; i < rounds(context, 4); i++) samples.push(await step());
    emit(name, 's', samples);
    const found = await engine.transformer.transferStatistics();
    if (!found) continue;
    const copySeconds = found.copyMilliseconds / 1e3;
    emit(`${name}: copied`, 'B', found.bytes / samples.length);
    emit(`${name}: copies take`, 's', copySeconds / samples.length);
    emit(`${name}: rate of the copies`, 'B/s', found.bytes / copySeconds);
    emit(`${name}: waited for copies`, 's', found.stallMilliseconds / 1e3 / samples.length);
    emit(`${name}: hidden behind the pass`, 'share', found.overlap);
  }
  conditioning.dispose();
  await engine.memory.phase('steps');
  engine.dispose();
}

/**
 * Batches, and a picture of four times the size.
 * @type {PartOfBench}
 */
async function large(context, emit) {
  const { grid, largeGrid } = context.model;
  const engine = await GpuEngine.load(context, emit, { keepModulation: false });
  /** @type {[what: string, size: [number, number], images: number, shares: number[]][]} */
  const cases = [
    ['one picture', grid, 1, [1]],
    ['batch of 2', grid, 2, [1, 0.32]],
    ['batch of 4', grid, 4, [1, 0.32]],
    ['large picture', largeGrid, 1, [1, 0.32]],
  ];
  for (const [what, size, images, shares] of cases) {
    const { conditioning } = await engine.condition([SIGMA], images);
    for (const share of shares) {
      const name = `step ${percent(share)}, ${what}`;
      try {
        const step = engine.step(conditioning, size, share, images);
        await step();
        const samples = [];
        for (let i = 0; i < rounds(context, 3); i++) samples.push(await step());
        const each = (median(samples) / images).toPrecision(3);
        emit(name, 's', samples, `${size.join('x')} tokens, ${each} s a picture`);
      } catch (error) {
        // Out of memory is a result, too.
        emit(name, 's', undefined, String(error));
      }
      await engine.memory.phase(name);
    }
    conditioning.dispose();
  }
  engine.dispose();
}

/**
 * Eager PyTorch on the same device, weights and inputs: both models at once do not fit into 80 GB.
 * @type {PartOfBench}
 */
async function peer(context, emit) {
  const { model, device, emulation, work, seconds, python } = context;
  const shell = (/** @type {string[]} */ args) => {
    const env = { ...process.env, PYTHONDONTWRITEBYTECODE: '1' };
    return spawnSync(python, args, { encoding: 'utf8', maxBuffer: 2 ** 28, env });
  };
  if (shell(['-c', 'import torch, safetensors']).status !== 0)
    throw new NotHere(`${python} has no torch with safetensors`);
  const request = {
    path: weightsPath(context),
    config: model.config,
    device: emulation ? 'cpu' : device,
    textTokens: model.textTokens,
    seeds: SEEDS,
    guidance: GUIDANCE,
    sigma: SIGMA,
    rounds: rounds(context, 15),
    seconds: seconds * 0.4,
    grid: model.grid,
    cases: SHARES.map((share) => ({
      anchors: [...(anchorsFor(model.grid, share) ?? Array(model.grid[0] * model.grid[1]).keys())],
      save: velocityPath(context, 'pytorch', share),
    })),
  };
  writeFileSync(join(work, 'peer.json'), JSON.stringify(request));
  const { status, stdout, stderr } = shell([join(ROOT, 'bench', 'peer', 'gpu.py'), join(work, 'peer.json')]);
  if (status !== 0)
    throw new Error(`bench/peer/gpu.py ended with code ${status}: ${stderr.trim().slice(-1500)}`);
  const answer = JSON.parse(stdout.trim().split('\n').at(-1) ?? '');
  for (const [i, share] of SHARES.entries()) {
    const { host, device: onDevice } = answer.cases[i];
    emit(`pass ${percent(share)}`, 's', host, `by the host's clock, as ours; PyTorch ${answer.torch}`);
    emit(`pass ${percent(share)}, by the device's clock`, 's', onDevice);
    const [ours, theirs] = ['ours', 'pytorch'].map((whose) => floats(velocityPath(context, whose, share)));
    const difference = ours && theirs && relativeDifference(ours, theirs);
    const name = `difference of the velocities ${percent(share)}`;
    if (difference === undefined) emit(name, 'L2', undefined, 'the part resident has not run here');
    // A NaN on either side must not pass for a figure.
    else if (Number.isFinite(difference)) emit(name, 'L2', difference, 'relative, both in bfloat16');
    else throw new Error(`A velocity at ${percent(share)} of the tokens is not finite`);
  }
  for (const { part, shape, calls, seconds: each, flops } of answer.parts)
    emit(
      `${part} ${shape.join('x')}`,
      's',
      each,
      `${calls} a dense step, ${(flops / each / 1e12).toFixed(0)} TFLOP/s`,
    );
  for (const part of ['product', 'attention']) {
    const found = answer.parts.filter((/** @type {any} */ row) => row.part === part);
    const sum = found.reduce(
      (/** @type {number} */ total, /** @type {any} */ row) => total + row.calls * row.seconds,
      0,
    );
    emit(`${part}s of a dense step`, 's', sum, 'each alone, at the shapes in which we run them');
  }
  emit('peak memory', 'B', answer.peakBytes);
}

/**
 * Loads a model of the snapshot, and times what it does.
 * @template {{ dispose(): void }} Model
 * @param {(snapshot: string, options: import('jit-flux').LoadOptions) => Promise<Model>} load
 * @param {(model: Model, context: Context) => { name: string, run: () => Promise<void> }} task
 * @returns {PartOfBench}
 */
const component = (load, task) => async (context, emit) => {
  const snapshot = encoders(context, emit);
  const memory = await MemoryWatch.start(context, emit);
  const options = { device: context.device, dtype: /** @type {const} */ ('bfloat16') };
  const { seconds, result: model } = await clocked(() => load(snapshot, options));
  emit('load', 's', seconds);
  const { name, run } = task(model, context);
  emit(`${name}: first`, 's', await timed(run));
  const samples = [];
  for (let i = 0; i < rounds(context, 5); i++) samples.push(await timed(run));
  emit(name, 's', samples);
  await memory.phase('work');
  model.dispose();
};

const decode = component(
  (snapshot, options) => Autoencoder.load(join(snapshot, 'vae'), options),
  (autoencoder, { smoke, device }) => {
    const cells = smoke ? 8 : 128;
    const shape = [1, autoencoder.config.latentChannels, cells, cells];
    const latents = Tensor.randn(shape, { seed: 1, device });
    const run = async () => (await autoencoder.decode(latents)).dispose();
    return { name: `decode to ${8 * cells}x${8 * cells}`, run };
  },
);

/**
 * @param {T5Encoder | ClipTextEncoder} encoder
 * @param {number} length tokens
 */
function encoding(encoder, length) {
  const { vocabulary, layers } = encoder.config;
  const ids = BigInt64Array.from({ length }, (_, i) => BigInt((i * 7919) % vocabulary));
  const tokens = Tensor.from(ids, [1, length]);
  const run = async () => {
    const found = await encoder.encode(tokens);
    for (const tensor of 'pooled' in found ? [found.pooled, found.hidden] : [found]) tensor.dispose();
  };
  return { name: `encode ${length} tokens, ${layers} layers`, run };
}

const t5 = component(
  (snapshot, options) => T5Encoder.load(join(snapshot, 'text_encoder_2'), options),
  (encoder) => encoding(encoder, 512),
);
const clip = component(
  (snapshot, options) => ClipTextEncoder.load(join(snapshot, 'text_encoder'), options),
  (encoder) => encoding(encoder, 77),
);

/** @type {Readonly<Record<string, PartOfBench>>} */
const PARTS = { weights, resident, peer, graphs, modulation, streaming, large, t5, clip, decode };

/**
 * Folder with random weights of the encoders and the autoencoder, written once.
 * @param {Context} context
 * @param {Emit} emit
 */
function encoders({ work, smoke }, emit) {
  const folder = join(work, 'encoders');
  if (existsSync(folder)) return folder;
  const started = performance.now();
  const args = smoke ? ['--tiny'] : ['--t5-layers', '24'];
  const tool = join(ROOT, 'tools', 'synthetic-snapshot.mjs');
  const partial = `${folder}.partial`;
  rmSync(partial, { recursive: true, force: true });
  const { status, stderr } = spawnSync(process.execPath, [tool, partial, ...args], { encoding: 'utf8' });
  if (status !== 0) throw new Error(`tools/synthetic-snapshot.mjs ended with code ${status}: ${stderr}`);
  renameSync(partial, folder);
  emit('weights written', 's', (performance.now() - started) / 1000);
  return folder;
}

/** @param {Context} context @param {string} whose @param {number} share */
const velocityPath = ({ work }, whose, share) => join(work, `velocity-${whose}-${share}.f32`);

/** @param {string} path */
function floats(path) {
  if (!existsSync(path)) return undefined;
  const bytes = readFileSync(path);
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
}

// As a process of its own: argv is the part's name and its context; every figure is a message.
if (process.send && process.argv[1] === import.meta.filename) {
  const [name = '', context = ''] = process.argv.slice(2);
  /** @type {(message: object) => Promise<unknown>} */
  const send = (message) => new Promise((resolve) => process.send?.(message, resolve));
  try {
    /** @type {Context} */
    const settings = JSON.parse(context);
    if (settings.emulation) {
      // Not part of the package: only tests and this stand something else in for a GPU.
      const { callNative } = await import(join(ROOT, 'dist', 'engine', 'call.js'));
      callNative((/** @type {any} */ binding) => binding.openDeviceLibrary(settings.emulation));
    }
    // A part may run by itself, on a fresh machine.
    if (!['weights', 't5', 'clip', 'decode'].includes(name)) await weights(settings, () => undefined);
    await PARTS[name]?.(settings, (...row) => void send({ row }));
    await send({ done: true });
  } catch (error) {
    console.error(error);
    const reason = String(/** @type {Error} */ (error)?.message ?? error);
    await send(error instanceof NotHere ? { notHere: reason } : { error: reason });
  }
  process.exit();
}
