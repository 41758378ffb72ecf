// FluxTransformer.forward, dense and sparse, in every type of arithmetic; against eager ATen where that is affordable.
import { fluxFlops } from 'jit-flux/sampler';
import { anchorsFor, BenchEngine } from '../lib/engine.mjs';
import { interleave } from '../lib/interleave.mjs';
import { CHECK_GRID, MODELS } from '../lib/models.mjs';
import { gemmCeilings, runNative } from '../lib/native.mjs';
import { Peer } from '../lib/peer.mjs';
import { hasFailed, part } from '../lib/part.mjs';
import { ratio, relativeDifference, spread } from '../lib/statistics.mjs';
import { duration, number, ratioText, table } from '../lib/table.mjs';

/** @typedef {import('../lib/models.mjs').Arithmetic} Arithmetic */
/** @typedef {import('../lib/section-process.mjs').Context} Context */

/**
 * @typedef {object} Case
 * @property {import('../lib/models.mjs').ModelName} model
 * @property {import('../lib/models.mjs').Grid} grid
 * @property {readonly Arithmetic[]} kinds
 * @property {readonly number[]} shares of the grid's tokens
 * @property {boolean} eager eager ATen takes part, in the types that it has
 * @property {number} rounds
 * @property {number} [seconds]
 */

/** @type {readonly Arithmetic[]} */
const ALL = ['float32', 'bfloat16', 'int8'];

/** @type {Readonly<Record<import('../lib/models.mjs').Mode, readonly Case[]>>} */
const CASES = {
  full: [
    {
      model: 'bench',
      grid: [32, 32],
      kinds: ALL,
      shares: [1, 0.32, 0.35, 0.6, 0.62],
      eager: true,
      rounds: 15,
    },
    {
      model: 'bench',
      grid: [64, 64],
      kinds: ALL,
      shares: [1, 0.32, 0.35, 0.6, 0.62],
      eager: true,
      rounds: 7,
    },
    {
      model: 'flux-slice',
      grid: [64, 64],
      kinds: ALL,
      shares: [1, 0.32, 0.35, 0.6, 0.62],
      eager: false,
      rounds: 5,
    },
  ],
  quick: [
    { model: 'bench', grid: [32, 32], kinds: ALL, shares: [1, 0.35], eager: true, rounds: 5, seconds: 10 },
    {
      model: 'flux-slice',
      grid: [64, 64],
      kinds: ALL,
      shares: [1],
      eager: false,
      rounds: 2,
      seconds: 20,
    },
  ],
  smoke: [
    { model: 'smoke-small', grid: [16, 16], kinds: ALL, shares: [1, 0.35], eager: true, rounds: 2 },
    { model: 'smoke-wide', grid: [16, 16], kinds: ALL, shares: [1], eager: false, rounds: 2 },
  ],
};

/** @param {Context} context */
export default async function forward(context) {
  const ceilings = await part('ceilings', context, async () => {
    const found = context.sections.native?.documents?.ceilings;
    return gemmCeilings(found && !hasFailed(found) ? found : await runNative('ceilings', context));
  });
  const cases = [];
  for (const measured of CASES[context.mode]) {
    const { model, grid } = measured;
    const found = await part(`${model} ${grid.join('x')}`, context, () =>
      measure(measured, hasFailed(ceilings) ? {} : ceilings, context),
    );
    cases.push({ model, grid, ...found });
  }
  return { ceilings, cases };
}

/**
 * @param {Case} measured
 * @param {Record<string, number>} ceilings
 * @param {Context} context
 */
async function measure({ model, grid, kinds, shares, eager, rounds, seconds }, ceilings, context) {
  /** @type {Map<Arithmetic, BenchEngine>} */
  const engines = new Map();
  const unavailable = [];
  /** @type {Peer | undefined} */
  let peer;
  try {
    for (const kind of kinds) {
      const found = await BenchEngine.loadIfAvailable(model, kind, context);
      if ('engine' in found) engines.set(kind, found.engine);
      else unavailable.push({ kind, reason: found.unavailable });
    }
    if (eager) {
      peer = await Peer.start('aten', context);
      for (const kind of engines.keys()) {
        if (kind !== 'int8') await peer.load(kind, model, { dtype: kind });
      }
    }
    const differences = await differencesToFloat32(engines);
    /** @type {Record<string, import('../lib/interleave.mjs').Subject>} */
    const subjects = {};
    for (const share of shares) {
      const anchors = anchorsFor(grid, share);
      const input = Peer.input(model, grid, anchors);
      for (const [kind, engine] of engines) {
        subjects[`${kind} ${share}`] = () => engine.seconds(grid, anchors);
        if (peer && kind !== 'int8') {
          const other = peer;
          subjects[`eager ${kind} ${share}`] = () => other.forward(kind, input);
        }
      }
    }
    const samples = await interleave(subjects, {
      rounds,
      seconds,
      atLeast: context.mode === 'smoke' ? 1 : 2,
    });
    const { config } = [...engines.values()][0]?.model ?? MODELS[model];
    const rows = shares.flatMap((share) => {
      const tokens = anchorsFor(grid, share)?.length ?? grid[0] * grid[1];
      const { linear, attention, embedding } = fluxFlops(config, tokens, MODELS[model].textTokens);
      const flops = linear + attention + embedding;
      return [...engines.keys()].map((kind) => {
        /** @type {(name: string) => number[]} */
        const of = (name) => samples[name] ?? [];
        const taken = of(`${kind} ${share}`);
        const theirs = samples[`eager ${kind} ${share}`];
        const gflops = flops / spread(taken).median / 1e9;
        const ceiling = ceilings[kind];
        return {
          kind,
          share,
          tokens,
          seconds: spread(taken),
          flops,
          gflops,
          ...(ceiling !== undefined && { ceiling, ofCeiling: gflops / ceiling }),
          ...(engines.has('float32') && { againstFloat32: ratio(of(`float32 ${share}`), taken) }),
          ...(shares.includes(1) && { againstDense: ratio(of(`${kind} 1`), taken) }),
          ...(theirs && { eagerSeconds: spread(theirs), againstEager: ratio(theirs, taken) }),
          ...(share === 1 && { differenceToFloat32: differences.get(kind) }),
        };
      });
    });
    return { unavailable, rows };
  } finally {
    peer?.close();
    for (const engine of engines.values()) engine.dispose();
  }
}

/**
 * Relative L2 difference of every kind's velocity to float32's.
 * @param {Map<Arithmetic, BenchEngine>} engines
 * @returns {Promise<Map<Arithmetic, number>>}
 */
async function differencesToFloat32(engines) {
  const exact = await engines.get('float32')?.velocity(CHECK_GRID);
  /** @type {Map<Arithmetic, number>} */
  const differences = new Map();
  if (!exact) return differences;
  for (const [kind, engine] of engines) {
    differences.set(kind, relativeDifference(await engine.velocity(CHECK_GRID), exact));
  }
  return differences;
}

/** @param {Awaited<ReturnType<typeof forward>>} result */
export function print({ cases }) {
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
      'vs eager ATen',
      'difference to float32',
    ],
    cases.flatMap((found) => {
      const { model, grid } = found;
      const place = [model, grid.join('x')];
      if (hasFailed(found)) return [[...place, `failed: ${found.error}`]];
      if (!('rows' in found)) return [];
      return [
        ...found.rows.map((r) => [
          ...place,
          r.kind,
          r.tokens,
          duration(r.seconds.median),
          number(r.gflops),
          r.ofCeiling === undefined ? '-' : `${(100 * r.ofCeiling).toFixed(0)} %`,
          ratioText(r.againstFloat32),
          ratioText(r.againstDense),
          ratioText(r.againstEager),
          number(r.differenceToFloat32),
        ]),
        ...found.unavailable.map(({ kind, reason }) => [...place, kind, `unavailable: ${reason}`]),
      ];
    }),
  );
}
