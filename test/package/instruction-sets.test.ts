/** The golden suites once more on every other instruction set: kernels are chosen once per process. */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { native } from '../../src/engine/call.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const { isa: active, supportedIsas } = native().info();

describe('parity with the golden data', () => {
  it.each(supportedIsas.filter((isa) => isa !== active))(
    'holds with %s kernels',
    (isa) => {
      const result = spawnSync(process.execPath, ['node_modules/vitest/vitest.mjs', 'run', 'test/golden'], {
        cwd: root,
        env: { ...process.env, JIT_FLUX_ISA: isa },
        encoding: 'utf8',
      });
      expect(result.status, result.stdout + result.stderr).toBe(0);
      expect(result.stdout).toMatch(/Tests.*passed/);
    },
    240_000,
  );
});
