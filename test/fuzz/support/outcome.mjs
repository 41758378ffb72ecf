// Outcomes of the targets in JavaScript.

/**
 * Runs `body`; an error must be one that the reader promises.
 * @template T
 * @param {(error: Error & { code?: unknown }) => boolean} promised
 * @param {() => T} body
 * @returns {T | undefined} undefined for a refusal
 */
export function refusedOr(promised, body) {
  try {
    return body();
  } catch (error) {
    return refused(promised, error);
  }
}

/**
 * The same of a promise.
 * @template T
 * @param {(error: Error & { code?: unknown }) => boolean} promised
 * @param {() => Promise<T>} body
 * @returns {Promise<T | undefined>}
 */
export async function refusedOrAsync(promised, body) {
  try {
    return await body();
  } catch (error) {
    return refused(promised, error);
  }
}

/**
 * @param {(error: Error & { code?: unknown }) => boolean} promised
 * @param {unknown} error
 */
function refused(promised, error) {
  if (!(error instanceof Error) || !promised(error)) throw error;
  if (error.message.length > 64 * 1024) throw new Error('a message is not absurdly long', { cause: error });
  return undefined;
}

/**
 * Whether an error is a JitFluxError of one of these codes.
 * @param {string[]} codes without `ERR_JITFLUX_`
 */
export function coded(...codes) {
  const all = new Set(codes.map((code) => `ERR_JITFLUX_${code}`));
  return (/** @type {Error & { code?: unknown }} */ error) =>
    error.name === 'JitFluxError' && all.has(String(error.code));
}

/**
 * @param {unknown} holds
 * @param {string} property
 * @returns {asserts holds}
 */
export function expect(holds, property) {
  if (!holds) throw new Error(`broken property: ${property}`);
}

/** The built package: what users run. @param {string} path @returns {Promise<any>} */
export function built(path) {
  return import(new URL(`../../../dist/${path}`, import.meta.url).href);
}
