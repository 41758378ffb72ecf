/**
 * A `tokenizer.json`, checked. The file comes from strangers, and the library that runs it trusts what it is given: it
 * compiles any regular expression, divides into pieces of length 0, and nests, repeats and multiplies as often as it is
 * told to. What leaves here is rebuilt from known parts within limits, so that the time and the memory of a prompt follow
 * from its length.
 */
import { z } from 'zod';

import { isKnownPattern, UNICODE_WORDS } from './patterns.js';

/** Longest token in UTF-16 units. T5's longest has 16, CLIP's 32, GPT's 128. */
const MAX_TOKEN_LENGTH = 512;
/** Qwen3 has 151,000 tokens, Gemma 262,000. */
const MAX_VOCABULARY = 2 ** 19;
const MAX_TOKEN_ID = 2 ** 24 - 1;
const MAX_MERGES = 2 ** 20;
const MAX_ADDED_TOKENS = 8192;
/** Steps of a normalizer, a pre-tokenizer or a post-processor, sequences laid flat. */
const MAX_STEPS = 16;
const MAX_DEPTH = 4;
/** How much longer replacements may make a text, all of them together. */
const MAX_GROWTH = 64;
/** What is put in the place of a match, or in front of a text. */
const MAX_INSERTION = 16;
/** Tokens of a unigram model that begin, or end, with one another: its lattice has that many nodes per character. T5: 10. */
const MAX_CHAIN = 32;
/** Words of WordPiece are tried in all their pieces. */
const MAX_WORDPIECE_LENGTH = 200;

const token = z.string().max(MAX_TOKEN_LENGTH);
const tokenId = z.int().min(0).max(MAX_TOKEN_ID);
const insertion = z.string().max(MAX_INSERTION);
const flag = z.boolean().nullish();

const pattern = z.union([
  z.object({ String: z.string().min(1).max(MAX_TOKEN_LENGTH) }),
  z.object({ Regex: z.string() }),
]);

const normalizerStep = z.discriminatedUnion('type', [
  z.object({
    type: z.literal('BertNormalizer'),
    clean_text: flag,
    handle_chinese_chars: flag,
    lowercase: flag,
    strip_accents: flag,
  }),
  z.object({ type: z.literal('Precompiled'), precompiled_charsmap: z.string().nullish() }),
  z.object({ type: z.literal('Replace'), pattern, content: insertion.nullish() }),
  z.object({ type: z.enum(['NFC', 'NFD', 'NFKC', 'NFKD', 'StripAccents', 'Lowercase']) }),
  z.object({ type: z.literal('Strip'), strip_left: flag, strip_right: flag }),
  z.object({ type: z.literal('Prepend'), prepend: insertion }),
]);

const preTokenizerStep = z.discriminatedUnion('type', [
  z.object({ type: z.enum(['BertPreTokenizer', 'Whitespace', 'WhitespaceSplit', 'Punctuation']) }),
  z.object({
    type: z.literal('Metaspace'),
    replacement: z.string().min(1).max(4).optional(),
    str_rep: z.string().max(4).optional(),
    prepend_scheme: z.enum(['always', 'first', 'never']).optional(),
  }),
  z.object({
    type: z.literal('ByteLevel'),
    add_prefix_space: flag,
    trim_offsets: flag,
    use_regex: flag,
  }),
  z.object({
    type: z.literal('Split'),
    pattern,
    behavior: z
      .string()
      .max(MAX_INSERTION * 2)
      .optional(),
    invert: z.boolean().optional(),
  }),
  z.object({ type: z.literal('Digits'), individual_digits: flag }),
  z.object({ type: z.literal('Replace'), pattern, content: insertion.nullish() }),
  z.object({ type: z.literal('FixedLength'), length: z.int().min(1) }),
]);

const labelled = z.tuple([token, tokenId]);
const templateItem = z.union([
  z.object({ SpecialToken: z.object({ id: token, type_id: z.int().optional() }) }),
  z.object({ Sequence: z.object({ id: z.enum(['A', 'B']), type_id: z.int().optional() }) }),
]);
const postProcessorStep = z.discriminatedUnion('type', [
  z.object({
    type: z.literal('TemplateProcessing'),
    single: z
      .array(templateItem)
      .max(MAX_STEPS)
      .refine(
        (items) => items.filter((item) => 'Sequence' in item).length === 1,
        'must hold the text exactly once',
      ),
  }),
  z.object({ type: z.enum(['BertProcessing', 'RobertaProcessing']), sep: labelled, cls: labelled }),
  z.object({ type: z.literal('ByteLevel') }),
]);

const addedToken = z.object({
  id: tokenId,
  content: token,
  single_word: z.boolean().optional(),
  lstrip: z.boolean().optional(),
  rstrip: z.boolean().optional(),
  special: z.boolean().optional(),
  normalized: z.boolean().optional(),
});

const affix = z
  .string()
  .max(MAX_INSERTION * 2)
  .nullish();
const fields = {
  unk_token: token.nullish(),
  unk_id: tokenId.nullish(),
  fuse_unk: z.boolean().nullish(),
  byte_fallback: z.boolean().nullish(),
  ignore_merges: z.boolean().nullish(),
  end_of_word_suffix: affix,
  continuing_subword_prefix: affix,
  continuing_subword_suffix: affix,
  max_input_chars_per_word: z.int().min(1).nullish(),
};
const model = z.object({
  ...fields,
  type: z.enum(['BPE', 'Unigram', 'WordPiece', 'WordLevel']).optional(),
  // Checked by hand: these have hundreds of thousands of entries.
  vocab: z.custom<object>(
    (value) => typeof value === 'object' && value !== null,
    'must be an object or an array',
  ),
  merges: z.array(z.unknown()).max(MAX_MERGES).optional(),
});

const tokenizerFile = z.object({
  added_tokens: z.array(addedToken).max(MAX_ADDED_TOKENS).default([]),
  normalizer: z.unknown().default(null),
  pre_tokenizer: z.unknown().default(null),
  post_processor: z.unknown().default(null),
  padding: z.object({ pad_id: tokenId }).nullish(),
  model,
});

/** What the library takes. */
export interface TokenizerDefinition {
  added_tokens: object[];
  /** SentencePiece's character map, where normalisation begins with one; the rest is in `normalizer`. */
  charsmap: string | undefined;
  normalizer: object | null;
  pre_tokenizer: object | null;
  post_processor: object | null;
  /** None: ids are never turned into text here. */
  decoder: null;
  model: Record<string, unknown>;
  padId: number | undefined;
  unknownToken: string | undefined;
  unknownId: number | undefined;
}

/**
 * Checks a parsed `tokenizer.json`.
 * @throws Error with the reason
 */
export function checkTokenizerFile(json: unknown): TokenizerDefinition {
  const file = parse(tokenizerFile, json, '');
  let growth = 1;
  const steps = <T extends { type: string }>(
    key: 'normalizer' | 'pre_tokenizer' | 'post_processor',
    list: string,
    schema: z.ZodType<T>,
  ): T[] => flatten(file[key], key, list).map((step, i) => parse(schema, step, `${key}, step ${i + 1}: `));
  const checked = <T extends { type: string }>(step: T): T => {
    const { pattern: found, content } = step as { pattern?: z.infer<typeof pattern>; content?: string };
    if (found && 'Regex' in found && !isKnownPattern(found.Regex)) {
      const shown = JSON.stringify(found.Regex.slice(0, 100));
      throw new Error(`the regular expression ${shown} is none of those that tokenizers of FLUX have`);
    }
    if (step.type !== 'Replace') return step;
    const least = found && 'String' in found ? found.String.length : 1;
    growth *= Math.max(1, (content ?? '').length / least);
    if (growth > MAX_GROWTH) throw new Error('its replacements make a text too long');
    // The library hands it to String.replaceAll, for which a dollar sign means parts of the text.
    return { ...step, content: (content ?? '').replaceAll('$', '$$$$') };
  };

  const normalizers = steps('normalizer', 'normalizers', normalizerStep).map(checked);
  const [first] = normalizers;
  let charsmap: string | undefined;
  if (first?.type === 'Precompiled') {
    normalizers.shift();
    // Some exports have the type without the map; it changes nothing then.
    charsmap = first.precompiled_charsmap || undefined;
  }
  const preTokenizers = steps('pre_tokenizer', 'pretokenizers', preTokenizerStep)
    .map(checked)
    .map((step) => (step.type === 'Whitespace' ? UNICODE_WORD_SPLIT : step));
  const postProcessors = steps('post_processor', 'processors', postProcessorStep);
  return {
    added_tokens: file.added_tokens,
    charsmap,
    normalizer: sequence('normalizers', normalizers),
    pre_tokenizer: sequence('pretokenizers', preTokenizers),
    post_processor: sequence('processors', postProcessors),
    decoder: null,
    model: checkModel(file.model),
    padId: file.padding?.pad_id,
    unknownToken: file.model.unk_token ?? undefined,
    unknownId: file.model.unk_id ?? undefined,
  };
}

const UNICODE_WORD_SPLIT = {
  type: 'Split',
  pattern: { Regex: UNICODE_WORDS },
  behavior: 'Removed',
  invert: true,
} as const;

function parse<T>(schema: z.ZodType<T>, value: unknown, where: string): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const { path, message } = parsed.error.issues[0]!;
  throw new Error(`${where}${path.join('.') || 'the file'}: ${message}`);
}

/** The steps of nested sequences, in order. */
function flatten(value: unknown, key: string, list: string): unknown[] {
  const steps: unknown[] = [];
  const visit = (step: unknown, depth: number): void => {
    if (step === null) return;
    if (depth > MAX_DEPTH) throw new Error(`${key} is nested too deeply`);
    const { type, [list]: inner } = step as Record<string, unknown>;
    if (type === 'Sequence' && Array.isArray(inner)) {
      for (const each of inner) visit(each, depth + 1);
    } else if (steps.push(step) > MAX_STEPS) {
      throw new Error(`${key} has more than ${MAX_STEPS} steps`);
    }
  };
  visit(value, 0);
  return steps;
}

function sequence(list: string, steps: object[]): object | null {
  if (steps.length <= 1) return steps[0] ?? null;
  return { type: 'Sequence', [list]: steps };
}

/** The model as the library takes it: its type is said, and there is nothing in it that was not looked at. */
function checkModel({ type: given, vocab, merges, ...rest }: z.infer<typeof model>): Record<string, unknown> {
  const type =
    given ??
    (Array.isArray(vocab)
      ? 'Unigram'
      : merges !== undefined
        ? 'BPE'
        : rest.continuing_subword_prefix != null && rest.unk_token != null
          ? 'WordPiece'
          : 'WordLevel');
  if (Array.isArray(vocab) !== (type === 'Unigram')) {
    throw new Error(`model.vocab: is not what a ${type} model has`);
  }
  if (type === 'Unigram') {
    checkPieces(vocab as unknown[]);
    if (rest.unk_id != null && rest.unk_id >= (vocab as unknown[]).length) {
      throw new Error('model.unk_id: is outside the vocabulary');
    }
    return { type, vocab, unk_id: rest.unk_id ?? undefined };
  }
  checkVocabulary(vocab as Record<string, unknown>);
  const common = { vocab, unk_token: rest.unk_token ?? undefined, fuse_unk: rest.fuse_unk ?? false };
  // To the library a model without a type, and without a prefix, is a list of whole words.
  if (type === 'WordLevel') return common;
  if (type === 'WordPiece') {
    return {
      type,
      ...common,
      continuing_subword_prefix: rest.continuing_subword_prefix ?? '##',
      max_input_chars_per_word: Math.min(rest.max_input_chars_per_word ?? 100, MAX_WORDPIECE_LENGTH),
    };
  }
  if (merges === undefined) throw new Error('model.merges: is missing');
  return {
    type,
    ...common,
    merges: merges.every(Array.isArray) ? (merges.forEach(checkMerge), merges) : merges.map(checkMerge),
    byte_fallback: rest.byte_fallback ?? false,
    ignore_merges: rest.ignore_merges ?? false,
    end_of_word_suffix: rest.end_of_word_suffix ?? undefined,
    continuing_subword_suffix: rest.continuing_subword_suffix ?? undefined,
  };
}

/** Tokens are keys of an object that JSON made: also `__proto__` is a key of its own there. */
function checkVocabulary(vocab: Record<string, unknown>): void {
  const entries = Object.entries(vocab);
  checkSize(entries.length);
  for (const [text, id] of entries) {
    checkToken(text);
    if (!Number.isInteger(id) || (id as number) < 0 || (id as number) > MAX_TOKEN_ID) {
      throw new Error(`model.vocab: the id of ${shown(text)} is no integer between 0 and ${MAX_TOKEN_ID}`);
    }
  }
}

function checkPieces(vocab: unknown[]): void {
  checkSize(vocab.length);
  if (vocab.length === 0) throw new Error('model.vocab: is empty');
  const texts = vocab.map((entry, i) => {
    const [text, score, ...more] = Array.isArray(entry) ? (entry as unknown[]) : [];
    if (typeof text !== 'string' || !Number.isFinite(score) || more.length > 0) {
      throw new Error(`model.vocab: its entry ${i} is no pair of a token and its score`);
    }
    return checkToken(text);
  });
  if (Math.max(longestChain(texts), longestChain(texts.map(reversed))) > MAX_CHAIN) {
    throw new Error(`model.vocab: more than ${MAX_CHAIN} tokens begin or end with one another`);
  }
}

/** Most texts of which each begins with the one before. */
function longestChain(texts: string[]): number {
  const open: string[] = [];
  let longest = 0;
  // In order every text stands behind the ones that it begins with.
  for (const text of [...new Set(texts)].sort()) {
    while (open.length > 0 && !text.startsWith(open.at(-1)!)) open.pop();
    longest = Math.max(longest, open.push(text));
  }
  return longest;
}

function reversed(text: string): string {
  return [...text].reverse().join('');
}

function checkMerge(merge: unknown, i: number): [string, string] {
  const parts: unknown[] = typeof merge === 'string' ? merge.split(' ') : Array.isArray(merge) ? merge : [];
  const [left, right] = parts;
  if (parts.length !== 2 || typeof left !== 'string' || typeof right !== 'string') {
    throw new Error(`model.merges: its rule ${i + 1} is not a pair`);
  }
  return [checkToken(left), checkToken(right)];
}

function checkSize(tokens: number): void {
  if (tokens > MAX_VOCABULARY) throw new Error(`model.vocab: has more than ${MAX_VOCABULARY} tokens`);
}

function checkToken(text: string): string {
  if (text.length > MAX_TOKEN_LENGTH) {
    throw new Error(`the token ${shown(text)} is longer than ${MAX_TOKEN_LENGTH} characters`);
  }
  return text;
}

function shown(text: string): string {
  return JSON.stringify(text.length > 40 ? `${text.slice(0, 40)}...` : text);
}
