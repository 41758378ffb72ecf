/** Completion, by the protocol that the shells' scripts speak. */
import { describe, expect, it } from 'vitest';

import { cli } from './helpers.js';

async function complete(...words: string[]): Promise<string[]> {
  const { code, stdout, stderr } = await cli(['--get-yargs-completions', 'jit-flux', ...words]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return stdout.split('\n').filter(Boolean);
}

describe('completion', () => {
  it('of commands', async () => {
    expect(await complete('')).toEqual(expect.arrayContaining(['generate', 'doctor', 'completion']));
    expect(await complete('en')).toEqual(['encode']);
    expect(await complete('--v')).toEqual(['--version']);
    expect(await complete('nothing', '')).toEqual([]);
  });

  it('of flags', async () => {
    expect(await complete('generate', '--st')).toEqual(['--steps', '--stage-ratios', '--stream-weights']);
    expect(await complete('generate', 'a b', '--no-mem')).toEqual(['--no-memory-check']);
    // Given already.
    expect(await complete('generate', '--steps', '4', '--st')).not.toContain('--steps');
    expect(await complete('generate', '-s', '4', '--see')).toEqual([]);
  });

  it.each([
    [['generate', '--dtype', 'b'], ['bfloat16']],
    [
      ['plan', '--preset', ''],
      ['dense', 'jit-4x', 'jit-7x'],
    ],
    [
      ['plan', '--schedule', 's'],
      ['shift', 'static:', 'sigmas:'],
    ],
    [['plan', '-m', 'flux.1-s'], ['flux.1-schnell']],
    [
      ['setup', '--variant', ''],
      ['cpu', 'cu130', 'auto'],
    ],
    [
      ['generate', '--width', 'abc', '--dtype', 'f'],
      ['float32', 'float16'],
    ],
  ])('of values: %j', async (words, found) => {
    expect(await complete(...words)).toEqual(found);
  });

  it.each([
    [['generate', '-o', '']],
    [['generate', '--model', 'mod']],
    [['plan', '--config', '']],
    [['inspect', '']],
    [['convert', 'in.pt', 'o']],
  ])('of file names is left to the shell: %j', async (words) => {
    expect(await complete(...words)).toEqual([]);
  });

  it('has a script', async () => {
    const { code, stdout } = await cli(['completion']);
    expect(code).toBe(0);
    expect(stdout).toContain('jit-flux --get-yargs-completions');
    expect(stdout).toMatch(/^complete .*-o default .*jit-flux$|^ {2}compdef/m);
  });
});
