// Child processes that end when their time is up, together with whatever they started: it would hold the device.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { ROOT } from '../lib/paths.mjs';

/**
 * @param {string} command
 * @param {readonly string[]} args
 * @param {object} o
 * @param {number} o.seconds after which the whole process group is killed
 * @param {NodeJS.ProcessEnv} [o.env]
 * @param {(text: string) => void} [o.log] gets the output as it comes
 * @param {(message: any) => void} [o.onMessage] opens a channel for a Node process' messages
 * @returns {Promise<{ code: number | null, output: string, isOverdue: boolean, how: string }>} `how` it ended, in words
 */
export async function runProcess(command, args, { seconds, env = process.env, log, onMessage }) {
  const child = spawn(command, args, {
    cwd: ROOT,
    env,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe', ...(onMessage ? [/** @type {const} */ ('ipc')] : [])],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (text) => {
      output = (output + text).slice(-(2 ** 22));
      log?.(text);
    });
  }
  if (onMessage) child.on('message', onMessage);
  const kill = () => {
    try {
      process.kill(-Number(child.pid), 'SIGKILL');
    } catch {
      // It has ended by itself.
    }
  };
  let isOverdue = false;
  const timer = setTimeout(
    () => {
      isOverdue = true;
      kill();
    },
    Math.max(1, seconds) * 1000,
  );
  // Whoever ends us ends the child, too.
  process.once('exit', kill);
  try {
    const [code, signal] = await once(child, 'close');
    const how = isOverdue
      ? `was ended after its ${Math.round(seconds)} s`
      : `ended with ${signal ?? `code ${code}`}`;
    return { code, output, isOverdue, how };
  } finally {
    clearTimeout(timer);
    process.off('exit', kill);
  }
}

/** @param {string} text @param {number} count */
export const lastLines = (text, count) => text.trimEnd().split('\n').slice(-count).join('\n');
