/**
 * One allocation of our libraries fails, every n-th in turn: whatever is done must fail with ERR_JITFLUX_OUT_OF_MEMORY, or
 * end as it does with memory where the allocation could be done without, and the next try must find everything in order.
 *
 * JIT_FLUX_TEST_MEMORY_STEPS=1 fails every single one.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fixturePath } from '../support/safetensors.js';

const WIDE = process.env.JIT_FLUX_TEST_MEMORY_STEPS !== undefined;
const folder = mkdtempSync(join(tmpdir(), 'jit-flux-fail-'));
const library = join(folder, 'fail_allocation.so');
const program = (name: string) => new URL(`programs/${name}`, import.meta.url).pathname;
// What a build of the native libraries needs as well.
const compiler = ['c++', 'g++', 'clang++'].find((name) => spawnSync(name, ['--version']).status === 0);

beforeAll(() => {
  if (compiler === undefined) return;
  const flags = ['-std=c++20', '-O1', '-fno-builtin', '-shared', '-fPIC'];
  execFileSync(compiler, [...flags, program('fail_allocation.cc'), '-o', library]);
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

describe.skipIf(compiler === undefined)('an allocation fails (needs a C++ compiler)', () => {
  const archive = fixturePath('weights/pico.pt');
  const safetensors = fixturePath('weights/pico.safetensors');
  const sharded = fixturePath('weights/sharded/model.safetensors.index.json');
  // The last ones fail by themselves, so that an error is on its way when memory is out.
  it.each([
    ['inspect', archive, 'ok'],
    ['inspect', sharded, 'ok'],
    ['describe', safetensors, 'ok'],
    ['convert', archive, 'ok'],
    ['convert', safetensors, 'ok'],
    ['load', archive, 'ok'],
    ['load, not mapped', safetensors, 'ok'],
    ['inspect', fixturePath('weights/missing.pt'), 'ERR_JITFLUX_FILE_NOT_FOUND'],
    ['inspect', fixturePath('weights/duplicate_record.pt'), 'ERR_JITFLUX_UNSAFE_FILE'],
    ['describe', fixturePath('weights/out_of_bounds.safetensors'), 'ERR_JITFLUX_CORRUPT_FILE'],
    ['convert', fixturePath('weights/deep_pickle.pt'), 'ERR_JITFLUX_UNSAFE_FILE'],
    [
      'load',
      fixturePath('weights/sharded_incomplete/model.safetensors.index.json'),
      'ERR_JITFLUX_CORRUPT_FILE',
    ],
    ['load', fixturePath('weights/overlap.safetensors'), 'ERR_JITFLUX_CORRUPT_FILE'],
  ])(
    '%s %s',
    (operation, file, expected) => {
      const control = join(folder, 'control');
      writeFileSync(control, new Uint8Array(24));
      // A failure allocates little.
      const stride = WIDE || expected !== 'ok' ? '1' : '41';
      const args = [program('fail-allocations.mjs'), file, operation, stride];
      const { status, signal, stdout, stderr } = spawnSync(process.execPath, args, {
        encoding: 'utf8',
        timeout: WIDE ? 1_800_000 : 100_000,
        killSignal: 'SIGKILL',
        env: { ...process.env, LD_PRELOAD: library, JIT_FLUX_FAIL_ALLOCATION: control },
      });
      expect({ status, signal }, stderr).toEqual({ status: 0, signal: null });
      const { usual, allocations, outcomes } = JSON.parse(stdout) as {
        usual: string;
        allocations: number;
        outcomes: Record<string, number>;
      };
      if (WIDE) console.log(operation, file, allocations, outcomes);
      expect(usual).toBe(expected);
      expect(allocations).toBeGreaterThan(expected === 'ok' ? 100 : 5);
      expect(Object.keys(outcomes).filter((code) => code !== expected)).toEqual([
        'ERR_JITFLUX_OUT_OF_MEMORY',
      ]);
    },
    WIDE ? 1_900_000 : 120_000,
  );
});
