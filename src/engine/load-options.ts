/** What loading any model has in common: options, and the config.json beside the weights. */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { z } from 'zod';
import { ERROR_CODES, invalidArgument, JitFluxError } from '../errors.js';
import type { NativeJob } from './binding.js';
import type { LoadOptions } from '../types.js';
import { deviceIndex, isAccelerator } from './device.js';

const CPU_DTYPES: readonly string[] = ['float32', 'bfloat16'];
const ACCELERATOR_DTYPES: readonly string[] = ['float32', 'bfloat16', 'float16'];

/** The type that a model computes in. */
export type ComputeDType = NonNullable<LoadOptions['dtype']>;

/** The default is what a device is fast in. */
export function computeDType(o: Pick<LoadOptions, 'device' | 'dtype'>): ComputeDType {
  return o.dtype ?? (isAccelerator(o.device) ? 'bfloat16' : 'float32');
}

/** Checks the options that every model takes, and gives the native engine's form of them. */
export function nativeLoadOptions(o: LoadOptions): {
  device: number;
  dtype: ComputeDType;
  threads: number;
  verify: boolean;
} {
  const device = deviceIndex(o.device);
  const accelerator = device >= 0;
  const dtype = computeDType(o);
  if (!(accelerator ? ACCELERATOR_DTYPES : CPU_DTYPES).includes(dtype)) {
    const expected = accelerator
      ? "'float32', 'bfloat16' or 'float16'"
      : "'float32' or 'bfloat16' on the CPU";
    throw invalidArgument('dtype', expected, o.dtype);
  }
  if (o.quantize !== undefined && (o.quantize as string) !== 'int8') {
    throw invalidArgument('quantize', "'int8' or nothing", o.quantize);
  }
  if (o.quantize !== undefined && accelerator) {
    throw invalidArgument('quantize', 'nothing on a GPU', o.quantize);
  }
  for (const option of ['weightStreaming', 'cudaGraphs'] as const) {
    if (o[option] !== undefined && typeof o[option] !== 'boolean') {
      throw invalidArgument(option, 'true or false', o[option]);
    }
    if (o[option] === true && !accelerator) throw invalidArgument(option, 'false on the CPU', true);
  }
  if (o.packWeights !== undefined && typeof o.packWeights !== 'boolean') {
    throw invalidArgument('packWeights', 'true or false', o.packWeights);
  }
  if (o.threads !== undefined && (!Number.isInteger(o.threads) || o.threads < 1 || o.threads > 1024)) {
    throw invalidArgument('threads', 'an integer from 1 to 1024', o.threads);
  }
  return { device, dtype, threads: o.threads ?? 0, verify: o.verify ?? false };
}

/** The signal and the progress callback of {@link LoadOptions}, as a native job takes them. */
export function loadJob({ signal, onProgress }: LoadOptions): {
  signal: AbortSignal | undefined;
  progress: NativeJob['progress'];
} {
  return {
    signal,
    progress:
      onProgress && ((loadedBytes, totalBytes, tensor) => onProgress({ loadedBytes, totalBytes, tensor })),
  };
}

/**
 * Reads what shapes cannot tell from the first of `<name>.config.json`, `config.json` in the weights' directory, and
 * `config.json` beside the weight file.
 * @param o.schema of the fields of interest, others are ignored
 * @param o.kinds values of `_class_name`, `model_type` or `architectures` that the file may have; a `config.json` of
 *   another model's is passed over
 * @returns undefined if there is none
 * @throws ERR_JITFLUX_INVALID_MODEL naming file and field
 */
export function readConfigBeside<T>(
  path: string,
  o: { schema: z.ZodType<T>; kinds: readonly string[] },
): T | undefined {
  const stem = path.replace(/(\.index\.json|\.safetensors|\.pt)+$/, '').replace(/\.[^./]*\.scripted$/, '');
  const beside = isDirectory(path) ? join(path, 'config.json') : join(dirname(path), 'config.json');
  for (const candidate of [`${stem}.config.json`, beside]) {
    if (!existsSync(candidate)) continue;
    const json = readJson(candidate);
    if (!isOfKind(json, o.kinds)) continue;
    const parsed = o.schema.safeParse(json);
    if (parsed.success) return parsed.data;
    const { path: field, message } = parsed.error.issues[0]!;
    throw new JitFluxError(
      ERROR_CODES.INVALID_MODEL,
      `${candidate}: ${field.join('.') || '(root)'}: ${message}`,
      { path: candidate, field: field.join('.') },
    );
  }
  return undefined;
}

/** Files that do not say what they describe are believed. */
function isOfKind(json: unknown, kinds: readonly string[]): boolean {
  if (typeof json !== 'object' || json === null) return true;
  const { _class_name, model_type, architectures } = json as Record<string, unknown>;
  const names = [_class_name, model_type, architectures].flat().filter((name) => typeof name === 'string');
  return names.length === 0 || names.some((name) => kinds.includes(name));
}

function isDirectory(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

function readJson(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch (cause) {
    throw new JitFluxError(ERROR_CODES.INVALID_MODEL, `${path} is not valid JSON`, { path }, { cause });
  }
}
