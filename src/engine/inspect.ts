import { checkBoolean, checkPath, readOptions } from '../arguments.js';
import { abortedFirst } from '../abort.js';
import type { WeightInspection } from './binding.js';
import { asJitFluxError, runWeights } from './call.js';

export type { WeightEntry, WeightInspection } from './binding.js';

/**
 * Lists what a weight file holds and, if it is a FLUX transformer, its layout and configuration. Nothing is loaded or
 * run, and of the file only headers are read.
 * @param o.verify also check the CRC-32 of a TorchScript archive's records, which reads all of it
 * @param o.metadata also the texts that a safetensors file holds beside its tensors; at most 16 MiB
 * @throws ERR_JITFLUX_FILE_NOT_FOUND, ERR_JITFLUX_UNSUPPORTED_FORMAT, ERR_JITFLUX_CORRUPT_FILE, ERR_JITFLUX_UNSAFE_FILE,
 *   ERR_JITFLUX_ABORTED
 */
export async function inspectWeights(
  path: string,
  o: { verify?: boolean | undefined; metadata?: boolean | undefined; signal?: AbortSignal | undefined } = {},
): Promise<WeightInspection> {
  const names = { verify: true, metadata: true, signal: true } as const;
  const { verify = false, metadata: wanted = false, signal } = readOptions(o, names);
  checkPath('path', path);
  const asked = { verify: checkBoolean('verify', verify), metadata: checkBoolean('metadata', wanted) };
  const work = runWeights((binding, job) => binding.inspectWeights(path, asked, job), { signal });
  const { problem, metadata, ...found } = await abortedFirst(work, signal);
  return {
    ...found,
    ...(problem && { problem: asJitFluxError(problem) as NonNullable<typeof problem> }),
    ...(metadata && { metadata: Object.fromEntries(metadata) }),
  };
}
