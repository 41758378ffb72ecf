// What the project asks of itself, and where in the sections' results each figure is found.

/**
 * @typedef {object} Target
 * @property {string} name exact and stable: later results are compared by it
 * @property {number} target
 * @property {string} unit
 * @property {'>=' | '<='} direction
 * @property {string} section where the figure comes from
 * @property {(section: any) => Figure | undefined} extract
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

const atSide = (grid, side) => grid[0] === side && grid[1] === side;

/** Share of the GEMM ceiling that a dense forward pass reaches. */
const ofCeiling = (kind) => (section) => {
  const row = section.rows.find(
    (r) => r.model === 'flux-slice' && r.kind === kind && r.share === 1 && atSide(r.grid, 64),
  );
  return row?.ofCeiling === undefined
    ? undefined
    : figure(row.ofCeiling, `${row.gflops.toFixed(0)} of ${row.ceiling.toFixed(0)} GFLOP/s`);
};

/** Eager PyTorch's time over ours. */
const againstEager = (model, type) => (section) => {
  const row = section.rows.find(
    (r) => r.model === model && r.type === type && r.implementation === 'eager' && atSide(r.grid, 64),
  );
  if (row?.ratio === undefined) return undefined;
  const types = type === 'best' ? `ours ${row.oursType}, theirs ${row.referenceType}, ` : '';
  return figure(row.ratio.median, types + range(row.ratio));
};

const composed = (preset) => (section) => {
  const run = section.composed?.find((r) => r.preset === preset && r.model === 'flux-slice');
  return run && figure(run.speedup.median, `FLOPs ${run.flopRatio.toFixed(2)}x, ${range(run.speedup)}`);
};

const attention = (heads, sequence, headDim, dtype) => (section) => {
  const row = section.documents?.attention?.rows.find(
    ({ params: p, ratio }) =>
      ratio &&
      p.heads === heads &&
      p.sequence === sequence &&
      (p.head_dim ?? p.headDim) === headDim &&
      p.dtype === dtype,
  );
  return row && figure(row.ratio.median, range(row.ratio));
};

/** @type {readonly Target[]} */
export const TARGETS = [
  ...['bfloat16', 'float32'].map((kind) => ({
    name: `dense forward, flux-slice, share of GEMM ceiling, ${kind}`,
    target: 0.85,
    unit: 'share',
    direction: /** @type {const} */ ('>='),
    section: 'forward',
    extract: ofCeiling(kind),
  })),
  {
    name: 'forward against eager PyTorch, bench 64x64, bfloat16',
    target: 1.6,
    unit: 'x',
    direction: '>=',
    section: 'peer',
    extract: againstEager('bench', 'bfloat16'),
  },
  {
    name: 'forward against eager PyTorch, bench 64x64, float32',
    target: 1.2,
    unit: 'x',
    direction: '>=',
    section: 'peer',
    extract: againstEager('bench', 'float32'),
  },
  {
    name: 'forward against eager PyTorch, flux-slice 64x64, bfloat16',
    target: 1.25,
    unit: 'x',
    direction: '>=',
    section: 'peer',
    extract: againstEager('flux-slice', 'bfloat16'),
  },
  {
    name: 'forward, best type against best type of eager PyTorch, bench 64x64',
    target: 2,
    unit: 'x',
    direction: '>=',
    section: 'peer',
    extract: againstEager('bench', 'best'),
  },
  {
    name: 'sampler jit-7x against the released pipeline in eager PyTorch, bench 64x64',
    target: 1.5,
    unit: 'x',
    direction: '>=',
    section: 'sampler',
    extract: ({ peer }) => peer?.ratio && figure(peer.ratio.median, `${peer.type}, ${range(peer.ratio)}`),
  },
  ...[
    ['jit-4x', 4.1],
    ['jit-7x', 6.9],
  ].map(([preset, target]) => ({
    name: `sampler ${preset} against own dense-50, flux-slice 64x64`,
    target: Number(target),
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
    extract: ({ operators }) => {
      const sparse = operators?.filter(({ model, share }) => model === 'flux-slice' && share !== undefined);
      if (!sparse?.length) return undefined;
      const worst = sparse.reduce((a, b) => (b.share > a.share ? b : a));
      return figure(worst.share, `largest, at ${worst.tokens} tokens`);
    },
  },
  {
    name: 'JiT operators, scaling exponent up to 65536 tokens',
    target: 1.05,
    unit: 'exponent',
    direction: '<=',
    section: 'native',
    extract: ({ documents }) => {
      const document = documents?.['jit-operators'];
      const slopes = Object.entries(document?.slope ?? document?.slopes ?? {});
      if (slopes.length === 0) return undefined;
      const [name, worst] = slopes.reduce((a, b) => (b[1] > a[1] ? b : a));
      return figure(worst, `largest, of ${name}`);
    },
  },
  ...[
    [8, 4160, 64],
    [24, 4608, 128],
  ].flatMap(([heads, sequence, headDim]) =>
    [
      ['bfloat16', 1.8],
      ['float32', 1.15],
    ].map(([dtype, target]) => ({
      name: `own attention against SDPA, ${heads}x${sequence}x${headDim}, ${dtype}`,
      target: Number(target),
      unit: 'x',
      direction: /** @type {const} */ ('>='),
      section: 'native',
      extract: attention(heads, sequence, headDim, dtype),
    })),
  ),
  {
    name: 'load of a 2 GB archive, time over torch.jit.load',
    target: 0.1,
    unit: 'share',
    direction: '<=',
    section: 'load',
    extract: ({ time }) =>
      time && figure(1 / time.ratio.median, `${(time.ours.median * 1e3).toFixed(0)} ms, warm page cache`),
  },
  {
    name: 'peak resident memory after the first forward over the file',
    target: 1.15,
    unit: 'share',
    direction: '<=',
    section: 'load',
    extract: ({ memory }) => {
      const row = memory?.find(({ target }) => target);
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
];

/**
 * One entry per target, in the order of the table. A figure that is missing is a target missed, with the reason.
 * @param {Record<string, any>} sections results by section; an `error` where one failed
 * @returns {Outcome[]}
 */
export function evaluateTargets(sections) {
  return TARGETS.map(({ section, extract, ...target }) =>
    outcome(target, lookUp(sections[section], section, extract)),
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

function lookUp(result, section, extract) {
  if (result === undefined) return { reason: `section ${section} did not run` };
  if (result.error !== undefined) return { reason: `section ${section} failed: ${result.error}` };
  try {
    const found = extract(result);
    if (found && Number.isFinite(found.value)) return { found };
    const why = result.ceilingsError ? `: ${result.ceilingsError}` : '';
    return { reason: `section ${section} has no such figure${why}` };
  } catch (error) {
    return { reason: `section ${section} has another form than expected: ${error.message}` };
  }
}

/** @returns {Figure} */
const figure = (value, detail) => ({ value, ...(detail && { detail }) });

const range = ({ low, high }) => `${low.toFixed(2)}..${high.toFixed(2)}`;
