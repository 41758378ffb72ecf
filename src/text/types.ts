/** What tokenizers are made of, and what they give. */
import type { TokenizerDefinition } from './tokenizer-file.js';

/** What a tokenizer is made of; plain data. */
export interface TokenizerSource {
  definition: TokenizerDefinition;
  /** What error messages call it. */
  name: string;
  padToken: string | undefined;
}

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
