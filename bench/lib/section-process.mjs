// One section in a process of its own: memory goes back between sections, and a crash ends only the section.
import { fork } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { ROOT } from './paths.mjs';

const SELF = fileURLToPath(import.meta.url);

/**
 * What a section gets.
 * @typedef {object} Context
 * @property {boolean} quick
 * @property {number} threads
 * @property {string} python
 * @property {string | undefined} diffusers checkout
 * @property {string | undefined} jit checkout of the released pipeline
 * @property {string} work directory for weights
 * @property {Record<string, any>} sections results of the sections before
 * @property {(text: string) => void} log progress for a person who waits
 */

/**
 * @param {string} name
 * @param {Omit<Context, 'log'>} context
 * @param {NodeJS.ProcessEnv} env
 * @returns {Promise<{ rows: object[] }>} the section's results, or its error
 */
export function runSection(name, context, env) {
  return new Promise((resolve, reject) => {
    const child = fork(SELF, [name], { env, stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    let answer;
    child.on('message', (message) => (answer = message));
    child.on('error', reject);
    child.on('close', (code, signal) => {
      if (answer?.result) resolve(answer.result);
      else reject(new Error(answer?.error ?? `The section's process ended (${signal ?? `code ${code}`})`));
    });
    child.send(context);
  });
}

async function main(name) {
  // The run was ended: nobody waits for the result any more.
  process.once('disconnect', () => process.exit(1));
  const context = await new Promise((resolve) => process.once('message', resolve));
  const log = (text) => console.error(`  ${name}: ${text}`);
  let message;
  try {
    const { default: section } = await import(
      pathToFileURL(join(ROOT, 'bench', 'sections', `${name}.mjs`)).href
    );
    message = { result: await section({ ...context, log }) };
  } catch (error) {
    console.error(error);
    message = { error: error?.message ?? String(error) };
  }
  process.send(message, () => process.exit(message.error === undefined ? 0 : 1));
}

if (process.argv[1] === SELF && process.send) await main(process.argv[2]);
