// Figures that are computed from what was measured on a GPU. Pure: the report and the targets share them.

/** Bytes of an activation in bfloat16. */
const ELEMENT_BYTES = 2;

/** A row of a table by its share of the tokens. */
export const atShare = (rows, share) => rows?.find((row) => row.share === share);

/** A run by name. */
export const runOf = (part, name) => part?.runs?.find((run) => run.name === name);

/**
 * Dense-50's wall clock over a run's.
 * @returns {number | undefined}
 */
export function speedup(part, name, against = 'dense-50') {
  const [run, dense] = [runOf(part, name), runOf(part, against)];
  return run && dense && dense.seconds.median / run.seconds.median;
}

/**
 * What the JiT operators take of a run: the transitions as measured by themselves, host included, and in every sparse
 * step the lift with the Euler update beyond a bare round trip (in the sampler it is part of the step's one native call).
 * @returns {{ seconds: number, share: number, perTransition: number[] } | undefined}
 */
export function operatorShare(resident, preset) {
  const run = runOf(resident, preset);
  const rows = resident?.operators?.filter((row) => row.preset === preset) ?? [];
  if (!run || rows.length === 0) return undefined;
  const trip = resident.roundTrip.median;
  let seconds = 0;
  for (const row of rows) {
    const stage = run.stages.find(({ activeTokens }) => activeTokens === row.tokens);
    if (!stage) return undefined;
    seconds += row.transitionSeconds + stage.steps * Math.max(0, row.seconds.step - trip);
  }
  const perTransition = rows.map((row) => row.transitionSeconds);
  return { seconds, share: seconds / run.seconds.median, perTransition };
}

/**
 * Time of our element-wise kernels in a dense step, from the kernels' own benchmark: the sum of times and calls where
 * that states calls per step; else every kernel's traffic in a step over the bandwidth that it reached.
 * @param {any} kernelBench document of `jit_flux_cuda_kernel_tests --bench`
 * @param {import('./models.mjs').GpuModel} model
 * @returns {{ seconds: number, way: string, missing: string[] } | undefined}
 */
export function elementwiseSeconds(kernelBench, model) {
  const rows = kernelRows(kernelBench).filter(
    ({ type }) => type === undefined || /bf16|bfloat16/i.test(type),
  );
  const counted = rows.filter(({ callsPerStep }) => callsPerStep > 0);
  if (counted.length > 0) {
    const seconds = counted.reduce((sum, row) => sum + row.seconds * row.callsPerStep, 0);
    return { seconds, way: 'kernel times and calls per step', missing: [] };
  }
  let seconds = 0;
  const missing = [];
  for (const { kernel, bytes } of denseTraffic(model)) {
    // The largest shape that was measured stands for the step.
    const best = rows
      .filter((row) => row.kernel === kernel && row.gigabytesPerSecond > 0)
      .sort((a, b) => b.seconds - a.seconds)[0];
    if (best) seconds += bytes / (best.gigabytesPerSecond * 1e9);
    else missing.push(kernel);
  }
  if (seconds === 0) return undefined;
  return { seconds, way: 'traffic of a step over the measured bandwidths', missing };
}

/**
 * Bytes that each kernel must move in a dense step, every operand once.
 * @param {import('./models.mjs').GpuModel} model
 */
export function denseTraffic({ config, textTokens, grid }) {
  const { doubleBlocks, singleBlocks, hiddenSize, mlpRatio } = config;
  const tokens = textTokens + grid[0] * grid[1];
  const pass = ELEMENT_BYTES * tokens * hiddenSize;
  return [
    { kernel: 'layer_norm_modulate', bytes: 2 * pass },
    // Twice per token of a double block, once of a single block: x and y read, x and the normed written.
    { kernel: 'gated_residual', bytes: 4 * (2 * doubleBlocks + singleBlocks) * pass },
    { kernel: 'qk_norm_rope', bytes: 4 * (doubleBlocks + singleBlocks) * pass },
    // In a single block the attention's result is moved beside the hidden layer as well.
    {
      kernel: 'gelu_tanh',
      bytes: (2 * mlpRatio * doubleBlocks + (2 * mlpRatio + 2) * singleBlocks) * pass,
    },
  ];
}

/**
 * Rows of the kernels' benchmark, whatever it calls its columns.
 * @returns {{ kernel: string, type?: string, shape: string, seconds: number, gigabytesPerSecond?: number,
 *   callsPerStep?: number }[]}
 */
export function kernelRows(document) {
  const rows = document?.bench ?? document?.rows ?? document?.benchmarks ?? document?.measurements ?? [];
  if (!Array.isArray(rows)) return [];
  return rows.flatMap((row) => {
    const seconds =
      row.seconds ??
      scaled(row.milliseconds ?? row.ms, 1e-3) ??
      scaled(row.microseconds ?? row.us, 1e-6) ??
      scaled(row.nanoseconds ?? row.ns, 1e-9);
    const kernel = row.kernel ?? row.name;
    if (typeof kernel !== 'string' || !Number.isFinite(seconds)) return [];
    const bytes = row.bytes;
    return [
      {
        kernel,
        type: row.type ?? row.dtype ?? row.element,
        shape: shapeText(row.shape ?? row.params ?? row.case ?? row.group),
        seconds,
        gigabytesPerSecond:
          row.gbytes_per_s ??
          row.gigabytesPerSecond ??
          row.gb_per_s ??
          row.gbps ??
          (bytes > 0 ? bytes / seconds / 1e9 : undefined),
        callsPerStep: row.callsPerStep ?? row.calls_per_step,
      },
    ];
  });
}

const scaled = (value, factor) => (value === undefined ? undefined : value * factor);

function shapeText(shape) {
  if (Array.isArray(shape)) return shape.join(' x ');
  if (typeof shape === 'object' && shape !== null) {
    return Object.entries(shape)
      .map(([name, value]) => `${name} ${value}`)
      .join(', ');
  }
  return shape === undefined ? '' : String(shape);
}

/** Matrix products and attention of a dense step, measured alone by PyTorch at our shapes. */
export function floorOf(peer) {
  if (!peer?.parts?.length) return undefined;
  const sum = (kind, of) =>
    peer.parts.filter(({ part }) => part === kind).reduce((total, part) => total + part.calls * part[of], 0);
  const products = { seconds: sum('product', 'seconds'), flops: sum('product', 'flops') };
  const attention = { seconds: sum('attention', 'seconds'), flops: sum('attention', 'flops') };
  return { products, attention, seconds: products.seconds + attention.seconds };
}
