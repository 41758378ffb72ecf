// One part of the GPU benchmark in a process of its own: the device's memory goes back between parts, and a crash ends
// only the part.
import { fork } from 'node:child_process';
import { clearTimeout } from 'node:timers';
import { fileURLToPath } from 'node:url';

const SELF = fileURLToPath(import.meta.url);

/**
 * @param {string} name
 * @param {import('./parts.mjs').Context} context
 * @param {number} seconds after which the process is ended
 * @returns {Promise<any>} the part's result
 */
export function runPart(name, context, seconds) {
  return new Promise((resolve, reject) => {
    const child = fork(SELF, [name], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    let isOverdue = false;
    const timer = setTimeout(() => {
      isOverdue = true;
      child.kill('SIGKILL');
    }, seconds * 1000);
    let answer;
    child.on('message', (message) => (answer = message));
    child.on('error', reject);
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      if (answer?.result) resolve(answer.result);
      else if (answer?.error) reject(new Error(answer.error));
      else if (isOverdue) reject(new Error(`ended after its ${Math.round(seconds)} s`));
      else reject(new Error(`its process ended (${signal ?? `code ${code}`})`));
    });
    child.send(context);
  });
}

async function main(name) {
  process.once('disconnect', () => process.exit(1));
  const context = await new Promise((resolve) => process.once('message', resolve));
  let message;
  try {
    const { PARTS } = await import('./parts.mjs');
    message = { result: await PARTS[name](context) };
  } catch (error) {
    console.error(error);
    message = { error: String(error?.message ?? error) };
  }
  process.send(message, () => process.exit(message.error === undefined ? 0 : 1));
}

if (process.argv[1] === SELF && process.send) await main(process.argv[2]);
