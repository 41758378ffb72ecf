/**
 * Setup of every test file in scripts/test-asan.mjs: looks for leaks when the file's tests are done. Vitest ends its
 * processes by a signal, upon which the sanitizer would not look.
 */
import { createRequire } from 'node:module';
import { setImmediate } from 'node:timers/promises';
import { afterAll } from 'vitest';

const { check } = createRequire(import.meta.url)(process.env.JIT_FLUX_LEAK_CHECK ?? '') as {
  check: () => boolean;
};

afterAll(async () => {
  await setImmediate(); // what the last test's promises hold
  check();
});
