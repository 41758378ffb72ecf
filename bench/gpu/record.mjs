// Results of a stage of the GPU check: one JSON file per stage, rewritten after every step. One per step would exceed the
// number of files that come back from a lent machine.
import { randomUUID } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';

/**
 * @typedef {object} Step
 * @property {'ok' | 'failed' | 'skipped'} status
 * @property {string} run id of the call that made it
 * @property {string} at when it ended
 * @property {number} [seconds]
 * @property {string} [reason] why it failed or was skipped
 * @property {any} [result]
 * @property {string} [command] that can be run again
 */

/**
 * @typedef {object} StageDocument
 * @property {string} stage
 * @property {Record<string, any>[]} runs machine, versions, commit and command line of the calls, with an `id`
 * @property {Record<string, Step>} steps
 */

/** A stage in progress. Steps that are recorded already are replaced. */
export class StageRecord {
  /**
   * @param {string} path
   * @param {string} stage
   * @param {Record<string, any>} [run] this call; default: $JIT_FLUX_GPU_RUN
   */
  constructor(path, stage, run = JSON.parse(process.env.JIT_FLUX_GPU_RUN ?? '{}')) {
    this.path = path;
    this.run = { id: randomUUID(), ...run };
    const before = readDocument(path);
    const others = (before?.runs ?? []).filter(({ id }) => id !== this.run.id);
    /** @type {StageDocument} */
    this.document = { stage, runs: [...others, this.run], steps: before?.steps ?? {} };
    this.failed = 0;
  }

  /**
   * Runs a step and writes its result; an error is recorded, not thrown.
   * @param {string} name
   * @param {() => Promise<any> | any} work
   * @param {{ command?: string }} [o]
   */
  async step(name, work, { command } = {}) {
    console.log(`${this.document.stage}: ${name}`);
    const started = performance.now();
    const seconds = () => Number(((performance.now() - started) / 1000).toFixed(2));
    try {
      const result = await work();
      this.#put(name, { status: 'ok', seconds: seconds(), ...(command && { command }), result });
      console.log(`${this.document.stage}: ${name} took ${seconds()} s`);
      return result;
    } catch (error) {
      this.failed++;
      const reason = String(error?.message ?? error);
      // A failed step may have something to say all the same.
      const result = error?.result;
      this.#put(name, {
        status: 'failed',
        seconds: seconds(),
        reason,
        ...(command && { command }),
        ...(result !== undefined && { result }),
      });
      console.log(`${this.document.stage}: ${name} FAILED after ${seconds()} s: ${reason.slice(0, 2000)}`);
      return undefined;
    }
  }

  /** Notes that a step was left out; a result of an earlier call stays. */
  skip(name, reason) {
    console.log(`${this.document.stage}: ${name} left out: ${reason}`);
    if (this.document.steps[name]?.status === 'ok') return;
    this.#put(name, { status: 'skipped', reason });
  }

  finish() {
    this.#write();
  }

  #put(name, step) {
    this.document.steps[name] = { ...step, run: this.run.id, at: new Date().toISOString() };
    this.#write();
  }

  #write() {
    mkdirSync(dirname(this.path), { recursive: true });
    // In one step: the call may be ended at any time, and half a document is none.
    const temporary = join(dirname(this.path), `.${basename(this.path)}.partial`);
    writeFileSync(temporary, `${JSON.stringify(this.document, null, 1)}\n`);
    renameSync(temporary, this.path);
  }
}

/** @returns {StageDocument | undefined} */
export function readDocument(path) {
  try {
    const document = JSON.parse(readFileSync(path, 'utf8'));
    return typeof document?.stage === 'string' && Array.isArray(document.runs) ? document : undefined;
  } catch {
    return undefined;
  }
}
