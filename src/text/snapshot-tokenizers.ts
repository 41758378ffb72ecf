/** The two tokenizers of a FLUX.1 snapshot, from the files that it is published with. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';

import { z } from 'zod';

import { ERROR_CODES, JitFluxError } from '../errors.js';
import { CLIP_WORDS, WHITESPACE_RUN } from './patterns.js';
import { invalidTokenizer, readTokenizerJson, readTokenizerText, Tokenizer } from './tokenizer.js';

export type TokenizerKind = 'clip' | 't5';

const START = '<|startoftext|>';
const END = '<|endoftext|>';

/** A special token is written as text, or as an object with its text. */
const specialToken = z.union([z.string(), z.looseObject({ content: z.string() })]).transform((token) => {
  return typeof token === 'string' ? token : token.content;
});
const specialTokens = z.looseObject({
  /** Tokens that were added to a vocabulary, by id, as newer versions of transformers write them. */
  added_tokens_decoder: z
    .record(
      z.string().regex(/^\d{1,9}$/),
      z.looseObject({
        content: z.string(),
        single_word: z.boolean().optional(),
        lstrip: z.boolean().optional(),
        rstrip: z.boolean().optional(),
        normalized: z.boolean().optional(),
        special: z.boolean().optional(),
      }),
    )
    .optional(),
  bos_token: specialToken.nullish(),
  eos_token: specialToken.nullish(),
  unk_token: specialToken.nullish(),
  pad_token: specialToken.nullish(),
});

/** Tokens that were added to a vocabulary, as older versions of transformers write them: `added_tokens.json`. */
const addedTokens = z.record(z.string(), z.int().nonnegative());

/**
 * Looks for a tokenizer's files.
 * @returns the names of the files that are missing; empty if the directory has what it takes
 */
export function findTokenizer(directory: string, kind: TokenizerKind): string[] {
  const missing = (name: string) => !existsSync(join(directory, name));
  if (!missing('tokenizer.json')) return [];
  return kind === 't5' ? ['tokenizer.json'] : ['vocab.json', 'merges.txt'].filter(missing);
}

/**
 * CLIP's tokenizer: `vocab.json` and `merges.txt`, or a `tokenizer.json`. Special tokens, padding among them, are
 * those of `tokenizer_config.json` and `special_tokens_map.json`; without these FLUX's, which pads with the end token.
 * Tokens that were added to the vocabulary (`added_tokens.json`) are found in a prompt as they are written.
 * @throws ERR_JITFLUX_INVALID_MODEL, ERR_JITFLUX_FILE_NOT_FOUND, ERR_JITFLUX_ABORTED
 */
export async function loadClipTokenizer(
  directory: string,
  o: { signal?: AbortSignal | undefined } = {},
): Promise<Tokenizer> {
  requireFiles(directory, 'clip');
  const special = await readSpecialTokens(directory, o.signal);
  const path = join(directory, 'tokenizer.json');
  if (existsSync(path)) return Tokenizer.load(path, { padToken: special.pad_token ?? END, signal: o.signal });

  const vocabPath = join(directory, 'vocab.json');
  const vocab = await readTokenizerJson(vocabPath, o.signal);
  if (typeof vocab !== 'object' || vocab === null || Array.isArray(vocab)) {
    throw invalidTokenizer(vocabPath, 'it is not an object of token ids');
  }
  const mergesPath = join(directory, 'merges.txt');
  const merges = parseMerges(await readTokenizerText(mergesPath, o.signal), mergesPath);
  const start = special.bos_token ?? START;
  const end = special.eos_token ?? END;
  const id = (token: string): unknown => {
    const value: unknown = Object.getOwnPropertyDescriptor(vocab, token)?.value;
    if (value === undefined) throw invalidTokenizer(vocabPath, `it has no token ${token}`);
    return value;
  };
  const added = await readAddedTokens(directory, special.added_tokens_decoder, o.signal);
  for (const own of [start, end]) added.delete(own);
  // What transformers' CLIPConverter makes of the same files.
  const json = {
    version: '1.0',
    added_tokens: [
      { id: id(start), content: start, special: true, normalized: true },
      { id: id(end), content: end, special: true, normalized: false },
      ...[...added].map(([content, token]) => ({ ...token, content })),
    ],
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'NFC' },
        { type: 'Replace', pattern: { Regex: WHITESPACE_RUN }, content: ' ' },
        { type: 'Lowercase' },
      ],
    },
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: CLIP_WORDS }, behavior: 'Removed', invert: true },
        { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
      ],
    },
    post_processor: {
      type: 'RobertaProcessing',
      sep: [end, id(end)],
      cls: [start, id(start)],
      trim_offsets: false,
      add_prefix_space: false,
    },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      unk_token: special.unk_token ?? end,
      continuing_subword_prefix: '',
      end_of_word_suffix: '</w>',
      fuse_unk: false,
      vocab,
      merges,
    },
  };
  return Tokenizer.from(json, vocabPath, { padToken: special.pad_token ?? end });
}

/**
 * T5's tokenizer: a `tokenizer.json` with a unigram model.
 * @throws ERR_JITFLUX_INVALID_MODEL, ERR_JITFLUX_FILE_NOT_FOUND, ERR_JITFLUX_ABORTED
 */
export async function loadT5Tokenizer(
  directory: string,
  o: { signal?: AbortSignal | undefined } = {},
): Promise<Tokenizer> {
  requireFiles(directory, 't5');
  const special = await readSpecialTokens(directory, o.signal);
  return Tokenizer.load(join(directory, 'tokenizer.json'), {
    padToken: special.pad_token ?? '<pad>',
    signal: o.signal,
  });
}

function requireFiles(directory: string, kind: TokenizerKind): void {
  const missing = findTokenizer(directory, kind);
  if (missing.length === 0) return;
  throw new JitFluxError(
    ERROR_CODES.INVALID_MODEL,
    `The ${kind === 't5' ? 'T5' : 'CLIP'} tokenizer in ${directory} is incomplete; missing: ${missing.join(', ')}`,
    { path: directory, missing },
  );
}

/** `tokenizer_config.json` wins over `special_tokens_map.json`, as in transformers. */
async function readSpecialTokens(directory: string, signal: AbortSignal | undefined) {
  let result: z.infer<typeof specialTokens> = {};
  for (const name of ['special_tokens_map.json', 'tokenizer_config.json']) {
    const found = (await readIfThere(join(directory, name), specialTokens, signal)) ?? {};
    const named = Object.entries(found).filter(([, token]) => token !== null && token !== undefined);
    result = { ...result, ...Object.fromEntries(named) };
  }
  return result;
}

/** By content. @param listed in `tokenizer_config.json`, which wins over `added_tokens.json` */
async function readAddedTokens(
  directory: string,
  listed: z.infer<typeof specialTokens>['added_tokens_decoder'],
  signal: AbortSignal | undefined,
): Promise<Map<string, object>> {
  if (listed) {
    return new Map(
      Object.entries(listed).map(([id, { content, single_word, lstrip, rstrip, normalized, special }]) => [
        content,
        { id: Number(id), single_word, lstrip, rstrip, normalized, special },
      ]),
    );
  }
  const ids = (await readIfThere(join(directory, 'added_tokens.json'), addedTokens, signal)) ?? {};
  return new Map(Object.entries(ids).map(([content, id]) => [content, { id, normalized: true }]));
}

/** @throws ERR_JITFLUX_INVALID_MODEL naming the field */
async function readIfThere<T>(
  path: string,
  schema: z.ZodType<T>,
  signal: AbortSignal | undefined,
): Promise<T | undefined> {
  if (!existsSync(path)) return undefined;
  const parsed = schema.safeParse(await readTokenizerJson(path, signal));
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw invalidTokenizer(path, `${issue?.path.join('.') || 'the file'}: ${issue?.message ?? 'invalid'}`);
}

/** Pairs in order of rank, below an optional line with the version. */
function parseMerges(text: string, path: string): [string, string][] {
  const lines = text.split('\n').filter((line) => line.trim() !== '' && !line.startsWith('#version'));
  return lines.map((line, i) => {
    const parts = line.trimEnd().split(' ');
    if (parts.length !== 2 || !parts[0] || !parts[1]) {
      throw invalidTokenizer(path, `its rule ${i + 1} is not a pair: ${JSON.stringify(line.slice(0, 100))}`);
    }
    return parts as [string, string];
  });
}
