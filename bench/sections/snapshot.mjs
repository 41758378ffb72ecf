// A whole model, from loading to the picture: what each phase takes in time and memory. Of a synthetic snapshot (random
// weights; at FLUX.1-dev's real widths in a full run, 3.3 GB, else a toy), or of the model that --model names.
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { ROOT } from '../lib/paths.mjs';
import { hasFailed, part } from '../lib/part.mjs';
import { duration, table } from '../lib/table.mjs';
import { createOnce } from '../lib/weights.mjs';

/** @typedef {import('../lib/section-process.mjs').Context} Context */

const PROGRAM = join(ROOT, 'bench', 'programs', 'snapshot.mjs');
const SYNTHETIC = join(ROOT, 'tools', 'synthetic-snapshot.mjs');
/** As {@link SYNTHETIC} writes them; raise it when that changes. */
const VERSION = 1;

/** Text encoders kept in memory, or freed after the prompt. */
const VARIANTS = {
  kept: [],
  released: ['--release-encoders'],
};

/** @param {Context} context */
export default async function snapshot(context) {
  const isReal = context.mode === 'full' || context.model !== undefined;
  const model = context.model ?? (await syntheticSnapshot(isReal, context));
  const size = isReal ? 1024 : 256;
  const dtype = 'bfloat16';
  const preset = 'jit-7x';
  const runs = [];
  for (const [encoders, flags] of Object.entries(VARIANTS)) {
    const args = [PROGRAM, model, '--size', String(size), '--preset', preset, '--dtype', dtype, ...flags];
    const found = await part(`encoders ${encoders}`, context, () => {
      const text = execFileSync(process.execPath, [...args, '--threads', String(context.threads)], {
        encoding: 'utf8',
      });
      return /** @type {import('../programs/snapshot.mjs').SnapshotRun} */ (JSON.parse(text));
    });
    runs.push({ encoders, ...found });
  }
  return {
    model: context.model ?? (isReal ? 'synthetic' : 'synthetic, toy widths'),
    size,
    dtype,
    preset,
    runs,
  };
}

/**
 * @param {boolean} isReal
 * @param {Context} context
 */
function syntheticSnapshot(isReal, { work, log }) {
  const name = `snapshot-${isReal ? 'flux' : 'tiny'}-v${VERSION}`;
  return createOnce(join(work, name), (partial) => {
    log('synthetic snapshot');
    const flags = isReal ? [] : ['--tiny', '--t5-layers', '2', '--clip-layers', '2'];
    execFileSync(process.execPath, [SYNTHETIC, partial, ...flags], { stdio: 'pipe' });
  });
}

/** @param {Awaited<ReturnType<typeof snapshot>>} result */
export function print({ model, size, dtype, preset, runs }) {
  /** @type {(bytes: number) => string} */
  const gb = (bytes) => (bytes / 1e9).toFixed(2);
  return runs
    .flatMap((run) => {
      if (hasFailed(run)) return [`text encoders ${run.encoders}: failed: ${run.error}`];
      if (!('phases' in run)) return [];
      return [
        `${model}: ${gb(run.fileBytes)} GB of weights, ${dtype}, ${size}x${size}, ${preset}, text encoders ` +
          `${run.encoders}; largest own (not mapped) memory while generating: ${gb(run.largestOwn)} GB`,
        '',
        table(
          ['after', 'time', 'resident GB', 'of it own GB', 'of it mapped GB', 'peak so far GB'],
          run.phases.map((p) => [
            p.after,
            duration(p.seconds),
            gb(p.resident),
            gb(p.own),
            gb(p.mapped),
            gb(p.peak),
          ]),
        ),
        '',
        table(
          ['part', 'time', 'steps', 'tokens', 'per step'],
          run.parts.map((p) => [
            p.part,
            duration(p.seconds),
            p.steps,
            p.activeTokens === undefined ? '' : `${p.activeTokens} of ${p.totalTokens}`,
            p.steps === undefined ? '' : duration(p.seconds / p.steps),
          ]),
        ),
        '',
      ];
    })
    .join('\n');
}
