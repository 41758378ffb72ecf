import type { LoadOptions } from '../types.js';

/** Form of the transformer blocks' weights: reordered copies, as the file holds them, or quantised copies. */
export type BlockWeights = 'packed' | 'mapped' | 'int8';

/** The form that the options ask for. */
export function requestedBlockWeights(o: Pick<LoadOptions, 'quantize' | 'packWeights'>): BlockWeights {
  if (o.quantize !== undefined) return o.quantize;
  return (o.packWeights ?? true) ? 'packed' : 'mapped';
}
