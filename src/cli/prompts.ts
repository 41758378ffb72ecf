/** Prompts as they are typed, piped in or kept in files. */
import { z } from 'zod';

import { ERROR_CODES, invalidArgument, JitFluxError } from '../errors.js';
import { readSmallFile } from '../files/small-file.js';
import { checkPrompts } from '../pipeline/request.js';
import { PRESET_NAMES } from '../sampler/presets.js';
import type { Context } from './command.js';
import { parseSeed } from './options.js';

/** Stands for standard input where a prompt or a file is expected. */
const STDIN = '-';
/** Of a file of prompts, or of standard input. */
const MOST_BYTES = 16 * 1024 ** 2;
/** Of all prompts with all seeds. */
export const MOST_RUNS = 10_000;

/** Commands whose words are prompts. */
const WITH_PROMPTS: readonly (string | undefined)[] = ['generate', 'compare', 'encode'];

/**
 * Puts prompts that begin with a dash behind `--`, where the parser takes them for no flags: `-`, and what has a space in it
 * before any `=`, as no flag has.
 */
export function arrangePrompts(argv: readonly string[]): string[] {
  const end = argv.indexOf('--');
  const typed = end < 0 ? argv : argv.slice(0, end);
  if (!WITH_PROMPTS.includes(argv[0])) return [...argv];
  const isPrompt = (word: string, i: number) =>
    word === STDIN ? !/^(-o|--out|--prompt-file|--grid)$/.test(typed[i - 1] ?? '') : /^-[^=]*\s/.test(word);
  const prompts = typed.filter(isPrompt);
  const rest = typed.filter((word, i) => !isPrompt(word, i));
  return prompts.length === 0 && end < 0
    ? rest
    : [...rest, '--', ...prompts, ...(end < 0 ? [] : argv.slice(end + 1))];
}

/**
 * The prompts that were typed, in front of `--` and behind it.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT for several words that seem to be one prompt without quotes
 */
export function typedPrompts(args: { prompt: string[] | undefined }): string[] {
  // yargs' types do not know what is behind `--`.
  const { prompt: words = [], '--': behind = [] } = args as typeof args & { '--'?: string[] };
  if (words.length > 1 && words.some((word) => !/\s/.test(word))) {
    throw invalidArgument(
      'prompt',
      `one prompt in quotes: "${[...words].join(' ').slice(0, 200)}" ` +
        '(several prompts: one per line of a --prompt-file)',
      words.length,
    );
  }
  return [...words, ...behind];
}

const line = z.strictObject({
  prompt: z.string(),
  seed: z.union([z.int().nonnegative(), z.string()]).optional(),
  guidance: z.number().optional(),
  width: z.number().optional(),
  height: z.number().optional(),
  steps: z.number().optional(),
  preset: z.enum(PRESET_NAMES).optional(),
  out: z.string().min(1).optional(),
});

/** A prompt, and what is said of it alone. */
export type PromptLine = z.infer<typeof line>;

/**
 * Prompts of a text: one a line; a line that begins with `{` is a JSON object with `prompt` and what shall be other than in
 * the flags: `seed`, `guidance`, `width`, `height`, `steps`, `preset`, `out`. Empty lines do not count.
 * @param name what messages call the text
 * @throws ERR_JITFLUX_INVALID_ARGUMENT naming the line
 */
export function parsePrompts(text: string, name: string): PromptLine[] {
  const found: PromptLine[] = [];
  for (const [i, written] of text.split(/\r\n|\r|\n/).entries()) {
    if (written.trim() === '') continue;
    const refuse = (why: string, cause?: unknown) =>
      new JitFluxError(
        ERROR_CODES.INVALID_ARGUMENT,
        `${name}, line ${i + 1}: ${why}`,
        { option: 'prompt-file', line: i + 1 },
        { cause },
      );
    let entry: PromptLine = { prompt: written };
    if (written.trimStart().startsWith('{')) {
      let json: unknown;
      try {
        json = JSON.parse(written);
      } catch (cause) {
        throw refuse('begins with { and is no JSON object', cause);
      }
      const parsed = line.safeParse(json);
      if (!parsed.success) {
        const { path, message } = parsed.error.issues[0]!;
        throw refuse(`${path.join('.') || 'the object'}: ${message}`);
      }
      entry = parsed.data;
    }
    try {
      checkPrompts(entry.prompt);
    } catch (cause) {
      throw refuse(cause instanceof Error ? cause.message : String(cause), cause);
    }
    found.push(entry);
    if (found.length > MOST_RUNS) throw refuse(`more than ${MOST_RUNS} prompts`);
  }
  if (found.length === 0) throw invalidArgument('prompt-file', 'at least one prompt', `none in ${name}`);
  return found;
}

/**
 * All prompts: those that were typed, those of standard input for `-`, those of a file.
 * @throws what reading and {@link parsePrompts} throw
 */
export async function readPrompts(
  typed: readonly string[],
  file: string | undefined,
  context: Context,
): Promise<PromptLine[]> {
  const prompts: PromptLine[] = [];
  for (const prompt of typed) {
    if (prompt === STDIN) prompts.push(...parsePrompts(await readStdin(context), 'standard input'));
    else prompts.push({ prompt });
  }
  if (file === STDIN) prompts.push(...parsePrompts(await readStdin(context), 'standard input'));
  else if (file !== undefined) {
    const data = await readSmallFile(file, { maxBytes: MOST_BYTES, signal: context.signal });
    prompts.push(...parsePrompts(data.toString('utf8').replace(/^\ufeff/, ''), file));
  }
  return prompts;
}

async function readStdin({ stdin, signal }: Context): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  if (!stdin) return '';
  for await (const chunk of stdin) {
    if (signal.aborted) break;
    const bytes = Buffer.from(chunk as Uint8Array);
    size += bytes.length;
    if (size > MOST_BYTES) {
      throw invalidArgument('prompt', `at most ${MOST_BYTES} bytes on standard input`, `${size} bytes`);
    }
    chunks.push(bytes);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/**
 * `7`, `1,2,5-8`: every seed once for every prompt.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function parseSeeds(text: string | undefined): (number | bigint | undefined)[] {
  if (text === undefined) return [undefined];
  const expected = 'integers from 0 to 2^64 - 1 and ranges of them, such as 7 or 1,2,5-8';
  const seeds: (number | bigint)[] = [];
  for (const part of text.split(',')) {
    const [, from, to] = /^(\d{1,20})(?:-(\d{1,20}))?$/.exec(part.trim()) ?? [];
    if (from === undefined) throw invalidArgument('seed', expected, text);
    const [first, last] = [BigInt(from), BigInt(to ?? from)];
    if (last < first || last >= 2n ** 64n) throw invalidArgument('seed', expected, text);
    if (BigInt(seeds.length) + last - first >= BigInt(MOST_RUNS)) {
      throw invalidArgument('seed', `at most ${MOST_RUNS} seeds`, text);
    }
    for (let seed = first; seed <= last; seed++) seeds.push(parseSeed(seed.toString())!);
  }
  return seeds;
}
