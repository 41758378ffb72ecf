// Order statistics of samples, and the ratio of two interleaved series.

/**
 * Value below which a share p of the samples lies, interpolated.
 * @param {readonly number[]} samples
 * @param {number} p from 0 to 1
 */
export function quantile(samples, p) {
  if (samples.length === 0) throw new Error('Expected at least one sample');
  const sorted = [...samples].sort((a, b) => a - b);
  const at = p * (sorted.length - 1);
  const below = Math.floor(at);
  const above = Math.min(below + 1, sorted.length - 1);
  const low = sorted[below] ?? Number.NaN;
  const high = sorted[above] ?? Number.NaN;
  return low + (at - below) * (high - low);
}

/** @param {readonly number[]} samples */
export const median = (samples) => quantile(samples, 0.5);

/**
 * A quantity with its spread.
 * @typedef {{ median: number, low: number, high: number, samples: number }} Spread low, high: 10th, 90th percentile
 */

/**
 * @param {readonly number[]} samples
 * @returns {Spread}
 */
export function spread(samples) {
  return {
    median: quantile(samples, 0.5),
    low: quantile(samples, 0.1),
    high: quantile(samples, 0.9),
    samples: samples.length,
  };
}

/**
 * Reference seconds over our seconds, pair by pair: above 1, ours is faster. The pairs were taken one right after the
 * other, so that a slow phase of the machine cancels.
 * @param {readonly number[]} reference
 * @param {readonly number[]} ours
 */
export function ratio(reference, ours) {
  if (reference.length !== ours.length) {
    throw new Error(`Expected pairs, but there are ${reference.length} and ${ours.length} samples`);
  }
  return spread(reference.map((seconds, i) => seconds / (ours[i] ?? Number.NaN)));
}

/**
 * ||a - b|| / ||b||
 * @param {Float32Array} a
 * @param {Float32Array} b
 */
export function relativeDifference(a, b) {
  if (a.length !== b.length) throw new Error(`Expected ${b.length} elements, but there are ${a.length}`);
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < a.length; i++) {
    const expected = b[i] ?? Number.NaN;
    difference += ((a[i] ?? Number.NaN) - expected) ** 2;
    norm += expected ** 2;
  }
  return Math.sqrt(difference / norm);
}

/**
 * Largest |a - b|.
 * @param {Float32Array} a
 * @param {Float32Array} b
 */
export function largestDifference(a, b) {
  if (a.length !== b.length) throw new Error(`Expected ${b.length} elements, but there are ${a.length}`);
  return a.reduce((most, x, i) => Math.max(most, Math.abs(x - (b[i] ?? Number.NaN))), 0);
}
