// When a soak is flat. Pure: numbers in, numbers and sentences out.

/**
 * What the process held at one moment. Memory in MiB.
 * @typedef {object} Sample
 * @property {number} seconds since the start
 * @property {boolean} quiet nothing was at work, and garbage had been collected
 * @property {number} residentMiB
 * @property {number} anonymousMiB of the process itself, without mapped files
 * @property {number} heapMiB in use by V8
 * @property {number} externalMiB memory behind JavaScript objects outside of V8's heap
 * @property {number} referencesKiB V8's global handles: what native code holds of JavaScript
 * @property {number} tensorMiB behind tensors and packed weights
 * @property {number} mappedMiB of weight files
 * @property {number} handles of the event loop that are active
 * @property {number} descriptors without `left`
 * @property {number} left descriptors of files that a worker was opening when it ended, which Node before 26 leaves open
 * @property {number} threads
 * @property {number} mappings of the address space
 * @property {number} done actions that ended with a result
 * @property {number} refused actions that were refused as they must be
 * @property {number} aborted
 * @property {number} unexpected
 * @property {number} workers that have ended
 */

/** With fewer there is no verdict. */
export const LEAST_QUIET_SAMPLES = 8;

/**
 * What a quiet process may gain over the last two thirds of a run. Counts: nothing. Memory: something whatever the
 * length (`base`); what allocators, arenas and compiled kernels take in the first minutes (`settling`: all of it in a run
 * whose last two thirds are within five minutes, a quarter in one of twice the length, and so on); and something per
 * minute, which a leak would have to stay below.
 * @type {Record<string, { name: string, unit: string, base?: number, settling?: number, perMinute?: number }>}
 */
export const TOLERANCES = {
  anonymousMiB: { name: 'anonymous memory', unit: 'MiB', settling: 250, perMinute: 0.5 },
  heapMiB: { name: "V8's heap", unit: 'MiB', base: 0.5, settling: 2, perMinute: 0.02 },
  externalMiB: { name: 'external memory', unit: 'MiB', base: 0.5 },
  referencesKiB: { name: 'references from native code', unit: 'KiB', base: 8 },
  tensorMiB: { name: 'tensors', unit: 'MiB', base: 0.5, settling: 8 },
  mappedMiB: { name: 'mapped weights', unit: 'MiB', base: 0.01 },
  handles: { name: 'active handles', unit: '', base: 0.5 },
  descriptors: { name: 'descriptors', unit: '', base: 0.5 },
  threads: { name: 'threads', unit: '', base: 0.5 },
  mappings: { name: 'mappings', unit: '', settling: 120, perMinute: 0.5 },
};

/**
 * Median of the slopes between all pairs of points (Theil-Sen): a few odd points do not move it.
 * @param {readonly (readonly [x: number, y: number])[]} points
 * @returns {number} 0 for fewer than two
 */
export function medianSlope(points) {
  const slopes = [];
  for (let i = 0; i < points.length; i++)
    for (let k = i + 1; k < points.length; k++) {
      const run = points[k][0] - points[i][0];
      if (run > 0) slopes.push((points[k][1] - points[i][1]) / run);
    }
  if (slopes.length === 0) return 0;
  slopes.sort((a, b) => a - b);
  const middle = slopes.length >> 1;
  return slopes.length % 2 === 1 ? slopes[middle] : (slopes[middle - 1] + slopes[middle]) / 2;
}

/**
 * Whether nothing grew: of every series the median slope over the last two thirds of the quiet samples, times their
 * length, is within its tolerance. And nothing unexpected happened, and work went on until the end.
 * @param {readonly Sample[]} samples
 */
export function judge(samples) {
  const quiet = samples.filter((sample) => sample.quiet);
  const last = samples.at(-1);
  if (quiet.length < LEAST_QUIET_SAMPLES || last === undefined)
    return { ok: false, growth: [], problems: ['too short'] };
  const from = quiet[Math.floor(quiet.length / 3)].seconds;
  const window = quiet.filter(({ seconds }) => seconds >= from);
  const minutes = (window[window.length - 1].seconds - from) / 60;
  const growth = Object.entries(TOLERANCES).map(
    ([key, { name, unit, base = 0, settling = 0, perMinute = 0 }]) => {
      const values = window.map((sample) => sample[/** @type {keyof Sample} */ (key)]).map(Number);
      const slope = medianSlope(window.map(({ seconds }, i) => [seconds / 60, values[i]]));
      const tolerance = base + settling / Math.max(1, minutes / 5) ** 2 + perMinute * minutes;
      return {
        key,
        name,
        unit,
        first: values[0],
        last: values[values.length - 1],
        growth: slope * minutes,
        tolerance,
        ok: slope * minutes <= tolerance,
      };
    },
  );
  const problems = growth
    .filter(({ ok }) => !ok)
    .map(
      ({ name, unit, growth: by, tolerance }) =>
        `${name} grew by ${by.toFixed(2)} ${unit} in ${minutes.toFixed(1)} minutes; at most ${tolerance.toFixed(2)}`,
    );
  if (last.left > 2 * last.workers)
    problems.push(`${last.workers} workers have left ${last.left} files open; at most two each`);
  if (last.unexpected > 0) problems.push(`${last.unexpected} unexpected errors`);
  const ended = (/** @type {Sample} */ { done, refused, aborted }) => done + refused + aborted;
  for (let i = 1; i < quiet.length; i++)
    if (ended(quiet[i]) === ended(quiet[i - 1]))
      problems.push(`no action has ended from second ${quiet[i - 1].seconds} to ${quiet[i].seconds}`);
  return { ok: problems.length === 0, minutes, growth, problems };
}
