/** A FLUX.1 snapshot at toy widths, as published in its structure: tools/synthetic-snapshot.mjs --tiny. */
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const script = fileURLToPath(new URL('../../tools/synthetic-snapshot.mjs', import.meta.url));

/** Writes one into `directory` (19 MB). */
export function writeTinySnapshot(directory: string, variant: 'dev' | 'schnell' = 'dev'): void {
  const layers = ['--t5-layers', '2', '--clip-layers', '2'];
  execFileSync(process.execPath, [
    script,
    directory,
    '--tiny',
    '--dtype',
    'float32',
    '--variant',
    variant,
    ...layers,
  ]);
}
