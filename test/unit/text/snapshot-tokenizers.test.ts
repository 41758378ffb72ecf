import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { charsmapNormalizer } from '../../../src/text/charsmap.js';
import { findTokenizer, loadClipTokenizer, loadT5Tokenizer } from '../../../src/text/index.js';
import { fixturePath } from '../../support/safetensors.js';

interface Golden {
  length: number;
  cases: { text: string; ids: number[]; truncated: number }[];
}

const CLIP = fixturePath('tokenizers/tokenizer');
const T5 = fixturePath('tokenizers/tokenizer_2');
const golden = JSON.parse(await readFile(fixturePath('tokenizers/golden.json'), 'utf8')) as {
  clip: Golden;
  t5: Golden;
};

describe.each([
  ['clip', () => loadClipTokenizer(CLIP)],
  ['t5', () => loadT5Tokenizer(T5)],
] as const)('the %s tokenizer of a snapshot', (kind, load) => {
  const { length, cases } = golden[kind];

  it('covers words, unicode, emoji, punctuation and long prompts', () => {
    expect(cases.length).toBeGreaterThan(25);
    expect(cases.some(({ truncated }) => truncated > 0)).toBe(true);
  });

  it.each(cases.map((c) => [c.text.slice(0, 40), c] as const))(
    'gives the ids of Hugging Face for %j',
    async (_name, { text, ids, truncated }) => {
      const encoded = (await load()).encode(text, length);
      expect({ ids: encoded.ids, truncated: encoded.truncated }).toEqual({ ids, truncated });
      expect(encoded.tokens).toBeGreaterThanOrEqual(encoded.truncated);
    },
  );
});

describe('padding and special tokens', () => {
  it('begins, ends and pads as the original', async () => {
    const clip = await loadClipTokenizer(CLIP);
    const { ids, tokens, unknown } = clip.encode('a red circle', 77);
    const [start, end] = [781, 782];
    expect(ids[0]).toBe(start);
    expect(ids.slice(tokens - 1)).toEqual(Array(77 - tokens + 1).fill(end));
    expect(unknown).toEqual([]);
    expect(clip.specialTokens).toBe(2);
    const t5 = await loadT5Tokenizer(T5);
    expect(t5.specialTokens).toBe(1);
    expect(t5.encode('', 4).ids).toEqual([1, 0, 0, 0]);
  });

  it('keeps the end token of a long prompt and counts what was cut', async () => {
    const prompt = 'a red circle '.repeat(40);
    for (const [tokenizer, length, end] of [
      [await loadClipTokenizer(CLIP), 77, 782],
      [await loadT5Tokenizer(T5), 64, 1],
    ] as const) {
      const { ids, tokens, truncated } = tokenizer.encode(prompt, length);
      expect(ids).toHaveLength(length);
      expect(ids.at(-1)).toBe(end);
      expect(ids.indexOf(end)).toBe(length - 1);
      expect(truncated).toBe(tokens - length);
    }
  });

  it('names what T5 has no token for', async () => {
    expect((await loadT5Tokenizer(T5)).encode('a red \u{1f431}', 16).unknown.join()).toContain('\u{1f431}');
  });
});

describe('files', () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'jit-flux-tokenizer-'));
  });
  afterEach(() => rm(directory, { recursive: true, force: true }));
  const json = async (name: string) =>
    JSON.parse(await readFile(join(directory, name), 'utf8')) as Record<string, unknown>;

  it('takes the padding token from either file, written either way', async () => {
    await cp(CLIP, directory, { recursive: true });
    await rm(join(directory, 'tokenizer_config.json'));
    const map = await json('special_tokens_map.json');
    const path = join(directory, 'special_tokens_map.json');
    await writeFile(path, JSON.stringify({ ...map, pad_token: { content: '!' } }));
    const { ids } = (await loadClipTokenizer(directory)).encode('a', 77);
    expect(ids.at(-1)).toBe(((await json('vocab.json')) as Record<string, number>)['!']);
    await writeFile(join(directory, 'tokenizer_config.json'), '{"pad_token": "<|endoftext|>"}');
    expect((await loadClipTokenizer(directory)).encode('a', 77).ids.at(-1)).toBe(782);
    await rm(path);
    await rm(join(directory, 'tokenizer_config.json'));
    expect((await loadClipTokenizer(directory)).encode('a', 77).ids.at(-1)).toBe(782);
  });

  it('finds tokens that were added to the vocabulary', async () => {
    await cp(CLIP, directory, { recursive: true });
    const ids = async (text: string) => [...(await loadClipTokenizer(directory)).encode(text, 77).ids];
    const plain = await ids('a cat');
    const config = join(directory, 'tokenizer_config.json');
    const map = (await json('tokenizer_config.json').catch(() => ({}))) as object;
    await writeFile(join(directory, 'added_tokens.json'), '{"<my-cat>": 900, "<|endoftext|>": 782}');
    const added = await ids('a <my-cat>');
    // Start, "a", the token, end.
    expect(added.slice(0, 4)).toEqual([plain[0], plain[1], 900, 782]);
    expect(await ids('a cat')).toEqual(plain);
    // As newer versions of transformers write them; these win.
    const token = {
      content: '<My-Cat>',
      lstrip: false,
      normalized: false,
      rstrip: false,
      single_word: false,
    };
    await writeFile(
      config,
      JSON.stringify({ ...map, added_tokens_decoder: { 901: { ...token, special: false } } }),
    );
    expect((await ids('a <My-Cat>')).slice(0, 4)).toEqual([plain[0], plain[1], 901, 782]);
    expect(await ids('a <my-cat>')).not.toContain(900);
    for (const [name, content] of [
      ['tokenizer_config.json', '{"added_tokens_decoder": {"x": {"content": "y"}}}'],
      ['tokenizer_config.json', '{"added_tokens_decoder": {"1": {}}}'],
      ['added_tokens.json', '{"y": "1"}'],
      ['added_tokens.json', '["y"]'],
    ] as const) {
      await writeFile(config, JSON.stringify(map));
      await writeFile(join(directory, name), content);
      await expect(loadClipTokenizer(directory)).rejects.toMatchObject({ code: 'ERR_JITFLUX_INVALID_MODEL' });
    }
  });

  it('says what is missing', async () => {
    expect(findTokenizer(directory, 'clip')).toEqual(['vocab.json', 'merges.txt']);
    expect(findTokenizer(directory, 't5')).toEqual(['tokenizer.json']);
    await cp(join(CLIP, 'vocab.json'), join(directory, 'vocab.json'));
    await expect(loadClipTokenizer(directory)).rejects.toMatchObject({
      code: 'ERR_JITFLUX_INVALID_MODEL',
      message: expect.stringMatching(/missing: merges\.txt$/) as string,
    });
    await expect(loadT5Tokenizer(directory)).rejects.toMatchObject({ code: 'ERR_JITFLUX_INVALID_MODEL' });
  });

  it.each([
    ['vocab.json', '[]', /not an object of token ids/],
    ['vocab.json', '{"a": 1}', /no token <\|startoftext\|>/],
    ['vocab.json', '{', /not JSON/],
    ['merges.txt', '#version: 0.2\na b c\n', /rule 1 is not a pair/],
    ['tokenizer_config.json', '{"pad_token": 7}', /pad_token/],
    ['tokenizer_config.json', '{"pad_token": "<none>"}', /<none> is not in its vocabulary/],
  ])('refuses %s with %j', async (name, content, message) => {
    await cp(CLIP, directory, { recursive: true });
    await writeFile(join(directory, name), content);
    await expect(loadClipTokenizer(directory)).rejects.toMatchObject({
      code: 'ERR_JITFLUX_INVALID_MODEL',
      message: expect.stringMatching(message) as string,
    });
  });

  it('refuses a character map that contradicts itself', () => {
    expect(() => charsmapNormalizer('')).toThrow();
    const map = Buffer.alloc(16);
    map.writeUInt32LE(400, 0);
    expect(() => charsmapNormalizer(map.toString('base64'))).toThrow(/trie/);
    map.writeUInt32LE(8, 0);
    expect(charsmapNormalizer(map.toString('base64'))('as it is')).toBe('as it is');
  });

  /** A map of the characters a to d, whose leaves hold these values; `nodes` replaces units of the trie. */
  function smallMap(values: number[], replacements: string, nodes: Record<number, number> = {}): string {
    const units = new Uint32Array(1024);
    units[0] = 0x100 << 10; // where the first byte's node is: 0x100 ^ byte
    values.forEach((value, i) => {
      const byte = 0x61 + i;
      units[0x100 ^ byte] = (0x200 << 10) | 0x100 | byte; // it ends a key, whose leaf is 0x200 further
      units[0x300 ^ byte] = (0x80000000 | value) >>> 0;
    });
    Object.entries(nodes).forEach(([at, unit]) => (units[Number(at)] = unit));
    const size = Buffer.alloc(4);
    size.writeUInt32LE(units.byteLength);
    return Buffer.concat([size, Buffer.from(units.buffer), Buffer.from(replacements)]).toString('base64');
  }

  it('replaces what a character map names, and leaves what it names no replacement for', () => {
    const text = 'abcd\0e';
    expect(charsmapNormalizer(smallMap([0, 2, 3], 'x\0\0yz'))(text)).toBe('xyzd\0e');
    // Beyond the replacements; a leaf, and a first node, beyond the trie.
    expect(charsmapNormalizer(smallMap([0, 1000, 2], 'x\0y'))(text)).toBe('xbyd\0e');
    const far = (0x3ff00 << 10) | 0x100 | 0x61;
    expect(charsmapNormalizer(smallMap([0], 'x\0', { 0x161: far >>> 0 }))(text)).toBe(text);
    expect(charsmapNormalizer(smallMap([0], 'x\0', { 0: (0x3fff00 << 10) >>> 0 }))(text)).toBe(text);
  });
});
