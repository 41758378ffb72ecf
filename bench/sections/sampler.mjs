// Whole sampler runs, runs composed of step times at FLUX's real widths, what the JiT operators take of a step, and
// the released pipeline in PyTorch.
import { jit, JitSampler, Tensor } from 'jit-flux';
import { createPlan } from 'jit-flux/sampler';
import { anchorsFor, BenchEngine } from '../lib/engine.mjs';
import { interleave, timed } from '../lib/interleave.mjs';
import { CHECK_GRID, MODELS, SEEDS } from '../lib/models.mjs';
import { Peer } from '../lib/peer.mjs';
import { ratio, relativeDifference, spread } from '../lib/statistics.mjs';
import { duration, number, ratioText, table } from '../lib/table.mjs';

const TYPE = 'bfloat16';
const GRID = [64, 64];

const RUNS = {
  'dense-50': { preset: 'dense' },
  'dense-28': { preset: 'dense', steps: 28 },
  'jit-4x': { preset: 'jit-4x' },
  'jit-7x': { preset: 'jit-7x' },
};

/** @param {import('../lib/section-process.mjs').Context} context */
export default async function sampler(context) {
  const bench = await BenchEngine.load('bench', TYPE, context);
  context.log('whole runs');
  const whole = await wholeRuns(bench, context);
  context.log('jit-7x against PyTorch');
  const { peer, released } = await againstPeer(bench, context);
  bench.dispose();
  context.log('steps of flux-slice');
  const slice = await BenchEngine.load('flux-slice', TYPE, context);
  const { steps, composed, operators } = await composedRuns(slice, context);
  slice.dispose();
  return { type: TYPE, rows: whole, steps, composed, operators, peer, released };
}

/** One run from noise to latents, the conditioning included; returns its seconds. */
async function run(engine, settings, grid, keep) {
  const latents = engine.latents(grid[0] * grid[1]);
  const noise = Tensor.randn(latents.shape, { seed: SEEDS.microFlow });
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
  if (keep) keep(await last.toFloat32Array());
  last.dispose();
  noise.dispose();
  return seconds;
}

async function wholeRuns(engine, { quick }) {
  const grid = quick ? [24, 24] : GRID;
  const names = Object.keys(RUNS).filter((name) => !quick || name !== 'dense-28');
  const samples = await interleave(
    Object.fromEntries(names.map((name) => [name, () => run(engine, RUNS[name], grid)])),
    { rounds: quick ? 1 : 3, atLeast: 1, seconds: 400, warmups: 0 },
  );
  return names.map((name) => ({
    model: 'bench',
    grid,
    run: name,
    seconds: spread(samples[name]),
    speedup: ratio(samples['dense-50'], samples[name]),
    flopRatio: flopRatio('bench', RUNS[name], grid),
  }));
}

function flopRatio(model, settings, grid) {
  return createPlan({ ...settings, grid, model: MODELS[model] }).flops.speedup.dense50;
}

/** The same jit-7x run, step for step, by our engine and by PyTorch. */
async function againstPeer(engine, context) {
  const torch = await Peer.start(context);
  try {
    const checkouts =
      context.diffusers && context.jit
        ? await torch.ask({ op: 'checkouts', diffusers: context.diffusers, jit: context.jit })
        : {};
    await torch.load('eager', 'bench', { dtype: TYPE });
    const settings = RUNS['jit-7x'];
    const request = (grid) => {
      const plan = createPlan({ ...settings, grid });
      const share = plan.stages[0].tokenRatio;
      return {
        op: 'sample',
        input: Peer.input('bench', grid),
        plan: {
          grid,
          sigmas: plan.sigmas,
          tokensPerStep: plan.tokensPerStep,
          anchors: [...anchorsFor(grid, share)],
          noiseSeed: SEEDS.microFlow,
          releasedPreset: 'default_7x',
        },
      };
    };
    const subjects = {
      ours: () => run(engine, settings, GRID),
      eager: async () => (await torch.ask({ ...request(GRID), model: 'eager' })).seconds,
    };
    const unavailable = await whyNotReleased(torch, checkouts, request, context);
    if (unavailable === undefined) {
      const released = { ...request(GRID), model: 'diffusers', pipeline: 'released' };
      subjects.released = async () => (await torch.ask(released)).seconds;
    }
    const difference = await compareRuns(torch, settings, request, context);
    const samples = await interleave(subjects, {
      rounds: context.quick ? 2 : 4,
      atLeast: 1,
      seconds: context.quick ? 36 : 240,
      warmups: 0,
    });
    const against = (name) => ({
      model: 'bench',
      grid: GRID,
      type: TYPE,
      ours: spread(samples.ours),
      reference: spread(samples[name]),
      ratio: ratio(samples[name], samples.ours),
    });
    return {
      peer: { ...against('eager'), differenceFloat32: difference },
      released: unavailable === undefined ? against('released') : { unavailable },
    };
  } finally {
    torch.close();
  }
}

/** Loads and tries the released pipeline; a reason if it does not run, as with a diffusers that it does not know. */
async function whyNotReleased(torch, checkouts, request, { diffusers, jit }) {
  if (!diffusers || !jit) return 'needs --diffusers and --jit';
  const reason = checkouts.diffusers?.reason ?? checkouts.jit?.reason;
  if (reason) return reason;
  try {
    await torch.load('diffusers', 'bench', { dtype: TYPE, implementation: 'diffusers' });
    await torch.ask({ ...request(CHECK_GRID), model: 'diffusers', pipeline: 'released' });
    return undefined;
  } catch (error) {
    return error.message;
  }
}

/** Relative L2 difference of the final latents in float32 at a small size: both sides walk the same path. */
async function compareRuns(torch, settings, request, context) {
  const engine = await BenchEngine.load('bench', 'float32', context);
  await torch.load('eager float32', 'bench', { dtype: 'float32' });
  let ours;
  await run(engine, settings, CHECK_GRID, (latents) => (ours = latents));
  engine.dispose();
  const theirs = await torch.result({ ...request(CHECK_GRID), model: 'eager float32' });
  await torch.ask({ op: 'unload', model: 'eager float32' });
  return relativeDifference(ours, theirs);
}

/**
 * Times one step per distinct token count, in turn, and composes runs of them: a dense-50 run at these widths would take
 * minutes and add nothing.
 */
async function composedRuns(engine, { quick }) {
  const total = GRID[0] * GRID[1];
  const plans = Object.fromEntries(
    Object.entries(RUNS).map(([name, settings]) => [
      name,
      createPlan({ ...settings, grid: GRID, model: MODELS['flux-slice'] }),
    ]),
  );
  const shares = [
    ...new Set(Object.values(plans).flatMap(({ stages }) => stages.map((stage) => stage.tokenRatio))),
  ].sort((a, b) => b - a);
  const latents = engine.latents(total);
  const state = latents.clone();

  // A step's parts, each timed alone; their sum is the step, as the sampler does nothing else.
  const parts = new Map(shares.map((share) => [share, { gather: [], forward: [], step: [], total: [] }]));
  const step = async (share) => {
    const anchors = anchorsFor(GRID, share);
    let tokens = state;
    let velocity;
    let full;
    const gather = anchors ? await timed(async () => (tokens = await jit.gather(state, anchors))) : 0;
    const forward = await timed(async () => {
      velocity = await engine.model.forward({
        tokens,
        grid: GRID,
        conditioning: engine.conditioning,
        step: 0,
        ...(anchors && { anchors }),
      });
    });
    // A tiny dSigma: the state must stay in a sane range over many steps.
    const stepping = await timed(async () => {
      full = await jit.step(state, velocity, { ...(anchors && { anchors }), grid: GRID, dSigma: -1e-6 });
    });
    for (const tensor of new Set([velocity, full, ...(anchors ? [tokens] : [])])) tensor.dispose();
    const taken = { gather, forward, step: stepping, total: gather + forward + stepping };
    for (const [part, seconds] of Object.entries(taken)) parts.get(share)[part].push(seconds);
    return taken.total;
  };
  const transitions = new Map();
  for (const name of ['jit-4x', 'jit-7x']) {
    const [first, second] = plans[name].stages.map((stage) => stage.tokenRatio);
    transitions.set(`${name} 1`, () => transition({ state, latents, from: first, to: second }));
    transitions.set(`${name} 2`, () => transition({ state, latents, from: second, to: 1 }));
  }
  // Small steps first: they warm up the weights and the operators without a whole step's time.
  await step(shares.at(-1));
  for (const values of Object.values(parts.get(shares.at(-1)))) values.length = 0;
  const samples = await interleave(
    {
      ...Object.fromEntries(shares.map((share) => [`step ${share}`, () => step(share)])),
      ...Object.fromEntries(transitions),
    },
    { rounds: quick ? 2 : 7, atLeast: quick ? 1 : 2, seconds: quick ? 35 : 240, warmups: 0 },
  );
  state.dispose();

  const steps = shares.map((share) => ({
    model: 'flux-slice',
    grid: GRID,
    tokens: Math.trunc(total * share),
    seconds: spread(samples[`step ${share}`]),
  }));
  const composed = Object.entries(plans).map(([name, plan]) => {
    const runs = samples['step 1'].map((_, round) => {
      const inSteps = plan.stages.reduce(
        (sum, stage) => sum + stage.steps * samples[`step ${stage.tokenRatio}`][round],
        0,
      );
      return inSteps + [1, 2].reduce((sum, i) => sum + (samples[`${name} ${i}`]?.[round] ?? 0), 0);
    });
    const dense = samples['step 1'].map((seconds) => 50 * seconds);
    return {
      model: 'flux-slice',
      grid: GRID,
      preset: name,
      seconds: spread(runs),
      speedup: ratio(dense, runs),
      flopRatio: plan.flops.speedup.dense50,
    };
  });
  return { steps, composed, operators: operatorShares({ plans, parts, samples }) };
}

/** Everything that happens once between two stages; returns its seconds. */
async function transition({ state, latents, from, to }) {
  const anchors = anchorsFor(GRID, from);
  const active = new Set(anchors);
  const wanted = Math.trunc(GRID[0] * GRID[1] * to) - anchors.length;
  const newTokens = Int32Array.from(
    Array.from({ length: GRID[0] * GRID[1] }, (_, i) => i)
      .filter((i) => !active.has(i))
      .slice(0, wanted),
  );
  const scratch = state.clone();
  const seconds = await timed(async () => {
    // Into the last stage all tokens are taken, whatever their importance.
    if (to < 1) await jit.importance(latents, GRID);
    const clean = await jit.predictClean(scratch, latents, 0.5);
    const target = await jit.microFlowTarget({
      clean,
      noise: latents,
      anchors,
      newTokens,
      sigma: 0.5,
      grid: GRID,
    });
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
 */
function operatorShares({ plans, parts, samples }) {
  return ['jit-4x', 'jit-7x'].flatMap((name) =>
    plans[name].stages
      .filter(({ tokenRatio }) => tokenRatio < 1)
      .map(({ tokenRatio, steps, activeTokens }, i) => {
        const { gather, forward, step } = parts.get(tokenRatio);
        const between = samples[`${name} ${i + 1}`].map((seconds) => seconds / steps);
        const shares = forward.map((seconds, round) => {
          const operators = gather[round] + step[round] + between[round];
          return operators / (operators + seconds);
        });
        return {
          model: 'flux-slice',
          grid: GRID,
          preset: name,
          tokens: activeTokens,
          gather: spread(gather),
          step: spread(step),
          transition: spread(between),
          forward: spread(forward),
          share: spread(shares).median,
        };
      }),
  );
}

export function print({ rows, composed, operators, peer, released }) {
  const runs = [
    ...rows.map((r) => [
      `${r.model} ${r.grid.join('x')} ${r.run}`,
      duration(r.seconds.median),
      ratioText(r.speedup),
      r.flopRatio.toFixed(2),
    ]),
    ...composed.map((r) => [
      `${r.model} ${r.grid.join('x')} ${r.preset}, composed`,
      duration(r.seconds.median),
      ratioText(r.speedup),
      r.flopRatio.toFixed(2),
    ]),
  ];
  const pipelines = [
    ['jit-7x eager PyTorch', peer],
    ['jit-7x released pipeline', released],
  ];
  return [
    table(['run', 'seconds', 'against dense-50', 'FLOPs'], runs),
    '',
    table(
      ['JiT operators', 'tokens', 'gather', 'lift + step', 'transition/step', 'forward', 'share'],
      operators.map((r) => [
        r.preset,
        r.tokens,
        duration(r.gather.median),
        duration(r.step.median),
        duration(r.transition.median),
        duration(r.forward.median),
        `${(100 * r.share).toFixed(2)} %`,
      ]),
    ),
    '',
    table(
      ['bench 64x64', 'ours', 'theirs', 'ratio'],
      pipelines.map(([name, r]) =>
        r.unavailable
          ? [name, 'not run']
          : [name, duration(r.ours.median), duration(r.reference.median), ratioText(r.ratio)],
      ),
    ),
    ...(released.unavailable ? [`released pipeline: ${released.unavailable}`] : []),
    `final latents in float32, 16x16: relative difference to PyTorch ${number(peer.differenceFloat32)}`,
  ].join('\n');
}
