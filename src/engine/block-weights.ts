import type { BlockWeights, LoadOptions } from '../types.js';
import { isAccelerator } from './device.js';

/** The form that the options ask for. */
export function requestedBlockWeights(
  o: Pick<LoadOptions, 'device' | 'quantize' | 'packWeights' | 'weightStreaming'>,
): BlockWeights {
  if (isAccelerator(o.device)) return o.weightStreaming ? 'streamed' : 'resident';
  if (o.quantize !== undefined) return o.quantize;
  return (o.packWeights ?? true) ? 'packed' : 'mapped';
}
