import type { LoadOptions } from '../types.js';
import { isAccelerator } from './device.js';

/**
 * Form of the transformer blocks' weights. On the CPU: reordered copies, as the file holds them, or quantised copies.
 * On a GPU: in its memory, or in the host's and copied over block by block in every pass.
 */
export type BlockWeights = 'packed' | 'mapped' | 'int8' | 'resident' | 'streamed';

/** The form that the options ask for. */
export function requestedBlockWeights(
  o: Pick<LoadOptions, 'device' | 'quantize' | 'packWeights' | 'weightStreaming'>,
): BlockWeights {
  if (isAccelerator(o.device)) return o.weightStreaming ? 'streamed' : 'resident';
  if (o.quantize !== undefined) return o.quantize;
  return (o.packWeights ?? true) ? 'packed' : 'mapped';
}
