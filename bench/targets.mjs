// What the project asks of itself, and where in the sections' results each figure is found.
import { SUBJECTS } from './lib/models.mjs';
import { OPTIONAL_SECTIONS } from './schema.mjs';
import { findFailures, hasFailed } from './lib/part.mjs';

/**
 * What is looked at: in a smoke run other models and sizes stand for the real ones, so that the way to every figure is
 * walked.
 * @typedef {object} At
 * @property {string} small model
 * @property {string} wide model
 * @property {readonly [number, number]} grid
 * @property {{ small: AttentionShape, wide: AttentionShape }} attention
 */

/**
 * What is asked of a class of CPUs. Where a class is not named, `avx512-bf16` is asked: its targets are the oldest.
 * @typedef {{ amx: number, 'avx512-bf16': number }} ByClass
 */

/** @typedef {readonly [heads: number, sequence: number, headDim: number]} AttentionShape */

/**
 * @typedef {object} Target
 * @property {string} name exact and stable: later results are compared by it
 * @property {number | ByClass} target one for every CPU, or by class
 * @property {string} unit
 * @property {'>=' | '<='} direction
 * @property {string} section where the figure comes from
 * @property {(section: any, at: At) => Figure | undefined} extract
 */

/** @typedef {{ value: number, detail?: string }} Figure */

/**
 * @typedef {object} Outcome
 * @property {string} name
 * @property {number | null} value
 * @property {number} target
 * @property {string} unit
 * @property {'>=' | '<='} direction
 * @property {boolean} met
 * @property {string} [detail] what else belongs to the figure
 * @property {string} [reason] why there is none
 */

/** @typedef {import('./lib/statistics.mjs').Spread} Spread */

const SHAPES = {
  real: { small: /** @type {const} */ ([8, 4160, 64]), wide: /** @type {const} */ ([24, 4608, 128]) },
  smoke: { small: /** @type {const} */ ([2, 80, 64]), wide: /** @type {const} */ ([2, 96, 128]) },
};

/** @type {(mode: import('./lib/models.mjs').Mode) => At} */
const at = (mode) => ({ ...SUBJECTS[mode], attention: mode === 'smoke' ? SHAPES.smoke : SHAPES.real });

/**
 * The measured case of a model at the large grid.
 * @param {any} section
 * @param {string} model
 * @param {At} where
 */
const caseOf = (section, model, { grid }) =>
  section.cases.find(
    (/** @type {any} */ c) => c.model === model && c.grid[0] === grid[0] && c.grid[1] === grid[1],
  );

/**
 * Share of the GEMM ceiling that a dense forward pass reaches.
 * @param {string} kind
 * @returns {Target['extract']}
 */
const ofCeiling = (kind) => (section, where) => {
  const rows = caseOf(section, where.wide, where)?.rows;
  const row = rows?.find((/** @type {any} */ r) => r.kind === kind && r.share === 1);
  return row?.ofCeiling === undefined
    ? undefined
    : figure(row.ofCeiling, `${row.gflops.toFixed(0)} of ${row.ceiling.toFixed(0)} GFLOP/s`);
};

/**
 * Eager ATen's time over ours.
 * @param {'small' | 'wide'} role
 * @param {string} type
 * @returns {Target['extract']}
 */
const againstEager = (role, type) => (section, where) => {
  const rows = caseOf(section, where[role], where)?.rows;
  const row = rows?.find((/** @type {any} */ r) => r.type === type && r.implementation === 'aten');
  if (row?.ratio === undefined) return undefined;
  const types = type === 'best' ? `ours ${row.oursType}, theirs ${row.referenceType}, ` : '';
  return figure(row.ratio.median, types + range(row.ratio));
};

/**
 * @param {string} preset
 * @returns {Target['extract']}
 */
const composed = (preset) => (section) => {
  const run = section.composed?.runs?.find((/** @type {any} */ r) => r.preset === preset);
  return run && figure(run.speedup.median, `FLOPs ${run.flopRatio.toFixed(2)}x, ${range(run.speedup)}`);
};

/**
 * @param {'small' | 'wide'} role
 * @param {string} dtype
 * @returns {Target['extract']}
 */
const attention = (role, dtype) => (section, where) => {
  const [heads, sequence, headDim] = where.attention[role];
  const row = section.documents?.attention?.rows?.find(
    (/** @type {any} */ { params: p, ratio }) =>
      ratio && p.heads === heads && p.sequence === sequence && p.head_dim === headDim && p.dtype === dtype,
  );
  return row && figure(row.ratio.median, range(row.ratio));
};

/**
 * Of the largest size.
 * @param {'t5' | 'decoder'} name
 * @param {string} type
 * @returns {Target['extract']}
 */
const partAgainstEager = (name, type) => (section) => {
  const cases = section.cases.filter((/** @type {any} */ c) => c.part === name && c.type === type);
  const row = largest(cases, (/** @type {any} */ { size }) => size);
  return row?.ratio && figure(row.ratio.median, `${row.size} ${PART_UNITS[name]}, ${range(row.ratio)}`);
};

const PART_UNITS = { t5: 'tokens', decoder: 'pixels a side' };

/** @type {readonly Target[]} */
export const TARGETS = [
  .../** @type {const} */ ([
    ['bfloat16', { amx: 0.7, 'avx512-bf16': 0.88 }],
    ['float32', { amx: 0.88, 'avx512-bf16': 0.93 }],
  ]).map(([kind, target]) => ({
    name: `dense forward, flux-slice, share of GEMM ceiling, ${kind}`,
    target,
    unit: 'share',
    direction: /** @type {const} */ ('>='),
    section: 'forward',
    extract: ofCeiling(kind),
  })),
  {
    name: 'forward against eager ATen, bench 64x64, bfloat16',
    target: { amx: 1.6, 'avx512-bf16': 1.9 },
    unit: 'x',
    direction: '>=',
    section: 'peer',
    extract: againstEager('small', 'bfloat16'),
  },
  {
    name: 'forward against eager ATen, bench 64x64, float32',
    target: 1.2,
    unit: 'x',
    direction: '>=',
    section: 'peer',
    extract: againstEager('small', 'float32'),
  },
  {
    name: 'forward against eager ATen, flux-slice 64x64, bfloat16',
    target: 1.5,
    unit: 'x',
    direction: '>=',
    section: 'peer',
    extract: againstEager('wide', 'bfloat16'),
  },
  {
    name: 'forward against eager ATen, flux-slice 64x64, float32',
    target: { amx: 1.15, 'avx512-bf16': 1.25 },
    unit: 'x',
    direction: '>=',
    section: 'peer',
    extract: againstEager('wide', 'float32'),
  },
  {
    name: 'dense forward, flux-slice 64x64, int8 against bfloat16',
    target: 1.5,
    unit: 'x',
    direction: '>=',
    section: 'forward',
    extract: (section, where) => {
      const rows = caseOf(section, where.wide, where)?.rows;
      const dense = (/** @type {string} */ kind) =>
        rows?.find((/** @type {any} */ r) => r.kind === kind && r.share === 1)?.seconds.median;
      return figure(dense('bfloat16') / dense('int8'), `${dense('int8')?.toFixed(3)} s`);
    },
  },
  {
    name: 'forward, best type against best type of eager ATen, bench 64x64',
    target: { amx: 2, 'avx512-bf16': 2.3 },
    unit: 'x',
    direction: '>=',
    section: 'peer',
    extract: againstEager('small', 'best'),
  },
  {
    name: "sampler jit-7x against the released pipeline's steps in eager ATen, bench 64x64",
    target: { amx: 1.6, 'avx512-bf16': 1.85 },
    unit: 'x',
    direction: '>=',
    section: 'sampler',
    extract: ({ against }) => {
      const row = against?.rows?.find((/** @type {any} */ r) => r.implementation === 'aten');
      return row && figure(row.ratio.median, `${against.type}, ${range(row.ratio)}`);
    },
  },
  .../** @type {const} */ ([
    ['jit-4x', 4.1],
    ['jit-7x', 6.9],
  ]).map(([preset, target]) => ({
    name: `sampler ${preset} against own dense-50, flux-slice 64x64`,
    target,
    unit: 'x',
    direction: /** @type {const} */ ('>='),
    section: 'sampler',
    extract: composed(preset),
  })),
  {
    name: 'JiT operators, share of a sparse step, flux-slice 64x64',
    target: 0.01,
    unit: 'share',
    direction: '<=',
    section: 'sampler',
    extract: ({ composed: { operators } }) => {
      const worst = largest(operators, (/** @type {any} */ { share }) => share);
      return worst && figure(worst.share, `largest, at ${worst.tokens} tokens`);
    },
  },
  {
    name: 'JiT operators, scaling exponent up to 65536 tokens',
    target: 1.05,
    unit: 'exponent',
    direction: '<=',
    section: 'native',
    extract: ({ documents }) => {
      const slopes = /** @type {[string, number][]} */ (
        Object.entries(documents?.['jit-operators']?.slope ?? {})
      );
      const worst = largest(slopes, ([, slope]) => slope);
      return worst && figure(worst[1], `largest, of ${worst[0]}`);
    },
  },
  .../** @type {const} */ (['small', 'wide']).flatMap((role) =>
    /** @type {const} */ ([
      ['bfloat16', { amx: 1.15, 'avx512-bf16': 1.8 }],
      ['float32', 1.15],
    ]).map(([dtype, target]) => ({
      name: `own attention against SDPA, ${SHAPES.real[role].join('x')}, ${dtype}`,
      target,
      unit: 'x',
      direction: /** @type {const} */ ('>='),
      section: 'native',
      extract: attention(role, dtype),
    })),
  ),
  .../** @type {const} */ ([
    ['t5', 'bfloat16', 1.3],
    ['decoder', 'bfloat16', 2.2],
    ['decoder', 'float32', 1.5],
  ]).map(([name, type, target]) => ({
    name: `${name} at FLUX.1's widths against eager ATen, ${type}`,
    target,
    unit: 'x',
    direction: /** @type {const} */ ('>='),
    section: 'parts',
    extract: partAgainstEager(name, type),
  })),
  {
    name: 'load of a 2 GB archive, time over torch::jit::load',
    target: 0.1,
    unit: 'share',
    direction: '<=',
    section: 'load',
    extract: ({ time }) => {
      const row = time?.references?.find((/** @type {any} */ r) => r.implementation === 'aten');
      return (
        row && figure(1 / row.ratio.median, `${(time.ours.median * 1e3).toFixed(1)} ms, warm page cache`)
      );
    },
  },
  {
    name: 'peak resident memory after the first forward over the file',
    target: 1.15,
    unit: 'share',
    direction: '<=',
    section: 'load',
    extract: ({ memory }) => {
      const row = memory?.find((/** @type {any} */ r) => r.kind === 'float32' && r.ofFile !== undefined);
      return row && figure(row.ofFile, `${row.kind}, file of ${(row.fileBytes / 1e9).toFixed(2)} GB`);
    },
  },
  {
    name: 'JavaScript main-thread time per sampler step',
    target: 0.5,
    unit: 'ms',
    direction: '<=',
    section: 'javascript',
    extract: ({ sampler }) => sampler && figure(sampler.activeMsPerStep.median),
  },
  {
    name: 'event-loop lag during sampling, 99th percentile',
    target: 10,
    unit: 'ms',
    direction: '<=',
    section: 'javascript',
    extract: ({ lag }) => lag && figure(lag.running.p99, `idle loop: ${lag.idle.p99.toFixed(2)} ms`),
  },
  {
    name: 'a step of flux-slice against stable-diffusion.cpp, best type against best type',
    target: 8,
    unit: 'x',
    direction: '>=',
    section: 'sdcpp',
    extract: ({ rows }) => {
      /** @param {string} name */
      const best = (name) =>
        rows
          .filter((/** @type {any} */ r) => r.implementation === name && r.seconds)
          .sort((/** @type {any} */ a, /** @type {any} */ b) => a.seconds.median - b.seconds.median)[0];
      const [ours, theirs] = [best('jit-flux'), best('stable-diffusion.cpp')];
      return (
        ours && theirs && figure(theirs.seconds.median / ours.seconds.median, `${ours.type}, ${theirs.type}`)
      );
    },
  },
];

/**
 * One entry per target, in the order of the table. A figure that is missing is a target missed, with the reason; targets
 * of sections that are optional and did not run have no entry.
 * @param {Record<string, any>} sections results by section; an `error` where one failed
 * @param {import('./lib/models.mjs').Mode} [mode]
 * @param {import('./lib/cpu-class.mjs').CpuClass} [cpuClass] where it was measured
 * @returns {Outcome[]}
 */
export function evaluateTargets(sections, mode = 'full', cpuClass = 'avx512-bf16') {
  const optional = OPTIONAL_SECTIONS.filter((name) => !(name in sections));
  const asked = TARGETS.filter(({ section }) => !optional.some((name) => name === section));
  return asked.map(({ section, extract, target, ...rest }) =>
    outcome(
      {
        ...rest,
        target: typeof target === 'number' ? target : target[cpuClass === 'amx' ? 'amx' : 'avx512-bf16'],
      },
      lookUp(sections[section], section, (result) => extract(result, at(mode))),
    ),
  );
}

/**
 * Judges one target.
 * @param {{ name: string, target: number, unit: string, direction: '>=' | '<=' }} target
 * @param {{ found?: { value: number, detail?: string }, reason?: string }} figure the figure, or why there is none
 * @returns {Outcome}
 */
export function outcome({ name, target, unit, direction }, { found, reason }) {
  const value = found?.value ?? null;
  const met = value !== null && (direction === '>=' ? value >= target : value <= target);
  return {
    name,
    value,
    target,
    unit,
    direction,
    met,
    ...(found?.detail && { detail: found.detail }),
    ...(reason && { reason }),
  };
}

/**
 * @param {any} result
 * @param {string} section
 * @param {(result: any) => Figure | undefined} extract
 * @returns {{ found: Figure } | { reason: string }}
 */
function lookUp(result, section, extract) {
  if (result === undefined) return { reason: `section ${section} did not run` };
  if (hasFailed(result)) return { reason: `section ${section} failed: ${result.error}` };
  const failures = findFailures(result).map(({ where, reason }) => `; ${where} failed: ${reason}`);
  try {
    const found = extract(result);
    if (found && Number.isFinite(found.value)) return { found };
    return { reason: `section ${section} has no such figure${failures.join('')}` };
  } catch (error) {
    const why = failures.join('') || `: ${/** @type {Error} */ (error).message}`;
    return { reason: `section ${section} has another form than expected${why}` };
  }
}

/**
 * @template T
 * @param {readonly T[]} items
 * @param {(item: T) => number} by
 * @returns {T | undefined}
 */
function largest([first, ...others], by) {
  return others.reduce((a, b) => (a === undefined || by(b) > by(a) ? b : a), first);
}

/** @type {(value: number, detail?: string) => Figure} */
const figure = (value, detail) => ({ value, ...(detail && { detail }) });

/** @type {(spread: Spread) => string} */
const range = ({ low, high }) => `${low.toFixed(2)}..${high.toFixed(2)}`;
