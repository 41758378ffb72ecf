// What bench/gpu/run.mjs measures, part by part; each runs in a process of its own (part-process.mjs), so that memory
// goes back and peaks are the part's. Parts that load the model take a third of a minute on a GPU at full size.
import { statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Autoencoder, ClipTextEncoder, T5Encoder, Tensor, engineInfo, jit } from 'jit-flux';
import { activateByImportance, stageTokens } from 'jit-flux/sampler';
import { anchorsFor } from '../lib/engine.mjs';
import { interleave, timed } from '../lib/interleave.mjs';
import { median, spread } from '../lib/statistics.mjs';
import { GpuEngine, MemoryWatch, callsSince } from './engine.mjs';
import { RUNS, SEEDS, SHARES, SIGMA } from './models.mjs';

/**
 * @typedef {object} Context
 * @property {string} weights safetensors file of the transformer
 * @property {string} snapshot folder of the encoders' and the autoencoder's weights
 * @property {import('./models.mjs').GpuModel} model
 * @property {import('jit-flux').Device} device
 * @property {string} work folder for what later parts read
 * @property {number} seconds that the part may take, about
 * @property {boolean} tiny
 */

const ROUNDS = 15;

/** Options that the CPU refuses: there a part shows that the script works, without them. */
const onGpu = ({ device }, options) => (device === 'cpu' ? {} : options);

/** The model as it is meant to be used: modulation dropped after condition(), everything else on the device. */
async function resident(context) {
  const { model, work } = context;
  const { grid } = model;
  const engine = await GpuEngine.load(context, { keepModulation: false });
  const { conditioning, seconds } = await engine.condition([SIGMA]);
  const conditionSeconds = [seconds];
  const afterCondition = await engine.memory.phase('condition');

  // First passes: memory for the activations, choice of cuBLASLt's kernels.
  const firstStep = await engine.step(conditioning, grid, 1)();
  const before = { ...engineInfo().kernelCalls };
  await engine.step(conditioning, grid, 1)();
  const callsPerStep = callsSince(before);

  // For the comparison with PyTorch (`peer`), which reads the same numbers.
  for (const share of SHARES)
    await saveVelocity(engine, conditioning, share, join(work, velocityName(share)));

  const steps = await measureSteps(engine, conditioning, SHARES, context.seconds * 0.25);
  const passes = await measurePasses(engine, conditioning, SHARES, context.seconds * 0.1);
  const roundTrip = await measureRoundTrip(engine);
  const operators = await measureOperators(engine, conditioning, context.seconds * 0.05);
  conditioning.dispose();
  const runs = await measureRuns(engine, Object.keys(RUNS), context.seconds * 0.45, conditionSeconds);
  await engine.memory.phase('steps and runs');
  const answer = {
    load: loadFigures(context, engine),
    memory: engine.memory.summary(),
    afterCondition,
    conditionSeconds: spread(conditionSeconds),
    firstStep,
    callsPerStep,
    steps,
    passes,
    roundTrip,
    operators,
    runs,
  };
  engine.dispose();
  return answer;
}

/** The same with passes recorded as CUDA graphs. */
async function graphs(context) {
  const engine = await GpuEngine.load(context, {
    keepModulation: false,
    ...onGpu(context, { cudaGraphs: true }),
  });
  const { conditioning } = await engine.condition([SIGMA]);
  const steps = await measureSteps(engine, conditioning, SHARES, context.seconds * 0.35);
  conditioning.dispose();
  const before = { ...engineInfo().kernelCalls };
  const runs = await measureRuns(engine, ['dense-50', 'jit-4x', 'jit-7x'], context.seconds * 0.5, []);
  const graphLaunches = callsSince(before).graphLaunch ?? 0;
  await engine.memory.phase('steps and runs');
  const answer = {
    load: loadFigures(context, engine),
    memory: engine.memory.summary(),
    steps,
    runs,
    graphLaunches,
  };
  engine.dispose();
  return answer;
}

/** Modulation weights kept on the device. */
async function modulation(context) {
  const engine = await GpuEngine.load(context, { keepModulation: true });
  const conditionSeconds = [];
  for (let i = 0; i < 3; i++) {
    const { conditioning, seconds } = await engine.condition([SIGMA]);
    conditioning.dispose();
    conditionSeconds.push(seconds);
  }
  const { conditioning } = await engine.condition([SIGMA]);
  const steps = await measureSteps(engine, conditioning, [1], context.seconds * 0.1);
  conditioning.dispose();
  const runs = await measureRuns(engine, ['jit-7x'], context.seconds * 0.2, conditionSeconds);
  await engine.memory.phase('steps and runs');
  const answer = {
    load: loadFigures(context, engine),
    memory: engine.memory.summary(),
    conditionSeconds: spread(conditionSeconds),
    steps,
    runs,
  };
  engine.dispose();
  return answer;
}

/** Weights in page-locked host memory, copied for every pass. */
async function streaming(context) {
  const engine = await GpuEngine.load(context, {
    keepModulation: false,
    ...onGpu(context, { weightStreaming: true }),
  });
  const { conditioning } = await engine.condition([SIGMA]);
  const rows = [];
  for (const share of [1, 0.62, 0.32]) {
    const step = engine.step(conditioning, context.model.grid, share);
    await step();
    await engine.transformer.transferStatistics();
    const samples = [];
    for (let i = 0; i < 4; i++) samples.push(await step());
    const transfers = await engine.transformer.transferStatistics();
    rows.push({
      share,
      seconds: spread(samples),
      ...(transfers && {
        bytesPerStep: transfers.bytes / samples.length,
        copySeconds: transfers.copyMilliseconds / 1e3 / samples.length,
        stallSeconds: transfers.stallMilliseconds / 1e3 / samples.length,
        overlap: transfers.overlap,
        bytesPerSecond: transfers.bytes / (transfers.copyMilliseconds / 1e3),
      }),
    });
  }
  conditioning.dispose();
  await engine.memory.phase('steps');
  const answer = { load: loadFigures(context, engine), memory: engine.memory.summary(), steps: rows };
  engine.dispose();
  return answer;
}

/** Batches, and a picture of four times the size. */
async function large(context) {
  const { model } = context;
  const engine = await GpuEngine.load(context, { keepModulation: false });
  const rows = [];
  const measure = async (name, grid, share, images) => {
    const { conditioning } = await engine.condition([SIGMA], images);
    await engine.memory.phase(`condition for ${name}`);
    try {
      const step = engine.step(conditioning, grid, share, images);
      await step();
      const samples = [];
      for (let i = 0; i < 3; i++) samples.push(await step());
      const { peakBytes } = await engine.memory.phase(name);
      rows.push({ name, grid, share, images, seconds: spread(samples), peakBytes });
    } catch (error) {
      // Out of memory is a result, too.
      rows.push({ name, grid, share, images, error: String(error?.message ?? error) });
    } finally {
      conditioning.dispose();
    }
  };
  await measure('one picture', model.grid, 1, 1);
  await measure('batch of 2', model.grid, 1, 2);
  await measure('batch of 2, 32 %', model.grid, 0.32, 2);
  await measure('batch of 4', model.grid, 1, 4);
  await measure('batch of 4, 32 %', model.grid, 0.32, 4);
  await measure('large picture', model.largeGrid, 1, 1);
  await measure('large picture, 32 %', model.largeGrid, 0.32, 1);
  const answer = { load: loadFigures(context, engine), memory: engine.memory.summary(), steps: rows };
  engine.dispose();
  return answer;
}

/** Autoencoder and text encoders. */
async function encoders({ snapshot, device, tiny }) {
  const answer = {};
  const cells = tiny ? 16 : 128;
  const guarded = async (name, measure) => {
    try {
      answer[name] = await measure();
    } catch (error) {
      answer[name] = { error: String(error?.message ?? error) };
    }
  };
  const repeat = async (run, times) => {
    const first = await timed(run);
    const samples = [];
    for (let i = 0; i < times; i++) samples.push(await timed(run));
    return { first, seconds: spread(samples) };
  };
  await guarded('decode', async () => {
    const memory = await freshWatch(device);
    let autoencoder;
    const loadSeconds = await timed(async () => {
      autoencoder = await Autoencoder.load(join(snapshot, 'vae'), { device, dtype: 'bfloat16' });
    });
    const latents = Tensor.randn([1, autoencoder.config.latentChannels, cells, cells], { seed: 1, device });
    const times = await repeat(async () => (await autoencoder.decode(latents)).dispose(), 5);
    const { peakBytes } = await memory.phase('decode');
    latents.dispose();
    autoencoder.dispose();
    return { cells, loadSeconds, ...times, peakBytes };
  });
  const ids = (length, vocabulary) =>
    Tensor.from(
      BigInt64Array.from({ length }, (_, i) => BigInt((i * 7919) % vocabulary)),
      [1, length],
    );
  const encode = async (Encoder, folder, length, release) => {
    const memory = await freshWatch(device);
    let encoder;
    const loadSeconds = await timed(async () => {
      encoder = await Encoder.load(join(snapshot, folder), { device, dtype: 'bfloat16' });
    });
    const tokens = ids(length, encoder.config.vocabulary);
    const times = await repeat(async () => release(await encoder.encode(tokens)), 5);
    const { peakBytes } = await memory.phase('encode');
    tokens.dispose();
    encoder.dispose();
    return { tokens: length, layers: encoder.config.layers, loadSeconds, ...times, peakBytes };
  };
  await guarded('t5', () => encode(T5Encoder, 'text_encoder_2', 512, (states) => states.dispose()));
  await guarded('clip', () =>
    encode(ClipTextEncoder, 'text_encoder', 77, ({ pooled, hidden }) => {
      pooled.dispose();
      hidden.dispose();
    }),
  );
  return answer;
}

export const PARTS = { resident, graphs, modulation, streaming, large, encoders };

export const velocityName = (share) => `velocity-${share}.f32`;

async function freshWatch(device) {
  const tensor = Tensor.randn([1], { seed: 0, device });
  await tensor.toFloat32Array();
  tensor.dispose();
  return new MemoryWatch(device);
}

function loadFigures({ weights }, engine) {
  const fileBytes = statSync(weights).size;
  const { seconds, ...memory } = engine.loaded;
  return { seconds, fileBytes, memory };
}

async function saveVelocity(engine, conditioning, share, path) {
  const { grid } = engine.model;
  const velocity = await engine.velocity(conditioning, grid, anchorsFor(grid, share));
  const values = await velocity.toFloat32Array();
  velocity.dispose();
  writeFileSync(path, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
}

/** Steps as the sampler takes them, in turn. */
async function measureSteps(engine, conditioning, shares, seconds) {
  const { grid } = engine.model;
  const subjects = Object.fromEntries(shares.map((share) => [share, engine.step(conditioning, grid, share)]));
  const samples = await interleave(subjects, { rounds: ROUNDS, atLeast: 3, seconds, warmups: 2 });
  return shares.map((share) => ({
    share,
    tokens: stageTokens(grid[0] * grid[1], share),
    seconds: spread(samples[share]),
  }));
}

/** The passes alone, without lift and Euler update: what PyTorch's side does. */
async function measurePasses(engine, conditioning, shares, seconds) {
  const { grid } = engine.model;
  const subjects = Object.fromEntries(
    shares.map((share) => {
      const anchors = anchorsFor(grid, share);
      const pass = async () => {
        let velocity;
        const taken = await timed(async () => {
          velocity = await engine.velocity(conditioning, grid, anchors);
        });
        velocity.dispose();
        return taken;
      };
      return [share, pass];
    }),
  );
  const samples = await interleave(subjects, { rounds: ROUNDS, atLeast: 3, seconds, warmups: 1 });
  return shares.map((share) => ({ share, seconds: spread(samples[share]) }));
}

/** The way to the device and back: a native call that does next to nothing there. Between steps the device waits so long. */
async function measureRoundTrip(engine) {
  const { grid } = engine.model;
  const latents = engine.latents(grid);
  const samples = [];
  for (let i = 0; i < 60; i++) {
    let tokens;
    const seconds = await timed(async () => (tokens = await jit.gather(latents, Int32Array.of(0))));
    tokens.dispose();
    if (i >= 10) samples.push(seconds);
  }
  return spread(samples);
}

/**
 * The JiT operators by themselves, host's time included: per step the lift with the Euler update, per transition
 * everything that happens there.
 */
async function measureOperators(engine, conditioning, seconds) {
  const { grid } = engine.model;
  const total = grid[0] * grid[1];
  const latents = engine.latents(grid);
  const noise = Tensor.randn(latents.shape, { seed: SEEDS.noise, device: engine.device });
  const scratch = latents.clone();
  const rows = [];
  for (const [preset, shares] of Object.entries({ 'jit-4x': [0.35, 0.62], 'jit-7x': [0.32, 0.6] })) {
    for (const [i, share] of shares.entries()) {
      const anchors = anchorsFor(grid, share);
      const next = stageTokens(total, shares[i + 1] ?? 1);
      const active = new Set(anchors);
      // As many as join in this transition; which ones makes no difference to the time.
      const newTokens = Int32Array.from({ length: total }, (_, token) => token)
        .filter((token) => !active.has(token))
        .slice(0, next - anchors.length);
      const velocity = await engine.velocity(conditioning, grid, anchors);
      const parts = {
        gather: [],
        lift: [],
        step: [],
        importance: [],
        activation: [],
        clean: [],
        target: [],
        flow: [],
      };
      const note = async (name, run) => {
        let result;
        parts[name].push(await timed(async () => (result = await run())));
        return result;
      };
      const begun = performance.now();
      for (let round = 0; round < 12; round++) {
        if (round > 4 && (performance.now() - begun) / 1000 > seconds / 4) break;
        (await note('gather', () => jit.gather(latents, anchors))).dispose();
        (await note('lift', () => jit.lift(velocity, anchors, grid))).dispose();
        const full = await note('step', () => jit.step(scratch, velocity, { anchors, grid, dSigma: -1e-6 }));
        // Into the last stage all tokens are taken, whatever their importance.
        if (i === 0) {
          const scores = await note('importance', () => jit.importance(full, grid));
          await note('activation', () => activateByImportance(anchors, next, scores));
        }
        const clean = await note('clean', () => jit.predictClean(scratch, full, SIGMA));
        const target = await note('target', () =>
          jit.microFlowTarget({ clean, noise, anchors, newTokens, sigma: SIGMA, grid }),
        );
        await note('flow', () => jit.microFlow(scratch, { mode: 'relax', steps: 3, newTokens, target }));
        for (const tensor of [full, clean, target]) tensor.dispose();
      }
      velocity.dispose();
      const medians = Object.fromEntries(
        Object.entries(parts)
          .filter(([, samples]) => samples.length > 0)
          .map(([name, samples]) => [name, median(samples.slice(1))]),
      );
      const inTransition = ['importance', 'activation', 'clean', 'target', 'flow'];
      rows.push({
        preset,
        share,
        tokens: anchors.length,
        newTokens: newTokens.length,
        seconds: medians,
        transitionSeconds: inTransition.reduce((sum, name) => sum + (medians[name] ?? 0), 0),
      });
    }
  }
  noise.dispose();
  scratch.dispose();
  return rows;
}

async function measureRuns(engine, names, seconds, conditionSeconds) {
  const samples = Object.fromEntries(names.map((name) => [name, []]));
  const started = performance.now();
  const repeats = 3;
  for (let round = 0; round < repeats; round++) {
    const spent = (performance.now() - started) / 1000;
    if (round > 0 && spent * ((round + 1) / round) > seconds) break;
    for (const name of round % 2 === 0 ? names : [...names].reverse()) {
      const run = await engine.run(RUNS[name]);
      conditionSeconds.push(run.conditionSeconds);
      samples[name].push(run);
    }
  }
  return names.map((name) => {
    const runs = samples[name];
    const stages = runs[0].stages.map(({ steps, activeTokens }, i, all) => {
      const first = all.slice(0, i).reduce((sum, stage) => sum + stage.steps, 0);
      const times = runs.flatMap((run) => run.steps.slice(first, first + steps).map((step) => step.seconds));
      return { steps, activeTokens, stepSeconds: spread(times) };
    });
    return {
      name,
      seconds: spread(runs.map((run) => run.seconds)),
      conditionSeconds: spread(runs.map((run) => run.conditionSeconds)),
      betweenSteps: median(runs.map((run) => run.betweenSteps)),
      stages,
      finite: runs.every((run) => run.finite),
    };
  });
}
