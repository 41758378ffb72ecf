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
      [['genrate', 'a b'], 'Unknown command: genrate; did you mean generate?'],
      [['plan', '--dtype', 'bfloat'], 'received "bfloat"; did you mean bfloat16?'],
      [['plan', '--dtype', 'bf16'], 'received "bf16"; did you mean bfloat16?'],
      [['plan', '--preset', 'jit4x'], 'did you mean jit-4x?'],
      [['plan', '--schedule', 'bata:1,2'], 'did you mean beta?'],
      [['plan', '--activation', 'gird'], 'did you mean grid?'],
      [['plan', '--device', 'gpu'], 'did you mean cuda?'],
      [['plan', '--model', 'flux.1-schnel'], 'did you mean flux.1-schnell?'],
      [['setup', '--variant', 'cuda130'], 'did you mean cu130?'],
      [['generate', 'a b', '--cfg-scale', '3'], 'did you mean --guidance?'],
      [['generate', 'a b', '--num_inference_steps', '3'], 'did you mean --steps?'],
      [['plan', '--model', 'schnell'], 'did you mean flux.1-schnell?'],
      [['plan', 'flux.1-dev'], 'did you mean --model flux.1-dev?'],
      [['plan', '--no-model'], 'for --model but received "--no-model"'],
      [['plan', '--config='], 'Expected the path of a file'],
      [['a red circle'], 'Name a command: jit-flux generate "a red circle"'],
      [['version'], 'did you mean --version?'],
      [['--hlep'], 'did you mean --help?'],
      [['help', 'paln'], 'Unknown command: paln; did you mean plan?'],
      [['inspect'], 'Missing <file>: jit-flux inspect <file>'],
      [['convert', 'in.pt'], 'Missing <output>: jit-flux convert <input> <output>'],
      [['encode'], 'Expected one prompt in quotes for <prompt> [ERR'],
      [['generate'], 'Expected a prompt in quotes (or --prompt-file, --from, --conditioning) for <prompt>'],
      [['generate', 'a b', '--from', 'package.json'], 'package.json: This is no PNG, JPEG or WebP file'],
      [['plan', '--zzzz'], 'Unknown argument: zzzz\n'],
      [['plan', '--height', 'abc'], 'Expected a number for --height but received "abc" [ERR'],
      [['plan', '--steps', ''], 'Expected a number for --steps but received "" [ERR'],
      [['plan', `--${'z'.repeat(5000)}`], `${'z'.repeat(300)}`],
      [['plan', '--height', '1080'], '1088 is the nearest) for --height but received 1080'],
    ] as const) {
      const { code, stderr } = await cli([...argv], undefined, { env: { XDG_CONFIG_HOME: '/nonexistent' } });
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
      stdout: { write: (part) => (text += part.toString()), columns },
      stderr: process.stderr,
      signal: new AbortController().signal,
    });
    expect(text).toContain('--skip-existing');
    const longest = Math.max(...text.split('\n').map((line) => line.length));
    expect(longest).toBeLessThanOrEqual(Math.min(columns, 100));
  });
});
