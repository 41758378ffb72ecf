import { describe, expect, it } from 'vitest';

import type { Context } from '../../../src/cli/command.js';
import {
  arrangePrompts,
  parsePrompts,
  parseSeeds,
  readPrompts,
  typedPrompts,
} from '../../../src/cli/prompts.js';
import { expectError } from '../../support/errors.js';

const INVALID = 'ERR_JITFLUX_INVALID_ARGUMENT';

const withInput = (...chunks: string[]): Context =>
  ({
    signal: new AbortController().signal,
    stdin: (async function* () {
      for (const chunk of chunks) yield await Promise.resolve(Buffer.from(chunk));
    })(),
  }) as unknown as Context;

describe('prompts on the command line', () => {
  it.each<[string[], string[]]>([
    [
      ['generate', 'a b', '-o', 'x.png'],
      ['generate', 'a b', '-o', 'x.png'],
    ],
    [
      ['generate', '-1 degrees', '-o', 'x.png'],
      ['generate', '-o', 'x.png', '--', '-1 degrees'],
    ],
    [
      ['encode', '--a red sky', '-q'],
      ['encode', '-q', '--', '--a red sky'],
    ],
    [
      ['generate', '-'],
      ['generate', '--', '-'],
    ],
    [
      ['generate', '--prompt-file', '-', '-o', '-'],
      ['generate', '--prompt-file', '-', '-o', '-'],
    ],
    [
      ['generate', '-q', '--', '--x', '-'],
      ['generate', '-q', '--', '--x', '-'],
    ],
    [
      ['generate', '--out=a b.png', 'c d'],
      ['generate', '--out=a b.png', 'c d'],
    ],
    [
      ['plan', '-x y'],
      ['plan', '-x y'],
    ],
    [[], []],
  ])('%j', (typed, arranged) => {
    expect(arrangePrompts(typed)).toEqual(arranged);
  });

  it('are one prompt each, and words without quotes are none', async () => {
    expect(typedPrompts({ prompt: undefined })).toEqual([]);
    expect(typedPrompts({ prompt: ['cat'] })).toEqual(['cat']);
    expect(typedPrompts({ prompt: ['a cat', 'a dog'], '--': ['-x'] } as never)).toEqual([
      'a cat',
      'a dog',
      '-x',
    ]);
    await expectError(() => typedPrompts({ prompt: ['a', 'red', 'fox'] }), INVALID, /in quotes: "a red fox"/);
  });

  it('come from standard input and files, with options of their own', async () => {
    const context = withInput('a red f', 'ox\r\n\n{"prompt": "b", "seed": 4, "out": "b.png"}\n  \n -c ');
    expect(await readPrompts(['typed', '-'], undefined, context)).toEqual([
      { prompt: 'typed' },
      { prompt: 'a red fox' },
      { prompt: 'b', seed: 4, out: 'b.png' },
      { prompt: ' -c ' },
    ]);
    expect(await readPrompts([], '-', withInput('x'))).toEqual([{ prompt: 'x' }]);
    await expectError(() => readPrompts([], '/nowhere/prompts', withInput()), 'ERR_JITFLUX_FILE_NOT_FOUND');
    await expectError(
      () => readPrompts(['-'], undefined, withInput('\n')),
      INVALID,
      /none in standard input/,
    );
  });

  it.each([
    ['{"prompt": "a", "stepz": 1}', /line 1: the object: Unrecognized key: "stepz"/],
    ['ok\n{"prompt": 1}', /line 2: prompt: /],
    ['ok\n\n{oops', /line 3: begins with \{ and is no JSON object/],
    ['{"prompt": "a", "preset": "jit-5x"}', /line 1: preset: /],
    ['x'.repeat(20_001), /line 1: .*at most 20000 characters/],
  ])('tell the line that is wrong: %.30s', async (text, message) => {
    await expectError(() => parsePrompts(text, 'prompts.txt'), INVALID, message);
  });
});

describe('seeds', () => {
  it.each([
    [undefined, [undefined]],
    ['7', [7]],
    ['1,2,5-8', [1, 2, 5, 6, 7, 8]],
    [' 3 , 1', [3, 1]],
    ['18446744073709551615', [18446744073709551615n]],
  ])('%j', (text, seeds) => {
    expect(parseSeeds(text)).toEqual(seeds);
  });

  it.each(['', 'x', '1-', '-1', '5-3', '1,,2', '1.5', '0-10000', '18446744073709551616'])(
    'refuses %j',
    async (text) => {
      await expectError(() => parseSeeds(text), INVALID, /"seed"/);
    },
  );
});
