/**
 * From a path to a model: which kind it is, where its parts lie, and whether they fit together. Reads JSON files and
 * headers of safetensors only, so that a wrong directory is refused before gigabytes are read.
 */
import { readdir, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve, sep } from 'node:path';

import { z } from 'zod';

import { ERROR_CODES, invalidArgument, JitFluxError, throwIfAborted } from '../errors.js';
import { findTokenizer, type TokenizerKind } from '../text/snapshot-tokenizers.js';
import type { FluxConfig, PresetName, ScheduleOptions } from '../types.js';
import {
  type ClipShape,
  clipShape,
  FLUX_VAE,
  type T5Shape,
  t5Shape,
  transformerShape,
  type VaeSettings,
  vaeSettings,
} from './component-shapes.js';
import { MODEL_INDEX, type ModelDirectory, readModelDirectory } from './model-directory.js';
import {
  findWeights,
  inferFluxConfig,
  readJsonFile,
  readWeightSummary,
  type WeightSummary,
} from './weight-headers.js';

/**
 * What a model directory is: `'jit-flux'` has our own `model_index.json`, `'diffusers'` is a FLUX.1 snapshot as
 * published, `'checkpoint'` the original single file and what belongs to it.
 */
export type ModelKind = 'jit-flux' | 'diffusers' | 'checkpoint';

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
    defaultLength?: number;
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
    preset?: PresetName;
    /** Number of steps and schedule of the preset `'dense'`, if they are the model's own. */
    dense?: { steps: number; schedule: ScheduleOptions };
  };
}

/** Files of a FLUX.1 model's text encoders. */
export interface NativeText {
  kind: 'native';
  clip: { weights: WeightSummary; tokenizer: string; shape: ClipShape | undefined };
  t5: { weights: WeightSummary; tokenizer: string; shape: T5Shape | undefined };
}

/** Files of a flux-tiny-like model's text encoder. */
export interface TorchScriptText {
  kind: 'torchscript';
  weights: WeightSummary;
  tokenizer: string;
}

/** A model that was found complete and consistent. */
export interface ModelSource {
  kind: ModelKind;
  /** Absolute path, as it was asked for. */
  path: string;
  info: ModelInfo;
  transformer: {
    weights: WeightSummary;
    /** Undefined if only native code can tell: an archive without config.json. */
    config: FluxConfig | undefined;
    ropeAxes: [number, number, number] | undefined;
  };
  /** Undefined if no text encoders were asked for. */
  text: NativeText | TorchScriptText | undefined;
  decoder:
    | { kind: 'native'; weights: WeightSummary; settings: VaeSettings }
    | { kind: 'torchscript'; weights: WeightSummary };
}

/** Most text tokens of FLUX.1: a hard limit of the original. */
const MAX_TEXT_TOKENS = 512;
const SCHNELL_TEXT_TOKENS = 256;
const SCHNELL_STEPS = 4;

const snapshotIndex = z.looseObject({ _class_name: z.string() });
const schedulerJson = z.looseObject({
  use_dynamic_shifting: z.boolean().default(false),
  shift: z.number().positive().max(1000).default(1),
  base_image_seq_len: z.number().default(256),
  max_image_seq_len: z.number().default(4096),
  base_shift: z.number().default(0.5),
  max_shift: z.number().default(1.15),
  shift_terminal: z.number().nullish(),
});

/**
 * Finds a model.
 * @param path a model directory of any kind, or the weight file of an original checkpoint
 * @param o.textEncoders directory of a snapshot whose text encoders and tokenizers to use; `false`: none
 * @throws ERR_JITFLUX_FILE_NOT_FOUND, ERR_JITFLUX_INVALID_MODEL (all missing parts at once; parts that do not fit),
 *   and for weights ERR_JITFLUX_CORRUPT_FILE, ERR_JITFLUX_UNSAFE_FILE, ERR_JITFLUX_UNSUPPORTED_FORMAT
 */
export async function resolveModel(
  path: string,
  o: { textEncoders?: string | false | undefined; signal?: AbortSignal | undefined } = {},
): Promise<ModelSource> {
  if (typeof path !== 'string' || path === '') throw invalidArgument('model', 'the path of a model', path);
  const { textEncoders } = o;
  if (
    textEncoders !== undefined &&
    textEncoders !== false &&
    (typeof textEncoders !== 'string' || textEncoders === '')
  ) {
    throw invalidArgument('textEncoders', 'the path of a directory, or false', textEncoders);
  }
  throwIfAborted(o.signal);
  const absolute = resolve(path);
  const found = await stat(absolute).catch(() => undefined);
  if (!found) {
    throw new JitFluxError(ERROR_CODES.FILE_NOT_FOUND, `The model directory ${absolute} does not exist`, {
      path: absolute,
    });
  }
  if (found.isFile()) return resolveCheckpoint(absolute, absolute, o);
  const index = join(absolute, MODEL_INDEX);
  if (!(await isFile(index))) {
    const checkpoint = await findCheckpoint(absolute);
    if (checkpoint !== undefined) return resolveCheckpoint(absolute, checkpoint, o);
    throw new JitFluxError(
      ERROR_CODES.INVALID_MODEL,
      `${absolute} is not a model directory: it has neither ${MODEL_INDEX} nor the weights of a FLUX.1 checkpoint`,
      { path: index },
    );
  }
  const json = await readJsonFile(index);
  const snapshot = snapshotIndex.safeParse(json);
  if (snapshot.success && !('format' in snapshot.data)) {
    return resolveSnapshot(absolute, snapshot.data['_class_name'], o);
  }
  return resolveOwn(await readModelDirectory(absolute, { signal: o.signal }), textEncoders);
}

/** Our own model directory. */
async function resolveOwn(
  { path, index, files }: ModelDirectory,
  textEncoders: string | false | undefined,
): Promise<ModelSource> {
  if (typeof textEncoders === 'string') {
    throw invalidArgument(
      'textEncoders',
      `no directory: ${index.name} has a text encoder of its own`,
      textEncoders,
    );
  }
  const shards = (await stat(files.transformer)).isDirectory()
    ? await findWeights(files.transformer)
    : undefined;
  const weights = await readWeightSummary(shards ?? files.transformer);
  const archive = async (file: string): Promise<WeightSummary> => ({
    path: file,
    format: 'torchscript',
    fileBytes: (await stat(file)).size,
  });
  return {
    kind: 'jit-flux',
    path,
    info: index,
    transformer: { weights, config: await transformerShape(weights), ropeAxes: index.transformer.ropeAxes },
    text:
      textEncoders === false
        ? undefined
        : { kind: 'torchscript', weights: await archive(files.textEncoder), tokenizer: files.tokenizer },
    decoder: { kind: 'torchscript', weights: await archive(files.decoder) },
  };
}

/** A snapshot in diffusers' layout. */
async function resolveSnapshot(
  path: string,
  className: string,
  o: { textEncoders?: string | false | undefined; signal?: AbortSignal | undefined },
): Promise<ModelSource> {
  if (className !== 'FluxPipeline') {
    throw new JitFluxError(
      ERROR_CODES.INVALID_MODEL,
      `${join(path, MODEL_INDEX)} is of a ${className}; jit-flux runs FluxPipeline (FLUX.1-dev, FLUX.1-schnell)`,
      { path: join(path, MODEL_INDEX), field: '_class_name' },
    );
  }
  const parts = new Parts();
  const transformer = await parts.weights(join(path, 'transformer'), "the transformer's weights");
  const vae = await parts.weights(join(path, 'vae'), "the autoencoder's weights");
  const scheduler = parts.file(
    join(path, 'scheduler', 'scheduler_config.json'),
    await isFile(join(path, 'scheduler', 'scheduler_config.json')),
    'the schedule',
  );
  const text = await findText(typeof o.textEncoders === 'string' ? resolve(o.textEncoders) : path, o, parts);
  parts.requireAll(path);
  return assemble({
    kind: 'diffusers',
    path,
    name: snapshotName(path),
    transformer: transformer as string,
    vae: vae as string,
    text,
    schedule: await readSchedule(scheduler as string),
    signal: o.signal,
  });
}

/** The original checkpoint: one file, and beside it the autoencoder. */
async function resolveCheckpoint(
  path: string,
  file: string,
  o: { textEncoders?: string | false | undefined; signal?: AbortSignal | undefined },
): Promise<ModelSource> {
  const directory = dirname(file);
  const parts = new Parts();
  const single = join(directory, 'ae.safetensors');
  const vae = (await isFile(single))
    ? single
    : ((await findWeights(join(directory, 'vae'))) ?? parts.missing(`the autoencoder (${single})`));
  const text = await findText(
    typeof o.textEncoders === 'string' ? resolve(o.textEncoders) : directory,
    o,
    parts,
  );
  parts.requireAll(path, o.textEncoders === undefined ? text : undefined);
  return assemble({
    kind: 'checkpoint',
    path,
    name: basename(file).replace(/\.(safetensors\.index\.json|safetensors|pt)$/, ''),
    transformer: file,
    vae: vae as string,
    text,
    schedule: undefined,
    signal: o.signal,
  });
}

interface TextFiles {
  directory: string;
  clip: string;
  t5: string;
}

/** Looks for both text encoders and both tokenizers; notes what is missing. */
async function findText(
  directory: string,
  o: { textEncoders?: string | false | undefined },
  parts: Parts,
): Promise<TextFiles | undefined> {
  if (o.textEncoders === false) return undefined;
  const clip = await parts.weights(join(directory, 'text_encoder'), 'the CLIP text encoder');
  const t5 = await parts.weights(join(directory, 'text_encoder_2'), 'the T5 text encoder');
  parts.tokenizer(join(directory, 'tokenizer'), 'clip');
  parts.tokenizer(join(directory, 'tokenizer_2'), 't5');
  return { directory, clip: clip ?? '', t5: t5 ?? '' };
}

/** Reads shapes and checks that the parts fit together. */
async function assemble(o: {
  kind: ModelKind;
  path: string;
  name: string;
  transformer: string;
  vae: string;
  text: TextFiles | undefined;
  schedule: ScheduleOptions | undefined;
  signal: AbortSignal | undefined;
}): Promise<ModelSource> {
  const { signal } = o;
  const summary = (path: string) => readWeightSummary(path, { signal });
  const transformer = await summary(o.transformer);
  const config = await transformerShape(transformer);
  if (config === undefined && transformer.tensors) {
    throw new JitFluxError(
      ERROR_CODES.WEIGHTS_MISMATCH,
      `${o.transformer} holds no FLUX transformer: neither diffusers' nor the original names are in it`,
      { path: o.transformer },
    );
  }
  let text: NativeText | undefined;
  if (o.text) {
    const [clip, t5] = [await summary(o.text.clip), await summary(o.text.t5)];
    text = {
      kind: 'native',
      clip: { weights: clip, tokenizer: join(o.text.directory, 'tokenizer'), shape: await clipShape(clip) },
      t5: { weights: t5, tokenizer: join(o.text.directory, 'tokenizer_2'), shape: await t5Shape(t5) },
    };
  }
  const vae = await summary(o.vae);
  const settings = basename(o.vae) === 'ae.safetensors' ? { ...FLUX_VAE } : await vaeSettings(o.vae);
  if (config) {
    if (text) checkTextWidths(config, text);
    checkChannels(config, settings.latentChannels, o.transformer, o.vae);
  }
  // Without a scheduler's settings, the guidance embedder tells dev from schnell.
  const guided = config?.guidance ?? true;
  const schedule =
    o.schedule ?? (guided ? { kind: 'shift' as const } : { kind: 'static' as const, shift: 1 });
  return {
    kind: o.kind,
    path: o.path,
    info: fluxInfo(o.name, settings, schedule),
    transformer: { weights: transformer, config, ropeAxes: undefined },
    text,
    decoder: { kind: 'native', weights: vae, settings },
  };
}

/**
 * Checks that text encoders give what a transformer takes.
 * @throws ERR_JITFLUX_INVALID_MODEL
 */
export function checkTextWidths(
  config: FluxConfig,
  text: {
    clip: { weights: WeightSummary; shape: { width: number } | undefined };
    t5: NativeText['t5'] | { weights: WeightSummary; shape: { width: number } | undefined };
  },
): void {
  for (const [name, part, wanted, field] of [
    ['CLIP', text.clip, config.pooledDim, 'pooledDim'],
    ['T5', text.t5, config.textDim, 'textDim'],
  ] as const) {
    const width = part.shape?.width;
    if (width === undefined || width === wanted) continue;
    throw new JitFluxError(
      ERROR_CODES.INVALID_MODEL,
      `The ${name} text encoder ${part.weights.path} is ${width} wide, but the transformer takes ${wanted} (${field})`,
      { path: part.weights.path, field, expected: wanted, found: width },
    );
  }
}

/**
 * Checks that a transformer works on the latents of an autoencoder.
 * @throws ERR_JITFLUX_INVALID_MODEL
 */
export function checkChannels(
  config: FluxConfig,
  latentChannels: number,
  transformer: string,
  decoder: string,
): void {
  const packed = latentChannels * 4;
  if (config.inChannels === packed && config.outChannels === packed) return;
  const extra = config.inChannels > packed && config.outChannels === packed;
  throw new JitFluxError(
    ERROR_CODES.INVALID_MODEL,
    `The transformer ${transformer} has ${config.inChannels} input and ${config.outChannels} output channels, but ` +
      `the autoencoder ${decoder} has ${latentChannels} x 4` +
      (extra ? ' (models for inpainting, depth or edges are not supported)' : ''),
    {
      path: transformer,
      field: 'decoder.channels',
      inChannels: config.inChannels,
      outChannels: config.outChannels,
    },
  );
}

function fluxInfo(name: string, vae: VaeSettings, schedule: ScheduleOptions): ModelInfo {
  const schnell = schedule.kind === 'static';
  return {
    name,
    text: { length: MAX_TEXT_TOKENS, ...(schnell && { defaultLength: SCHNELL_TEXT_TOKENS }) },
    decoder: {
      channels: vae.latentChannels,
      spatialFactor: 2 ** (vae.channels.length - 1),
      scalingFactor: vae.scalingFactor,
      shiftFactor: vae.shiftFactor,
    },
    defaults: {
      width: 1024,
      height: 1024,
      guidance: 3.5,
      ...(schnell && { preset: 'dense' as const, dense: { steps: SCHNELL_STEPS, schedule } }),
    },
  };
}

async function readSchedule(path: string): Promise<ScheduleOptions> {
  const parsed = schedulerJson.safeParse(await readJsonFile(path));
  const invalid = (field: string, problem: string) =>
    new JitFluxError(ERROR_CODES.INVALID_MODEL, `${path}: ${field}: ${problem}`, { path, field });
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw invalid(issue?.path.join('.') || '(root)', issue?.message ?? 'invalid');
  }
  const settings = parsed.data;
  if (!settings.use_dynamic_shifting) return { kind: 'static', shift: settings.shift };
  const flux = {
    base_image_seq_len: 256,
    max_image_seq_len: 4096,
    base_shift: 0.5,
    max_shift: 1.15,
  } as const;
  for (const field of Object.keys(flux) as (keyof typeof flux)[]) {
    if (settings[field] !== flux[field]) {
      throw invalid(field, `FLUX.1's ${flux[field]} expected, other dynamic shifts are not supported`);
    }
  }
  if (typeof settings.shift_terminal === 'number') throw invalid('shift_terminal', 'not supported');
  return { kind: 'shift' };
}

/**
 * The transformer's weights in a directory without `model_index.json`.
 * @throws ERR_JITFLUX_INVALID_MODEL if several files could be meant
 */
async function findCheckpoint(directory: string): Promise<string | undefined> {
  const names = (await readdir(directory)).filter((name) => !name.startsWith('.')).sort();
  const index = names.filter((name) => name.endsWith('.safetensors.index.json'));
  let candidates = index.length > 0 ? index : [];
  if (candidates.length === 0) {
    for (const name of names.filter((name) => name.endsWith('.safetensors') && name !== 'ae.safetensors')) {
      const { tensors } = await readWeightSummary(join(directory, name));
      if (tensors && inferFluxConfig(tensors)) candidates.push(name);
    }
  }
  // What is in an archive only native code can tell; its name has to do.
  if (candidates.length === 0) {
    candidates = names.filter((name) => name.endsWith('.pt') && !/^(ae|vae|clip|t5|text)/i.test(name));
  }
  if (candidates.length > 1) {
    throw new JitFluxError(
      ERROR_CODES.INVALID_MODEL,
      `${directory} holds several checkpoints (${candidates.join(', ')}); name one of these files instead`,
      { path: directory, candidates },
    );
  }
  return candidates[0] === undefined ? undefined : join(directory, candidates[0]);
}

/** Collects what is missing, so that all of it is reported at once. */
class Parts {
  readonly #missing: string[] = [];

  missing(what: string): undefined {
    this.#missing.push(what);
    return undefined;
  }

  async weights(directory: string, what: string): Promise<string | undefined> {
    return (await findWeights(directory)) ?? this.missing(`${what} (${directory})`);
  }

  file(path: string, exists: boolean, what: string): string | undefined {
    return exists ? path : this.missing(`${what} (${path})`);
  }

  tokenizer(directory: string, kind: TokenizerKind): void {
    const files = findTokenizer(directory, kind);
    if (files.length === 0) return;
    const name = kind === 'clip' ? 'the CLIP tokenizer' : 'the T5 tokenizer';
    this.missing(`${name} (${files.map((file) => join(directory, file)).join(', ')})`);
  }

  /** @param text given for a checkpoint whose text encoders were looked for beside it */
  requireAll(path: string, text?: TextFiles): void {
    if (this.#missing.length === 0) return;
    const hint = text
      ? `. An original checkpoint comes without text encoders: name a snapshot that has them (textEncoders, --text-encoders)`
      : '';
    throw new JitFluxError(
      ERROR_CODES.INVALID_MODEL,
      `The model ${path} is incomplete; missing: ${this.#missing.join('; ')}${hint}`,
      { path, missing: this.#missing },
    );
  }
}

/** The model's name: of the repository for Hugging Face's cache, else of the directory. */
function snapshotName(path: string): string {
  const cached = /^models--.+?--(.+)$/;
  const repository = path.split(sep).findLast((part) => cached.test(part));
  const name = (repository && cached.exec(repository)?.[1]) ?? basename(path);
  return name.slice(0, 100) || 'FLUX.1';
}

async function isFile(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isFile() ?? false;
}
