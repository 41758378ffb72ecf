import { expect, it } from 'vitest';

import { readSharedSource, sharedSource } from '../../../src/text/shared-source.js';
import { checkTokenizerFile } from '../../../src/text/tokenizer-file.js';
import type { TokenizerSource } from '../../../src/text/types.js';

/** More entries than a turn writes, and one more than a whole number of turns. */
const WORDS = 4001;

function sourceOf(model: object): TokenizerSource {
  const file: unknown = JSON.parse(JSON.stringify({ model, pre_tokenizer: { type: 'WhitespaceSplit' } }));
  return { definition: checkTokenizerFile(file), name: 'a "name" ü', padToken: undefined };
}

const words = Object.fromEntries(Array.from({ length: WORDS }, (_, i) => [`w${i}`, i]));
const odd = JSON.parse('{"__proto__":1,"constructor":2,"12":3,"\\ud83d":4,"\\"":5}') as object;

it.each([
  ['a list of words', sourceOf({ vocab: { ...words, a: 9000 } })],
  ['few words', sourceOf({ vocab: odd })],
  [
    'BPE',
    sourceOf({
      type: 'BPE',
      vocab: words,
      merges: Array.from({ length: WORDS }, (_, i) => [`w${i}`, `w${(i + 1) % WORDS}`]),
    }),
  ],
  [
    'unigram',
    sourceOf({
      type: 'Unigram',
      unk_id: 0,
      vocab: Array.from({ length: WORDS }, (_, i) => [`${i}ü`, -i / 3]),
    }),
  ],
])('%s is on the thread as it is here', async (_, source) => {
  const read = readSharedSource(await sharedSource(source));
  expect(read).toEqual(source);
  const vocab = ({ definition }: TokenizerSource) => Object.entries(definition.model['vocab'] as object);
  expect(vocab(read)).toEqual(vocab(source));
});

it('names are written as they are, also those that objects have', async () => {
  const vocab = { ...words };
  Object.defineProperty(vocab, '__proto__', { value: 7, enumerable: true });
  const read = readSharedSource(await sharedSource(sourceOf({ vocab })));
  expect(Object.getOwnPropertyDescriptor(read.definition.model['vocab'], '__proto__')?.value).toBe(7);
});

it('is written once, a piece in every turn', async () => {
  const source = sourceOf({ vocab: words });
  let turns = 0;
  let open = true;
  const count = () => {
    turns++;
    if (open) setImmediate(count);
  };
  setImmediate(count);
  const both = [sharedSource(source), sharedSource(source)];
  const [first, second] = await Promise.all(both);
  open = false;
  expect(first).toBe(second);
  expect(await sharedSource(source)).toBe(first);
  // Two full pieces of the vocabulary; the third is of one word.
  expect(turns).toBeGreaterThanOrEqual(2);
});
