/** Weight files that another process truncates, rewrites or replaces while they are in use. */
import { beforeAll, describe, expect, it } from 'vitest';
import { runProgram, runSource } from '../support/program.js';
import { SLOWNESS } from '../support/slowness.js';

const CHANGED = 'ERR_JITFLUX_WEIGHTS_CHANGED';
const OUTCOMES: Record<string, string> = {
  'packed, truncated before the first step': CHANGED,
  'packed, rewritten before the first step': CHANGED,
  'int8, truncated before the first step': CHANGED,
  'as the file holds them, truncated before the first step': CHANGED,
  'as the file holds them, truncated between steps': CHANGED,
  'as the file holds them, the end truncated': CHANGED,
  'as the file holds them, rewritten between steps': CHANGED,
  'as the file holds them, replaced by renaming': 'ok',
  'modulation read anew, truncated between steps': CHANGED,
  'not mapped, truncated before the first step': 'ok',
  'not mapped, truncated between steps': 'ok',
  'not mapped, deleted': 'ok',
  'not mapped, modulation read anew, truncated': CHANGED,
  'T5, truncated between prompts': CHANGED,
  'T5, rewritten between prompts': CHANGED,
  'T5, replaced by renaming': 'ok',
  'T5 not mapped, truncated between prompts': 'ok',
  'T5, truncated while it encodes': 'ok',
  'not mapped: no mapping and no descriptor is left': 'ok',
  'not mapped: the same values in every form': 'ok',
  'inspected while it is truncated': 'ok',
  'converted while it is truncated': CHANGED,
};

describe('a weight file that changes while it is in use', () => {
  let outcomes: Record<string, string> = {};
  beforeAll(() => {
    const program = 'test/lifetime/programs/changed-weights.mjs';
    const { status, signal, stdout, stderr } = runProgram([program], { seconds: 240 });
    expect({ status, signal }, stderr).toEqual({ status: 0, signal: null });
    outcomes = JSON.parse(stdout) as Record<string, string>;
  }, 250_000 * SLOWNESS);

  it.each(Object.entries(OUTCOMES))('%s: %s', (name, expected) => {
    expect(outcomes[name]).toBe(expected);
  });
});

describe('the handler of SIGBUS', () => {
  it('leaves a SIGBUS that is not about weights to what was there before', () => {
    // Loads a model whose weights are mapped, so that the handler is there.
    const program = new URL('programs/changed-weights.mjs', import.meta.url).href;
    const { signal } = runSource(
      `process.argv.push('', 'as the file holds them, replaced by renaming');
       await import(${JSON.stringify(program)});
       process.kill(process.pid, 'SIGBUS');
       await new Promise((resolve) => setTimeout(resolve, 5000));`,
    );
    expect(signal).toBe('SIGBUS');
  });
});
