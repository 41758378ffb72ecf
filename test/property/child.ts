/**
 * The process in which a family is called: `child.js <family> <seed> <runs> [target] [case]`. Writes to descriptor 3 what it
 * is about to do, and to standard output what failed.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import type { Family, Main, Sampler } from '../support/hostile/family.js';
import { runFamily } from '../support/hostile/family.js';

const [, , name, seed, runs, only, at] = process.argv;
const root = process.env['JIT_FLUX_PROPERTY_ROOT']!;
const scratch = mkdtempSync(join(tmpdir(), 'jit-flux-property-'));
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));
process.chdir(scratch);
const api = {
  main: (await import(`${root}/dist/index.js`)) as Main,
  sampler: (await import(`${root}/dist/sampler/index.js`)) as Sampler,
  root,
  scratch,
};
// runFamily listens for what others leave behind, and must not take this for it.
const stop = (error: unknown): never => {
  process.stderr.write(`${(error as Error)?.stack ?? String(error)}\n`);
  process.exit(3);
};
const { family } = (await import(`./families/${name}.js`)) as { family: Family<unknown> };
const result = await runFamily(family, {
  api,
  seed: Number(seed),
  runs: Number(runs),
  only: only === undefined || only === '' ? undefined : only,
  at: at === undefined ? undefined : Number(at),
}).catch(stop);
process.stdout.write(JSON.stringify(result));
