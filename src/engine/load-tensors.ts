import { runNative } from './call.js';
import { Tensor, tensorOf } from './tensor.js';

/**
 * Tensors of a weight file as float32 on the CPU, in the order of `names`, and the texts that the file holds beside them;
 * all of one state of the file. Nothing of it passes through JavaScript.
 * @throws ERR_JITFLUX_WEIGHTS_CHANGED if the file has no tensor of a name; what `inspectWeights` throws
 */
export async function loadTensors(
  path: string,
  names: readonly string[],
  o: { signal?: AbortSignal | undefined } = {},
): Promise<{ tensors: Tensor[]; metadata: Record<string, string> }> {
  const { tensors, metadata } = await runNative(
    (binding, job) => binding.tensorLoad(path, [...names], job),
    o,
  );
  return { tensors: tensors.map((handle) => tensorOf(handle)), metadata: Object.fromEntries(metadata) };
}
