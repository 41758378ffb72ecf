/**
 * The regular expressions that a tokenizer may use.
 *
 * A `tokenizer.json` comes from strangers, and JavaScript's engine backtracks: `(a+)+$` takes seconds for 28 characters
 * and twice as long for each one more. Engines that take linear time (RE2 and its ports) know no lookahead, which Qwen's
 * and GPT's patterns need, `\s+(?!\S)`. The tokenizers of FLUX have six patterns altogether, so these are listed. In each
 * of them what one branch has read and given up the next one takes whole, so that a text is passed over a fixed number of
 * times.
 */

/** CLIP's own division of a text into words; byte pairs are merged inside of these only. */
export const CLIP_WORDS = String.raw`'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+`;

export const WHITESPACE_RUN = String.raw`\s+`;

const WORD = String.raw`\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}`;

/**
 * What the pre-tokenizer `Whitespace` stands for, `\w+|[^\w\s]+` over Unicode. The JavaScript library runs it with
 * JavaScript's ASCII-only `\w`, which would split "café" in two; here the classes are spelt out.
 */
export const UNICODE_WORDS = String.raw`[${WORD}]+|[^${WORD}\p{White_Space}]+`;

const KNOWN = new Set([
  CLIP_WORDS,
  // CLIP as OpenAI published it.
  String.raw`<\|startoftext\|>|<\|endoftext\|>|${CLIP_WORDS}`,
  WHITESPACE_RUN,
  // T5.
  ' {2,}',
  // Qwen2 and Qwen3, the text encoders of FLUX.2 klein.
  String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
  // Mistral, the text encoder of FLUX.2 dev.
  String.raw`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
  UNICODE_WORDS,
]);

/** All of them, for tests. */
export const KNOWN_PATTERNS: readonly string[] = [...KNOWN];

export function isKnownPattern(source: string): boolean {
  return KNOWN.has(source);
}
