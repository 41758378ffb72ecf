/** Weight files in another format or dtype: a single file, or a whole snapshot. */
import { mkdir, realpath, stat, unlink } from 'node:fs/promises';
import { extname, join, resolve, sep } from 'node:path';

import { z } from 'zod';

import { checkBoolean, checkCallback, checkPath, type Names, readOptions } from '../arguments.js';
import { ERROR_CODES, invalidArgument, JitFluxError, throwIfAborted } from '../errors.js';
import { listDirectory, readSmallFile } from '../files/small-file.js';
import { assertWritable, writeFileAtomic } from '../files/write-file.js';
import { runWeights } from '../engine/call.js';
import { readTransformerConfig } from '../engine/component-config.js';
import { inspectWeights } from '../engine/inspect.js';
import { describeModel, requireFiles } from '../model/resolve-model.js';
import type { ModelSpec } from '../model/spec.js';
import { readSnapshot, type Snapshot } from './snapshot.js';

const FORMATS = ['torchscript', 'safetensors'] as const;
const DTYPES = ['keep', 'float32', 'bfloat16', 'float16'] as const;

export type WeightFormat = (typeof FORMATS)[number];
export type TargetDType = (typeof DTYPES)[number];

export interface ConversionProgress {
  /** Directory of the component, `transformer` for example; undefined for a single file. */
  component?: string;
  /** Bytes of tensor data written, of the component's total. */
  writtenBytes: number;
  totalBytes: number;
  /** Name of the current tensor; empty at the beginning and the end. */
  tensor: string;
}

export interface ConvertOptions {
  /** Default: by the output's extension; `'torchscript'` for a snapshot. */
  format?: WeightFormat | undefined;
  /** Type of all floating point tensors. Default `'keep'`: each keeps its own. */
  dtype?: TargetDType | undefined;
  /** Go on where an interrupted conversion to the same output stopped. Default true. */
  resume?: boolean | undefined;
  /** Check the CRC-32 of a TorchScript input's records first (reads it once more). Default false. */
  verify?: boolean | undefined;
  onProgress?: ((p: ConversionProgress) => void) | undefined;
  signal?: AbortSignal | undefined;
}

export interface ConvertedFile {
  component?: string;
  path: string;
  /** Key layout of the input, if it is a FLUX transformer; the output has diffusers names. */
  layout?: 'diffusers' | 'original';
  tensors: number;
  /** Tensors of a checkpoint that are no part of its transformer and were left out. */
  skippedTensors: number;
  bytes: number;
  /** Tensor data that an interrupted run had written already. */
  resumedBytes: number;
  /** Finite numbers that became infinite in the new dtype: a model with one of these draws nothing. */
  becameInfinite: number;
  /** Numbers other than zero that became zero in the new dtype. */
  becameZero: number;
  /** The first tensors with numbers that became infinite. */
  infiniteTensors: string[];
  /** The file was complete already, from the interrupted run. */
  reused: boolean;
}

export interface ConvertResult {
  /** Absolute path of the output. */
  path: string;
  format: WeightFormat;
  dtype: TargetDType;
  files: ConvertedFile[];
  /** Files of a snapshot that were copied as they are, relative to it. */
  copied: string[];
}

/** Record of the components that are done, in the output directory while a snapshot is being converted. */
const JOURNAL = '.jit-flux-convert.json';
const MAX_JOURNAL_BYTES = 1024 ** 2;
/** Of settings, vocabularies and licences. */
const MAX_COPIED_BYTES = 64 * 1024 ** 2;
const journalSchema = z.record(
  z.string(),
  z.object({
    identity: z.string(),
    becameInfinite: z.number(),
    becameZero: z.number(),
    infiniteTensors: z.array(z.string()),
  }),
);
type Journal = z.infer<typeof journalSchema>;

/**
 * Converts weights.
 *
 * - A diffusers snapshot (a directory with `model_index.json`) becomes a directory of the same shape with one weight
 *   file per component: `transformer/model.pt`, or for safetensors the names that diffusers looks for. Settings,
 *   tokenizers and licence files are copied along.
 * - A weight file, an index of shards or a directory of shards becomes one `.pt` or `.safetensors` file.
 *
 * A FLUX transformer comes out under diffusers' names whatever its layout; other components keep their names. Tensors
 * are streamed one after another; peak memory is a few megabytes beside the mapped pages in use. Every output file
 * appears complete or not at all. An aborted or killed conversion leaves `<file>.partial` with its journal and is
 * continued by the same call; after any other error nothing is left.
 *
 * The work runs on a thread of its own and needs no LibTorch.
 *
 * @param model path of what is converted, or a model's description (`resolveModel`)
 * @throws ERR_JITFLUX_INVALID_ARGUMENT, ERR_JITFLUX_FILE_NOT_FOUND, ERR_JITFLUX_INVALID_MODEL,
 *   ERR_JITFLUX_UNSUPPORTED_FORMAT, ERR_JITFLUX_CORRUPT_FILE, ERR_JITFLUX_UNSAFE_FILE, ERR_JITFLUX_WEIGHTS_MISMATCH,
 *   ERR_JITFLUX_WRITE_FAILED, ERR_JITFLUX_ABORTED
 */
export async function convertModel(
  model: string | ModelSpec,
  output: string,
  given: ConvertOptions = {},
): Promise<ConvertResult> {
  const o = readOptions(given, CONVERT_OPTIONS);
  checkOptions(o);
  checkPath('output', output, 'the path of a file or directory');
  if (typeof model !== 'object') checkPath('model', model, 'a path, or what resolveModel returned');
  throwIfAborted(o.signal);
  const input =
    typeof model === 'string' ? model : requireFiles(await describeModel(model, { signal: o.signal })).path;
  const info = await stat(input).catch((cause: unknown) => {
    throw new JitFluxError(ERROR_CODES.FILE_NOT_FOUND, `${input} does not exist`, { path: input }, { cause });
  });
  const snapshot = info.isDirectory() ? await readSnapshot(input, { signal: o.signal }) : undefined;
  return snapshot ? convertSnapshot(input, snapshot, output, o) : convertFile(input, output, o);
}

async function convertFile(input: string, output: string, o: ConvertOptions): Promise<ConvertResult> {
  const format = formatOf(output, o.format);
  const path = await assertWritable(output);
  const source = await realpath(input);
  if (path === source) throw invalidArgument('output', 'another file than the input', output);
  const job = { format, dtype: o.dtype ?? 'keep' } as const;
  const file = await convertOne(input, path, job, o, {});
  return { path, ...job, files: [file.converted], copied: [] };
}

async function convertSnapshot(
  input: string,
  snapshot: Snapshot,
  output: string,
  o: ConvertOptions,
): Promise<ConvertResult> {
  const format = o.format ?? 'torchscript';
  const job = { format, dtype: o.dtype ?? 'keep' } as const;
  const target = resolve(output);
  if (isInside(await realpath(input), await realpath(target).catch(() => target))) {
    throw invalidArgument('output', 'a directory outside the input', output);
  }
  // Everything that can be wrong with the input is found before anything is written.
  for (const { name } of snapshot.weights) {
    const { problem } = await inspectWeights(join(input, name), o.signal && { signal: o.signal });
    if (name === 'transformer' && problem) throw problem;
  }
  const files = snapshot.weights.map(({ name, className }) => ({
    name,
    path: join(target, name, weightFileName(format, className)),
  }));
  for (const { name, path } of files) {
    await makeDirectory(join(target, name));
    await refuseOtherWeights(join(target, name), path);
    await assertWritable(path);
  }

  const journalPath = join(target, JOURNAL);
  const journal = o.resume === false ? {} : await readJournal(journalPath, o.signal);
  const results: ConvertedFile[] = [];
  for (const { name, path } of files) {
    const { converted, identity } = await convertOne(join(input, name), path, job, o, {
      component: name,
      completed: journal[name],
    });
    results.push(converted);
    journal[name] = { identity, ...lossOf(converted) };
    await writeFileAtomic(journalPath, `${JSON.stringify(journal, null, 2)}\n`);
  }
  for (const file of snapshot.others) {
    const path = join(target, file);
    await makeDirectory(join(path, '..'));
    const data = await readSmallFile(join(input, file), { maxBytes: MAX_COPIED_BYTES, signal: o.signal });
    await writeFileAtomic(path, data, { signal: o.signal });
  }
  await unlink(journalPath).catch(() => undefined);
  return { path: target, ...job, files: results, copied: snapshot.others };
}

async function convertOne(
  input: string,
  path: string,
  job: { format: WeightFormat; dtype: TargetDType },
  o: ConvertOptions,
  { component, completed }: { component?: string; completed?: Journal[string] | undefined },
): Promise<{ converted: ConvertedFile; identity: string }> {
  const { onProgress } = o;
  const options = {
    ...job,
    resume: o.resume ?? true,
    verify: o.verify ?? false,
    completed: completed?.identity ?? '',
    ropeAxes: (await readTransformerConfig(input, { signal: o.signal })).settings.ropeAxes,
  };
  const { layout, identity, fileBytes, ...counts } = await runWeights(
    (binding, native) => binding.convertWeights(input, path, options, native),
    {
      signal: o.signal,
      progress:
        onProgress &&
        ((writtenBytes, totalBytes, tensor) =>
          onProgress({
            ...(component !== undefined && { component }),
            writtenBytes,
            totalBytes,
            tensor,
          })),
    },
  );
  const converted = {
    ...(component !== undefined && { component }),
    path,
    ...(layout && { layout }),
    ...counts,
    // What it lost is not counted a second time.
    ...(counts.reused && completed && lossOf(completed)),
    bytes: fileBytes,
  };
  return { converted, identity };
}

type Loss = Pick<ConvertedFile, 'becameInfinite' | 'becameZero' | 'infiniteTensors'>;

function lossOf({ becameInfinite, becameZero, infiniteTensors }: Loss): Loss {
  return { becameInfinite, becameZero, infiniteTensors };
}

/** The names that diffusers and transformers look for, or the one that our loader takes anywhere. */
function weightFileName(format: WeightFormat, className: string): string {
  if (format === 'torchscript') return 'model.pt';
  const ofDiffusers = /^(Flux|Autoencoder)/.test(className);
  return ofDiffusers ? 'diffusion_pytorch_model.safetensors' : 'model.safetensors';
}

function formatOf(output: string, given: WeightFormat | undefined): WeightFormat {
  const extension = extname(output).toLowerCase();
  const format =
    extension === '.pt' ? 'torchscript' : extension === '.safetensors' ? 'safetensors' : undefined;
  if (format === undefined) {
    throw invalidArgument('output', 'a file name that ends in .pt or .safetensors', output);
  }
  if (given !== undefined && given !== format) {
    throw invalidArgument('format', `${format}, as the output's extension says,`, given);
  }
  return format;
}

/** A component directory must hold exactly one weight file, or nobody knows which one counts. */
async function refuseOtherWeights(directory: string, path: string): Promise<void> {
  const others = (await listDirectory(directory)).filter(
    (name) => /\.(pt|safetensors|safetensors\.index\.json)$/.test(name) && join(directory, name) !== path,
  );
  if (others.length === 0) return;
  const reason = `${directory} holds other weights: ${others.join(', ')}`;
  throw new JitFluxError(ERROR_CODES.WRITE_FAILED, `Cannot write ${path}: ${reason}`, { path, reason });
}

async function makeDirectory(path: string): Promise<void> {
  try {
    await mkdir(path, { recursive: true });
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new JitFluxError(
      ERROR_CODES.WRITE_FAILED,
      `Cannot create ${path}: ${reason}`,
      { path, reason },
      { cause },
    );
  }
}

async function readJournal(path: string, signal: AbortSignal | undefined): Promise<Journal> {
  try {
    const data = await readSmallFile(path, { maxBytes: MAX_JOURNAL_BYTES, signal });
    const parsed = journalSchema.safeParse(JSON.parse(data.toString('utf8')));
    return parsed.success ? parsed.data : {};
  } catch {
    throwIfAborted(signal);
    return {}; // absent or damaged: everything is done again
  }
}

function isInside(outer: string, inner: string): boolean {
  return inner === outer || inner.startsWith(outer.endsWith(sep) ? outer : outer + sep);
}

const CONVERT_OPTIONS: Names<ConvertOptions> = {
  format: true,
  dtype: true,
  resume: true,
  verify: true,
  onProgress: true,
  signal: true,
};

function checkOptions({ format, dtype, onProgress, ...o }: ConvertOptions): void {
  if (format !== undefined && !FORMATS.includes(format)) {
    throw invalidArgument('format', "'torchscript' or 'safetensors'", format);
  }
  if (dtype !== undefined && !DTYPES.includes(dtype)) {
    throw invalidArgument('dtype', "'keep', 'float32', 'bfloat16' or 'float16'", dtype);
  }
  for (const option of ['resume', 'verify'] as const) {
    if (o[option] !== undefined) checkBoolean(option, o[option]);
  }
  checkCallback('onProgress', onProgress);
}
