// Lets the n-th allocation of our libraries fail, for n = 1, 1 + stride, ... until an operation makes fewer. Prints the
// usual outcome, how many allocations there are and how many of each outcome then. Wants fail_allocation.cc preloaded.
//   node test/lifetime/programs/fail-allocations.mjs <file of weights> <operation> <stride> [first]
import { mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describeWeights } from '../../../dist/engine/describe.js';
import { FluxTransformer, inspectWeights } from '../../../dist/engine/index.js';
import { convertModel } from '../../../dist/index.js';

const [, , file = '', operation = '', stride = '1', first = '1'] = process.argv;
const folder = mkdtempSync(join(tmpdir(), 'jit-flux-fail-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
const output = join(folder, 'out.pt');

/** @type {Record<string, () => Promise<unknown>>} */
const OPERATIONS = {
  inspect: () => inspectWeights(file),
  describe: () => describeWeights(file),
  load: async () => (await FluxTransformer.load(file)).dispose(),
  'load, not mapped': async () => (await FluxTransformer.load(file, { mapWeights: false })).dispose(),
  convert: () => convertModel(file, output, { dtype: 'bfloat16' }),
};
/** 'ok', or the code of the error. */
const run = () =>
  OPERATIONS[operation]().then(
    () => 'ok',
    (error) => `${error.code ?? `${error.stack}`}`,
  );
const usual = await run();

const control = openSync(process.env.JIT_FLUX_FAIL_ALLOCATION ?? '', 'r+');
const numbers = new BigInt64Array(3);
const bytes = new Uint8Array(numbers.buffer);
/** Sets which one fails; from now on they are counted. */
const arm = (/** @type {number} */ failAt) => {
  numbers.set([0n, 0n, 0n]);
  writeSync(control, bytes, 0, 24, 0);
  numbers[0] = BigInt(failAt);
  writeSync(control, bytes, 0, 8, 0);
};
const seen = () => {
  readSync(control, bytes, 0, 24, 0);
  return { count: Number(numbers[1]), failed: Number(numbers[2]) };
};

/** @type {Record<string, number>} */
const outcomes = {};
let allocations;
for (let n = Number(first); ; n += Number(stride)) {
  rmSync(output, { force: true });
  if (process.env.VERBOSE) writeSync(2, `${n}\n`);
  arm(n);
  const outcome = await run();
  const { count, failed } = seen();
  arm(0);
  if (failed === 0) {
    allocations = count;
    break;
  }
  outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
}
console.log(JSON.stringify({ usual, allocations, outcomes }));
