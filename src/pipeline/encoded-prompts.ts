/** Prompts as the transformer takes them, and their file. */
import { open, stat } from 'node:fs/promises';

import { z } from 'zod';

import { ERROR_CODES, JitFluxError, throwIfAborted } from '../errors.js';
import { writeFileAtomic } from '../files/write-file.js';
import { Tensor } from '../engine/index.js';
import type { TokenCounts } from './text-conditioner.js';
import { VERSION } from './version.js';
import type { GenerateWarning } from './warning.js';

const FORMAT = 'jit-flux-conditioning';
const FORMAT_VERSION = '1';
/** 64 prompts of 512 tokens, 4096 wide, take 540 MB. */
const MAX_FILE_BYTES = 2 ** 31;
const MAX_HEADER_BYTES = 16 * 1024 * 1024;

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
 * @throws ERR_JITFLUX_FILE_NOT_FOUND, ERR_JITFLUX_UNSUPPORTED_FORMAT (another kind of file), ERR_JITFLUX_CORRUPT_FILE
 */
export async function loadEncodedPrompts(
  path: string,
  o: { signal?: AbortSignal | undefined } = {},
): Promise<EncodedPrompts> {
  throwIfAborted(o.signal);
  const { header, data } = await readConditioning(path);
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

async function readConditioning(path: string): Promise<{ header: z.infer<typeof fileHeader>; data: Buffer }> {
  const info = await stat(path).catch((cause: unknown) => {
    throw new JitFluxError(ERROR_CODES.FILE_NOT_FOUND, `Cannot read ${path}`, { path }, { cause });
  });
  const unsupported = (cause?: unknown) =>
    new JitFluxError(
      ERROR_CODES.UNSUPPORTED_FORMAT,
      `${path} holds no encoded prompts; such files are written by EncodedPrompts.save and jit-flux encode`,
      { path },
      { cause },
    );
  if (!info.isFile() || info.size > MAX_FILE_BYTES) throw unsupported();
  if (info.size < 8) throw corrupt(path, 'it is truncated');
  const file = await open(path, 'r');
  try {
    const size = Buffer.alloc(8);
    await file.read(size, 0, 8, 0);
    const length = size.readBigUInt64LE();
    if (length > BigInt(MAX_HEADER_BYTES)) throw unsupported();
    if (length > BigInt(info.size - 8)) throw corrupt(path, 'it is truncated');
    const text = Buffer.alloc(Number(length));
    await file.read(text, 0, text.length, 8);
    let json: unknown;
    try {
      json = JSON.parse(text.toString('utf8'));
    } catch (cause) {
      throw unsupported(cause);
    }
    const parsed = fileHeader.safeParse(json);
    if (!parsed.success) throw unsupported(parsed.error);
    const data = Buffer.alloc(info.size - 8 - text.length);
    const { bytesRead } = await file.read(data, 0, data.length, 8 + text.length);
    if (bytesRead !== data.length) throw corrupt(path, 'it is truncated');
    return { header: parsed.data, data };
  } finally {
    await file.close();
  }
}

function corrupt(path: string, why: string, cause?: unknown): JitFluxError {
  return new JitFluxError(ERROR_CODES.CORRUPT_FILE, `${path} is damaged: ${why}`, { path }, { cause });
}
