// A worker thread of the soak: works at random until it ends in the way that it was told.
import { parentPort, workerData } from 'node:worker_threads';
import { randomNumbers, Soak } from './actions.mjs';

/**
 * @typedef {object} ThreadData
 * @property {number} seed
 * @property {string} name
 * @property {string} scratch
 * @property {import('./actions.mjs').Files} files
 * @property {string | undefined} reference
 * @property {number} milliseconds of work
 * @property {'natural' | 'left' | 'exit' | 'throw' | 'terminate'} end left: naturally, with its models undisposed
 */

/** @type {ThreadData} */
const { seed, milliseconds, end, ...o } = workerData;
const random = randomNumbers(seed);
const soak = new Soak({ random, ...o });
let over = false;

process.on('warning', (warning) => {
  if (/** @type {NodeJS.ErrnoException} */ (warning).code === 'JITFLUX_UNDISPOSED') return;
  parentPort?.postMessage({
    outcome: 'unexpected',
    refusals: 0,
    unexpected: { action: 'warning in a worker', message: warning.stack ?? warning.message },
  });
});
await soak.begin(1);
parentPort?.postMessage('ready');
if (end === 'natural' || end === 'left') setTimeout(() => (over = true), milliseconds);
// In the middle of whatever is at work then.
if (end === 'exit') setTimeout(() => process.exit(3), milliseconds);
if (end === 'throw')
  setTimeout(() => {
    throw new Error('soak: on purpose');
  }, milliseconds);

while (!over) parentPort?.postMessage(await soak.act());
if (end === 'natural') await soak.end();
