import { expect, it } from 'vitest';
import { threadFlags } from '../../../src/files/thread-flags.js';

it.each<[string[], string[]]>([
  [[], []],
  [['--input-type=module', '--eval', 'import "jit-flux"'], []],
  [['--require', './telemetry.cjs', '--import=tsx', '--enable-source-maps'], []],
  [
    ['-r', './.pnp.cjs', '--no-warnings', '--loader', './.pnp.loader.mjs'],
    ['-r', './.pnp.cjs', '--loader', './.pnp.loader.mjs'],
  ],
  [
    ['--require=/a b/.pnp.cjs', '--experimental-loader=file:///a/.pnp.loader.mjs', '--eval=1'],
    ['--require', '/a b/.pnp.cjs', '--experimental-loader', 'file:///a/.pnp.loader.mjs'],
  ],
  [['--eval', './.pnp.cjs'], []],
  [['--require'], []],
])('of %j a thread has %j', (execArgv, expected) => {
  expect(threadFlags(execArgv)).toEqual(expected);
});
