// What is measured on a GPU, part by part, each in a process of its own (bench.mjs starts it): the device's memory goes
// back between parts, and a crash ends only the part.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Autoencoder, ClipTextEncoder, T5Encoder, Tensor, engineInfo, jit } from 'jit-flux';
import { stageTokens } from 'jit-flux/sampler';
import {
  fluxTransformerTensors,
  normalTable,
  writeRandomSafetensors,
} from '../../tools/lib/random-weights.mjs';
import { anchorsFor } from '../lib/engine.mjs';
import { interleave, timed } from '../lib/interleave.mjs';
import { ROOT } from '../lib/paths.mjs';
import { median, relativeDifference } from '../lib/statistics.mjs';
import { GpuEngine, MemoryWatch, callsSince, weightsPath } from './engine.mjs';
import { GUIDANCE, RUNS, SEEDS, SHARES, SIGMA } from './models.mjs';
import { NotHere } from './record.mjs';

/** @typedef {import('./engine.mjs').Context} Context */
/** @typedef {import('./engine.mjs').Conditioning} Conditioning */
/** @typedef {import('./record.mjs').Emit} Emit */

/** @param {number} share */
const percent = (share) => `${Math.round(100 * share)} %`;
/** @param {{ smoke: boolean }} context @param {number} full */
const rounds = ({ smoke }, full) => (smoke ? 1 : full);

/** Random weights of the transformer, written once; a part of their file ends up nowhere. */
async function weights(/** @type {Context} */ context, /** @type {Emit} */ emit) {
  const { config } = context.model;
  const path = weightsPath(context);
  if (!existsSync(path)) {
    const options = { dtype: /** @type {const} */ ('bfloat16'), normals: normalTable({ seed: 4 }) };
    const seconds = await timed(() =>
      writeRandomSafetensors(`${path}.partial`, fluxTransformerTensors(config), options),
    );
    writeFileSync(
      path.replace('.safetensors', '.config.json'),
      JSON.stringify({ axes_dims_rope: config.ropeAxes }),
    );
    renameSync(`${path}.partial`, path);
    emit('written', 's', seconds);
  }
  emit('transformer', 'B', statSync(path).size, `bfloat16, in ${context.work}`);
}

/** The model as it is meant to be used: modulation dropped after condition(), everything else on the device. */
async function resident(/** @type {Context} */ context, /** @type {Emit} */ emit) {
  const { model, work, seconds } = context;
  const engine = await GpuEngine.load(context, emit, { keepModulation: false });
  const { conditioning } = await engine.condition([SIGMA]);
  await engine.memory.phase('condition');
  // First passes: memory for the activations, choice of cuBLASLt's kernels.
  emit('first dense step of the process', 's', await engine.step(conditioning, model.grid, 1)());
  const before = { ...engineInfo().kernelCalls };
  await engine.step(conditioning, model.grid, 1)();
  for (const [name, count] of callsSince(before)) emit(`calls in a dense step: ${name}`, '', count);
  await measureSteps(context, emit, engine, conditioning, SHARES, seconds * 0.25);
  // For the comparison with PyTorch (`peer`), which reads the same numbers.
  for (const share of SHARES) {
    const velocity = await engine.velocity(conditioning, share);
    const values = await velocity.toFloat32Array();
    velocity.dispose();
    writeFileSync(
      join(work, velocityName('ours', share)),
      new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
    );
  }
  await measurePasses(context, emit, engine, conditioning);
  const runs = await measureRuns(context, emit, engine, Object.keys(RUNS), seconds * 0.4);
  await engine.memory.phase('steps and runs');
  const trip = await measureRoundTrip(context, emit, engine);
  for (const preset of ['jit-4x', 'jit-7x'])
    await measureOperators(context, emit, engine, conditioning, preset, runs, trip);
  conditioning.dispose();
  engine.dispose();
}

/** The same with passes recorded as CUDA graphs. */
async function graphs(/** @type {Context} */ context, /** @type {Emit} */ emit) {
  const engine = await GpuEngine.load(context, emit, { keepModulation: false, cudaGraphs: true });
  const { conditioning } = await engine.condition([SIGMA]);
  await measureSteps(context, emit, engine, conditioning, SHARES, context.seconds * 0.35);
  conditioning.dispose();
  const before = { ...engineInfo().kernelCalls };
  await measureRuns(context, emit, engine, ['dense-50', 'jit-4x', 'jit-7x'], context.seconds * 0.4);
  const launches = callsSince(before).find(([name]) => name === 'graphLaunch')?.[1] ?? 0;
  emit('graph launches in the runs', '', launches);
  await engine.memory.phase('steps and runs');
  engine.dispose();
}

/** Modulation weights kept on the device. */
async function modulation(/** @type {Context} */ context, /** @type {Emit} */ emit) {
  const engine = await GpuEngine.load(context, emit, { keepModulation: true });
  const { conditioning } = await engine.condition([SIGMA]);
  await measureSteps(context, emit, engine, conditioning, [1], context.seconds * 0.1);
  conditioning.dispose();
  await measureRuns(context, emit, engine, ['jit-7x'], context.seconds * 0.2);
  await engine.memory.phase('steps and runs');
  engine.dispose();
}

/** Weights in page-locked host memory, copied for every pass. */
async function streaming(/** @type {Context} */ context, /** @type {Emit} */ emit) {
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

/** Batches, and a picture of four times the size. */
async function large(/** @type {Context} */ context, /** @type {Emit} */ emit) {
  const { grid, largeGrid } = context.model;
  const engine = await GpuEngine.load(context, emit, { keepModulation: false });
  for (const [what, size, share, images] of /** @type {const} */ ([
    ['one picture', grid, 1, 1],
    ['batch of 2', grid, 1, 2],
    ['batch of 2', grid, 0.32, 2],
    ['batch of 4', grid, 1, 4],
    ['batch of 4', grid, 0.32, 4],
    ['large picture', largeGrid, 1, 1],
    ['large picture', largeGrid, 0.32, 1],
  ])) {
    const name = `step ${percent(share)}, ${what}`;
    const { conditioning } = await engine.condition([SIGMA], images);
    try {
      const step = engine.step(conditioning, size, share, images);
      await step();
      const samples = [];
      for (let i = 0; i < rounds(context, 3); i++) samples.push(await step());
      emit(
        name,
        's',
        samples,
        `${size.join('x')} tokens, ${(median(samples) / images).toPrecision(3)} s a picture`,
      );
    } catch (error) {
      // Out of memory is a result, too.
      emit(name, 's', undefined, String(error));
    } finally {
      conditioning.dispose();
    }
    await engine.memory.phase(name);
  }
  engine.dispose();
}

/** Eager PyTorch on the same device, weights and inputs: both models at once do not fit into 80 GB. */
async function peer(/** @type {Context} */ context, /** @type {Emit} */ emit) {
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
      save: join(work, velocityName('pytorch', share)),
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
    const [ours, theirs] = ['ours', 'pytorch'].map((whose) => floats(join(work, velocityName(whose, share))));
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

async function decode(/** @type {Context} */ context, /** @type {Emit} */ emit) {
  const { device, smoke } = context;
  const snapshot = encoders(context, emit);
  const memory = await MemoryWatch.start(context, emit);
  const started = performance.now();
  const autoencoder = await Autoencoder.load(join(snapshot, 'vae'), { device, dtype: 'bfloat16' });
  emit('load', 's', (performance.now() - started) / 1000);
  const cells = smoke ? 8 : 128;
  const latents = Tensor.randn([1, autoencoder.config.latentChannels, cells, cells], { seed: 1, device });
  await repeat(context, emit, `decode to ${8 * cells}x${8 * cells}`, async () =>
    (await autoencoder.decode(latents)).dispose(),
  );
  await memory.phase('decode');
  latents.dispose();
  autoencoder.dispose();
}

/**
 * @param {typeof T5Encoder | typeof ClipTextEncoder} Encoder
 * @param {string} folder
 * @param {number} length tokens
 */
function encode(Encoder, folder, length) {
  return async (/** @type {Context} */ context, /** @type {Emit} */ emit) => {
    const snapshot = encoders(context, emit);
    const memory = await MemoryWatch.start(context, emit);
    const started = performance.now();
    const encoder = await Encoder.load(join(snapshot, folder), { device: context.device, dtype: 'bfloat16' });
    emit('load', 's', (performance.now() - started) / 1000);
    const { vocabulary, layers } = encoder.config;
    const ids = BigInt64Array.from({ length }, (_, i) => BigInt((i * 7919) % vocabulary));
    const tokens = Tensor.from(ids, [1, length]);
    await repeat(context, emit, `encode ${length} tokens, ${layers} layers`, async () => {
      const found = await encoder.encode(tokens);
      for (const tensor of 'pooled' in found ? [found.pooled, found.hidden] : [found]) tensor.dispose();
    });
    await memory.phase('encode');
    tokens.dispose();
    encoder.dispose();
  };
}

const t5 = encode(T5Encoder, 'text_encoder_2', 512);
const clip = encode(ClipTextEncoder, 'text_encoder', 77);

/** @type {Readonly<Record<string, (context: Context, emit: Emit) => Promise<void>>>} */
export const PARTS = { weights, resident, peer, graphs, modulation, streaming, large, t5, clip, decode };

/** Folder with random weights of the encoders and the autoencoder, written once. @param {Context} context @param {Emit} emit */
function encoders({ work, smoke }, emit) {
  const folder = join(work, 'encoders');
  if (existsSync(folder)) return folder;
  const started = performance.now();
  const args = smoke ? ['--tiny'] : ['--t5-layers', '24'];
  const tool = join(ROOT, 'tools', 'synthetic-snapshot.mjs');
  rmSync(`${folder}.partial`, { recursive: true, force: true });
  const { status, stderr } = spawnSync(process.execPath, [tool, `${folder}.partial`, ...args], {
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`tools/synthetic-snapshot.mjs ended with code ${status}: ${stderr}`);
  renameSync(`${folder}.partial`, folder);
  emit('weights written', 's', (performance.now() - started) / 1000);
  return folder;
}

/** @param {string} whose @param {number} share */
const velocityName = (whose, share) => `velocity-${whose}-${share}.f32`;

/** @param {string} path */
function floats(path) {
  if (!existsSync(path)) return undefined;
  const bytes = readFileSync(path);
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
}

/** @param {Context} context @param {Emit} emit @param {string} name @param {() => Promise<void>} run */
async function repeat(context, emit, name, run) {
  emit(`${name}: first`, 's', await timed(run));
  const samples = [];
  for (let i = 0; i < rounds(context, 5); i++) samples.push(await timed(run));
  emit(name, 's', samples);
}

/**
 * Steps as the sampler takes them, in turn.
 * @param {Context} context @param {Emit} emit @param {GpuEngine} engine @param {Conditioning} conditioning
 * @param {readonly number[]} shares @param {number} seconds
 */
async function measureSteps(context, emit, engine, conditioning, shares, seconds) {
  const { grid } = context.model;
  const subjects = Object.fromEntries(shares.map((share) => [share, engine.step(conditioning, grid, share)]));
  const samples = await interleave(subjects, {
    rounds: rounds(context, 15),
    atLeast: 3,
    seconds,
    warmups: rounds(context, 2),
  });
  for (const share of shares)
    emit(
      `step ${percent(share)}`,
      's',
      samples[share] ?? [],
      `${stageTokens(grid[0] * grid[1], share)} tokens`,
    );
}

/**
 * The passes alone, without lift and Euler update: what PyTorch's side does.
 * @param {Context} context @param {Emit} emit @param {GpuEngine} engine @param {Conditioning} conditioning
 */
async function measurePasses(context, emit, engine, conditioning) {
  const pass = (/** @type {number} */ share) => async () => {
    const started = performance.now();
    const velocity = await engine.velocity(conditioning, share);
    const seconds = (performance.now() - started) / 1000;
    velocity.dispose();
    return seconds;
  };
  const subjects = Object.fromEntries(SHARES.map((share) => [share, pass(share)]));
  const samples = await interleave(subjects, {
    rounds: rounds(context, 15),
    atLeast: 3,
    seconds: context.seconds * 0.1,
    warmups: 1,
  });
  for (const share of SHARES) emit(`pass ${percent(share)}`, 's', samples[share] ?? []);
}

/**
 * Whole runs in turn. The conditioning stands apart from the loop.
 * @param {Context} context @param {Emit} emit @param {GpuEngine} engine @param {readonly string[]} names @param {number} seconds
 * @returns {Promise<Map<string, { loop: number, stages: readonly import('jit-flux/sampler').StagePlan[] }>>}
 */
async function measureRuns(context, emit, engine, names, seconds) {
  /** @type {Map<string, Awaited<ReturnType<GpuEngine['run']>>[]>} */
  const runs = new Map(names.map((name) => [name, []]));
  await interleave(
    Object.fromEntries(
      names.map((name) => [
        name,
        async () => {
          const run = await engine.run(RUNS[name] ?? {});
          runs.get(name)?.push(run);
          return run.seconds;
        },
      ]),
    ),
    { rounds: rounds(context, 3), atLeast: 1, seconds, warmups: 0 },
  );
  const found = new Map();
  for (const [name, all] of runs) {
    const loop = median(all.map((run) => run.seconds));
    const dense = runs.get('dense-50')?.map((run) => run.seconds);
    emit(
      `${name} loop`,
      's',
      all.map((run) => run.seconds),
    );
    if (dense) emit(`${name} loop against dense-50`, 'x', median(dense) / loop);
    emit(
      `${name}: condition`,
      's',
      all.map((run) => run.condition),
    );
    emit(
      `${name}: between two steps`,
      's',
      all.map((run) => run.between),
      'JavaScript, while the device idles',
    );
    const stages = all[0]?.stages ?? [];
    let first = 0;
    for (const { steps, activeTokens } of stages) {
      const inStage = all.flatMap((run) => run.steps.slice(first, first + steps));
      emit(`${name}: step at ${activeTokens} tokens`, 's', inStage, `${steps} of the run`);
      first += steps;
    }
    found.set(name, { loop, stages });
  }
  return found;
}

/**
 * The way to the device and back: a native call that does next to nothing there. Between steps the device waits so long.
 * @param {Context} context @param {Emit} emit @param {GpuEngine} engine
 */
async function measureRoundTrip(context, emit, engine) {
  const latents = engine.latents(context.model.grid);
  /** @type {number[]} */
  const samples = [];
  for (let i = 0; i < 60; i++)
    samples.push(await timed(async () => (await jit.gather(latents, Int32Array.of(0))).dispose()));
  emit('round trip to the device', 's', samples.slice(10));
  return median(samples.slice(10));
}

/**
 * The JiT operators of a preset by themselves, the host's time included: per step the lift with the Euler update, per
 * transition everything that happens there. A run's share of them: in a step, gather and lift are part of the one native
 * call, so a bare round trip is taken off.
 * @param {Context} context @param {Emit} emit @param {GpuEngine} engine @param {Conditioning} conditioning
 * @param {string} preset @param {Awaited<ReturnType<typeof measureRuns>>} runs @param {number} trip seconds
 */
async function measureOperators(context, emit, engine, conditioning, preset, runs, trip) {
  const { grid } = context.model;
  const total = grid[0] * grid[1];
  const latents = engine.latents(grid);
  const noise = Tensor.randn(latents.shape, { seed: SEEDS.noise, device: engine.device });
  const scratch = latents.clone();
  const { loop = NaN, stages = [] } = runs.get(preset) ?? {};
  let inRun = 0;
  for (const [i, { tokenRatio: share, steps }] of stages.entries()) {
    const anchors = anchorsFor(grid, share);
    if (anchors === undefined) continue;
    const next = stageTokens(total, stages[i + 1]?.tokenRatio ?? 1);
    const active = new Set(anchors);
    // As many as join in this transition; which ones makes no difference to the time.
    const newTokens = Int32Array.from({ length: total }, (_, token) => token)
      .filter((token) => !active.has(token))
      .slice(0, next - anchors.length);
    const velocity = await engine.velocity(conditioning, share);
    /** @type {Map<string, number[]>} */
    const samples = new Map();
    /** @template T @param {string} name @param {() => T | Promise<T>} run @returns {Promise<T>} */
    const note = async (name, run) => {
      const started = performance.now();
      const result = await run();
      samples.set(name, [...(samples.get(name) ?? []), (performance.now() - started) / 1000]);
      return result;
    };
    const begun = performance.now();
    for (let round = 0; round < rounds(context, 12); round++) {
      if (round > 4 && (performance.now() - begun) / 1000 > context.seconds / 80) break;
      (await note('gather', () => jit.gather(latents, anchors))).dispose();
      (await note('lift', () => jit.lift(velocity, anchors, grid))).dispose();
      const full = await note('lift and step', () =>
        jit.step(scratch, velocity, { anchors, grid, dSigma: -1e-6 }),
      );
      // Into the last stage all tokens are taken, whatever their importance.
      if (next < total) {
        const count = newTokens.length;
        // The map itself is for policies in JavaScript only.
        await note('importance', () => jit.importance(full, grid));
        await note('choice of anchors', () => jit.selectTokens?.(full, { anchors, count, grid }));
      }
      const clean = await note('clean prediction', () => jit.predictClean(scratch, full, SIGMA));
      const target = await note('micro-flow target', () =>
        jit.microFlowTarget({ clean, noise, anchors, newTokens, sigma: SIGMA, grid }),
      );
      await note('micro-flow', () => jit.microFlow(scratch, { mode: 'relax', steps: 3, newTokens, target }));
      for (const tensor of [full, clean, target]) tensor.dispose();
    }
    velocity.dispose();
    let transition = 0;
    for (const [name, all] of samples) {
      // The first of them warms up.
      const seconds = all.length > 1 ? all.slice(1) : all;
      emit(`${preset}, ${anchors.length} tokens: ${name}`, 's', seconds);
      if (name === 'lift and step') inRun += steps * Math.max(0, median(seconds) - trip);
      else if (!['gather', 'lift', 'importance'].includes(name)) transition += median(seconds);
    }
    emit(
      `${preset}, ${anchors.length} tokens: transition`,
      's',
      transition,
      `${newTokens.length} tokens join`,
    );
    inRun += transition;
  }
  emit(`${preset}: JiT operators of a run`, 's', inRun, 'host included');
  emit(`${preset}: JiT operators, share of a run`, 'share', inRun / loop);
  noise.dispose();
  scratch.dispose();
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
