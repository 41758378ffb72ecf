// Failures that stay where they happened: a part of a section that fails leaves its reason in its place.

/** @typedef {{ error: string }} Failed */

/**
 * One part of a section. Its failure is its result, so that the parts beside it keep theirs.
 * @template T
 * @param {string} name
 * @param {{ log: (text: string) => void }} context
 * @param {() => Promise<T> | T} run
 * @returns {Promise<T | Failed>}
 */
export async function part(name, { log }, run) {
  log(name);
  try {
    return await run();
  } catch (error) {
    console.error(error);
    return { error: error instanceof Error ? error.message : String(error) };
  }
}

/**
 * @param {unknown} value
 * @returns {value is Failed}
 */
export const hasFailed = (value) =>
  typeof value === 'object' && value !== null && 'error' in value && typeof value.error === 'string';

/**
 * Every failure in a tree of results, with its place.
 * @param {unknown} value
 * @param {string} [where]
 * @returns {{ where: string, reason: string }[]}
 */
export function findFailures(value, where = '') {
  if (hasFailed(value)) return [{ where, reason: value.error }];
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([name, inner]) =>
    findFailures(inner, where ? `${where}.${name}` : name),
  );
}
