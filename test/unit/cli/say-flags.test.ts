import { describe, expect, it } from 'vitest';

import { COMMANDS } from '../../../src/cli/commands.js';
import { commandName, flagsOf } from '../../../src/cli/flags.js';
import { errorInFlags, flagOf, inFlags } from '../../../src/cli/say-flags.js';
import { LOAD_OPTIONS } from '../../../src/engine/load-options.js';
import { invalidArgument } from '../../../src/errors.js';
import { checkMemory, type MemoryPlan } from '../../../src/model/memory-plan.js';
import { JIT_OPTIONS } from '../../../src/sampler/options.js';
import { cli } from './helpers.js';

const flags = flagsOf(COMMANDS.find((command) => commandName(command) === 'generate')!);

/** Options of the library that no flag sets. */
const WITHOUT: readonly string[] = [
  ...['packWeights', 'verify', 'timeEmbedding', 'keepDecoder', 'keepModulation', 'onProgress', 'signal'],
  'importanceInEvents',
];

describe('options of the library', () => {
  it('have a flag, or are known to have none', () => {
    const options = [
      ...Object.keys(LOAD_OPTIONS),
      ...Object.keys(JIT_OPTIONS),
      'numImages',
      'maxSequenceLength',
    ];
    const found = options.filter((option) => flagOf(option, flags) === undefined);
    expect(found.sort()).toEqual([...WITHOUT].sort());
  });

  it.each([
    [
      "Try dtype 'bfloat16'; packWeights: false; quantize 'int8'; a smaller picture; memoryCheck: false skips this check",
      'Try --dtype bfloat16; --quantize int8; a smaller picture; --no-memory-check skips this check',
    ],
    [
      "Try weightStreaming; textEncoderDevice 'cpu'; keepDecoder: false; keepTextEncoders: false, or (encodePrompt)",
      'Try --stream-weights; --encoders-on-cpu; --release-encoders, or (`jit-flux encode`)',
    ],
    ['name a snapshot that has them (textEncoders)', 'name a snapshot that has them (--text-encoders)'],
    // Words of the language, paths, and what was typed.
    ['the steps and the width of a preset', 'the steps and the width of a preset'],
    ['/models/textEncoders/numImages.pt is missing', '/models/textEncoders/numImages.pt is missing'],
    ['Not in the vocabulary: "seed"', 'Not in the vocabulary: "seed"'],
    ['x.constructor and toString', 'x.constructor and toString'],
  ])('are flags in %j', (said, expected) => {
    expect(inFlags(said, flags)).toBe(expected);
  });

  it.each([
    ['numImages', 'an integer', 0, 'Expected an integer for --num-images but received 0', 'num-images'],
    [
      'microFlow.steps',
      'an integer',
      -1,
      'Expected an integer for --micro-flow but received -1',
      'micro-flow',
    ],
    [
      'tokenRatios',
      'as many values as stageRatios',
      [1],
      'Expected as many values as --stage-ratios for --token-ratios but received [1]',
      'token-ratios',
    ],
    [
      'prompt',
      'no prompt beside "conditioning"',
      'numImages',
      'Expected no prompt beside --conditioning for <prompt> but received "numImages"',
      undefined,
    ],
    ['model', 'the path of x', undefined, 'Expected the path of x for --model', 'model'],
    ['latents', 'a tensor', 1, 'Expected a tensor for "latents" but received 1', undefined],
  ])('are flags in the error about %s', (option, expected, received, message, flag) => {
    expect(errorInFlags(invalidArgument(option, expected, received), flags, ['prompt'])).toEqual({
      message,
      flag,
    });
  });

  it('are in no message about what does not fit', async () => {
    const { stdout } = await cli(['plan', '--device', 'cuda', '--gpu-memory', '1', '--json']);
    const { memory } = JSON.parse(stdout) as { memory: MemoryPlan };
    let said = '';
    try {
      checkMemory(memory);
    } catch (error) {
      ({ message: said } = errorInFlags(error as never, flags));
    }
    expect(said).toContain('--no-memory-check skips this check');
    expect(said).toContain('--release-encoders');
    expect(said).not.toMatch(/\b[a-z]+[A-Z]\w*\b(?!-)/);
  });
});
