import { abortedFirst } from '../errors.js';
import type { WeightInspection } from './binding.js';
import { asJitFluxError, runWeights } from './call.js';

export type { WeightEntry, WeightInspection } from './binding.js';

/**
 * Lists what a weight file holds and, if it is a FLUX transformer, its layout and configuration. Nothing is loaded or
 * run; pages of the mapping are only touched as far as headers go.
 * @param o.verify also check the CRC-32 of a TorchScript archive's records
 */
export async function inspectWeights(
  path: string,
  o: { verify?: boolean; signal?: AbortSignal } = {},
): Promise<WeightInspection> {
  const { signal } = o;
  const work = runWeights(
    (binding, job) => binding.inspectWeights(path, { verify: o.verify ?? false }, job),
    { signal },
  );
  const result = await abortedFirst(work, signal);
  if (result.problem) result.problem = asJitFluxError(result.problem) as NonNullable<typeof result.problem>;
  return result;
}
