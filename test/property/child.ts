/**
 * The process in which a family is called: `child.js <family> <seed> <runs> [target] [case]`. Writes to descriptor 3 what it
 * is about to do, and to standard output what failed.
 */
import { openApi } from '../support/hostile/api.js';
import type { Family } from '../support/hostile/family.js';
import { runFamily } from '../support/hostile/family.js';

const [, , name, seed, runs, only, at] = process.argv;
const api = await openApi();
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
