// Our forward against an eager framework's: same weights, tokens, type and threads, call by call in turn. Eager ATen is
// always there; PyTorch in Python and diffusers' own model join where they can be found.
import { performance } from 'node:perf_hooks';
import { BenchEngine } from '../lib/engine.mjs';
import { interleave } from '../lib/interleave.mjs';
import { CHECK_GRID, FLOAT32_TOLERANCE } from '../lib/models.mjs';
import { closePeers, Peer, startPeers } from '../lib/peer.mjs';
import { hasFailed, part } from '../lib/part.mjs';
import { largestDifference, ratio, relativeDifference, spread } from '../lib/statistics.mjs';
import { duration, number, ratioText, table } from '../lib/table.mjs';

/** @typedef {import('../lib/models.mjs').Arithmetic} Arithmetic */
/** @typedef {import('../lib/models.mjs').ModelName} ModelName */
/** @typedef {import('../lib/section-process.mjs').Context} Context */

/**
 * Whose forward passes ours is compared with.
 * @typedef {'aten' | 'pytorch' | 'diffusers'} Implementation
 */

/**
 * @typedef {object} Case
 * @property {ModelName} model
 * @property {import('../lib/models.mjs').Grid} grid
 * @property {readonly Arithmetic[]} ours
 * @property {number} rounds
 * @property {number} [seconds]
 */

/** @type {Readonly<Record<import('../lib/models.mjs').Mode, readonly Case[]>>} */
const CASES = {
  full: [
    { model: 'bench', grid: [64, 64], ours: ['float32', 'bfloat16', 'int8'], rounds: 12 },
    { model: 'flux-slice', grid: [64, 64], ours: ['float32', 'bfloat16', 'int8'], rounds: 4 },
  ],
  quick: [
    { model: 'bench', grid: [64, 64], ours: ['float32', 'bfloat16', 'int8'], rounds: 3, seconds: 30 },
    { model: 'flux-slice', grid: [64, 64], ours: ['float32', 'bfloat16'], rounds: 3, seconds: 60 },
  ],
  smoke: [
    { model: 'smoke-small', grid: [16, 16], ours: ['float32', 'bfloat16', 'int8'], rounds: 2 },
    { model: 'smoke-wide', grid: [16, 16], ours: ['float32', 'bfloat16'], rounds: 2 },
  ],
};

/** @param {Context} context */
export default async function peer(context) {
  const peers = await startPeers(context);
  try {
    const checkouts = await loadCheckouts(peers, context);
    const cases = [];
    for (const measured of CASES[context.mode]) {
      const { model, grid } = measured;
      const found = await part(`${model} ${grid.join('x')}`, context, () =>
        measure(measured, implementations(peers, checkouts), context),
      );
      cases.push({ model, grid, ...found });
    }
    return { peers: peers.info, notes: peers.notes, checkouts, cases };
  } finally {
    closePeers(peers);
  }
}

/**
 * What can be imported of the checkouts that were named, or why not.
 * @param {import('../lib/peer.mjs').Peers} peers
 * @param {Context} context
 * @returns {Promise<Record<string, { version?: string, error?: string }>>}
 */
async function loadCheckouts({ running }, { diffusers, jit }) {
  const torch = running.get('pytorch');
  if (!torch || (!diffusers && !jit)) return {};
  return torch.ask({ op: 'checkouts', diffusers, jit });
}

/**
 * @param {import('../lib/peer.mjs').Peers} peers
 * @param {Record<string, { version?: string }>} checkouts
 * @returns {Map<Implementation, { peer: Peer, kind: 'eager' | 'diffusers' }>}
 */
function implementations({ running }, checkouts) {
  /** @type {ReturnType<typeof implementations>} */
  const found = new Map();
  for (const [name, peer] of running) found.set(name, { peer, kind: 'eager' });
  const torch = running.get('pytorch');
  if (torch && checkouts.diffusers?.version) found.set('diffusers', { peer: torch, kind: 'diffusers' });
  return found;
}

/**
 * @param {Case} measured
 * @param {ReturnType<typeof implementations>} others
 * @param {Context} context
 */
async function measure({ model, grid, ours, rounds, seconds }, others, context) {
  const types = /** @type {('float32' | 'bfloat16')[]} */ (ours.filter((type) => type !== 'int8'));
  /** @type {Map<Arithmetic, BenchEngine>} */
  const engines = new Map();
  const unavailable = [];
  try {
    for (const type of ours) {
      const found = await BenchEngine.loadIfAvailable(model, type, context);
      if ('engine' in found) engines.set(type, found.engine);
      else unavailable.push({ type, reason: found.unavailable });
    }
    const checks = await check(model, types, engines, others, context);
    /** @type {Record<string, import('../lib/interleave.mjs').Subject>} */
    const subjects = {};
    const input = Peer.input(model, grid);
    for (const [type, engine] of engines) {
      subjects[`ours ${type}`] = () => engine.seconds(grid);
      if (type === 'int8') continue;
      for (const [name, { peer }] of others) {
        subjects[`${name} ${type}`] = () => peer.forward(`${name} ${type}`, input);
      }
    }
    const samples = await interleave(subjects, { rounds, seconds, atLeast: 2 });
    const rows = [];
    for (const type of types) {
      const taken = samples[`ours ${type}`] ?? [];
      // What our forward leaves to condition(), which runs once per image for all steps, and the peers repeat in each.
      const conditionSeconds = await conditionPerStep(engines.get(type));
      for (const implementation of others.keys()) {
        const theirs = samples[`${implementation} ${type}`] ?? [];
        rows.push({
          type,
          implementation,
          ours: { ...spread(taken), conditionSeconds },
          reference: spread(theirs),
          ratio: ratio(theirs, taken),
        });
      }
    }
    if (types.length > 1) {
      for (const implementation of others.keys()) rows.push(bestAgainstBest(implementation, samples, types));
    }
    return { unavailable, checks, rows };
  } finally {
    for (const engine of engines.values()) engine.dispose();
    for (const [name, { peer }] of others) {
      for (const type of new Set(['float32', ...types])) {
        await peer.ask({ op: 'unload', model: `${name} ${type}` });
      }
    }
  }
}

/**
 * Differences of our velocities to the peers', in float32 in any case and in the types that are measured. Leaves the
 * peers' models of those types loaded.
 * @param {ModelName} model
 * @param {readonly ('float32' | 'bfloat16')[]} types
 * @param {Map<Arithmetic, BenchEngine>} engines
 * @param {ReturnType<typeof implementations>} others
 * @param {Context} context
 */
async function check(model, types, engines, others, context) {
  const checks = [];
  for (const type of new Set(/** @type {const} */ (['float32', ...types]))) {
    const engine = engines.get(type) ?? (await BenchEngine.load(model, type, context));
    const ours = await engine.velocity(CHECK_GRID);
    if (!engines.has(type)) engine.dispose();
    for (const [implementation, { peer, kind }] of others) {
      const id = `${implementation} ${type}`;
      await peer.load(id, model, { dtype: type, implementation: kind });
      const theirs = await peer.result({ op: 'forward', model: id, input: Peer.input(model, CHECK_GRID) });
      const difference = relativeDifference(ours, theirs);
      const largest = largestDifference(ours, theirs);
      context.log(
        `${id}: velocities differ by ${number(difference)} (relative L2), ${number(largest)} at most`,
      );
      if (type === 'float32' && !(difference < FLOAT32_TOLERANCE)) {
        throw new Error(
          `${implementation} computes another velocity of ${model} in float32: the relative L2 difference is ` +
            `${number(difference)}, more than ${FLOAT32_TOLERANCE}`,
        );
      }
      checks.push({ type, implementation, difference, largest });
      if (!types.includes(type)) await peer.ask({ op: 'unload', model: id });
    }
  }
  return checks;
}

/** @param {BenchEngine | undefined} engine */
async function conditionPerStep(engine) {
  const sigmas = Array.from({ length: 11 }, (_, i) => 1 - i / 11);
  const started = performance.now();
  (await engine?.condition(sigmas))?.dispose();
  return (performance.now() - started) / 1000 / sigmas.length;
}

/**
 * Our fastest type against a peer's fastest.
 * @param {Implementation} implementation
 * @param {Record<string, number[]>} samples
 * @param {readonly string[]} types
 */
function bestAgainstBest(implementation, samples, types) {
  /** @type {(prefix: string) => { type: string, samples: number[] }} */
  const fastest = (prefix) => {
    const [best] = [...types, 'int8']
      .flatMap((type) => {
        const taken = samples[`${prefix} ${type}`];
        return taken ? [{ type, samples: taken }] : [];
      })
      .sort((a, b) => spread(a.samples).median - spread(b.samples).median);
    if (!best) throw new Error(`Nothing was measured of ${prefix}`);
    return best;
  };
  const mine = fastest('ours');
  const theirs = fastest(implementation);
  return {
    type: 'best',
    implementation,
    oursType: mine.type,
    referenceType: theirs.type,
    ours: spread(mine.samples),
    reference: spread(theirs.samples),
    ratio: ratio(theirs.samples, mine.samples),
  };
}

/** @param {Awaited<ReturnType<typeof peer>>} result */
export function print({ peers, notes, checkouts, cases }) {
  const failed = [...Object.entries(peers), ...Object.entries(checkouts)].flatMap(([name, found]) =>
    hasFailed(found) ? [`${name} failed: ${found.error}`] : [],
  );
  return [
    table(
      ['model', 'grid', 'type', 'peer', 'ours', 'theirs', 'ratio'],
      cases.flatMap((found) => {
        const place = [found.model, found.grid.join('x')];
        if (hasFailed(found)) return [[...place, `failed: ${found.error}`]];
        if (!('rows' in found)) return [];
        return [
          ...found.rows.map((r) => [
            ...place,
            'oursType' in r ? `${r.oursType} / ${r.referenceType}` : r.type,
            r.implementation,
            duration(r.ours.median),
            duration(r.reference.median),
            ratioText(r.ratio),
          ]),
          ...found.unavailable.map(({ type, reason }) => [...place, type, `unavailable: ${reason}`]),
        ];
      }),
    ),
    '',
    table(
      ['same velocity', 'type', 'peer', 'relative L2', 'largest'],
      cases.flatMap((found) =>
        'checks' in found
          ? found.checks.map((c) => [
              found.model,
              c.type,
              c.implementation,
              number(c.difference),
              number(c.largest),
            ])
          : [],
      ),
    ),
    ...notes,
    ...failed,
  ].join('\n');
}
