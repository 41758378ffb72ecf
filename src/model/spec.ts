/**
 * The description of a model: what it is, where its parts lie, what it defaults to. `resolveModel` makes it once;
 * planning, loading, generating and encoding take it as it is. Plain data: `JSON.stringify` gives all of it.
 */
import type { AutoencoderSettings, ClipSettings, T5Settings } from '../engine/component-config.js';
import type { WeightDescription } from '../engine/describe.js';
import type {
  AutoencoderConfig,
  ClipConfig,
  FluxConfig,
  PartlyKnown,
  PresetName,
  ScheduleOptions,
  T5Config,
} from '../types.js';

/**
 * What a model is: `'jit-flux'` has our own `model_index.json`, `'diffusers'` is a FLUX.1 snapshot as published,
 * `'checkpoint'` the original single file and what belongs to it, `'named'` a known model without files.
 */
export type ModelKind = 'jit-flux' | 'diffusers' | 'checkpoint' | 'named';

/** What is known of a model, whatever its kind. */
export interface ModelInfo {
  /** Short name, shown and written into pictures. */
  name: string;
  description?: string | undefined;
  /** SPDX identifier, or a name. */
  license?: string | undefined;
  text: {
    /** Most text tokens. */
    length: number;
    /** Text tokens of a request that does not say. Default: `length`. */
    defaultLength?: number | undefined;
    /** Prompts that the model was made for. */
    examples?: string[] | undefined;
  };
  decoder: {
    /** Latent channels. */
    channels: number;
    /** Pixels per latent cell, along each side. */
    spatialFactor: number;
    /** z = latent / scalingFactor + shiftFactor. */
    scalingFactor: number;
    shiftFactor: number;
  };
  defaults: {
    width: number;
    height: number;
    guidance: number;
    /** Preset of a request that names none. Default `'jit-4x'`. */
    preset?: PresetName | undefined;
    /** Number of steps and schedule of the preset `'dense'`, if they are the model's own. */
    dense?: { steps: number; schedule: ScheduleOptions } | undefined;
  };
}

/** Something that no file states and that was concluded. */
export interface Inference {
  what: string;
  value: string;
  why: string;
  /** Whether the signs contradict each other or are too few, so that the user should look. */
  doubtful?: true | undefined;
}

/** Files of a FLUX.1 model's text encoders. `weights` and `tokenizer` are absent from a named model. */
export interface NativeText {
  kind: 'native';
  clip: TextEncoderSpec<ClipConfig, ClipSettings>;
  t5: TextEncoderSpec<T5Config, T5Settings>;
}

/** One of FLUX.1's text encoders. */
export interface TextEncoderSpec<Architecture, Settings> {
  weights?: WeightDescription | undefined;
  /** Directory. */
  tokenizer?: string | undefined;
  /** What its tensors and its config.json say. */
  architecture: PartlyKnown<Architecture>;
  settings: Settings;
}

/** An archive whose code is run. */
export type ProgramFile = Pick<WeightDescription, 'path' | 'format' | 'fileBytes'>;

/** Files of a flux-tiny-like model's text encoder. */
export interface TorchScriptText {
  kind: 'torchscript';
  weights: ProgramFile;
  tokenizer: string;
}

/** FLUX.1's autoencoder. */
export interface NativeDecoder {
  kind: 'native';
  weights?: WeightDescription | undefined;
  architecture: Pick<AutoencoderConfig, 'latentChannels' | 'channels' | 'layersPerBlock' | 'spatialFactor'>;
  settings: AutoencoderSettings;
}

/** A model that was found complete and consistent. */
export interface ModelSpec {
  kind: ModelKind;
  /** Absolute path, as it was asked for; absent from a named model. */
  path?: string | undefined;
  info: ModelInfo;
  transformer: {
    /** Absent from a named model. */
    weights?: WeightDescription | undefined;
    config: FluxConfig;
    /** As the model's settings state them; else the rule of FLUX.1 holds. */
    ropeAxes?: readonly [number, number, number] | undefined;
  };
  /** Undefined if no text encoders were asked for. */
  text?: NativeText | TorchScriptText | undefined;
  /** Where text encoders come from that are not the model's own; false: none were asked for. */
  textEncoders?: string | false | undefined;
  decoder: NativeDecoder | { kind: 'torchscript'; weights: ProgramFile };
  /** What no file states, and why it was taken to be so. */
  inferred: Inference[];
}

/** A model with files, as loading needs it. */
export interface ModelWithFiles extends ModelSpec {
  path: string;
  transformer: ModelSpec['transformer'] & { weights: WeightDescription };
  text?: NativeTextFiles | TorchScriptText | undefined;
  decoder: NativeDecoderFiles | { kind: 'torchscript'; weights: ProgramFile };
}

export interface NativeTextFiles extends NativeText {
  clip: NativeText['clip'] & { weights: WeightDescription; tokenizer: string };
  t5: NativeText['t5'] & { weights: WeightDescription; tokenizer: string };
}

export interface NativeDecoderFiles extends NativeDecoder {
  weights: WeightDescription;
}

/** Messages about what could not be told for certain: for logs, warnings of a picture, and `plan`. */
export function doubts({ inferred }: ModelSpec): string[] {
  return inferred.flatMap(({ what, value, why, doubtful }) =>
    doubtful ? [`${what}: taken to be ${value}: ${why}`] : [],
  );
}
