/** Tokenizers that were made to block, to exhaust or to mislead, and prompts that were. */
import { readFile } from 'node:fs/promises';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { describe, expect, it } from 'vitest';

import { ERROR_CODES, JitFluxError } from '../../../src/errors.js';
import { MAX_PROMPT_CHARACTERS } from '../../../src/pipeline/request.js';
import { charsmapNormalizer } from '../../../src/text/charsmap.js';
import { loadClipTokenizer, loadT5Tokenizer, Tokenizer } from '../../../src/text/index.js';
import { KNOWN_PATTERNS } from '../../../src/text/patterns.js';
import { expectError } from '../../support/errors.js';
import { fixturePath } from '../../support/safetensors.js';

const { INVALID_MODEL, ABORTED } = ERROR_CODES;
const FLUX_TINY = fileURLToPath(new URL('../../../models/flux-tiny/tokenizer.json', import.meta.url));
const CLIP = fixturePath('tokenizers/tokenizer');
const T5 = fixturePath('tokenizers/tokenizer_2');

const words = { type: 'WordLevel', vocab: { '<unk>': 0, a: 1, b: 2 }, unk_token: '<unk>' };
const tokenizer = (parts: object) =>
  Tokenizer.from({ model: words, pre_tokenizer: { type: 'WhitespaceSplit' }, ...parts });
const repeat = <T>(count: number, value: T): T[] => Array.from({ length: count }, () => value);
const nested = (depth: number, key: string, list: string) => {
  let value: object = { type: 'Lowercase' };
  for (let i = 0; i < depth; i++) value = { type: 'Sequence', [list]: [value] };
  return { [key]: value };
};
const bpe = (merges: unknown, rest: object = {}) => ({
  model: { type: 'BPE', unk_token: '<unk>', vocab: words.vocab, merges, ...rest },
});
const unigram = (vocab: unknown, unk_id: unknown = 0) => ({ model: { type: 'Unigram', unk_id, vocab } });

describe('a tokenizer.json is refused for', () => {
  it.each<[string, object, RegExp]>([
    [
      'an expression that backtracks, in a pre-tokenizer',
      { pre_tokenizer: { type: 'Split', pattern: { Regex: '(a+)+$' }, behavior: 'Isolated' } },
      /"\(a\+\)\+\$" is none of those/,
    ],
    [
      'one in a normalizer',
      { normalizer: { type: 'Replace', pattern: { Regex: '(a+)+$' }, content: '' } },
      /none of those/,
    ],
    [
      'one in a sequence',
      {
        pre_tokenizer: {
          type: 'Sequence',
          pretokenizers: [{ type: 'Replace', pattern: { Regex: '(a|a)*b' }, content: '' }],
        },
      },
      /none of those/,
    ],
    ['pieces of length 0', { pre_tokenizer: { type: 'FixedLength', length: 0 } }, /length/],
    ['an unknown step', { normalizer: { type: 'Shell' } }, /normalizer, step 1: type/],
    ['no step at all', { normalizer: 5 }, /normalizer, step 1/],
    ['deep nesting', nested(20_000, 'normalizer', 'normalizers'), /nested too deeply/],
    [
      'many steps',
      { normalizer: { type: 'Sequence', normalizers: repeat(1000, { type: 'NFC' }) } },
      /more than 16 steps/,
    ],
    [
      'a text that doubles with every step',
      {
        normalizer: {
          type: 'Sequence',
          normalizers: repeat(12, { type: 'Replace', pattern: { String: 'a' }, content: 'aa' }),
        },
      },
      /make a text too long/,
    ],
    [
      'a long replacement',
      { normalizer: { type: 'Replace', pattern: { String: 'a' }, content: 'b'.repeat(1000) } },
      /content/,
    ],
    ['a long prefix', { normalizer: { type: 'Prepend', prepend: 'b'.repeat(1000) } }, /prepend/],
    [
      'an empty pattern',
      { normalizer: { type: 'Replace', pattern: { String: '' }, content: 'b' } },
      /pattern/,
    ],
    [
      'a template that repeats the text',
      {
        post_processor: {
          type: 'TemplateProcessing',
          single: repeat(2, { Sequence: { id: 'A' } }),
        },
      },
      /the text exactly once/,
    ],
    [
      'a template with an unknown token',
      {
        post_processor: {
          type: 'TemplateProcessing',
          single: [{ SpecialToken: { id: '<none>' } }, { Sequence: { id: 'A' } }],
        },
      },
      /special token <none>/,
    ],
    ['negative ids', { model: { ...words, vocab: { a: -1 } } }, /id of "a"/],
    ['ids that are no token’s', { model: { ...words, vocab: { a: 2 ** 53 } } }, /id of "a"/],
    ['ids that are none', { model: { ...words, vocab: { a: {} } } }, /id of "a"/],
    ['long tokens', { model: { ...words, vocab: { ['a'.repeat(1000)]: 1 } } }, /longer than 512/],
    [
      'long added tokens',
      { added_tokens: [{ id: 5, content: 'a'.repeat(100_000), special: true }] },
      /added_tokens\.0\.content/,
    ],
    ['merges that are none', bpe(5), /merges/],
    ['merges that are missing', bpe(undefined), /merges: is missing/],
    ['merges of three', bpe([['a', 'b', 'a']]), /rule 1 is not a pair/],
    ['merges of lists', bpe([[['a'], ['b']]]), /rule 1 is not a pair/],
    ['long merges', bpe([['a'.repeat(1000), 'b']]), /longer than 512/],
    ['pieces that are none', unigram([1, 'a', null]), /entry 0 is no pair/],
    ['pieces without a score', unigram([['a', null]]), /entry 0 is no pair/],
    ['an unknown piece outside', unigram([['a', 0]], 7), /unk_id/],
    ['no pieces', unigram([]), /is empty/],
    [
      'pieces that all begin with one another',
      unigram(Array.from({ length: 400 }, (_, i) => ['a'.repeat(i + 1), -1])),
      /begin or end with one another/,
    ],
    ['a vocabulary of the wrong kind', { model: { type: 'BPE', vocab: [], merges: [] } }, /model\.vocab/],
    ['a model that is none', { model: { type: 'Neural', vocab: {} } }, /model\.type/],
  ])('%s', async (_name, parts, message) => {
    const error = await expectError(() => tokenizer(parts), INVALID_MODEL, message);
    expect(error.message).toMatch(/^tokenizer\.json is not a usable tokenizer: /);
    expect(error.message.length).toBeLessThan(400);
  });

  it('a character map that makes a character longer than any', () => {
    const map = Buffer.alloc(4 + 4 + 1000, 'x');
    map.writeUInt32LE(4, 0);
    map.writeUInt32LE(0, 4);
    expect(() => charsmapNormalizer(map.toString('base64'))).toThrow(/too long/);
  });
});

describe('the regular expressions', () => {
  const lengths = 10_000;
  const texts = [
    'a'.repeat(lengths),
    `${' '.repeat(lengths)}x`,
    `${' '.repeat(lengths)}\n`,
    '\u0301'.repeat(lengths),
    'A'.repeat(lengths),
    `${'!'.repeat(lengths)}\n`,
    "'".repeat(lengths),
    '\r\n'.repeat(lengths / 2),
    '\ud800'.repeat(lengths),
    ' a'.repeat(lengths / 2),
  ];

  // Backtracking that is not linear would not end within the test's time.
  it.each(KNOWN_PATTERNS)('%s is used, and passes over long texts', (Regex) => {
    const split = tokenizer({
      pre_tokenizer: { type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false },
    });
    const replace = tokenizer({ normalizer: { type: 'Replace', pattern: { Regex }, content: 'a' } });
    for (const text of texts) {
      expect(split.encode(text, 8).ids).toHaveLength(8);
      expect(replace.encode(text, 8).ids).toHaveLength(8);
    }
  });

  it('are never made of what a replacement contains', () => {
    const dollars = tokenizer({
      normalizer: { type: 'Replace', pattern: { String: 'x' }, content: "$`$'$&" },
    });
    expect(dollars.encode('a x b', 4)).toMatchObject({ ids: [1, 0, 2, 0], unknown: ["$`$'$&"] });
    const added = tokenizer({ added_tokens: [{ id: 7, content: '.*(a+)+$', special: true }] });
    expect(added.encode('a .*(a+)+$ zz', 4).ids).toEqual([1, 7, 0, 0]);
  });
});

it('tokens may have the names of Object’s own properties', () => {
  const vocab = JSON.parse('{"<unk>": 0, "__proto__": 7, "constructor": 8}') as Record<string, number>;
  const names = tokenizer({ model: { ...words, vocab } });
  expect(names.encode('__proto__ constructor toString', 4)).toEqual({
    ids: [7, 8, 0, 0],
    tokens: 3,
    truncated: 0,
    unknown: ['toString'],
  });
});

it('a word that there is no token for is a typed error where there is none for unknown words', async () => {
  const lacking = tokenizer({ model: { type: 'WordLevel', vocab: { a: 1 } } });
  expect(lacking.encode('a a', 3).ids).toEqual([1, 1, 0]);
  await expectError(() => lacking.encode('a z', 3), INVALID_MODEL, /no token for "z"/);
});

it('merges may contradict one another', () => {
  const merges = [
    ['a', 'b'],
    ['b', 'a'],
    ['ab', 'a'],
    ['a', 'ba'],
    ['a', 'b'],
    ['aba', 'aba'],
  ];
  const cycle = Tokenizer.from(bpe(merges));
  const { ids } = cycle.encode('ab'.repeat(10_000), 8);
  expect(ids).toHaveLength(8);
});

/** Kinds of text of which one or the other step takes long. */
const ADVERSARIAL = [
  'a',
  ' ',
  '\u{1f431}',
  '\u{1f468}\u200d',
  '\u{1f1e6}',
  '\u732b',
  'a\u0301\u0301\u0301',
  '\ud800',
  '\ufdfa',
  '\0',
];
const filled = (text: string, length: number) => `x${text.repeat(length / text.length - 1)}`;

describe.each([
  ['CLIP', () => loadClipTokenizer(CLIP), 77],
  ['T5', () => loadT5Tokenizer(T5), 512],
  ['flux-tiny', () => Tokenizer.load(FLUX_TINY), 24],
] as const)('long prompts for %s', (_name, load, length) => {
  it.each([
    ['of many kinds', ADVERSARIAL.map((text) => filled(text, 2400))],
    ['of the greatest length', [filled('\u732b', MAX_PROMPT_CHARACTERS)]],
  ])('%s leave the event loop free', async (_kind, prompts) => {
    const instance = await load();
    let turns = 0;
    let encoding = true;
    const count = (): void => {
      turns++;
      if (encoding) setImmediate(count);
    };
    count();
    const encoded = await instance.encodeAll(prompts, length);
    encoding = false;
    for (const { ids, tokens, truncated } of encoded) {
      expect(ids).toHaveLength(length);
      expect(ids.every((id) => Number.isInteger(id))).toBe(true);
      expect(truncated).toBe(Math.max(0, tokens - length));
    }
    // The loop turned all the while: one of these prompts takes as long as hundreds of turns.
    expect(turns).toBeGreaterThan(100);
  });

  it('gives the same on the thread as here', async () => {
    const instance = await load();
    const prompts = ['a red circle, '.repeat(200), 'two caf\u00e9s \u{1f431}', 'a __proto__ [x] \ud800'];
    const threaded = await instance.encodeAll(prompts, length);
    expect(threaded).toEqual(prompts.map((prompt) => instance.encode(prompt, length)));
    expect(await instance.encodeAll(prompts.slice(1), length)).toEqual(threaded.slice(1));
  });

  it('is given up when the signal fires', async () => {
    const instance = await load();
    const prompts = repeat(64, filled('\u732b', MAX_PROMPT_CHARACTERS));
    const controller = new AbortController();
    const reason = new Error('enough');
    const encoding = instance.encodeAll(prompts, length, { signal: controller.signal });
    void setTimeout(50).then(() => controller.abort(reason));
    const error = await expectError(() => encoding, ABORTED);
    expect(error.cause).toBe(reason);
    await expectError(() => instance.encodeAll(['a'], length, { signal: controller.signal }), ABORTED);
  });
});

it('errors of the thread are those of the call', async () => {
  const lacking = tokenizer({ model: { type: 'WordLevel', vocab: { a: 1 } } });
  const here = await expectError(() => lacking.encode('z', 3), INVALID_MODEL);
  const there = await expectError(() => lacking.encodeAll(['a '.repeat(5000), 'z'], 3), INVALID_MODEL);
  expect(there).toBeInstanceOf(JitFluxError);
  expect([there.message, there.details]).toEqual([here.message, here.details]);
});

it('several short prompts leave turns to the event loop', async () => {
  const instance = await loadT5Tokenizer(T5);
  let turns = 0;
  const timer = setInterval(() => turns++, 0);
  const encoded = await instance.encodeAll(repeat(64, '\u732b'.repeat(1000)), 64);
  clearInterval(timer);
  expect(encoded).toHaveLength(64);
  expect(turns).toBeGreaterThan(8);
});

it('a tokenizer of the bundled model still says what it said', async () => {
  const json = JSON.parse(await readFile(FLUX_TINY, 'utf8')) as object;
  const instance = Tokenizer.from({ ...json, decoder: { type: 'Replace', pattern: { Regex: '(a+)+$' } } });
  // Ids are never turned into text: what a decoder would do is not even read.
  expect(instance.encode('a red circle', 24)).toEqual(
    (await Tokenizer.load(FLUX_TINY)).encode('a red circle', 24),
  );
});
