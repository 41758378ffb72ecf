/** Where the parts of a pipeline compute, and in which type. */
import {
  checkLoadValues,
  computeDType,
  deviceIndex,
  isAccelerator,
  nativeLoadOptions,
  parseDevice,
} from '../engine/index.js';
import { invalidArgument } from '../errors.js';
import type { Device, LoadOptions } from '../types.js';
import type { ModelSpec } from './spec.js';

type Placement = Pick<LoadOptions, 'device' | 'dtype' | 'textEncoderDevice' | 'decoderDevice'>;

export interface ComponentPlacement {
  device: Device;
  dtype: NonNullable<LoadOptions['dtype']>;
}

/**
 * Refuses a bad option before anything is loaded.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function checkLoadOptions(o: LoadOptions): void {
  nativeLoadOptions(o);
  for (const where of [o.textEncoderDevice, o.decoderDevice]) deviceIndex(where);
}

/**
 * {@link checkLoadOptions} for a plan: its devices need not be there, and LibTorch need not be either.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function checkPlannedOptions(o: LoadOptions): void {
  checkLoadValues(o);
  for (const where of [o.textEncoderDevice, o.decoderDevice]) parseDevice(where);
}

/** The transformer's, and what the others go by. */
export function transformerPlacement(o: Placement): ComponentPlacement {
  return { device: o.device ?? 'cpu', dtype: computeDType(o) };
}

/** Of the text encoders. TorchScript modules compute on the CPU. */
export function textPlacement(o: Placement, text: ModelSpec['text']): ComponentPlacement {
  const device = text?.kind === 'torchscript' ? 'cpu' : (o.textEncoderDevice ?? o.device ?? 'cpu');
  // T5's states outgrow float16.
  return { device, dtype: withoutFloat16(computeDType(o)) };
}

/**
 * Refuses what only some text encoders can do.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function checkTextOptions(
  { quantizeTextEncoders: value }: Pick<LoadOptions, 'quantizeTextEncoders'>,
  text: ModelSpec['text'],
): void {
  if (value === undefined || text?.kind === 'native') return;
  const why = text ? 'the text encoder is a TorchScript module' : 'there are no text encoders';
  throw invalidArgument('quantizeTextEncoders', `nothing: ${why}`, value);
}

/** Of the autoencoder. */
export function decoderPlacement(o: Placement, decoder: ModelSpec['decoder']): ComponentPlacement {
  const device = decoder.kind === 'torchscript' ? 'cpu' : (o.decoderDevice ?? o.device ?? 'cpu');
  const dtype = computeDType(o);
  return { device, dtype: isAccelerator(device) ? dtype : withoutFloat16(dtype) };
}

/** Options of a text encoder or autoencoder: what is the transformer's alone left out. */
export function componentOptions(o: LoadOptions, placement: ComponentPlacement): LoadOptions {
  const rest: LoadOptions = { ...o, ...placement };
  delete rest.quantize;
  delete rest.weightStreaming;
  delete rest.cudaGraphs;
  return rest;
}

/** Options of a TorchScript module. */
export function moduleOptions({
  allowTorchScriptCode,
  signal,
}: LoadOptions): Pick<LoadOptions, 'allowTorchScriptCode' | 'signal'> {
  return {
    ...(allowTorchScriptCode !== undefined && { allowTorchScriptCode }),
    ...(signal && { signal }),
  };
}

function withoutFloat16(dtype: ComponentPlacement['dtype']): ComponentPlacement['dtype'] {
  return dtype === 'float16' ? 'bfloat16' : dtype;
}
