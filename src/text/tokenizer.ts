/**
 * Prompt text to token ids, from a Hugging Face `tokenizer.json`. The tokenizer itself is
 * `@huggingface/tokenizers`; padding and truncation, which that library leaves out, are done here.
 */
import { Tokenizer as UntypedTokenizer } from '@huggingface/tokenizers';
import { z } from 'zod';

import { ERROR_CODES, JitFluxError } from '../errors.js';
import { readSmallFile } from '../files/small-file.js';
import { charsmapNormalizer } from './charsmap.js';

/** What is used of the library. Its own declarations do not resolve under NodeNext (imports without extension). */
interface HuggingFaceTokenizer {
  encode(text: string, o?: { add_special_tokens?: boolean }): { ids: number[]; tokens: string[] };
  token_to_id(token: string): number | undefined;
}
const HuggingFaceTokenizer = UntypedTokenizer as unknown as new (
  tokenizer: object,
  config: object,
) => HuggingFaceTokenizer;

/** One encoded prompt. */
export interface EncodedPrompt {
  /** Exactly `length` token ids: the text, its special tokens, then padding. */
  ids: number[];
  /** Number of tokens of the whole text, special tokens included. */
  tokens: number;
  /** Number of tokens of the text that did not fit and were cut off at its end. */
  truncated: number;
  /** Words outside the vocabulary, in order of appearance, each once. */
  unknown: string[];
}

/** Largest file of a tokenizer. T5's has 2.4 MB, that of Qwen3 with its 151,000 tokens 11.4 MB. */
const MAX_TOKENIZER_BYTES = 16 * 1024 ** 2;

const addedToken = z.looseObject({ id: z.number().int().nonnegative(), content: z.string() });

const tokenizerFile = z.looseObject({
  added_tokens: z.array(addedToken).default([]),
  normalizer: z.unknown().default(null),
  pre_tokenizer: z.unknown().default(null),
  post_processor: z.unknown().default(null),
  decoder: z.unknown().default(null),
  padding: z
    .looseObject({ pad_id: z.number().int().nonnegative() })
    .nullish()
    .transform((value) => value ?? null),
  model: z.looseObject({
    type: z.string().optional(),
    vocab: z.union([z.record(z.string(), z.number().int()), z.array(z.unknown())]),
    unk_token: z.string().nullish(),
    unk_id: z.number().int().nullish(),
  }),
});

const normalizerSteps = z.looseObject({ type: z.literal('Sequence'), normalizers: z.array(z.unknown()) });
const precompiled = z.looseObject({
  type: z.literal('Precompiled'),
  precompiled_charsmap: z.string().nullish(),
});

/**
 * The pre-tokenizer `Whitespace` is the regular expression `\w+|[^\w\s]+` over Unicode. The JavaScript library
 * runs it with JavaScript's ASCII-only `\w`, which would split "café" in two; the same thing said as `Split`
 * with the classes spelt out gives the ids of the original.
 */
const WORD = String.raw`\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}`;
const UNICODE_WHITESPACE_SPLIT = {
  type: 'Split',
  pattern: { Regex: String.raw`[${WORD}]+|[^${WORD}\p{White_Space}]+` },
  behavior: 'Removed',
  invert: true,
};

/** A tokenizer with a fixed output length. */
export class Tokenizer {
  readonly #tokenizer: HuggingFaceTokenizer;
  readonly #name: string;
  readonly #padId: number;
  readonly #unknownId: number | undefined;
  readonly #normalize: (text: string) => string;
  readonly #special: number;

  private constructor(
    tokenizer: HuggingFaceTokenizer,
    o: { name: string; padId: number; unknownId: number | undefined; normalize: (text: string) => string },
  ) {
    this.#tokenizer = tokenizer;
    this.#name = o.name;
    this.#padId = o.padId;
    this.#normalize = o.normalize;
    const special = this.#tokenize('').ids;
    this.#special = special.length;
    // CLIP names its end token as the one for unknown words; every text has that.
    this.#unknownId = o.unknownId !== undefined && special.includes(o.unknownId) ? undefined : o.unknownId;
  }

  /**
   * Reads a `tokenizer.json`.
   * @throws ERR_JITFLUX_FILE_NOT_FOUND, or ERR_JITFLUX_INVALID_MODEL if it is not a tokenizer
   */
  static async load(
    path: string,
    o: { padToken?: string | undefined; signal?: AbortSignal | undefined } = {},
  ): Promise<Tokenizer> {
    const json = await readTokenizerJson(path, o.signal);
    return Tokenizer.from(json, path, o);
  }

  /**
   * Builds a tokenizer from the parsed content of a `tokenizer.json`.
   * @param name what error messages call it
   * @param o.padToken fills up short texts; default: the file's padding, `<pad>`, or id 0
   */
  static from(json: unknown, name = 'tokenizer.json', o: { padToken?: string | undefined } = {}): Tokenizer {
    const parsed = tokenizerFile.safeParse(json);
    if (!parsed.success) {
      const issue = parsed.error.issues[0];
      throw invalidTokenizer(name, `${issue?.path.join('.') || 'the file'}: ${issue?.message ?? 'invalid'}`);
    }
    const file = parsed.data;
    if (isWhitespace(file.pre_tokenizer)) file.pre_tokenizer = UNICODE_WHITESPACE_SPLIT;
    const unknownToken = file.model.unk_token ?? undefined;
    try {
      const { normalize, rest } = takeCharsmap(file.normalizer);
      file.normalizer = rest;
      // The second argument is tokenizer_config.json, of which only the unknown token matters here.
      const tokenizer = new HuggingFaceTokenizer(file, { unk_token: unknownToken });
      const unknownId =
        file.model.unk_id ?? (unknownToken === undefined ? undefined : tokenizer.token_to_id(unknownToken));
      const padId =
        o.padToken === undefined
          ? (file.padding?.pad_id ?? tokenizer.token_to_id('<pad>') ?? 0)
          : tokenizer.token_to_id(o.padToken);
      if (padId === undefined) throw new Error(`the padding token ${o.padToken} is not in its vocabulary`);
      if (padId < 0) throw new Error(`its padding has the id ${padId}`);
      return new Tokenizer(tokenizer, { name, padId, unknownId, normalize });
    } catch (cause) {
      if (cause instanceof JitFluxError) throw cause;
      throw invalidTokenizer(name, cause instanceof Error ? cause.message : String(cause), cause);
    }
  }

  /** Number of special tokens, such as the end of the text, that every encoded prompt holds. */
  get specialTokens(): number {
    return this.#special;
  }

  /**
   * Encodes one prompt to exactly `length` ids. A longer text loses tokens at its end, never its special tokens.
   * @param length at least {@link specialTokens}
   * @throws ERR_JITFLUX_INVALID_MODEL if the tokenizer's rules and its vocabulary contradict each other, which only a text
   *   shows
   */
  encode(prompt: string, length: number): EncodedPrompt {
    const text = this.#normalize(prompt);
    const full = this.#tokenize(text);
    const special = full.ids.length - this.#tokenize(text, { add_special_tokens: false }).ids.length;
    const truncated = Math.max(0, full.ids.length - length);
    const ids = truncated === 0 ? full.ids.slice() : this.#cut(full.ids, text, length, special);
    while (ids.length < length) ids.push(this.#padId);
    const unknown = new Set<string>();
    full.ids.forEach((id, i) => {
      if (id === this.#unknownId) unknown.add(full.tokens[i] ?? '');
    });
    return { ids, tokens: full.ids.length, truncated, unknown: [...unknown] };
  }

  /** What the library makes of a text. It checks no file: a token without an id would come out as `undefined`. */
  #tokenize(text: string, o?: { add_special_tokens?: boolean }): { ids: number[]; tokens: string[] } {
    let result: { ids: number[]; tokens: string[] };
    try {
      result = this.#tokenizer.encode(text, o);
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw invalidTokenizer(this.#name, `it fails on a text: ${reason}`, cause);
    }
    const bad = result.ids.findIndex((id) => !Number.isSafeInteger(id) || id < 0);
    if (bad >= 0) {
      const token = JSON.stringify(result.tokens[bad]?.slice(0, 100));
      throw invalidTokenizer(this.#name, `the token ${token} has no id in its vocabulary`);
    }
    return result;
  }

  /** Drops tokens at the end of the text, in front of the special tokens that follow it. */
  #cut(full: readonly number[], text: string, length: number, special: number): number[] {
    const content = this.#tokenize(text, { add_special_tokens: false }).ids;
    let before = 0;
    while (before < special && !content.every((id, i) => full[before + i] === id)) before++;
    const after = special - before;
    return [...full.slice(0, length - after), ...full.slice(full.length - after)];
  }
}

/**
 * Reads one of a tokenizer's files.
 * @throws ERR_JITFLUX_FILE_NOT_FOUND, ERR_JITFLUX_INVALID_MODEL if it is no regular file, too large or changes meanwhile,
 *   ERR_JITFLUX_ABORTED
 */
export async function readTokenizerText(path: string, signal?: AbortSignal): Promise<string> {
  const data = await readSmallFile(path, {
    maxBytes: MAX_TOKENIZER_BYTES,
    signal,
    invalid: (_problem, why, cause) => invalidTokenizer(path, `it ${why}`, cause),
  });
  return data.toString('utf8');
}

/**
 * Parses a tokenizer's JSON file.
 * @throws ERR_JITFLUX_FILE_NOT_FOUND, ERR_JITFLUX_INVALID_MODEL (also if it is not JSON), ERR_JITFLUX_ABORTED
 */
export async function readTokenizerJson(path: string, signal?: AbortSignal): Promise<unknown> {
  const text = await readTokenizerText(path, signal);
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw invalidTokenizer(path, 'it is not JSON', cause);
  }
}

/** Takes SentencePiece's character map, if that is what normalisation begins with, out of a normaliser. */
function takeCharsmap(normalizer: unknown): { normalize: (text: string) => string; rest: unknown } {
  const steps = normalizerSteps.safeParse(normalizer).data;
  const first = precompiled.safeParse(steps ? steps.normalizers[0] : normalizer).data;
  if (first === undefined) return { normalize: (text) => text, rest: normalizer };
  const rest = steps ? { ...steps, normalizers: steps.normalizers.slice(1) } : null;
  // Some exports have the type without the map; it changes nothing then.
  if (!first.precompiled_charsmap) return { normalize: (text) => text, rest };
  return { normalize: charsmapNormalizer(first.precompiled_charsmap), rest };
}

function isWhitespace(preTokenizer: unknown): boolean {
  return (
    typeof preTokenizer === 'object' &&
    preTokenizer !== null &&
    (preTokenizer as { type?: unknown }).type === 'Whitespace'
  );
}

/** The error for a tokenizer file that cannot be used. */
export function invalidTokenizer(name: string, reason: string, cause?: unknown): JitFluxError {
  return new JitFluxError(
    ERROR_CODES.INVALID_MODEL,
    `${name} is not a usable tokenizer: ${reason}`,
    { path: name },
    { cause },
  );
}
