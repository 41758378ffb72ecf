// Time and peak memory of the autoencoder, at FLUX.1's widths unless in a smoke run; docs/vae-memory.md quotes the table.
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { ROOT } from '../lib/paths.mjs';
import { hasFailed, part } from '../lib/part.mjs';
import { duration, table } from '../lib/table.mjs';
import { autoencoderFile } from '../lib/weights.mjs';

/** @typedef {'decode' | 'encode'} Call */
/** @typedef {[what: Call, dtype: 'float32' | 'bfloat16', pixels: number, tiling: boolean]} Case */

/** @type {Readonly<Record<import('../lib/models.mjs').Mode, { widths: 'flux' | 'tiny', cases: readonly Case[] }>>} */
const CASES = {
  full: {
    widths: 'flux',
    cases: [
      ['decode', 'float32', 512, false],
      ['decode', 'float32', 512, true],
      ['decode', 'float32', 1024, false],
      ['decode', 'float32', 1024, true],
      ['decode', 'bfloat16', 512, false],
      ['decode', 'bfloat16', 1024, false],
      ['decode', 'bfloat16', 1024, true],
      ['encode', 'float32', 1024, false],
    ],
  },
  quick: {
    widths: 'flux',
    cases: [
      ['decode', 'bfloat16', 512, false],
      ['decode', 'bfloat16', 512, true],
    ],
  },
  smoke: {
    widths: 'tiny',
    cases: [
      ['decode', 'float32', 128, false],
      ['decode', 'bfloat16', 128, true],
      ['encode', 'float32', 128, false],
    ],
  },
};

const PROGRAM = join(ROOT, 'bench', 'programs', 'autoencoder.mjs');

/** @param {import('../lib/section-process.mjs').Context} context */
export default async function autoencoder(context) {
  const { widths, cases } = CASES[context.mode];
  const path = await autoencoderFile(widths, context.work);
  const rows = [];
  for (const [what, dtype, pixels, tiling] of cases) {
    const name = `${what} ${dtype} ${pixels}${tiling ? ' tiled' : ''}`;
    const found = await part(name, context, () => {
      const args = [PROGRAM, path, what, dtype, String(pixels), String(tiling), String(context.threads)];
      const text = execFileSync(process.execPath, args, { encoding: 'utf8' });
      return /** @type {import('../programs/autoencoder.mjs').AutoencoderCall} */ (JSON.parse(text));
    });
    rows.push({ what, dtype, pixels, tiling, ...found });
  }
  return { widths, rows };
}

/** @param {Awaited<ReturnType<typeof autoencoder>>} result */
export function print({ rows }) {
  /** @type {(bytes: number | undefined) => string} */
  const mib = (bytes) => (bytes === undefined ? '' : (bytes / 2 ** 20).toFixed(0));
  return table(
    ['autoencoder', 'dtype', 'pixels', 'tiled', 'time', 'peak MiB', 'estimate MiB'],
    rows.map((r) => [
      r.what,
      r.dtype,
      `${r.pixels}x${r.pixels}`,
      r.tiling ? 'yes' : 'no',
      ...(hasFailed(r)
        ? [`failed: ${r.error}`]
        : 'peak' in r
          ? [duration(r.seconds), mib(r.peak), mib(r.estimate)]
          : []),
    ]),
  );
}
