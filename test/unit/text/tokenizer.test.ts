import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

import { beforeAll, describe, expect, it } from 'vitest';

import { Tokenizer } from '../../../src/text/index.js';

const MODEL = fileURLToPath(new URL('../../../models/flux-tiny/tokenizer.json', import.meta.url));
const LENGTH = 24;

describe('Tokenizer', () => {
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = await Tokenizer.load(MODEL);
  });

  it('gives the ids of Hugging Face tokenizers', async () => {
    const golden = JSON.parse(
      await readFile(new URL('./flux-tiny-tokenizer.golden.json', import.meta.url), 'utf8'),
    ) as { cases: { text: string; ids: number[] }[] };
    expect(golden.cases.length).toBeGreaterThan(10);
    for (const { text, ids } of golden.cases) {
      expect({ text, ids: tokenizer.encode(text, LENGTH).ids }).toEqual({ text, ids });
    }
  });

  it('counts the tokens that were cut and keeps the end token', () => {
    const { ids, truncated } = tokenizer.encode('red '.repeat(30), LENGTH);
    expect(ids).toHaveLength(LENGTH);
    expect(truncated).toBe(30 + 1 - LENGTH);
    expect(ids.at(-1)).toBe(1);
    expect(ids.slice(0, -1).every((id) => id === 44)).toBe(true);
    expect(tokenizer.encode('red '.repeat(LENGTH - 1), LENGTH).truncated).toBe(0);
  });

  it('cuts in front of the special tokens on both sides', () => {
    const json = {
      model: {
        type: 'WordLevel',
        vocab: { '<s>': 0, '</s>': 1, '<unk>': 2, a: 3, b: 4, c: 5 },
        unk_token: '<unk>',
      },
      added_tokens: ['<s>', '</s>', '<unk>'].map((content, id) => ({ id, content, special: true })),
      pre_tokenizer: { type: 'Whitespace' },
      post_processor: {
        type: 'TemplateProcessing',
        single: [
          { SpecialToken: { id: '<s>', type_id: 0 } },
          { Sequence: { id: 'A', type_id: 0 } },
          { SpecialToken: { id: '</s>', type_id: 0 } },
        ],
        pair: [],
      },
      padding: { pad_id: 1 },
    };
    const both = Tokenizer.from(json);
    expect(both.specialTokens).toBe(2);
    expect(both.encode('a b c', 4)).toEqual({
      ids: [0, 3, 4, 1],
      tokens: 5,
      truncated: 1,
      unknown: [],
    });
    expect(both.encode('a', 4).ids).toEqual([0, 3, 1, 1]);
  });

  it('names unknown words once each', () => {
    expect(tokenizer.encode('a red Dragon over a castle and a dragon', LENGTH).unknown).toEqual([
      'dragon',
      'castle',
    ]);
    expect(tokenizer.encode('a red circle', LENGTH).unknown).toEqual([]);
  });

  it('refuses what is not a tokenizer', async () => {
    expect(() => Tokenizer.from({ model: {} })).toThrow(/model\.vocab/);
    expect(() => Tokenizer.from(null)).toThrow(
      expect.objectContaining({ code: 'ERR_JITFLUX_INVALID_MODEL' }),
    );
    await expect(Tokenizer.load('/nowhere/tokenizer.json')).rejects.toMatchObject({
      code: 'ERR_JITFLUX_FILE_NOT_FOUND',
    });
  });
});
