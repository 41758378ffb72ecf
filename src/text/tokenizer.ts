/**
 * Prompt text to token ids, from a Hugging Face `tokenizer.json`. The tokenizer itself is
 * `@huggingface/tokenizers`; padding and truncation, which that library leaves out, are done here.
 */
import { setImmediate } from 'node:timers/promises';

import { Tokenizer as UntypedTokenizer } from '@huggingface/tokenizers';

import { ERROR_CODES, JitFluxError, throwIfAborted } from '../errors.js';
import { parseJson, whyNotJson } from '../files/json.js';
import { readSmallFile } from '../files/small-file.js';
import { charsmapNormalizer } from './charsmap.js';
import { checkTokenizerFile } from './tokenizer-file.js';
import { encodeOnThread } from './tokenizer-thread.js';
import type { EncodedPrompt, TokenizerSource } from './types.js';

/** What is used of the library. Its own declarations do not resolve under NodeNext (imports without extension). */
interface HuggingFaceTokenizer {
  encode(text: string, o?: { add_special_tokens?: boolean }): { ids: number[]; tokens: string[] };
  token_to_id(token: string): number | undefined;
  readonly post_processor: {
    post_process(tokens: string[], pair: null, add_special_tokens: boolean): { tokens: string[] };
  } | null;
}
const HuggingFaceTokenizer = UntypedTokenizer as unknown as new (
  tokenizer: object,
  config: object,
) => HuggingFaceTokenizer;

/** Largest file of a tokenizer. T5's has 2.4 MB, that of Qwen3 with its 151,000 tokens 11.4 MB. */
const MAX_TOKENIZER_BYTES = 16 * 1024 ** 2;

/** Longest prompt that is encoded on the event loop: what takes longer than that does not delay anybody else. */
const MAX_CHARACTERS_HERE = 2000;

/** Of a vocabulary that is told whole. */
const MOST_WORDS_TOLD = 200;

/** Stands for a text's tokens. No file's token has a NUL and this text. */
const TEXT_MARK = '\0text';

/** A tokenizer with a fixed output length. */
export class Tokenizer {
  readonly #tokenizer: HuggingFaceTokenizer;
  readonly #source: TokenizerSource;
  readonly #normalize: (text: string) => string;
  /** Ids of the special tokens in front of a text and behind it. */
  readonly #before: readonly number[];
  readonly #after: readonly number[];
  readonly #padId: number;
  readonly #unknownId: number | undefined;

  /**
   * @internal
   * @throws ERR_JITFLUX_INVALID_MODEL if it fits nowhere
   */
  constructor(source: TokenizerSource) {
    this.#source = source;
    const { definition, padToken } = source;
    const { charsmap, unknownToken, unknownId } = definition;
    this.#normalize = charsmap === undefined ? (text) => text : charsmapNormalizer(charsmap);
    // The second argument is tokenizer_config.json, of which only the unknown token matters here.
    const tokenizer = new HuggingFaceTokenizer(definition, { unk_token: unknownToken });
    this.#tokenizer = tokenizer;
    const idOf = (token: string): number | undefined => tokenizer.token_to_id(token);
    const whole = tokenizer.post_processor?.post_process([TEXT_MARK], null, true).tokens ?? [TEXT_MARK];
    const ids = whole.map((token) => {
      const id = token === TEXT_MARK ? -1 : idOf(token);
      if (id === undefined) throw new Error(`the special token ${token} is not in its vocabulary`);
      return id;
    });
    const at = ids.indexOf(-1);
    if (at < 0 || at !== ids.lastIndexOf(-1)) throw new Error('it does not keep the text exactly once');
    this.#before = ids.slice(0, at);
    this.#after = ids.slice(at + 1);

    const padId = padToken === undefined ? (definition.padId ?? idOf('<pad>') ?? 0) : idOf(padToken);
    if (padId === undefined) throw new Error(`the padding token ${padToken} is not in its vocabulary`);
    this.#padId = padId;
    const unknown = unknownId ?? (unknownToken === undefined ? undefined : idOf(unknownToken));
    // CLIP names its end token as the one for unknown words; every text has that.
    this.#unknownId = unknown !== undefined && ids.includes(unknown) ? undefined : unknown;
    // What fails for every text fails here.
    this.encode('', this.specialTokens);
  }

  /**
   * Reads a `tokenizer.json`.
   * @throws ERR_JITFLUX_FILE_NOT_FOUND, ERR_JITFLUX_INVALID_MODEL if it is not a tokenizer, ERR_JITFLUX_ABORTED
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
   * @throws ERR_JITFLUX_INVALID_MODEL
   */
  static from(json: unknown, name = 'tokenizer.json', o: { padToken?: string | undefined } = {}): Tokenizer {
    try {
      return new Tokenizer({ definition: checkTokenizerFile(json), name, padToken: o.padToken });
    } catch (cause) {
      if (cause instanceof JitFluxError) throw cause;
      throw invalidTokenizer(name, cause instanceof Error ? cause.message : String(cause), cause);
    }
  }

  /** All words that it knows, if it is one of so few words that they can be told; undefined for others. */
  get words(): readonly string[] | undefined {
    const { type, vocab } = this.#source.definition.model as { type?: string; vocab?: object };
    // One without a type is a list of whole words (tokenizer-file.ts).
    if (type !== undefined || vocab === undefined) return undefined;
    const words = Object.keys(vocab).filter((word) => !/^<.*>$/.test(word));
    return words.length <= MOST_WORDS_TOLD ? words : undefined;
  }

  /** Number of special tokens, such as the end of the text, that every encoded prompt holds. */
  get specialTokens(): number {
    return this.#before.length + this.#after.length;
  }

  /**
   * Encodes one prompt to exactly `length` ids. A longer text loses tokens at its end, never its special tokens.
   * Synchronous; {@link encodeAll} is for texts of any length.
   * @param length at least {@link specialTokens}
   * @throws ERR_JITFLUX_INVALID_MODEL if the tokenizer has no token for a part of the text
   */
  encode(prompt: string, length: number): EncodedPrompt {
    const { name } = this.#source;
    let ids: number[];
    let tokens: string[];
    try {
      ({ ids, tokens } = this.#tokenizer.encode(this.#normalize(prompt), { add_special_tokens: false }));
    } catch (cause) {
      throw invalidTokenizer(name, cause instanceof Error ? cause.message : String(cause), cause);
    }
    const lacking = ids.findIndex((id) => !Number.isInteger(id));
    if (lacking >= 0) {
      const part = JSON.stringify(tokens[lacking]?.slice(0, 100));
      throw invalidTokenizer(name, `it has no token for ${part}, nor one for what is unknown`);
    }
    const total = ids.length + this.specialTokens;
    const kept = ids.slice(0, Math.max(0, length - this.specialTokens));
    const row = [...this.#before, ...kept, ...this.#after];
    while (row.length < length) row.push(this.#padId);
    const unknown = new Set<string>();
    ids.forEach((id, i) => {
      if (id === this.#unknownId) unknown.add(tokens[i] ?? '');
    });
    return {
      ids: row,
      tokens: total,
      truncated: Math.max(0, total - length),
      unknown: [...unknown],
    };
  }

  /**
   * {@link encode} of several prompts, which does not hold up the event loop: it turns between two of them, and long ones
   * are encoded on a thread that lives as long as the call.
   * @throws what `encode` throws, ERR_JITFLUX_OUT_OF_MEMORY, ERR_JITFLUX_ABORTED, ERR_JITFLUX_NATIVE
   */
  async encodeAll(
    prompts: readonly string[],
    length: number,
    o: { signal?: AbortSignal | undefined } = {},
  ): Promise<EncodedPrompt[]> {
    throwIfAborted(o.signal);
    if (prompts.some((prompt) => prompt.length > MAX_CHARACTERS_HERE)) {
      return encodeOnThread({ source: this.#source, prompts, length }, o.signal);
    }
    const encoded: EncodedPrompt[] = [];
    for (const prompt of prompts) {
      if (encoded.length > 0) await setImmediate();
      throwIfAborted(o.signal);
      encoded.push(this.encode(prompt, length));
    }
    return encoded;
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
    return parseJson(text);
  } catch (cause) {
    throw invalidTokenizer(path, `it is not JSON: ${whyNotJson(text, cause)}`, cause);
  }
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
