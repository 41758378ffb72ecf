/** What loading any model has in common. */
import { checkBoolean, checkCallback, type Names, readOptions } from '../arguments.js';
import { invalidArgument } from '../errors.js';
import type { NativeJob } from './binding.js';
import type { LoadOptions } from '../types.js';
import { deviceIndex, isAccelerator, parseDevice } from './device.js';

const CPU_DTYPES: readonly string[] = ['float32', 'bfloat16'];
const ACCELERATOR_DTYPES: readonly string[] = ['float32', 'bfloat16', 'float16'];

/** The type that a model computes in. */
export type ComputeDType = NonNullable<LoadOptions['dtype']>;

export const LOAD_OPTIONS: Names<LoadOptions> = {
  device: true,
  dtype: true,
  quantize: true,
  quantizeTextEncoders: true,
  packWeights: true,
  mapWeights: true,
  weightStreaming: true,
  cudaGraphs: true,
  textEncoderDevice: true,
  decoderDevice: true,
  threads: true,
  verify: true,
  timeEmbedding: true,
  textEncoders: true,
  variant: true,
  keepTextEncoders: true,
  keepDecoder: true,
  memoryCheck: true,
  keepModulation: true,
  allowTorchScriptCode: true,
  onProgress: true,
  signal: true,
};

/** The options of a load, each read once. @param more names of those that only one model has */
export function readLoadOptions<O extends LoadOptions>(
  o: O,
  more: Readonly<Record<Exclude<keyof O, keyof LoadOptions>, true>>,
): O {
  return readOptions<O>(o, { ...LOAD_OPTIONS, ...more });
}

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
  mapWeights: boolean;
} {
  // What cannot work on any machine is told before the machine is asked.
  checkLoadValues(o);
  const device = deviceIndex(o.device);
  return {
    device,
    dtype: computeDType(o),
    threads: o.threads ?? 0,
    verify: o.verify ?? false,
    mapWeights: o.mapWeights ?? true,
  };
}

/** Checks what can be checked of them without LibTorch: whether the device is there cannot. */
export function checkLoadValues(o: LoadOptions): void {
  const accelerator = parseDevice(o.device) >= 0;
  const dtype = computeDType(o);
  if (!(accelerator ? ACCELERATOR_DTYPES : CPU_DTYPES).includes(dtype)) {
    const expected = accelerator
      ? "'float32', 'bfloat16' or 'float16'"
      : "'float32' or 'bfloat16' on the CPU";
    throw invalidArgument('dtype', expected, o.dtype);
  }
  const textAccelerator = parseDevice(o.textEncoderDevice ?? o.device) >= 0;
  for (const [option, onAccelerator] of [
    ['quantize', accelerator],
    ['quantizeTextEncoders', textAccelerator],
  ] as const) {
    const value: string | undefined = o[option];
    if (value === undefined) continue;
    if (value !== 'int8') throw invalidArgument(option, "'int8' or nothing", value);
    if (onAccelerator) {
      const why =
        'nothing on a GPU, where weights in 8 bits do not run (those that do not fit there are streamed)';
      throw invalidArgument(option, why, value);
    }
  }
  for (const option of ['weightStreaming', 'cudaGraphs'] as const) {
    if (o[option] !== undefined) checkBoolean(option, o[option]);
    if (o[option] === true && !accelerator) throw invalidArgument(option, 'false on the CPU', true);
  }
  for (const option of [
    'packWeights',
    'mapWeights',
    'verify',
    'keepModulation',
    'keepTextEncoders',
    'keepDecoder',
    'allowTorchScriptCode',
  ] as const) {
    if (o[option] !== undefined) checkBoolean(option, o[option]);
  }
  checkVariant(o.variant);
  checkCallback('onProgress', o.onProgress);
  if (o.threads !== undefined && (!Number.isInteger(o.threads) || o.threads < 1 || o.threads > 1024)) {
    throw invalidArgument('threads', 'an integer from 1 to 1024', o.threads);
  }
}

const VARIANT = /^[A-Za-z]\w{0,31}$/;

/** @throws ERR_JITFLUX_INVALID_ARGUMENT unless it is what the names of files have for one, or nothing */
export function checkVariant(variant: string | undefined): void {
  if (variant === undefined || (typeof variant === 'string' && VARIANT.test(variant))) return;
  throw invalidArgument('variant', 'a name such as fp16 or bf16', variant);
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
