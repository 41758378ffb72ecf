// What several parts measure of a loaded model: steps, passes, runs, and the JiT operators by themselves.
import { Tensor, jit } from 'jit-flux';
import { stageTokens } from 'jit-flux/sampler';
import { anchorsFor } from '../lib/engine.mjs';
import { interleave } from '../lib/interleave.mjs';
import { median } from '../lib/statistics.mjs';
import { clocked } from './engine.mjs';
import { RUNS, SEEDS, SHARES, SIGMA } from './models.mjs';

/** @typedef {import('./engine.mjs').GpuEngine} GpuEngine */
/** @typedef {import('./engine.mjs').Conditioning} Conditioning */

/** @param {number} share */
export const percent = (share) => `${Math.round(100 * share)} %`;

/** Repetitions: one in the smoke test. @param {{ smoke: boolean }} context @param {number} full */
export const rounds = ({ smoke }, full) => (smoke ? 1 : full);

/**
 * @param {{ smoke: boolean, seconds: number }} context
 * @param {Record<string, () => Promise<number>>} subjects
 * @param {{ share: number, most?: number, atLeast?: number, warmups?: number }} o share: of the part's time
 */
const inTurn = (context, subjects, { share, most = 15, atLeast = 3, warmups = 1 }) =>
  interleave(subjects, { rounds: rounds(context, most), atLeast, seconds: share * context.seconds, warmups });

/**
 * Steps as the sampler takes them.
 * @param {GpuEngine} engine
 * @param {Conditioning} conditioning
 * @param {readonly number[]} shares of the tokens
 * @param {number} share of the part's time
 */
export async function measureSteps(engine, conditioning, shares, share) {
  const { context, emit } = engine;
  const { grid } = context.model;
  const subjects = Object.fromEntries(shares.map((s) => [percent(s), engine.step(conditioning, grid, s)]));
  const samples = await inTurn(context, subjects, { share, warmups: rounds(context, 2) });
  for (const s of shares)
    emit(`step ${percent(s)}`, 's', samples[percent(s)], `${stageTokens(grid[0] * grid[1], s)} tokens`);
}

/**
 * The passes alone, without lift and Euler update: what PyTorch's side does.
 * @param {GpuEngine} engine
 * @param {Conditioning} conditioning
 */
export async function measurePasses(engine, conditioning) {
  const pass = (/** @type {number} */ share) => async () => {
    const { seconds, result } = await clocked(() => engine.velocity(conditioning, share));
    result.dispose();
    return seconds;
  };
  const subjects = Object.fromEntries(SHARES.map((share) => [percent(share), pass(share)]));
  const samples = await inTurn(engine.context, subjects, { share: 0.1 });
  for (const share of SHARES) engine.emit(`pass ${percent(share)}`, 's', samples[percent(share)]);
}

/**
 * Whole runs. The conditioning stands apart from the loop.
 * @param {GpuEngine} engine
 * @param {readonly string[]} names
 * @param {number} share of the part's time
 */
export async function measureRuns(engine, names, share) {
  const { context, emit } = engine;
  /** @type {Map<string, Awaited<ReturnType<GpuEngine['run']>>[]>} */
  const runs = new Map(names.map((name) => [name, []]));
  const subject = (/** @type {string} */ name) => async () => {
    const run = await engine.run(RUNS[name] ?? {});
    runs.get(name)?.push(run);
    return run.seconds;
  };
  const subjects = Object.fromEntries(names.map((name) => [name, subject(name)]));
  const loops = await inTurn(context, subjects, { share, most: 3, atLeast: 1, warmups: 0 });
  for (const [name, all] of runs) {
    emit(`${name} loop`, 's', loops[name]);
    const dense = loops['dense-50'];
    if (dense) emit(`${name} loop against dense-50`, 'x', median(dense) / median(loops[name] ?? []));
    emit(
      `${name}: condition`,
      's',
      all.map((run) => run.condition),
    );
    const between = all.map((run) => run.between);
    emit(`${name}: between two steps`, 's', between, 'JavaScript, while the device idles');
    let first = 0;
    for (const { steps, activeTokens } of all[0]?.stages ?? []) {
      const inStage = all.flatMap((run) => run.steps.slice(first, first + steps));
      emit(`${name}: step at ${activeTokens} tokens`, 's', inStage, `${steps} of the run`);
      first += steps;
    }
  }
  return runs;
}

/**
 * The way to the device and back: a native call that does next to nothing there. Between steps the device waits so long.
 * @param {GpuEngine} engine
 */
export async function measureRoundTrip(engine) {
  const latents = engine.latents(engine.context.model.grid);
  const samples = [];
  for (let i = 0; i < 60; i++) {
    const { seconds, result } = await clocked(() => jit.gather(latents, Int32Array.of(0)));
    result.dispose();
    if (i >= 10) samples.push(seconds);
  }
  engine.emit('round trip to the device', 's', samples);
  return median(samples);
}

/**
 * The JiT operators of a run by themselves, the host's time included: per step the lift with the Euler update, per
 * transition everything that happens there. A run's share of them: in a step, gather and lift are part of the one native
 * call, so a bare round trip is taken off.
 * @param {GpuEngine} engine
 * @param {Conditioning} conditioning
 * @param {string} preset
 * @param {Awaited<ReturnType<GpuEngine['run']>>[]} runs
 * @param {number} trip seconds
 */
export async function measureOperators(engine, conditioning, preset, runs, trip) {
  const { context, emit } = engine;
  const { grid } = context.model;
  const total = grid[0] * grid[1];
  const latents = engine.latents(grid);
  const noise = Tensor.randn(latents.shape, { seed: SEEDS.noise, device: context.device });
  const scratch = latents.clone();
  const stages = runs[0]?.stages ?? [];
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
      const { seconds, result } = await clocked(run);
      samples.set(name, [...(samples.get(name) ?? []), seconds]);
      return result;
    };
    const begun = performance.now();
    for (let round = 0; round < rounds(context, 12); round++) {
      if (round > 4 && (performance.now() - begun) / 1000 > context.seconds / 80) break;
      (await note('gather', () => jit.gather(latents, anchors))).dispose();
      (await note('lift', () => jit.lift(velocity, anchors, grid))).dispose();
      const step = { anchors, grid, dSigma: -1e-6 };
      const full = await note('lift and step', () => jit.step(scratch, velocity, step));
      // Into the last stage all tokens are taken, whatever their importance.
      if (next < total) {
        const count = newTokens.length;
        // The map itself is for policies in JavaScript only.
        await note('importance', () => jit.importance(full, grid));
        await note('choice of anchors', () => jit.selectTokens?.(full, { anchors, count, grid }));
      }
      const clean = await note('clean prediction', () => jit.predictClean(scratch, full, SIGMA));
      const request = { clean, noise, anchors, newTokens, sigma: SIGMA, grid };
      const target = await note('micro-flow target', () => jit.microFlowTarget(request));
      const flow = { mode: /** @type {const} */ ('relax'), steps: 3, newTokens, target };
      await note('micro-flow', () => jit.microFlow(scratch, flow));
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
  const loop = median(runs.map((run) => run.seconds));
  emit(`${preset}: JiT operators of a run`, 's', inRun, 'host included');
  emit(`${preset}: JiT operators, share of a run`, 'share', inRun / loop);
  noise.dispose();
  scratch.dispose();
}
