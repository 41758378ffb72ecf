/** The golden suites on CUDA: on the first GPU, or through the emulated kernels where there is none. */
import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { PACKAGE_ROOT } from '../../src/libtorch/libtorch.js';
import { cudaUnderTest } from '../support/device.js';

const found = cudaUnderTest();
const where = found.kind === 'none' ? `skipped: ${found.reason}` : found.kind;

describe(`parity with the golden data on CUDA (${where})`, () => {
  it.skipIf(found.kind === 'none')(
    'holds',
    () => {
      const result = spawnSync(process.execPath, ['node_modules/vitest/vitest.mjs', 'run', 'test/golden'], {
        cwd: PACKAGE_ROOT,
        env: { ...process.env, JIT_FLUX_TEST_DEVICE: 'cuda' },
        encoding: 'utf8',
      });
      expect(result.status, result.stdout + result.stderr).toBe(0);
      console.log(result.stdout);
    },
    400_000,
  );
});
