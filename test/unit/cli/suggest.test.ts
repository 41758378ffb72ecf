import { describe, expect, it } from 'vitest';

import { run } from '../../../src/cli/run.js';
import { nearest } from '../../../src/cli/suggest.js';
import { cli } from './helpers.js';

describe('the flag that was meant', () => {
  it.each([
    ['guidence', 'guidance'],
    ['seeed', 'seed'],
    ['sede', 'seed'],
    ['num-image', 'num-images'],
    ['x', undefined],
    ['completely', undefined],
    ['', undefined],
  ])('%s: %s', (word, meant) => {
    expect(nearest(word, ['seed', 'guidance', 'num-images', 'out'])).toBe(meant);
  });

  it('is told, and what was typed for a number', async () => {
    for (const [argv, message] of [
      [['generate', 'a b', '--guidence', '3'], 'Unknown argument: guidence; did you mean --guidance?'],
      [['plan', '--gpu-memry', '24'], 'Unknown argument: gpu-memry; did you mean --gpu-memory?'],
      [['plan', '--zzzz'], 'Unknown argument: zzzz\n'],
      [['plan', '--height', 'abc'], 'Expected a number for "height" but received "abc" (string)'],
      [['plan', '--steps', ''], 'Expected a number for "steps" but received "" (string)'],
      [['plan', `--${'z'.repeat(5000)}`], `${'z'.repeat(300)}`],
      [['plan', '--height', '1080'], '1088 is the nearest) for "height" but received 1080'],
    ] as const) {
      const { code, stderr } = await cli([...argv]);
      expect([code, stderr]).toEqual([2, expect.stringContaining(message)]);
      expect(stderr.length).toBeLessThan(600);
    }
  });

  it('is help, of everything or of a command', async () => {
    const bare = await cli([]);
    expect([bare.code, bare.stdout]).toEqual([2, expect.stringContaining('jit-flux generate [prompt..]')]);
    const help = await cli(['help', 'plan']);
    expect([help.code, help.stdout]).toEqual([0, (await cli(['plan', '--help'])).stdout]);
    expect(help.stdout).toContain('--gpu-memory');
  });

  it.each([50, 80, 200])('that fits %i columns', async (columns) => {
    let text = '';
    await run(['generate', '--help'], {
      stdout: { write: (part) => (text += part), columns },
      stderr: process.stderr,
      signal: new AbortController().signal,
    });
    expect(text).toContain('--skip-existing');
    const longest = Math.max(...text.split('\n').map((line) => line.length));
    expect(longest).toBeLessThanOrEqual(Math.min(columns, 100));
  });
});
