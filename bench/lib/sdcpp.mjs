// stable-diffusion.cpp as a peer: its command-line program, by path, on a weight file of ours. It says after every step
// how long that took; what follows the steps (its decoder) is not waited for.
import { spawn } from 'node:child_process';
import { join } from 'node:path';

/** Minutes for loading and all steps. */
const MINUTES = 15;
/** Standard output and error that is kept to explain a failure. */
const KEPT = 4000;

/**
 * Runs a few denoising steps of a FLUX transformer. It does not start without an autoencoder and a CLIP, and without a T5
 * it takes 256 empty text tokens.
 * @param {string} program sd-cli
 * @param {object} o
 * @param {string} o.model safetensors, as are the other two
 * @param {string} o.autoencoder
 * @param {string} o.clip
 * @param {string} o.type what it converts the weights to
 * @param {number} o.side of the picture in pixels
 * @param {number} o.steps
 * @param {number} o.threads
 * @param {string} o.work directory for the picture that it would write
 * @returns {Promise<number[]>} seconds of each step
 */
export function sampleSteps(program, { model, autoencoder, clip, type, side, steps, threads, work }) {
  const args = [
    ...['--diffusion-model', model, '--vae', autoencoder, '--clip_l', clip],
    ...['--type', type, '--diffusion-fa', '--threads', String(threads)],
    ...['--width', String(side), '--height', String(side), '--steps', String(steps)],
    ...['--cfg-scale', '1', '--sampling-method', 'euler', '--seed', '42', '--prompt', 'x'],
    ...['--output', join(work, 'sdcpp.png')],
  ];
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      reject(new Error(`${program}: no ${steps} steps in ${MINUTES} minutes`));
    }, MINUTES * 60_000);
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        output = (output + text).slice(-KEPT);
        const seconds = stepSeconds(output, steps);
        if (seconds.length < steps) return;
        resolve(seconds);
        child.kill('SIGKILL');
      });
    }
    child.on('error', reject);
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      const lines = output.trim().split(/[\r\n]+/);
      const said = lines.slice(-3).join('; ');
      reject(new Error(`${program} ended with ${signal ?? `code ${code}`} before its last step: ${said}`));
    });
  });
}

/**
 * Seconds of every step that a progress line tells of, in order: "2/4 - 29.50s/it" or "2/4 - 1.25it/s".
 * @param {string} output
 * @param {number} steps
 */
export function stepSeconds(output, steps) {
  return [...output.matchAll(/ (\d+)\/(\d+) - ([\d.]+)(s\/it|it\/s)/g)]
    .filter(([, , total]) => Number(total) === steps)
    .map(([, , , value, unit]) => (unit === 's/it' ? Number(value) : 1 / Number(value)));
}
