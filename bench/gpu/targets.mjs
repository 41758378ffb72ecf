// What the project asks of itself on an H200-class GPU, and where in the results each figure is found.
import { outcome } from '../targets.mjs';
import { GPU_MODELS } from './models.mjs';
import { atShare, elementwiseSeconds, operatorShare, runOf, speedup } from './figures.mjs';

/** @typedef {{ value: number, detail?: string }} Figure */

/**
 * @typedef {object} GpuTarget
 * @property {string} name exact and stable: later results are compared by it
 * @property {number} target
 * @property {string} unit
 * @property {'>=' | '<='} direction
 * @property {string[]} needs steps that it is computed from, as stage/step
 * @property {(...results: any[]) => Figure | undefined} extract
 */

const seconds = (value) => `${value.toPrecision(4)} s`;

/** @type {readonly GpuTarget[]} */
export const GPU_TARGETS = [
  {
    name: 'dense step, 1024x1024',
    target: 0.14,
    unit: 's',
    direction: '<=',
    needs: ['bench/resident'],
    extract: ({ steps }) => {
      const { median, low, high } = atShare(steps, 1).seconds;
      return { value: median, detail: `${low.toPrecision(3)}..${high.toPrecision(3)}` };
    },
  },
  {
    name: 'dense pass against eager PyTorch',
    target: 1.25,
    unit: 'x',
    direction: '>=',
    needs: ['bench/resident', 'bench/peer'],
    extract: ({ passes }, { cases }) => {
      const ours = atShare(passes, 1).seconds.median;
      const theirs = cases.find(({ name }) => name === '1').host.median;
      return { value: theirs / ours, detail: `theirs ${seconds(theirs)}, ours ${seconds(ours)}` };
    },
  },
  ...[
    ['jit-4x', 4.1],
    ['jit-7x', 6.9],
  ].map(([preset, target]) => ({
    name: `${preset} against own dense-50, transformer loop`,
    target: Number(target),
    unit: 'x',
    direction: /** @type {const} */ ('>='),
    needs: ['bench/resident'],
    extract: (resident) => {
      const value = speedup(resident, preset);
      const dense = runOf(resident, 'dense-50');
      const run = runOf(resident, preset);
      return (
        value && {
          value,
          detail: `${seconds(dense.seconds.median)} over ${seconds(run.seconds.median)}`,
        }
      );
    },
  })),
  {
    name: 'jit-7x, transformer loop',
    target: 1.05,
    unit: 's',
    direction: '<=',
    needs: ['bench/resident'],
    extract: (resident) => ({ value: runOf(resident, 'jit-7x').seconds.median }),
  },
  {
    name: 'kernels besides products and attention, share of a dense step',
    target: 0.06,
    unit: 'share',
    direction: '<=',
    needs: ['bench/kernels', 'bench/resident'],
    extract: (kernels, { steps, callsPerStep }) => {
      const found = elementwiseSeconds(kernels, GPU_MODELS.flux, callsPerStep);
      const missing = found?.missing.length ? `; without ${found.missing.join(', ')}` : '';
      return (
        found && {
          value: found.seconds / atShare(steps, 1).seconds.median,
          detail: `${seconds(found.seconds)} by ${found.way}${missing}`,
        }
      );
    },
  },
  {
    name: 'JiT operators, share of a run',
    target: 0.01,
    unit: 'share',
    direction: '<=',
    needs: ['bench/resident'],
    extract: (resident) => {
      const found = ['jit-4x', 'jit-7x']
        .map((preset) => ({ preset, ...operatorShare(resident, preset) }))
        .filter(({ share }) => Number.isFinite(share));
      if (found.length === 0) return undefined;
      const worst = found.reduce((a, b) => (b.share > a.share ? b : a));
      return { value: worst.share, detail: `${worst.preset}, ${seconds(worst.seconds)}, host included` };
    },
  },
  {
    name: 'peak memory, modulation dropped',
    target: 19,
    unit: 'GB',
    direction: '<=',
    needs: ['bench/resident'],
    extract: ({ memory }) => ({
      value: memory.peakBytes / 1e9,
      detail: Object.entries(memory.phases)
        .map(([name, { peakBytes }]) => `${name} ${(peakBytes / 1e9).toFixed(2)}`)
        .join(', '),
    }),
  },
];

/**
 * One entry per target, in order. A figure that is missing is a target missed, with the reason.
 * @param {(stage: string, step: string) => import('./record.mjs').Step | undefined} stepOf
 * @returns {import('../targets.mjs').Outcome[]}
 */
export function evaluateGpuTargets(stepOf) {
  return GPU_TARGETS.map(({ needs, extract, ...target }) =>
    outcome(target, figureOf(stepOf, needs, extract)),
  );
}

function figureOf(stepOf, needs, extract) {
  const results = [];
  for (const path of needs) {
    const step = stepOf(...path.split('/'));
    if (step === undefined) return { reason: `${path} did not run` };
    if (step.status !== 'ok')
      return { reason: `${path} ${step.status}: ${step.reason ?? 'no reason given'}` };
    results.push(step.result);
  }
  try {
    const found = extract(...results);
    if (found && Number.isFinite(found.value)) return { found };
    return { reason: `${needs.join(', ')} has no such figure` };
  } catch (error) {
    return { reason: `${needs.join(', ')} has another form than expected: ${error.message}` };
  }
}
