// The benchmark of a GPU as parts of a check: FLUX.1-dev with random weights, against eager PyTorch on the same device.
// docs/gpu/README.md says what is measured; scripts/gpu-check.mjs runs it.
import { existsSync, mkdirSync, readFileSync, rmSync, statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { ROOT } from '../lib/paths.mjs';
import { GPU_MODELS } from './models.mjs';
import { lastLines, runProcess } from './process.mjs';
import { NotHere } from './record.mjs';

/** Bytes of FLUX.1-dev in bfloat16, and of its encoders and autoencoder. */
const WEIGHT_BYTES = 23.8e9 + 11e9;

/**
 * In order of importance; seconds at full size. What one leaves over is shared by those that come later.
 * @type {readonly { name: string, least: number, most: number }[]}
 */
const SEQUENCE = [
  { name: 'weights', least: 20, most: 90 },
  { name: 'resident', least: 40, most: 110 },
  { name: 'clip', least: 20, most: 60 },
  { name: 'decode', least: 15, most: 40 },
  { name: 't5', least: 15, most: 60 },
  { name: 'peer', least: 30, most: 90 },
  { name: 'graphs', least: 30, most: 60 },
  { name: 'modulation', least: 25, most: 45 },
  { name: 'streaming', least: 25, most: 60 },
  { name: 'large', least: 30, most: 70 },
];

/**
 * @param {Pick<import('./engine.mjs').Context, 'smoke' | 'device' | 'emulation' | 'python'> & {
 *   work?: string | undefined, env?: NodeJS.ProcessEnv, log?: (text: string) => void }} o
 * @returns {import('./record.mjs').Task[]}
 */
export function benchTasks({ smoke, device, emulation, python, work, env, log }) {
  const model = GPU_MODELS[smoke ? 'toy' : 'flux'];
  return SEQUENCE.map(({ name, least, most }) => ({
    group: 'bench',
    name,
    least: smoke ? 1 : least,
    most,
    run: async (emit, seconds) => {
      const place = work ?? placeFor();
      mkdirSync(place, { recursive: true });
      const context = { model, smoke, device, emulation, work: place, python, seconds };
      const args = [join(import.meta.dirname, 'parts.mjs'), name, JSON.stringify(context)];
      /** @type {any} */
      let last;
      const { output, how } = await runProcess(process.execPath, args, {
        // Parts look at the clock themselves; this is for one that hangs.
        seconds: seconds * 1.5,
        ...(env && { env }),
        ...(log && { log }),
        onMessage: (message) => {
          if (message.row) emit(.../** @type {Parameters<typeof emit>} */ (message.row));
          else last = message;
        },
      });
      if (last?.notHere) throw new NotHere(last.notHere);
      if (!last?.done) throw new Error(last?.error ?? `its process ${how}: ${lastLines(output, 5)}`);
    },
  }));
}

/**
 * Time and bandwidth of every kernel, by the program of the kernels' tests.
 * @param {{ program: string, env?: NodeJS.ProcessEnv, log?: (text: string) => void }} o
 * @returns {import('./record.mjs').Task}
 */
export function kernelTask({ program, env, log }) {
  return {
    group: 'bench',
    name: 'kernels',
    least: 15,
    most: 60,
    run: async (emit, seconds) => {
      if (!existsSync(program)) throw new NotHere(`${program} was not built`);
      const json = join(tmpdir(), `jit-flux-kernels-${process.pid}.json`);
      const options = { seconds, ...(env && { env }), ...(log && { log }) };
      const { code, how, output } = await runProcess(program, ['--bench', json], options);
      if (code !== 0) throw new Error(`${program} ${how}: ${lastLines(output, 5)}`);
      for (const { kernel, shape, microseconds, gbytes_per_s: rate } of JSON.parse(
        readFileSync(json, 'utf8'),
      ))
        emit(`${kernel} ${shape}`, 's', microseconds / 1e6, `${rate.toFixed(0)} GB/s`);
      rmSync(json);
    },
  };
}

/** Where the weights are already, or where they fit: in memory if possible, because they are read several times. */
function placeFor() {
  const places = ['/dev/shm', tmpdir(), join(ROOT, 'build')].map((place) =>
    join(place, 'jit-flux-gpu-bench'),
  );
  const fits = (/** @type {string} */ place) => {
    try {
      const { bavail, bsize } = statfsSync(dirname(place));
      return bavail * bsize > WEIGHT_BYTES;
    } catch {
      return false;
    }
  };
  const found = places.find((place) => existsSync(place)) ?? places.find(fits);
  if (found === undefined)
    throw new Error(`No place for ${WEIGHT_BYTES / 1e9} GB of weights; name one with --work`);
  return found;
}
