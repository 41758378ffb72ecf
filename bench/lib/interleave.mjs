// Taking turns: everything that is compared is measured in rounds, so that whatever else the machine does in the
// meantime hits all of it alike.
import { performance } from 'node:perf_hooks';

/**
 * Something that is measured: runs once and returns its seconds.
 * @typedef {() => Promise<number> | number} Subject
 */

/**
 * @param {() => unknown} run
 * @returns {Promise<number>} seconds
 */
export async function timed(run) {
  const started = performance.now();
  await run();
  return (performance.now() - started) / 1000;
}

/**
 * Measures all subjects once per round; every other round goes backwards, so that no subject always follows the same
 * neighbour. Ends after `rounds`, or earlier (but not before `atLeast`) when the next round would exceed `seconds`.
 * @template {string} Name
 * @param {Record<Name, Subject>} subjects
 * @param {{ rounds: number, atLeast?: number, seconds?: number | undefined, warmups?: number | undefined }} o
 * @returns {Promise<Record<Name, number[]>>} seconds, round by round
 */
export async function interleave(subjects, { rounds, atLeast = 2, seconds = Infinity, warmups = 1 }) {
  const entries = /** @type {[Name, Subject][]} */ (Object.entries(subjects));
  const samples = /** @type {Record<Name, number[]>} */ (
    Object.fromEntries(entries.map(([name]) => /** @type {[string, number[]]} */ ([name, []])))
  );
  for (let i = 0; i < warmups; i++) {
    for (const [, subject] of entries) await subject();
  }
  const started = performance.now();
  for (let round = 0; round < rounds; round++) {
    const spent = (performance.now() - started) / 1000;
    if (round >= Math.max(1, atLeast) && spent * ((round + 1) / round) > seconds) break;
    for (const [name, subject] of round % 2 === 0 ? entries : [...entries].reverse()) {
      samples[name].push(await subject());
    }
  }
  return samples;
}
