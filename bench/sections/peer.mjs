// Our forward against PyTorch's in Python: same weights, tokens, type and threads, call by call in turn.
import { BenchEngine } from '../lib/engine.mjs';
import { interleave } from '../lib/interleave.mjs';
import { CHECK_GRID } from '../lib/models.mjs';
import { Peer } from '../lib/peer.mjs';
import { ratio, relativeDifference, spread } from '../lib/statistics.mjs';
import { duration, number, ratioText, table } from '../lib/table.mjs';

/** float32 on both sides must agree this well, or they do not compute the same and their times mean nothing. */
const FLOAT32_TOLERANCE = 1e-4;

const CASES = {
  full: [
    { model: 'bench', grid: [64, 64], ours: ['float32', 'bfloat16', 'int8'], rounds: 12 },
    { model: 'flux-slice', grid: [64, 64], ours: ['float32', 'bfloat16', 'int8'], rounds: 4 },
  ],
  quick: [
    {
      model: 'bench',
      grid: [64, 64],
      ours: ['float32', 'bfloat16', 'int8'],
      rounds: 2,
      seconds: 15,
      warmups: 1,
    },
    { model: 'flux-slice', grid: [64, 64], ours: ['bfloat16'], rounds: 1, warmups: 1 },
  ],
};

/** @param {import('../lib/section-process.mjs').Context} context */
export default async function peer(context) {
  const torch = await Peer.start(context);
  try {
    context.log(`torch ${torch.info.torch}, ${torch.info.threads} threads`);
    const checkouts = await loadCheckouts(torch, context);
    const rows = [];
    const checks = [];
    for (const measurement of CASES[context.quick ? 'quick' : 'full']) {
      context.log(`${measurement.model} ${measurement.grid.join('x')}`);
      const result = await measure(torch, measurement, checkouts, context);
      rows.push(...result.rows);
      checks.push(...result.checks);
    }
    const bad = checks.filter(
      ({ type, difference }) => type === 'float32' && !(difference < FLOAT32_TOLERANCE),
    );
    if (bad.length > 0) {
      const what = bad.map((c) => `${c.model} ${c.implementation} ${number(c.difference)}`).join(', ');
      throw new Error(
        `Velocities in float32 differ by more than ${FLOAT32_TOLERANCE} (relative L2): ${what}`,
      );
    }
    return { python: torch.info, checkouts, checks, rows };
  } finally {
    torch.close();
  }
}

/** What can be imported of the checkouts that were named, or why not. */
async function loadCheckouts(torch, { diffusers, jit }) {
  if (!diffusers && !jit) return {};
  return torch.ask({ op: 'checkouts', diffusers, jit });
}

async function measure(torch, { model, grid, ours, rounds, seconds, warmups }, checkouts, context) {
  const implementations = ['eager', ...(checkouts.diffusers?.version ? ['diffusers'] : [])];
  const types = ours.filter((type) => type !== 'int8');
  const rows = [];
  const checks = [];
  const engines = new Map();
  for (const type of ours) {
    const { engine, unavailable } = await BenchEngine.loadIfAvailable(model, type, context);
    if (engine) engines.set(type, engine);
    else rows.push({ model, grid, type, implementation: 'eager', unavailable });
  }

  // The check in float32 is made in any case, the others for the types that are measured.
  for (const type of new Set(['float32', ...types])) {
    const engine = engines.get(type) ?? (await BenchEngine.load(model, type, context));
    for (const implementation of implementations) {
      const id = `${implementation} ${type}`;
      await torch.load(id, model, { dtype: type, implementation });
      checks.push({ model, type, implementation, difference: await difference(torch, id, model, engine) });
      if (!types.includes(type)) await torch.ask({ op: 'unload', model: id });
    }
    if (!engines.has(type)) engine.dispose();
  }

  const input = Peer.input(model, grid);
  const samples = await interleave(
    Object.fromEntries([
      ...[...engines].flatMap(([type, engine]) => [
        [`ours ${type}`, () => engine.forward(grid)],
        ...(types.includes(type)
          ? implementations.map((name) => [`${name} ${type}`, () => torch.forward(`${name} ${type}`, input)])
          : []),
      ]),
    ]),
    // The check has warmed up everything but the memory for this size.
    { rounds, seconds, warmups, atLeast: context.quick ? 1 : 2 },
  );

  for (const type of types) {
    // What our forward leaves to condition(), which runs once per image for all steps, and PyTorch repeats in each.
    const conditionSeconds = await conditionPerStep(engines.get(type));
    for (const implementation of implementations) {
      rows.push({
        model,
        grid,
        type,
        implementation,
        ours: { ...spread(samples[`ours ${type}`]), conditionSeconds },
        reference: spread(samples[`${implementation} ${type}`]),
        ratio: ratio(samples[`${implementation} ${type}`], samples[`ours ${type}`]),
        difference: checks.find((c) => c.type === type && c.implementation === implementation)?.difference,
      });
    }
  }
  if (types.length > 1) rows.push(bestAgainstBest({ model, grid, samples, engines, types }));
  for (const engine of engines.values()) engine.dispose();
  for (const type of types) {
    for (const name of implementations) await torch.ask({ op: 'unload', model: `${name} ${type}` });
  }
  return { rows, checks };
}

/** Relative L2 difference of our velocity to PyTorch's. */
async function difference(torch, id, model, engine) {
  const velocity = await engine.velocity(CHECK_GRID);
  const ours = await velocity.toFloat32Array();
  velocity.dispose();
  const theirs = await torch.result({ op: 'forward', model: id, input: Peer.input(model, CHECK_GRID) });
  return relativeDifference(ours, theirs);
}

async function conditionPerStep(engine) {
  const sigmas = Array.from({ length: 11 }, (_, i) => 1 - i / 11);
  const started = performance.now();
  (await engine.condition(sigmas)).dispose();
  return (performance.now() - started) / 1000 / sigmas.length;
}

/** Our fastest type against eager PyTorch's fastest. */
function bestAgainstBest({ model, grid, samples, engines, types }) {
  const fastest = (names) =>
    names.reduce((best, name) => (spread(samples[name]).median < spread(samples[best]).median ? name : best));
  const mine = fastest([...engines.keys()].map((type) => `ours ${type}`));
  const theirs = fastest(types.map((type) => `eager ${type}`));
  return {
    model,
    grid,
    type: 'best',
    implementation: 'eager',
    oursType: mine.split(' ')[1],
    referenceType: theirs.split(' ')[1],
    ours: spread(samples[mine]),
    reference: spread(samples[theirs]),
    ratio: ratio(samples[theirs], samples[mine]),
  };
}

export function print({ rows, checks, checkouts }) {
  const reasons = Object.entries(checkouts)
    .filter(([, { reason }]) => reason)
    .map(([name, { reason }]) => `${name} is not available: ${reason}`);
  return [
    table(
      ['model', 'grid', 'type', 'peer', 'ours', 'theirs', 'ratio', 'difference'],
      rows.map((r) =>
        r.unavailable
          ? [r.model, r.grid.join('x'), r.type, r.implementation, 'unavailable']
          : [
              r.model,
              r.grid.join('x'),
              r.type === 'best' ? `${r.oursType} / ${r.referenceType}` : r.type,
              r.implementation,
              duration(r.ours.median),
              duration(r.reference.median),
              ratioText(r.ratio),
              number(r.difference),
            ],
      ),
    ),
    '',
    table(
      ['same velocity', 'type', 'peer', 'difference'],
      checks.map((c) => [c.model, c.type, c.implementation, number(c.difference)]),
    ),
    ...reasons,
  ].join('\n');
}
