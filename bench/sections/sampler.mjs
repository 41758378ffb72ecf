// Whole sampler runs, runs composed of step times at FLUX's real widths, what the JiT operators take of a step, and the
// released pipeline's steps as an eager framework runs them.
import { performance } from 'node:perf_hooks';
import { jit, JitSampler, Tensor } from 'jit-flux';
import { createPlan } from 'jit-flux/sampler';
import { anchorsFor, BenchEngine } from '../lib/engine.mjs';
import { interleave, timed } from '../lib/interleave.mjs';
import { CHECK_GRID, FLOAT32_TOLERANCE, MODELS, SEEDS, SUBJECTS } from '../lib/models.mjs';
import { closePeers, Peer, startPeers } from '../lib/peer.mjs';
import { hasFailed, part } from '../lib/part.mjs';
import { largestDifference, ratio, relativeDifference, spread } from '../lib/statistics.mjs';
import { duration, number, ratioText, table } from '../lib/table.mjs';

/** @typedef {import('../lib/models.mjs').Grid} Grid */
/** @typedef {import('../lib/models.mjs').ModelName} ModelName */
/** @typedef {import('../lib/section-process.mjs').Context} Context */

const TYPE = 'bfloat16';

/** @typedef {'dense-50' | 'dense-28' | 'jit-4x' | 'jit-7x'} RunName */

/** @type {Readonly<Record<RunName, { preset: 'dense' | 'jit-4x' | 'jit-7x', steps?: number }>>} */
const RUNS = {
  'dense-50': { preset: 'dense' },
  'dense-28': { preset: 'dense', steps: 28 },
  'jit-4x': { preset: 'jit-4x' },
  'jit-7x': { preset: 'jit-7x' },
};
const RUN_NAMES = /** @type {RunName[]} */ (Object.keys(RUNS));
const SPARSE_RUNS = /** @type {const} */ (['jit-4x', 'jit-7x']);
/** The run that the peers take as well. */
const COMPARED = RUNS['jit-7x'];

/** @param {Context} context */
export default async function sampler(context) {
  const { small } = SUBJECTS[context.mode];
  const whole = await part('whole runs', context, () => wholeRuns(small, context));
  const against = await part('jit-7x against eager frameworks', context, () => againstPeers(small, context));
  const composed = await part('runs composed of steps', context, () => composedRuns(context));
  return { type: TYPE, whole, against, composed };
}

/**
 * One run from noise to latents, the conditioning included.
 * @param {BenchEngine} engine
 * @param {(typeof RUNS)[RunName]} settings
 * @param {Grid} grid
 * @returns {Promise<{ seconds: number, latents: Tensor }>} the caller disposes the latents
 */
async function run(engine, settings, grid) {
  const latents = engine.latents(grid);
  const noise = Tensor.randn(latents.shape, { seed: SEEDS.microFlow });
  /** @type {Tensor | undefined} */
  let last;
  const seconds = await timed(async () => {
    const conditioning = await engine.condition(createPlan({ ...settings, grid }).sigmas);
    const sampler = new JitSampler(engine.model.bind(conditioning), {
      ...settings,
      grid,
      latents,
      microFlowNoise: noise,
      seed: 0,
    });
    for await (const { latents: state } of sampler) last = state;
    conditioning.dispose();
  });
  noise.dispose();
  if (!last) throw new Error('The sampler made no step');
  return { seconds, latents: last };
}

/**
 * @param {BenchEngine} engine
 * @param {(typeof RUNS)[RunName]} settings
 * @param {Grid} grid
 */
async function secondsOfRun(engine, settings, grid) {
  const { seconds, latents } = await run(engine, settings, grid);
  latents.dispose();
  return seconds;
}

/**
 * @param {ModelName} model
 * @param {Context} context
 */
async function wholeRuns(model, context) {
  /** @type {Readonly<Record<import('../lib/models.mjs').Mode, Grid>>} */
  const grids = { full: [64, 64], quick: [24, 24], smoke: [16, 16] };
  const grid = grids[context.mode];
  const names = RUN_NAMES.filter((name) => context.mode === 'full' || name !== 'dense-28');
  const engine = await BenchEngine.load(model, TYPE, context);
  try {
    const samples = await interleave(
      Object.fromEntries(names.map((name) => [name, () => secondsOfRun(engine, RUNS[name], grid)])),
      { rounds: context.mode === 'full' ? 3 : 1, atLeast: 1, seconds: 400, warmups: 0 },
    );
    const dense = samples['dense-50'] ?? [];
    return {
      model,
      grid,
      rows: names.map((name) => {
        const taken = samples[name] ?? [];
        const { flops } = createPlan({ ...RUNS[name], grid, model: MODELS[model] });
        return {
          run: name,
          seconds: spread(taken),
          speedup: ratio(dense, taken),
          flopRatio: flops?.speedup.dense50,
        };
      }),
    };
  } finally {
    engine.dispose();
  }
}

/**
 * The same jit-7x run, step for step, by our engine and by the peers.
 * @param {ModelName} model
 * @param {Context} context
 */
async function againstPeers(model, context) {
  const { grid } = SUBJECTS[context.mode];
  const peers = await startPeers(context);
  const engine = await BenchEngine.load(model, TYPE, context);
  /** @type {Map<'aten' | 'pytorch' | 'released', () => Promise<number>>} */
  const others = new Map();
  /** @type {Record<string, { error: string }>} */
  const failed = {};
  const checks = [];
  try {
    for (const [name, peer] of peers.running) {
      const checked = await part(`the same latents as ${name}`, context, async () => {
        const found = await compareRuns(peer, model, context);
        context.log(`differ by ${number(found.difference)} (relative L2), ${number(found.largest)} at most`);
        if (!(found.difference < FLOAT32_TOLERANCE)) {
          throw new Error(
            `${name} ends in other latents in float32: the relative L2 difference is ${number(found.difference)}, more ` +
              `than ${FLOAT32_TOLERANCE}`,
          );
        }
        await peer.load('eager', model, { dtype: TYPE });
        return found;
      });
      if (hasFailed(checked)) {
        failed[name] = checked;
        continue;
      }
      checks.push({ implementation: name, ...checked });
      const request = { ...sampleRequest(model, grid), model: 'eager' };
      others.set(name, async () => (await peer.ask(request)).seconds);
    }
    const released = await part('released pipeline', context, () => releasedPipeline(peers, model, context));
    if (hasFailed(released)) failed.released = released;
    else if ('run' in released) others.set('released', released.run);
    else peers.notes.push(released.note);

    /** @type {Record<string, number[]>} */
    const samples = await interleave(
      { ours: () => secondsOfRun(engine, COMPARED, grid), ...Object.fromEntries(others) },
      {
        rounds: { full: 4, quick: 2, smoke: 1 }[context.mode],
        atLeast: 2,
        seconds: context.mode === 'full' ? 240 : 36,
        warmups: 0,
      },
    );
    const ours = samples.ours ?? [];
    const rows = [...others.keys()].map((implementation) => {
      const theirs = samples[implementation] ?? [];
      return { implementation, ours: spread(ours), reference: spread(theirs), ratio: ratio(theirs, ours) };
    });
    return { model, grid, type: TYPE, peers: peers.info, notes: peers.notes, failed, checks, rows };
  } finally {
    engine.dispose();
    closePeers(peers);
  }
}

/**
 * What a peer is asked to walk: our plan, our first anchors.
 * @param {ModelName} model
 * @param {Grid} grid
 */
function sampleRequest(model, grid) {
  const plan = createPlan({ ...COMPARED, grid });
  const [first] = plan.stages;
  if (!first) throw new Error('The plan has no stage');
  return {
    op: 'sample',
    input: Peer.input(model, grid),
    plan: {
      grid,
      sigmas: plan.sigmas,
      tokensPerStep: plan.tokensPerStep,
      anchors: [...(anchorsFor(grid, first.tokenRatio) ?? [])],
      noiseSeed: SEEDS.microFlow,
      releasedPreset: 'default_7x',
    },
  };
}

/**
 * The released pipeline in Python, loaded and tried; a note where it was not asked for.
 * @param {import('../lib/peer.mjs').Peers} peers
 * @param {ModelName} model
 * @param {Context} context
 * @returns {Promise<{ run: () => Promise<number> } | { note: string }>}
 */
async function releasedPipeline({ running }, model, { diffusers, jit, mode }) {
  if (!diffusers || !jit) return { note: 'without the released pipeline: it needs --diffusers and --jit' };
  const torch = running.get('pytorch');
  if (!torch) return { note: 'without the released pipeline: it needs PyTorch in Python' };
  const found = await torch.ask({ op: 'checkouts', diffusers, jit });
  const error = found.diffusers?.error ?? found.jit?.error;
  if (error) throw new Error(error);
  await torch.load('diffusers', model, { dtype: TYPE, implementation: 'diffusers' });
  /** @type {(grid: Grid) => import('../lib/peer.mjs').Request} */
  const request = (grid) => ({ ...sampleRequest(model, grid), model: 'diffusers', pipeline: 'released' });
  await torch.ask(request(CHECK_GRID));
  return { run: async () => (await torch.ask(request(SUBJECTS[mode].grid))).seconds };
}

/**
 * Difference of the final latents in float32 at a small size: both sides walk the same path.
 * @param {Peer} peer
 * @param {ModelName} model
 * @param {Context} context
 */
async function compareRuns(peer, model, context) {
  const engine = await BenchEngine.load(model, 'float32', context);
  const { latents } = await run(engine, COMPARED, CHECK_GRID);
  const ours = await latents.toFloat32Array();
  latents.dispose();
  engine.dispose();
  const id = 'eager float32';
  await peer.load(id, model, { dtype: 'float32' });
  const theirs = await peer.result({ ...sampleRequest(model, CHECK_GRID), model: id });
  await peer.ask({ op: 'unload', model: id });
  return { difference: relativeDifference(ours, theirs), largest: largestDifference(ours, theirs) };
}

/** @typedef {'gather' | 'forward' | 'step'} StepPart */

/**
 * Times one step per distinct token count, in turn, and composes runs of them: a dense-50 run at these widths would take
 * minutes and add nothing.
 * @param {Context} context
 */
async function composedRuns(context) {
  const { wide: model, grid } = SUBJECTS[context.mode];
  const total = grid[0] * grid[1];
  const plans = RUN_NAMES.map((name) => ({
    name,
    plan: createPlan({ ...RUNS[name], grid, model: MODELS[model] }),
  }));
  const shares = [...new Set(plans.flatMap(({ plan }) => plan.stages.map((stage) => stage.tokenRatio)))].sort(
    (a, b) => b - a,
  );
  const engine = await BenchEngine.load(model, TYPE, context);
  const state = engine.latents(grid).clone();
  try {
    // A step's parts, each timed alone; their sum is the step, as the sampler does nothing else.
    /** @type {Map<number, Record<StepPart, number[]>>} */
    const parts = new Map(shares.map((share) => [share, { gather: [], forward: [], step: [] }]));
    /** @type {(share: number) => Promise<number>} */
    const step = async (share) => {
      const taken = await oneStep(engine, state, grid, share);
      parts.get(share)?.gather.push(taken.gather);
      parts.get(share)?.forward.push(taken.forward);
      parts.get(share)?.step.push(taken.step);
      return taken.gather + taken.forward + taken.step;
    };
    /** @type {Record<string, import('../lib/interleave.mjs').Subject>} */
    const subjects = Object.fromEntries(shares.map((share) => [`step ${share}`, () => step(share)]));
    for (const name of SPARSE_RUNS) {
      const [first = 1, second = 1] = planOf(plans, name).stages.map((stage) => stage.tokenRatio);
      subjects[`${name} 1`] = () => transition(engine, state, grid, first, second);
      subjects[`${name} 2`] = () => transition(engine, state, grid, second, 1);
    }
    // Small steps first: they warm up the weights and the operators without a whole step's time.
    await oneStep(engine, state, grid, shares.at(-1) ?? 1);
    const samples = await interleave(subjects, {
      rounds: { full: 7, quick: 3, smoke: 2 }[context.mode],
      atLeast: context.mode === 'full' ? 2 : 1,
      seconds: context.mode === 'full' ? 240 : 35,
      warmups: 0,
    });
    /** @type {(name: string) => number[]} */
    const of = (name) => samples[name] ?? [];
    const dense = of('step 1').map((seconds) => 50 * seconds);
    return {
      model,
      grid,
      steps: shares.map((share) => ({
        share,
        tokens: Math.trunc(total * share),
        seconds: spread(of(`step ${share}`)),
      })),
      runs: plans.map(({ name, plan }) => {
        const runs = dense.map((_, round) => {
          /** @type {(subject: string) => number} */
          const taken = (subject) => of(subject)[round] ?? 0;
          const inSteps = plan.stages.reduce(
            (sum, stage) => sum + stage.steps * taken(`step ${stage.tokenRatio}`),
            0,
          );
          return inSteps + taken(`${name} 1`) + taken(`${name} 2`);
        });
        return {
          preset: name,
          seconds: spread(runs),
          speedup: ratio(dense, runs),
          flopRatio: plan.flops?.speedup.dense50,
        };
      }),
      operators: SPARSE_RUNS.flatMap((name) =>
        planOf(plans, name)
          .stages.filter(({ tokenRatio }) => tokenRatio < 1)
          .map(({ tokenRatio, steps, activeTokens }, i) => {
            const taken = parts.get(tokenRatio) ?? { gather: [], forward: [], step: [] };
            const between = of(`${name} ${i + 1}`).map((seconds) => seconds / steps);
            return { preset: name, tokens: activeTokens, ...operatorShare(taken, between) };
          }),
      ),
    };
  } finally {
    state.dispose();
    engine.dispose();
  }
}

/**
 * @param {{ name: RunName, plan: import('jit-flux').JitPlan }[]} plans
 * @param {RunName} name
 */
function planOf(plans, name) {
  const found = plans.find((entry) => entry.name === name);
  if (!found) throw new Error(`There is no plan of ${name}`);
  return found.plan;
}

/**
 * The sampler gathers, lifts and steps inside the native call of the forward pass (`advance`), where every thread is
 * awake. Here they are calls of their own, and the first one after the pass would pay for waking threads that have slept
 * (milliseconds in a virtual machine): each is called twice, and the second counts.
 * @param {BenchEngine} engine
 * @param {Tensor} state
 * @param {Grid} grid
 * @param {number} share
 * @returns {Promise<Record<StepPart, number>>} seconds
 */
async function oneStep(engine, state, grid, share) {
  const anchors = anchorsFor(grid, share);
  const at = anchors && { anchors };
  if (anchors) (await jit.gather(state, anchors)).dispose();
  const started = performance.now();
  const tokens = anchors ? await jit.gather(state, anchors) : state;
  const gathered = performance.now();
  const { conditioning } = engine;
  const velocity = await engine.model.forward({ tokens, grid, conditioning, step: 0, ...at });
  const computed = performance.now();
  // A tiny dSigma: the state must stay in a sane range over many steps.
  const step = () => jit.step(state, velocity, { ...at, grid, dSigma: -1e-6 });
  (await step()).dispose();
  const stepping = performance.now();
  const full = await step();
  const stepped = performance.now();
  for (const tensor of new Set([velocity, full, ...(anchors ? [tokens] : [])])) tensor.dispose();
  return {
    gather: anchors ? (gathered - started) / 1000 : 0,
    forward: (computed - gathered) / 1000,
    step: (stepped - stepping) / 1000,
  };
}

/**
 * Everything that happens once between two stages; returns its seconds.
 * @param {BenchEngine} engine
 * @param {Tensor} state
 * @param {Grid} grid
 * @param {number} from share of the tokens
 * @param {number} to
 */
async function transition(engine, state, grid, from, to) {
  const latents = engine.latents(grid);
  const anchors = anchorsFor(grid, from) ?? new Int32Array();
  const active = new Set(anchors);
  const wanted = Math.trunc(grid[0] * grid[1] * to) - anchors.length;
  const newTokens = Int32Array.from(
    Array.from({ length: grid[0] * grid[1] }, (_, i) => i)
      .filter((i) => !active.has(i))
      .slice(0, wanted),
  );
  const scratch = state.clone();
  const seconds = await timed(async () => {
    // Into the last stage all tokens are taken, whatever their importance.
    if (to < 1) await jit.importance(latents, grid);
    const clean = await jit.predictClean(scratch, latents, 0.5);
    const target = await jit.microFlowTarget({ clean, noise: latents, anchors, newTokens, sigma: 0.5, grid });
    await jit.microFlow(scratch, { mode: 'relax', steps: 3, newTokens, target });
    clean.dispose();
    target.dispose();
  });
  scratch.dispose();
  return seconds;
}

/**
 * Share of the JiT operators in a sparse step: gathering, lifting with the Euler step, and this step's part of the
 * transition that ends its stage.
 * @param {Record<StepPart, number[]>} taken
 * @param {number[]} between
 */
function operatorShare({ gather, forward, step }, between) {
  const shares = forward.map((seconds, round) => {
    const operators = (gather[round] ?? 0) + (step[round] ?? 0) + (between[round] ?? 0);
    return operators / (operators + seconds);
  });
  return {
    gather: spread(gather),
    step: spread(step),
    transition: spread(between),
    forward: spread(forward),
    share: spread(shares).median,
  };
}

/** @param {Awaited<ReturnType<typeof sampler>>} result */
export function print({ whole, composed, against }) {
  /** @type {(string | undefined)[][]} */
  const runs = [];
  if (hasFailed(whole)) runs.push(['whole runs', `failed: ${whole.error}`]);
  else {
    for (const r of whole.rows) {
      runs.push([
        `${whole.model} ${whole.grid.join('x')} ${r.run}`,
        duration(r.seconds.median),
        ratioText(r.speedup),
        number(r.flopRatio),
      ]);
    }
  }
  if (hasFailed(composed)) runs.push(['composed runs', `failed: ${composed.error}`]);
  else {
    for (const r of composed.runs) {
      runs.push([
        `${composed.model} ${composed.grid.join('x')} ${r.preset}, composed`,
        duration(r.seconds.median),
        ratioText(r.speedup),
        number(r.flopRatio),
      ]);
    }
  }
  const text = [table(['run', 'seconds', 'against dense-50', 'FLOPs'], runs)];
  if (!hasFailed(composed)) {
    text.push(
      '',
      table(
        ['JiT operators', 'tokens', 'gather', 'lift + step', 'transition/step', 'forward', 'share'],
        composed.operators.map((r) => [
          r.preset,
          r.tokens,
          duration(r.gather.median),
          duration(r.step.median),
          duration(r.transition.median),
          duration(r.forward.median),
          `${(100 * r.share).toFixed(2)} %`,
        ]),
      ),
    );
  }
  if (hasFailed(against))
    return [...text, '', `against eager frameworks: failed: ${against.error}`].join('\n');
  return [
    ...text,
    '',
    table(
      [
        `jit-7x, ${against.model} ${against.grid.join('x')}`,
        'ours',
        'theirs',
        'ratio',
        'difference in float32',
      ],
      [
        ...against.rows.map((r) => [
          r.implementation,
          duration(r.ours.median),
          duration(r.reference.median),
          ratioText(r.ratio),
          number(against.checks.find((c) => c.implementation === r.implementation)?.difference),
        ]),
        ...[...Object.entries(against.failed), ...Object.entries(against.peers)].flatMap(([name, found]) =>
          hasFailed(found) ? [[name, `failed: ${found.error}`]] : [],
        ),
      ],
    ),
    ...against.notes,
  ].join('\n');
}
