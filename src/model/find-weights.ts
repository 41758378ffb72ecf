import { runWeights } from '../engine/call.js';

/**
 * The weight file of a component's directory, by the native reader's own rule: of the variant that is asked for where
 * there is one, else without a variant, else of the only variant.
 * @param o.variant `fp16` of `model.fp16.safetensors`
 * @returns undefined if there are no weights
 * @throws ERR_JITFLUX_UNSUPPORTED_FORMAT if several files could be meant, or shards lack their index;
 *   ERR_JITFLUX_FILE_NOT_FOUND if the directory cannot be listed
 */
export async function findWeights(
  directory: string,
  o: { variant?: string | undefined; signal?: AbortSignal | undefined } = {},
): Promise<string | undefined> {
  const { variant = '', signal } = o;
  return runWeights((binding, job) => binding.findWeights(directory, variant, job), { signal });
}
