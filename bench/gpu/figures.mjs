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
 * Time of our element-wise kernels in a dense step, from the kernels' own benchmark: time at the step's shape, or failing
 * that the traffic over the bandwidth reached at another shape, times the calls. Image and text together count as one
 * call, whether a block handles them as one or as two.
 * @param {any} kernelBench document of `jit_flux_cuda_kernel_tests --bench`
 * @param {import('./models.mjs').GpuModel} model
 * @param {Record<string, number>} [callsPerStep] calls as the engine counts them
 * @returns {{ seconds: number, way: string, missing: string[],
 *   parts: { kernel: string, shape: string, calls: number, seconds: number }[] } | undefined}
 */
export function elementwiseSeconds(kernelBench, model, callsPerStep) {
  const rows = kernelRows(kernelBench).filter(
    ({ type }) => type === undefined || /bf16|bfloat16/i.test(type),
  );
  const parts = [];
  const missing = [];
  let scaled = 0;
  for (const { kernel, shape, calls, bytes } of denseWork(model, callsPerStep)) {
    const exact = rows.find((row) => row.kernel === kernel && row.shape === shape);
    // The largest shape that was measured stands for the step's.
    const similar = rows
      .filter((row) => row.kernel === kernel && row.gigabytesPerSecond > 0)
      .sort((a, b) => b.seconds - a.seconds)[0];
    if (exact) parts.push({ kernel, shape, calls, seconds: calls * exact.seconds });
    else if (similar) {
      scaled++;
      parts.push({ kernel, shape, calls, seconds: (calls * bytes) / (similar.gigabytesPerSecond * 1e9) });
    } else missing.push(kernel);
  }
  if (parts.length === 0) return undefined;
  const seconds = parts.reduce((sum, part) => sum + part.seconds, 0);
  const way =
    scaled > 0
      ? `times of the kernels alone, ${scaled} of ${parts.length} by traffic`
      : 'times of the kernels alone';
  return { seconds, way, missing: [...new Set(missing)], parts };
}

/**
 * Element-wise kernels of a dense step: shapes as the kernels' benchmark names them, and the bytes of one call, every
 * operand once.
 * @param {import('./models.mjs').GpuModel} model
 * @param {Record<string, number>} [callsPerStep]
 */
export function denseWork({ config, textTokens, grid }, callsPerStep) {
  const { doubleBlocks: doubles, singleBlocks: singles, hiddenSize: width, mlpRatio, inChannels } = config;
  const image = grid[0] * grid[1];
  const tokens = textTokens + image;
  const hidden = mlpRatio * width;
  const pass = ELEMENT_BYTES * tokens * width;
  // In double blocks GELU may be part of the matrix product; then only the single blocks' calls are counted.
  const hasGeluInDoubles = callsPerStep === undefined || (callsPerStep.gelu ?? 0) > singles;
  return [
    { kernel: 'gather_embed', shape: `${image}x${inChannels}x${width}`, calls: 1, bytes: pass },
    { kernel: 'layer_norm_modulate', shape: `${tokens}x${width}`, calls: 1, bytes: 2 * pass },
    // After attention and after the MLP, of a single block once; the last one's norm is the output's.
    {
      kernel: 'gated_residual',
      shape: `${tokens}x${width} + norm`,
      calls: 2 * doubles + singles,
      bytes: 4 * pass,
    },
    { kernel: 'qk_norm_rope', shape: `${tokens}x${3 * width} in place`, calls: doubles, bytes: 4 * pass },
    {
      kernel: 'qk_norm_rope',
      shape: `${tokens}x${3 * width + hidden} in place`,
      calls: singles,
      bytes: 4 * pass,
    },
    ...(hasGeluInDoubles
      ? [{ kernel: 'gelu_tanh', shape: `${tokens}x${hidden}`, calls: doubles, bytes: 2 * mlpRatio * pass }]
      : []),
    // The attention's result is moved beside the hidden layer.
    {
      kernel: 'gelu_tanh',
      shape: `${tokens}x${hidden} + prefix`,
      calls: singles,
      bytes: (2 * mlpRatio + 2) * pass,
    },
  ];
}

/**
 * Rows of the kernels' benchmark, whatever it calls its columns.
 * @returns {{ kernel: string, type?: string, shape: string, seconds: number, gigabytesPerSecond?: number }[]}
 */
export function kernelRows(document) {
  const rows = Array.isArray(document) ? document : (document?.bench ?? document?.rows ?? []);
  if (!Array.isArray(rows)) return [];
  return rows.flatMap((row) => {
    const seconds = row.seconds ?? (row.microseconds === undefined ? undefined : row.microseconds / 1e6);
    if (typeof row.kernel !== 'string' || !Number.isFinite(seconds)) return [];
    // "bfloat16 4608x3072 + norm": the type comes first where there is one.
    const [, type, shape] = /^(?:(float32|bfloat16|float16) )?(.*)$/.exec(String(row.shape ?? ''));
    const gigabytesPerSecond = row.gbytes_per_s ?? (row.bytes > 0 ? row.bytes / seconds / 1e9 : undefined);
    return [{ kernel: row.kernel, type: row.type ?? type, shape, seconds, gigabytesPerSecond }];
  });
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
