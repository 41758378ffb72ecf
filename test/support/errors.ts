import { expect } from 'vitest';
import { JitFluxError } from '../../src/errors.js';

/** Asserts that `run` fails with a typed error of this code, and returns the error. */
export async function expectError(run: () => unknown, code: string, message?: RegExp): Promise<JitFluxError> {
  let thrown: unknown;
  try {
    await run();
  } catch (error) {
    thrown = error;
  }
  expect(thrown, `expected ${code}`).toBeInstanceOf(JitFluxError);
  const error = thrown as JitFluxError;
  expect(error.code, error.message).toBe(code);
  if (message) expect(error.message).toMatch(message);
  return error;
}
