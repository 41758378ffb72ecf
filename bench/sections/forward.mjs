// FluxTransformer.forward, dense and sparse, in every type of arithmetic.
import { fluxFlops } from 'jit-flux/sampler';
import { anchorsFor, BenchEngine } from '../lib/engine.mjs';
import { interleave } from '../lib/interleave.mjs';
import { CHECK_GRID, MODELS } from '../lib/models.mjs';
import { gemmCeilings, runNative } from '../lib/native.mjs';
import { ratio, relativeDifference, spread } from '../lib/statistics.mjs';
import { duration, number, ratioText, table } from '../lib/table.mjs';

const KINDS = ['float32', 'bfloat16', 'int8'];

const CASES = {
  full: [
    { model: 'bench', grid: [32, 32], shares: [1, 0.32, 0.35, 0.6, 0.62], rounds: 15 },
    { model: 'bench', grid: [64, 64], shares: [1, 0.32, 0.35, 0.6, 0.62], rounds: 7 },
    { model: 'flux-slice', grid: [64, 64], shares: [1, 0.32, 0.35, 0.6, 0.62], rounds: 5 },
  ],
  quick: [
    { model: 'bench', grid: [32, 32], shares: [1, 0.35], rounds: 5, seconds: 5 },
    // int8 takes part in the peer section.
    {
      model: 'flux-slice',
      grid: [64, 64],
      kinds: ['float32', 'bfloat16'],
      shares: [1],
      rounds: 2,
      seconds: 20,
      warmups: 1,
    },
  ],
};

/** @param {import('../lib/section-process.mjs').Context} context */
export default async function forward(context) {
  const { ceilings, ceilingsError } = await measuredCeilings(context);
  const rows = [];
  for (const row of CASES[context.quick ? 'quick' : 'full']) {
    context.log(`${row.model} ${row.grid.join('x')}`);
    rows.push(...(await measure(row, ceilings, context)));
  }
  return { ceilings, ...(ceilingsError && { ceilingsError }), rows };
}

/** GFLOP/s of the best matrix product per type; without them the times are still worth having. */
async function measuredCeilings(context) {
  try {
    const found = context.sections.native?.documents?.ceilings ?? (await runNative('ceilings', context));
    return { ceilings: gemmCeilings(found) };
  } catch (error) {
    return { ceilings: {}, ceilingsError: error.message };
  }
}

async function measure({ model, grid, kinds = KINDS, shares, rounds, seconds, warmups }, ceilings, context) {
  const engines = new Map();
  const rows = [];
  for (const kind of kinds) {
    const { engine, unavailable } = await BenchEngine.loadIfAvailable(model, kind, context);
    if (engine) engines.set(kind, engine);
    else rows.push({ model, grid, kind, unavailable });
  }
  const { config, textTokens } = MODELS[model];
  const cases = [];
  for (const share of shares) {
    const anchors = anchorsFor(grid, share);
    const tokens = anchors?.length ?? grid[0] * grid[1];
    const { linear, attention, embedding } = fluxFlops(config, tokens, textTokens);
    for (const kind of engines.keys()) {
      const name = `${kind} ${share}`;
      cases.push({ name, kind, share, anchors, tokens, flops: linear + attention + embedding });
    }
  }
  const differences = await differencesToFloat32(engines);
  const samples = await interleave(
    Object.fromEntries(
      cases.map(({ name, kind, anchors }) => [name, () => engines.get(kind).forward(grid, anchors)]),
    ),
    { rounds, seconds, warmups, atLeast: context.quick ? 1 : 2 },
  );
  for (const { name, kind, share, tokens, flops } of cases) {
    const taken = spread(samples[name]);
    const gflops = flops / taken.median / 1e9;
    rows.push({
      model,
      grid,
      kind,
      share,
      tokens,
      seconds: taken,
      flops,
      gflops,
      ...(ceilings[kind] && { ceiling: ceilings[kind], ofCeiling: gflops / ceilings[kind] }),
      againstFloat32: ratio(samples[`float32 ${share}`], samples[name]),
      againstDense: ratio(samples[`${kind} 1`], samples[name]),
      differenceToFloat32: share === 1 ? differences[kind] : undefined,
    });
  }
  for (const engine of engines.values()) engine.dispose();
  return rows;
}

/** Relative L2 difference of every kind's velocity to float32's. */
async function differencesToFloat32(engines) {
  const velocities = {};
  for (const [kind, engine] of engines) {
    const velocity = await engine.velocity(CHECK_GRID);
    velocities[kind] = await velocity.toFloat32Array();
    velocity.dispose();
  }
  return Object.fromEntries(
    Object.keys(velocities).map((kind) => [kind, relativeDifference(velocities[kind], velocities.float32)]),
  );
}

export function print({ rows }) {
  return table(
    [
      'model',
      'grid',
      'type',
      'tokens',
      'seconds',
      'GFLOP/s',
      'of ceiling',
      'vs float32',
      'vs dense',
      'difference',
    ],
    rows.map((r) =>
      r.unavailable
        ? [r.model, r.grid.join('x'), r.kind, 'unavailable']
        : [
            r.model,
            r.grid.join('x'),
            r.kind,
            r.tokens,
            duration(r.seconds.median),
            number(r.gflops),
            r.ofCeiling === undefined ? '-' : `${(100 * r.ofCeiling).toFixed(0)} %`,
            ratioText(r.againstFloat32),
            ratioText(r.againstDense),
            number(r.differenceToFloat32),
          ],
    ),
  );
}
