/** Prompts as the transformer takes them, and their file. */
import { z } from 'zod';

import { ERROR_CODES, JitFluxError, throwIfAborted } from '../errors.js';
import { readSmallFile } from '../files/small-file.js';
import { writeFileAtomic } from '../files/write-file.js';
import { inspectWeights, Tensor } from '../engine/index.js';
import type { TokenCounts } from './text-conditioner.js';
import { VERSION } from './version.js';
import type { GenerateWarning } from './warning.js';

const FORMAT = 'jit-flux-conditioning';
const FORMAT_VERSION = '1';
/** 64 prompts of 512 tokens, 4096 wide, take 540 MB. */
const MAX_FILE_BYTES = 2 ** 31 - 1;
const MAX_HEADER_BYTES = 16 * 1024 * 1024;
/** `save` writes 8 brackets and 20 commas. */
const MAX_HEADER_VALUES = 200;

const tensorEntry = (rank: number) =>
  z.object({
    dtype: z.literal('F32'),
    shape: z.array(z.number().int().positive()).length(rank),
    data_offsets: z.tuple([z.number().int().nonnegative(), z.number().int().nonnegative()]),
  });
const fileHeader = z.looseObject({
  prompt: tensorEntry(3),
  pooled: tensorEntry(2),
  __metadata__: z.looseObject({
    format: z.literal(FORMAT),
    version: z.literal(FORMAT_VERSION),
    model: z.string().max(1000),
    prompts: z.string(),
    tokens: z.string(),
    warnings: z.string(),
  }),
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

  /** @internal Takes ownership of the tensors. */
  constructor(o: Content) {
    this.prompt = o.prompt;
    this.pooled = o.pooled;
    this.prompts = o.prompts;
    this.model = o.model;
    this.tokens = o.tokens;
    this.warnings = o.warnings;
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
    throwIfAborted(o.signal);
    const tensors = [
      ['prompt', this.prompt.shape, await this.prompt.toFloat32Array()],
      ['pooled', this.pooled.shape, await this.pooled.toFloat32Array()],
    ] as const;
    const header: Record<string, unknown> = {
      __metadata__: {
        format: FORMAT,
        version: FORMAT_VERSION,
        generator: `jit-flux ${VERSION}`,
        model: this.model,
        prompts: JSON.stringify(this.prompts),
        tokens: JSON.stringify(this.tokens),
        warnings: JSON.stringify(this.warnings),
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
    await writeFileAtomic(path, Buffer.concat([size, padded, ...data]), o);
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
  throwIfAborted(o.signal);
  const { header, data } = await readConditioning(path, o.signal);
  throwIfAborted(o.signal);
  const metadata = header.__metadata__;
  const list = <T>(schema: z.ZodType<T>, text: string): T => {
    try {
      return schema.parse(JSON.parse(text));
    } catch (cause) {
      throw corrupt(path, 'its metadata is malformed', cause);
    }
  };
  const prompts = list(promptList, metadata.prompts);
  const tokens = list(tokenList, metadata.tokens) as TokenCounts[];
  const warnings = list(warningList, metadata.warnings) as GenerateWarning[];
  if (header.prompt.shape[0] !== prompts.length || header.pooled.shape[0] !== prompts.length) {
    throw corrupt(path, 'it does not hold one row per prompt');
  }
  const values = ({
    shape,
    data_offsets: [begin, end],
  }: {
    shape: number[];
    data_offsets: [number, number];
  }) => {
    const bytes = shape.reduce((product, size) => product * size, 4);
    if (end - begin !== bytes || end > data.length) throw corrupt(path, 'a tensor lies outside the file');
    // Copied, so that it is aligned.
    return new Float32Array(Uint8Array.from(data.subarray(begin, end)).buffer);
  };
  const [promptValues, pooledValues] = [values(header.prompt), values(header.pooled)];
  const prompt = Tensor.from(promptValues, header.prompt.shape);
  const pooled = Tensor.from(pooledValues, header.pooled.shape);
  return new EncodedPrompts({ prompt, pooled, prompts, tokens, warnings, model: metadata.model });
}

async function readConditioning(
  path: string,
  signal: AbortSignal | undefined,
): Promise<{ header: z.infer<typeof fileHeader>; data: Buffer }> {
  const unsupported = (cause?: unknown) =>
    new JitFluxError(
      ERROR_CODES.UNSUPPORTED_FORMAT,
      `${path} holds no encoded prompts; such files are written by EncodedPrompts.save and jit-flux encode`,
      { path },
      { cause },
    );
  // The native reader judges the file, off the event loop: what it refuses is refused here, too, with the same code.
  const { format, tensors } = await inspectWeights(path, signal && { signal });
  const names = tensors.map(({ name, dtype }) => `${name} ${dtype}`).sort();
  if (format !== 'safetensors' || names.join() !== 'pooled float32,prompt float32') throw unsupported();
  const file = await readSmallFile(path, {
    maxBytes: MAX_FILE_BYTES,
    signal,
    invalid: (problem, why, cause) =>
      problem === 'changed' ? corrupt(path, `it ${why}`) : unsupported(cause),
  });
  // Another file may have taken its place since.
  const length = file.length < 8 ? Infinity : Number(file.readBigUInt64LE());
  if (length > MAX_HEADER_BYTES) throw unsupported();
  if (length > file.length - 8) throw corrupt(path, 'it is truncated');
  const text = file.subarray(8, 8 + length);
  if (countValues(text) > MAX_HEADER_VALUES) throw unsupported();
  let json: unknown;
  try {
    json = JSON.parse(text.toString('utf8'));
  } catch (cause) {
    throw unsupported(cause);
  }
  const parsed = fileHeader.safeParse(json);
  if (!parsed.success) throw unsupported(parsed.error);
  return { header: parsed.data, data: file.subarray(8 + length) };
}

/**
 * How many commas and brackets a JSON text has outside of its strings: JavaScript takes seconds for millions of values, and
 * what it needs for these is taken from the heap of the whole program.
 */
function countValues(text: Uint8Array): number {
  let count = 0;
  let inString = false;
  for (let i = 0; i < text.length; i++) {
    const byte = text[i];
    if (byte === 0x22) inString = !inString;
    else if (byte === 0x5c) i++;
    else if (!inString && (byte === 0x2c || byte === 0x5b || byte === 0x7b)) count++;
  }
  return count;
}

function corrupt(path: string, why: string, cause?: unknown): JitFluxError {
  return new JitFluxError(ERROR_CODES.CORRUPT_FILE, `${path} is damaged: ${why}`, { path }, { cause });
}
