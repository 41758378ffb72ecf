/** Prompts as the transformer takes them, and their file. */
import { isDeepStrictEqual } from 'node:util';

import { z } from 'zod';

import {
  checkConstruction,
  checkPath,
  type Names,
  OURS,
  readFields,
  readList,
  readOptions,
  readPlain,
} from '../arguments.js';
import { ERROR_CODES, invalidArgument, JitFluxError, throwIfAborted } from '../errors.js';
import { writeFileAtomic } from '../files/write-file.js';
import { inspectWeights, loadTensors, Tensor } from '../engine/index.js';
import type { FluxConfig } from '../types.js';
import type { TokenCounts } from './text-conditioner.js';
import { VERSION } from '../files/package-files.js';
import type { GenerateWarning } from './warning.js';

const FORMAT = 'jit-flux-conditioning';
const FORMAT_VERSION = '1';
/** 64 prompts of 512 tokens, 4096 wide, take 540 MB. */
const MAX_BYTES = 2 ** 31 - 1;
/** Commas and brackets in one list of the metadata; 5000 prompts have fewer. */
const MAX_LIST_VALUES = 50_000;

const fileMetadata = z.looseObject({
  format: z.literal(FORMAT),
  version: z.literal(FORMAT_VERSION),
  model: z.string().max(1000),
  prompts: z.string(),
  tokens: z.string(),
  warnings: z.string(),
});
const promptList = z.array(z.string()).min(1);
const tokenList = z.array(z.record(z.enum(['text', 'clip', 't5']), z.number().optional()));
const warningList = z.array(
  z.looseObject({
    code: z.enum(['PROMPT_TRUNCATED', 'UNKNOWN_WORDS', 'GUIDANCE_IGNORED']),
    message: z.string(),
  }),
);

/** What an {@link EncodedPrompts} is made of. */
interface Content {
  prompt: Tensor;
  pooled: Tensor;
  prompts: readonly string[];
  model: string;
  tokens: readonly TokenCounts[];
  warnings: GenerateWarning[];
}

const CONTENT: Names<Content> = {
  prompt: true,
  pooled: true,
  prompts: true,
  model: true,
  tokens: true,
  warnings: true,
};
/** What {@link EncodedPrompts.from} takes. */
export interface EncodedTensors {
  /** Text tokens, [prompts, tokens, width] float32. */
  prompt: Tensor;
  /** [prompts, width] float32. */
  pooled: Tensor;
  /** The texts, for metadata of pictures. */
  prompts?: readonly string[] | undefined;
  /**
   * Name of the model whose text encoders these are of. Pictures whose model has this name say their prompt as if it had
   * been encoded anew; others, and those of the default, say that the encoding was a program's own.
   */
  model?: string | undefined;
}

const ENCODED_TENSORS: Names<EncodedTensors> = { prompt: true, pooled: true, prompts: true, model: true };
/** Instead of a model's name. */
const OWN_ENCODERS = "(a program's own)";

/** Values of all lists that are saved. */
const MOST_VALUES = 1 << 20;

/** @internal Encoded prompts, which take ownership of the tensors. */
export let encodedPromptsOf: (content: Content) => EncodedPrompts;

/**
 * One or several prompts, encoded: what text encoders give to the transformer. Use it in any number of requests
 * (`conditioning`), save it, load it in another process: pictures are the same as from the prompt itself. Dispose it
 * when done.
 */
export class EncodedPrompts {
  /** Text tokens, [prompts, tokens, width] float32. */
  readonly prompt: Tensor;
  /** [prompts, width] float32. */
  readonly pooled: Tensor;
  /** The texts. */
  readonly prompts: readonly string[];
  /** Name of the model whose text encoders were used. */
  readonly model: string;
  /** Length of every prompt in tokens of each encoder, before anything was cut. */
  readonly tokens: readonly TokenCounts[];
  /** Truncation and unknown words. */
  readonly warnings: GenerateWarning[];

  private constructor(key: typeof OURS, o: Content) {
    checkConstruction(key, new.target.name, 'FluxPipeline.encodePrompt, encodeOnly or loadEncodedPrompts');
    this.prompt = o.prompt;
    this.pooled = o.pooled;
    this.prompts = o.prompts;
    this.model = o.model;
    this.tokens = o.tokens;
    this.warnings = o.warnings;
  }

  static {
    encodedPromptsOf = (content) => new EncodedPrompts(OURS, content);
  }

  get disposed(): boolean {
    return this.prompt.disposed || this.pooled.disposed;
  }

  dispose(): void {
    this.prompt.dispose();
    this.pooled.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /**
   * Writes a safetensors file: `prompt`, `pooled`, and the rest as metadata. It appears complete or not at all.
   * @throws ERR_JITFLUX_WRITE_FAILED, ERR_JITFLUX_DISPOSED, ERR_JITFLUX_ABORTED
   */
  async save(path: string, o: { signal?: AbortSignal | undefined } = {}): Promise<void> {
    const { signal } = readOptions(o, { signal: true });
    checkPath('path', path);
    throwIfAborted(signal);
    // Fields can be replaced by whoever holds the object.
    const { prompt, pooled, ...content } = readFields<Content>(this, 'encoded prompts', CONTENT);
    for (const [name, tensor] of [
      ['prompt', prompt],
      ['pooled', pooled],
    ] as const) {
      if (!Tensor.owns(tensor)) throw invalidArgument(name, 'a Tensor', tensor);
    }
    const { prompts, tokens, warnings, model } = readPlain(
      content,
      'encoded prompts',
      MOST_VALUES,
    ) as Content;
    const tensors = [
      ['prompt', prompt.shape, await prompt.toFloat32Array()],
      ['pooled', pooled.shape, await pooled.toFloat32Array()],
    ] as const;
    const header: Record<string, unknown> = {
      __metadata__: {
        format: FORMAT,
        version: FORMAT_VERSION,
        generator: `jit-flux ${VERSION}`,
        model,
        prompts: JSON.stringify(prompts),
        tokens: JSON.stringify(tokens),
        warnings: JSON.stringify(warnings),
      },
    };
    let end = 0;
    for (const [name, shape, { byteLength }] of tensors) {
      header[name] = { dtype: 'F32', shape, data_offsets: [end, (end += byteLength)] };
    }
    const json = Buffer.from(JSON.stringify(header), 'utf8');
    const padded = Buffer.concat([json, Buffer.alloc((8 - (json.length % 8)) % 8, ' ')]);
    const size = Buffer.alloc(8);
    size.writeBigUInt64LE(BigInt(padded.length));
    const data = tensors.map(([, , values]) =>
      Buffer.from(values.buffer, values.byteOffset, values.byteLength),
    );
    await writeFileAtomic(path, Buffer.concat([size, padded, ...data]), { signal });
  }

  /**
   * Encoded prompts of a program's own, from wherever it has them (another text encoder, interpolated prompts). Both are
   * copied to the CPU.
   * @throws (rejects) ERR_JITFLUX_INVALID_TENSOR for other shapes and types, and for NaN and infinite values
   */
  static async from(given: EncodedTensors): Promise<EncodedPrompts> {
    const o = readOptions(given, ENCODED_TENSORS);
    for (const name of ['prompt', 'pooled'] as const) {
      if (!Tensor.owns(o[name])) throw invalidArgument(name, 'a Tensor', o[name]);
    }
    const rows = o.prompt.shape[0] ?? 0;
    for (const [name, dimensions] of [
      ['prompt', 3],
      ['pooled', 2],
    ] as const) {
      const { shape, dtype } = o[name];
      if (dtype === 'float32' && shape.length === dimensions && shape[0] === rows) continue;
      const wanted = dimensions === 3 ? '[prompts, tokens, width]' : `[${rows}, width]`;
      const received = `${dtype} [${shape.join(', ')}]`;
      throw invalidArgument(name, `a float32 tensor ${wanted}`, received, ERROR_CODES.INVALID_TENSOR);
    }
    const { model = OWN_ENCODERS } = o;
    if (typeof model !== 'string') throw invalidArgument('model', 'a string', model);
    const expected = `a list of ${rows} strings`;
    const prompts = o.prompts
      ? readList(o.prompts, 'prompts', expected, [rows, rows])
      : Array.from({ length: rows }, (_, i) => `(encoded prompt ${i + 1})`);
    for (const text of prompts)
      if (typeof text !== 'string') throw invalidArgument('prompts', expected, text);
    const [prompt, pooled] = await Promise.all([o.prompt.to('cpu'), o.pooled.to('cpu')]);
    const content = { prompt, pooled, prompts, model, tokens: prompts.map(() => ({})), warnings: [] };
    return requireFinite(encodedPromptsOf(content), (row) =>
      invalidArgument(
        'prompt and pooled',
        'finite numbers',
        `NaN or infinite values in row ${row}`,
        ERROR_CODES.INVALID_TENSOR,
      ),
    );
  }

  /** See {@link loadEncodedPrompts}. */
  static load(path: string, o: { signal?: AbortSignal | undefined } = {}): Promise<EncodedPrompts> {
    return loadEncodedPrompts(path, o);
  }
}

/**
 * Loads what `EncodedPrompts.save` wrote.
 * @throws ERR_JITFLUX_FILE_NOT_FOUND, ERR_JITFLUX_UNSUPPORTED_FORMAT (another kind of file), ERR_JITFLUX_CORRUPT_FILE,
 *   ERR_JITFLUX_UNSAFE_FILE, ERR_JITFLUX_ABORTED
 */
export async function loadEncodedPrompts(
  path: string,
  o: { signal?: AbortSignal | undefined } = {},
): Promise<EncodedPrompts> {
  const { signal } = readOptions(o, { signal: true });
  checkPath('path', path);
  throwIfAborted(signal);
  const { shapes, metadata } = await judge(path, signal);
  const list = <T>(schema: z.ZodType<T>, text: string): T => {
    if (countValues(text) > MAX_LIST_VALUES)
      throw corrupt(path, 'its metadata lists more than any prompts do');
    try {
      return schema.parse(JSON.parse(text));
    } catch (cause) {
      throw corrupt(path, 'its metadata is malformed', cause);
    }
  };
  const prompts = list(promptList, metadata.prompts);
  const tokens = list(tokenList, metadata.tokens) as TokenCounts[];
  const warnings = list(warningList, metadata.warnings) as GenerateWarning[];
  if (!shapes.every(([rows]) => rows === prompts.length)) {
    throw corrupt(path, 'it does not hold one row per prompt');
  }
  const loaded = await loadTensors(path, TENSORS, { signal });
  const [prompt, pooled] = loaded.tensors as [Tensor, Tensor];
  // Another file may have taken its place since it was judged.
  if (!isDeepStrictEqual([loaded.metadata, [prompt.shape, pooled.shape]], [metadata, shapes])) {
    prompt.dispose();
    pooled.dispose();
    throw corrupt(path, 'it was replaced while it was read');
  }
  const result = encodedPromptsOf({ prompt, pooled, prompts, tokens, warnings, model: metadata.model });
  return requireFinite(result, (row) => corrupt(path, `NaN or infinite values in row ${row}`));
}

/**
 * Encoded prompts as they were given, unless they hold NaN or infinite values: then they are disposed.
 * @param error what is thrown, for the first such prompt. Default: ERR_JITFLUX_NOT_FINITE
 */
export async function requireFinite(
  encoded: EncodedPrompts,
  error: (image: number) => JitFluxError = (image) => {
    const which = `encoded prompt ${image + 1} of ${encoded.prompts.length}`;
    const why = `a weight of the text encoders of ${encoded.model} is damaged, or numbers are too large for their type`;
    const details = { what: 'encoded prompt', image };
    return new JitFluxError(ERROR_CODES.NOT_FINITE, `NaN or infinite values in ${which} (${why})`, details);
  },
): Promise<EncodedPrompts> {
  try {
    for (const tensor of [encoded.prompt, encoded.pooled]) {
      const [image] = await tensor.notFinite();
      if (image !== undefined) throw error(image);
    }
    return encoded;
  } catch (thrown) {
    encoded.dispose();
    throw thrown;
  }
}

const TENSORS = ['prompt', 'pooled'];

/** What a file of encoded prompts says of itself: the shapes of its tensors, its metadata. Needs no LibTorch. */
async function judge(
  path: string,
  signal: AbortSignal | undefined,
): Promise<{ shapes: number[][]; metadata: z.infer<typeof fileMetadata> }> {
  const unsupported = (cause?: unknown) =>
    new JitFluxError(
      ERROR_CODES.UNSUPPORTED_FORMAT,
      `${path} holds no encoded prompts; such files are written by EncodedPrompts.save and jit-flux encode`,
      { path },
      { cause },
    );
  const found = await inspectWeights(path, { metadata: true, ...(signal && { signal }) });
  const entries = TENSORS.map((name) => found.tensors.find((tensor) => tensor.name === name));
  const [prompt, pooled] = entries;
  if (found.tensors.length !== 2 || prompt?.dtype !== 'float32' || pooled?.dtype !== 'float32') {
    throw unsupported();
  }
  const shapes = [prompt.shape, pooled.shape];
  const isShaped = prompt.shape.length === 3 && pooled.shape.length === 2 && !shapes.flat().includes(0);
  const metadata = fileMetadata.safeParse(found.metadata);
  if (!isShaped || found.totalBytes > MAX_BYTES || !metadata.success) throw unsupported(metadata.error);
  return { shapes, metadata: metadata.data };
}

/**
 * How many commas and brackets a JSON text has outside of its strings: JavaScript takes seconds for millions of values, and
 * what it needs for these is taken from the heap of the whole program.
 */
function countValues(text: string): number {
  let count = 0;
  let inString = false;
  for (let i = 0; i < text.length; i++) {
    const character = text.charCodeAt(i);
    if (character === 0x22) inString = !inString;
    else if (character === 0x5c) i++;
    else if (!inString && (character === 0x2c || character === 0x5b || character === 0x7b)) count++;
  }
  return count;
}

function corrupt(path: string, why: string, cause?: unknown): JitFluxError {
  return new JitFluxError(ERROR_CODES.CORRUPT_FILE, `${path} is damaged: ${why}`, { path }, { cause });
}

/** One token of zeros, for runs whose picture does not matter. */
export function blankPrompts(model: string, { textDim, pooledDim }: FluxConfig): EncodedPrompts {
  return encodedPromptsOf({
    prompt: Tensor.from(new Float32Array(textDim), [1, 1, textDim]),
    pooled: Tensor.from(new Float32Array(pooledDim), [1, pooledDim]),
    ...{ prompts: ['(blank)'], model, tokens: [{}], warnings: [] },
  });
}
