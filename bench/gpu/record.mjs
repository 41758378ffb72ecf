// The results of a GPU check: one JSON document, rewritten after every figure, so that whatever ends the check leaves
// what was measured until then. One part that fails takes no other with it.
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { UserError } from '../../scripts/lib/tools.mjs';
import { spread } from '../lib/statistics.mjs';

/**
 * A figure, or the reason why there is none.
 * @typedef {object} Row
 * @property {string} name unique in its part
 * @property {string} unit 's', 'B', 'B/s', 'x', 'share' or any other; '' of a count
 * @property {number} [value] the median where there are samples
 * @property {number} [low] from this, the 10th percentile,
 * @property {number} [high] to this, the 90th
 * @property {number} [samples]
 * @property {string} [note] or the reason
 */

/**
 * Notes a figure: a number, samples of it, or nothing with the reason as its note.
 * @typedef {(name: string, unit: string, value: number | readonly number[] | undefined, note?: string) => void} Emit
 */

/**
 * @typedef {object} Part
 * @property {string} group build, bench or tests
 * @property {'ok' | 'failed' | 'skipped'} status
 * @property {number} call which of the calls made it
 * @property {number} [seconds]
 * @property {string} [reason] why it failed or was skipped
 * @property {Row[]} rows
 */

/** @typedef {{ calls: Record<string, any>[], parts: Record<string, Part> }} Results calls: machine, versions, command */

/**
 * @typedef {object} Task a part to be run
 * @property {string} group
 * @property {string} name
 * @property {number} least seconds; with less left it is not begun
 * @property {number} most seconds that it gets
 * @property {(emit: Emit, seconds: number) => Promise<unknown>} run
 */

/** Why a part cannot run on this machine: it is skipped, which is no failure. */
export class NotHere extends Error {}

/** @type {Readonly<Record<Part['status'], number>>} */
const WORTH = { ok: 2, failed: 1, skipped: 0 };

/**
 * Results of several calls as one. Of a part that more than one has, a result beats a failure, a failure beats having
 * been skipped, and the later beats the earlier.
 * @param {readonly Results[]} documents oldest first
 * @returns {Results}
 */
export function mergeResults(documents) {
  /** @type {Results} */
  const merged = { calls: [], parts: {} };
  for (const { calls, parts } of documents) {
    for (const [name, part] of Object.entries(parts)) {
      const known = merged.parts[name];
      if (known === undefined || WORTH[part.status] >= WORTH[known.status])
        merged.parts[name] = { ...part, call: part.call + merged.calls.length };
    }
    merged.calls.push(...calls);
  }
  return merged;
}

/**
 * @param {string} path
 * @returns {Results}
 * @throws UserError if there is no such file, or another one
 */
export function readResults(path) {
  try {
    const results = JSON.parse(readFileSync(path, 'utf8'));
    if (!Array.isArray(results?.calls) || typeof results.parts !== 'object' || results.parts === null)
      throw new Error('it has no "calls" and "parts"');
    return results;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new UserError(`${path} holds no results of a GPU check: ${reason}`);
  }
}

export class Recorder {
  /**
   * @param {string} path of the document
   * @param {Record<string, any>} call this call's machine, versions and command
   * @param {readonly Results[]} [before] results of earlier calls
   */
  constructor(path, call, before = []) {
    this.path = path;
    this.call = call;
    this.results = mergeResults([...before, { calls: [call], parts: {} }]);
    this.failed = 0;
    this.#write();
  }

  /**
   * Runs the parts in their order.
   * @param {readonly Task[]} tasks
   * @param {{ only?: readonly string[], budget: number, say?: (text: string) => void }} o only: names or groups of parts;
   *   budget: seconds for all of them
   */
  async run(tasks, { only, budget, say = console.log }) {
    const deadline = performance.now() + budget * 1000;
    for (const task of tasks) {
      if (only && !only.includes(task.name) && !only.includes(task.group)) continue;
      const left = Math.floor((deadline - performance.now()) / 1000);
      const { status, reason, seconds } = await this.#part(task, left);
      say(
        `${task.name}: ${status}${seconds === undefined ? '' : ` after ${seconds} s`}${reason ? `: ${reason}` : ''}`,
      );
    }
  }

  /** @param {Task} task @param {number} left seconds */
  async #part({ group, name, least, most, run }, left) {
    const before = this.results.parts[name];
    /** @type {Part} */
    const part = {
      group,
      status: 'failed',
      reason: 'the check was ended',
      call: this.results.calls.length - 1,
      rows: [],
    };
    const started = performance.now();
    this.results.parts[name] = part;
    try {
      if (left < least) throw new NotHere(`${Math.max(0, left)} s were left, ${least} s are needed`);
      await run(
        (...row) => {
          part.rows.push(rowOf(...row));
          this.#write();
        },
        Math.min(most, left),
      );
      part.status = 'ok';
      delete part.reason;
    } catch (error) {
      part.status = error instanceof NotHere ? 'skipped' : 'failed';
      part.reason = String(/** @type {Error} */ (error)?.message ?? error).slice(0, 2000);
    }
    if (part.status !== 'skipped') part.seconds = Number(((performance.now() - started) / 1000).toFixed(2));
    if (part.status === 'failed') this.failed++;
    // An earlier call's result stays where this one has nothing better.
    if (before && WORTH[before.status] > WORTH[part.status]) this.results.parts[name] = before;
    this.#write();
    return part;
  }

  #write() {
    mkdirSync(dirname(this.path), { recursive: true });
    // In one step: half a document is none.
    const partial = `${this.path}.partial`;
    writeFileSync(partial, `${JSON.stringify(this.results, null, 1)}\n`);
    renameSync(partial, this.path);
  }
}

/** @type {(...row: Parameters<Emit>) => Row} */
function rowOf(name, unit, value, note) {
  const row = { name, unit, ...(note && { note }) };
  if (value === undefined) return row;
  if (typeof value === 'number') return { ...row, value };
  if (value.length < 2) return { ...row, ...(value[0] !== undefined && { value: value[0] }) };
  const { median, ...range } = spread(value);
  return { ...row, value: median, ...range };
}
