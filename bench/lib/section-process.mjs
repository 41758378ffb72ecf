// One section in a process of its own: memory goes back between sections, and a crash ends only the section.
import { fork } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { ROOT } from './paths.mjs';

const SELF = fileURLToPath(import.meta.url);

/**
 * What a section gets.
 * @typedef {object} Context
 * @property {import('./models.mjs').Mode} mode
 * @property {number} threads
 * @property {string} python for PyTorch as a second peer
 * @property {boolean} pythonIsRequired it was asked for: then its absence is a failure and no note
 * @property {string | undefined} diffusers checkout
 * @property {string | undefined} jit checkout of the released pipeline
 * @property {string | undefined} model that the section `snapshot` measures instead of a synthetic one
 * @property {string | undefined} sdcpp program of stable-diffusion.cpp
 * @property {string} work directory for weights
 * @property {Record<string, any>} sections results of the sections before
 * @property {(text: string) => void} log progress for a person who waits
 */

/** Minutes that a section may take before it is given up. */
const MINUTES = { smoke: 3, quick: 15, full: 120 };

/**
 * @param {string} name
 * @param {Omit<Context, 'log'>} context
 * @returns {Promise<any>} the section's results
 */
export function runSection(name, context) {
  return new Promise((resolve, reject) => {
    const child = fork(SELF, [name], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    /** @type {{ result?: any, error?: string } | undefined} */
    let answer;
    const minutes = MINUTES[context.mode];
    const givenUp = setTimeout(() => {
      answer = { error: `no result within ${minutes} minutes` };
      child.kill('SIGKILL');
    }, minutes * 60_000);
    child.on('message', (message) => (answer = /** @type {typeof answer} */ (message)));
    child.on('error', reject);
    child.on('close', (code, signal) => {
      clearTimeout(givenUp);
      if (answer?.result) resolve(answer.result);
      else reject(new Error(answer?.error ?? `the section's process ended with ${signal ?? `code ${code}`}`));
    });
    child.send(context);
  });
}

/** @param {string} name */
async function main(name) {
  // The run was ended: nobody waits for the result any more.
  process.once('disconnect', () => process.exit(1));
  const context = await new Promise((resolve) => process.once('message', resolve));
  /** @type {(text: string) => void} */
  const log = (text) => console.error(`  ${name}: ${text}`);
  /** @type {{ result?: any, error?: string }} */
  let message;
  try {
    const { default: section } = await import(
      pathToFileURL(join(ROOT, 'bench', 'sections', `${name}.mjs`)).href
    );
    message = { result: await section({ ...context, log }) };
  } catch (error) {
    console.error(error);
    message = { error: error instanceof Error ? error.message : String(error) };
  }
  process.send?.(message, () => process.exit(message.error === undefined ? 0 : 1));
}

if (process.argv[1] === SELF && process.send && process.argv[2]) await main(process.argv[2]);
