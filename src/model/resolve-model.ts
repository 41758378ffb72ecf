/**
 * From a path or a name to the description of a model: which kind it is, where its parts lie, whether they fit together,
 * and what it defaults to. Reads JSON files and headers of weights only, so that a wrong directory is refused before
 * gigabytes are read. Everything that asks what a model is asks here, once, and hands the answer on.
 */
import { lstat, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve, sep } from 'node:path';

import { z } from 'zod';

import {
  type ComponentSettings,
  readAutoencoderConfig,
  readClipConfig,
  readT5Config,
  readTransformerConfig,
} from '../engine/component-config.js';
import {
  describeWeights,
  type PartArchitectures,
  type PartName,
  type WeightDescription,
} from '../engine/describe.js';
import { checkVariant } from '../engine/load-options.js';
import { checkPath, readOptions } from '../arguments.js';
import {
  ERROR_CODES,
  invalidArgument,
  JitFluxError,
  type JitFluxErrorCode,
  throwIfAborted,
} from '../errors.js';
import { readJsonFile } from '../files/json.js';
import { shippedFile } from '../files/package-files.js';
import { listDirectory } from '../files/small-file.js';
import { deepFreeze } from '../sampler/freeze.js';
import { FLUX_1_DEV } from '../sampler/flops.js';
import { findTokenizer, type TokenizerKind } from '../text/snapshot-tokenizers.js';
import type { FluxConfig } from '../types.js';
import { checkSpec } from './check-spec.js';
import { BUNDLED_MODEL, MODEL_INDEX } from './bundled-model.js';
import { findWeights } from './find-weights.js';
import { currentSnapshot, isRepository, repositoryFolder } from './hub-cache.js';
import { KNOWN_MODELS, knownModel } from './known-models.js';
import { checkModelIndex, findModelFiles, type ModelDirectory } from './model-directory.js';
import { familyDefaults, readSchedule, type ScheduleFile } from './model-family.js';
import type {
  Inference,
  ModelKind,
  ModelSpec,
  ModelWithFiles,
  NativeDecoder,
  NativeText,
  ProgramFile,
} from './spec.js';

const snapshotIndex = z.looseObject({ _class_name: z.string() });

/** Options of {@link resolveModel}. */
export interface ResolveOptions {
  /** Directory of a snapshot whose text encoders and tokenizers to use; `false`: none. */
  textEncoders?: string | false | undefined;
  /** Which weights to take where a directory has several: `fp16` for `model.fp16.safetensors`. */
  variant?: string | undefined;
  signal?: AbortSignal | undefined;
}

/**
 * Describes a model. The description is immutable.
 * @param model a model directory of any kind, the weight file of an original checkpoint, a name (`flux-tiny` for the
 *   bundled model; `flux.1-dev` and `flux.1-schnell` for what needs no weights), or a description made before, which is
 *   returned as it is. Where a path has a known name, the path is meant. A description that this function has not made
 *   (changed, or read from JSON) is checked field by field, here and again wherever it is used.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT for a description that is not complete, ERR_JITFLUX_FILE_NOT_FOUND, ERR_JITFLUX_INVALID_MODEL (all missing parts at once; parts that do not fit),
 *   and for weights ERR_JITFLUX_CORRUPT_FILE, ERR_JITFLUX_UNSAFE_FILE, ERR_JITFLUX_UNSUPPORTED_FORMAT
 */
export async function resolveModel(
  model: string | ModelSpec,
  given: ResolveOptions = {},
): Promise<ModelSpec> {
  const spec = await describeModel(model, given);
  // What the caller made is the caller's; whoever uses it checks it again.
  return checkedFrom.get(spec) === model ? model : spec;
}

/**
 * {@link resolveModel}, with a copy of a description that the caller has made: what is checked is what is used.
 */
export async function describeModel(
  model: string | ModelSpec,
  given: ResolveOptions = {},
): Promise<ModelSpec> {
  const o = readOptions<ResolveOptions>(given, { textEncoders: true, variant: true, signal: true });
  const spec = deepFreeze(await resolveAny(model, o));
  known.add(spec);
  return spec;
}

/** The caller's objects, by the copies that were checked. */
const checkedFrom = new WeakMap<ModelSpec, ModelSpec>();

/** Descriptions that were made or checked here; nobody can have changed them. */
const known = new WeakSet<ModelSpec>();

async function resolveAny(model: string | ModelSpec, o: ResolveOptions): Promise<ModelSpec> {
  const { textEncoders } = o;
  if (textEncoders !== undefined && textEncoders !== false) {
    checkPath('textEncoders', textEncoders, 'the path of a directory, or false');
  }
  checkVariant(o.variant);
  throwIfAborted(o.signal);
  if (typeof model === 'object' && model !== null) {
    if (o.variant !== undefined) {
      throw invalidArgument('variant', 'nothing beside a model that is described already', o.variant);
    }
    if (known.has(model)) return reuse(model, textEncoders);
    const checked = checkSpec(model);
    checkedFrom.set(checked, model);
    return reuse(checked, textEncoders);
  }
  checkPath('model', model, 'the path or name of a model, or what resolveModel returned');
  const absolute = resolve(model);
  const found = await stat(absolute).catch(() => undefined);
  if (!found) {
    if (absolute === BUNDLED_MODEL) shippedFile(absolute); // a better error
    if (model === basename(BUNDLED_MODEL)) return resolveAny(BUNDLED_MODEL, o);
    const known = knownModel(model);
    if (known) return reuse(known, textEncoders);
    if (isRepository(model)) {
      const folder = repositoryFolder(model);
      const snapshot = folder && (await currentSnapshot(folder, o));
      if (snapshot !== undefined) return resolveAny(snapshot, o);
      throw new JitFluxError(
        ERROR_CODES.FILE_NOT_FOUND,
        `${model} is neither a directory (${absolute}) nor in Hugging Face's cache (${folder ?? 'this user has no home'}). ` +
          `To get it: hf download ${model}`,
        { path: absolute },
      );
    }
    throw new JitFluxError(
      ERROR_CODES.FILE_NOT_FOUND,
      `The model directory ${absolute} does not exist, and no model is known as ${JSON.stringify(model)} ` +
        `(${[...KNOWN_MODELS, basename(BUNDLED_MODEL)].join(', ')})`,
      { path: absolute },
    );
  }
  if (found.isFile()) return resolveCheckpoint(absolute, absolute, o);
  if (!found.isDirectory()) {
    throw new JitFluxError(
      ERROR_CODES.INVALID_MODEL,
      `${absolute} is no model: it is neither a directory nor a regular file`,
      { path: absolute },
    );
  }
  const index = join(absolute, MODEL_INDEX);
  if (!(await isFile(index))) {
    const snapshot = await currentSnapshot(absolute, o);
    if (snapshot !== undefined) return resolveAny(snapshot, o);
    await refuseDangling(index);
    const checkpoint = await findCheckpoint(absolute, o.signal);
    if (checkpoint !== undefined) return resolveCheckpoint(absolute, checkpoint.path, o, checkpoint);
    const others = await otherWeights(absolute);
    throw new JitFluxError(
      ERROR_CODES.INVALID_MODEL,
      `${absolute} is not a model directory: it has neither ${MODEL_INDEX} nor the weights of a FLUX.1 checkpoint` +
        (others && `. It holds ${others}`),
      { path: index },
    );
  }
  const json = await readJsonFile(index, o);
  const snapshot = snapshotIndex.safeParse(json);
  if (snapshot.success && !('format' in snapshot.data)) {
    return resolveSnapshot(absolute, snapshot.data['_class_name'], o);
  }
  return resolveOwn(await findModelFiles(absolute, checkModelIndex(json, index), o), o);
}

/**
 * Asks for a model whose weights can be read.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT for a model that is known by its name only
 */
export function requireFiles(spec: ModelSpec): ModelWithFiles {
  if (spec.path !== undefined && spec.transformer.weights !== undefined) return spec as ModelWithFiles;
  throw invalidArgument(
    'model',
    `the path of a model: of ${spec.info.name} only the description is known here, not the weights`,
    spec.info.name,
  );
}

/** A description made before: its text encoders can be left out, and not replaced. */
function reuse(spec: ModelSpec, textEncoders: string | false | undefined): ModelSpec {
  if (textEncoders === false) return spec.text === undefined ? spec : { ...spec, text: undefined };
  if (textEncoders === undefined || spec.textEncoders === textEncoders) return spec;
  throw invalidArgument(
    'textEncoders',
    `the text encoders with which ${spec.info.name} was resolved, or false`,
    textEncoders,
  );
}

/** Our own model directory. */
async function resolveOwn(
  { path, index, files }: ModelDirectory,
  { textEncoders, signal }: ResolveOptions,
): Promise<ModelSpec> {
  if (typeof textEncoders === 'string') {
    throw invalidArgument(
      'textEncoders',
      `no directory: ${index.name} has a text encoder of its own`,
      textEncoders,
    );
  }
  const shards = (await existing(files.transformer)).isDirectory()
    ? await findWeights(files.transformer, { signal })
    : undefined;
  const weights = await describeWeights(shards ?? files.transformer, { signal });
  const archive = async (file: string): Promise<ProgramFile> => ({
    path: file,
    format: 'torchscript',
    fileBytes: (await existing(file)).size,
  });
  const { config } = await transformerConfig(weights, signal);
  return {
    kind: 'jit-flux',
    path,
    info: index,
    transformer: { weights, config, ropeAxes: index.transformer.ropeAxes },
    text:
      textEncoders === false
        ? undefined
        : { kind: 'torchscript', weights: await archive(files.textEncoder), tokenizer: files.tokenizer },
    decoder: { kind: 'torchscript', weights: await archive(files.decoder) },
    inferred: [],
  };
}

/** A snapshot in diffusers' layout. */
async function resolveSnapshot(path: string, className: string, o: ResolveOptions): Promise<ModelSpec> {
  if (className !== 'FluxPipeline') {
    throw new JitFluxError(
      ERROR_CODES.INVALID_MODEL,
      `${join(path, MODEL_INDEX)} is of a ${className}; jit-flux runs FluxPipeline (FLUX.1-dev, FLUX.1-schnell)`,
      { path: join(path, MODEL_INDEX), field: '_class_name' },
    );
  }
  const parts = new Parts(o);
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
    schedule: await readSchedule(scheduler as string, o.signal),
    options: o,
  });
}

/** The original checkpoint: one file, and beside it the autoencoder. */
async function resolveCheckpoint(
  path: string,
  file: string,
  o: ResolveOptions,
  described?: WeightDescription,
): Promise<ModelSpec> {
  const directory = dirname(file);
  const parts = new Parts(o);
  const single = join(directory, 'ae.safetensors');
  const vae = (await isFile(single))
    ? single
    : ((await findWeights(join(directory, 'vae'), o)) ?? parts.missing(`the autoencoder (${single})`));
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
    transformer: described ?? file,
    vae: vae as string,
    text,
    schedule: undefined,
    options: o,
  });
}

interface TextFiles {
  directory: string;
  clip: string;
  t5: string;
}

/** Looks for both text encoders and both tokenizers; notes what is missing. */
async function findText(directory: string, o: ResolveOptions, parts: Parts): Promise<TextFiles | undefined> {
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
  /** The file, or what is known of it already. */
  transformer: string | WeightDescription;
  vae: string;
  text: TextFiles | undefined;
  schedule: ScheduleFile | undefined;
  options: ResolveOptions;
}): Promise<ModelSpec> {
  const { signal, textEncoders } = o.options;
  const describe = (path: string) => describeWeights(path, { signal });
  const weights = typeof o.transformer === 'string' ? await describe(o.transformer) : o.transformer;
  const { config, ropeAxes } = await transformerConfig(weights, signal);
  const text = o.text && (await describeText(o.text, describe, signal));
  const decoder = await describeDecoder(o.vae, describe, signal);
  if (text) checkTextWidths(config, text);
  checkChannels(config, decoder.architecture.latentChannels, weights.path, o.vae);
  const family = familyDefaults({
    name: o.name,
    transformer: weights.path,
    guidance: config.guidance,
    schedule: o.schedule,
  });
  return {
    kind: o.kind,
    path: o.path,
    info: {
      name: o.name,
      text: family.text,
      decoder: {
        channels: decoder.architecture.latentChannels,
        spatialFactor: decoder.architecture.spatialFactor,
        scalingFactor: decoder.settings.scalingFactor,
        shiftFactor: decoder.settings.shiftFactor,
      },
      defaults: family.defaults,
    },
    transformer: { weights, config, ropeAxes },
    text,
    ...(textEncoders !== undefined && { textEncoders }),
    decoder,
    inferred: [
      ...family.inferred,
      ...(o.schedule?.unfollowed ?? []),
      ...[weights, text?.clip.weights, text?.t5.weights, decoder.weights].flatMap(unusedTensors),
    ],
  };
}

/** What a file holds beside a part's own tensors may be nothing, or what makes the model another one. */
function unusedTensors(weights: WeightDescription | undefined): Inference[] {
  if (!weights?.extra) return [];
  const { path, extra } = weights;
  const { count, names } = extra;
  const list = `${names.slice(0, 5).join(', ')}${count > 5 ? ', ...' : ''}`;
  const tensors = count === 1 ? '1 tensor' : `${count} tensors`;
  return [
    {
      what: 'weights',
      value: 'complete without what is not known',
      why: `${path} holds ${tensors} that no part of FLUX.1 has (${list}), not used here`,
      doubtful: true,
    },
  ];
}

/** Architecture of a transformer: what its shapes tell, and the RoPE axes that its config.json gives. */
async function transformerConfig(
  weights: WeightDescription,
  signal: AbortSignal | undefined,
): Promise<{ config: FluxConfig; ropeAxes: FluxConfig['ropeAxes'] | undefined }> {
  const { settings } = await readTransformerConfig(weights.path, { signal });
  const { ropeAxes } = settings;
  const found = architectureOf(weights, 'transformer');
  return { config: { ...found, ropeAxes: ropeAxes ?? found.ropeAxes ?? FLUX_1_DEV.ropeAxes }, ropeAxes };
}

/**
 * The architecture of a part, complete and consistent.
 * @throws ERR_JITFLUX_WEIGHTS_MISMATCH if the file does not hold that part, or not all of it
 */
function architectureOf<Part extends PartName>(
  weights: WeightDescription,
  part: Part,
): PartArchitectures[Part] {
  if (weights.problem) {
    const { code, message, details } = weights.problem;
    throw new JitFluxError(code as JitFluxErrorCode, message, details);
  }
  if (weights.part === part) return weights.architecture as PartArchitectures[Part];
  throw new JitFluxError(
    ERROR_CODES.WEIGHTS_MISMATCH,
    `${weights.path} holds no ${part} but ${weights.part === 'autoencoder' ? 'an' : 'a'} ${weights.part}`,
    { path: weights.path, expected: part, found: weights.part },
  );
}

async function describeText(
  files: TextFiles,
  describe: (path: string) => Promise<WeightDescription>,
  signal: AbortSignal | undefined,
): Promise<NativeText> {
  const [clip, t5] = [await describe(files.clip), await describe(files.t5)];
  return {
    kind: 'native',
    clip: {
      weights: clip,
      tokenizer: join(files.directory, 'tokenizer'),
      ...combine(clip, 'clip', await readClipConfig(clip.path, { signal })),
    },
    t5: {
      weights: t5,
      tokenizer: join(files.directory, 'tokenizer_2'),
      ...combine(t5, 't5', await readT5Config(t5.path, { signal })),
    },
  };
}

async function describeDecoder(
  path: string,
  describe: (path: string) => Promise<WeightDescription>,
  signal: AbortSignal | undefined,
): Promise<NativeDecoder> {
  const weights = await describe(path);
  const { settings, declared } = await readAutoencoderConfig(path, { signal });
  const { latentChannels, channels, layersPerBlock, spatialFactor } = {
    ...architectureOf(weights, 'autoencoder'),
    ...declared,
  };
  return {
    kind: 'native',
    weights,
    architecture: { latentChannels, channels, layersPerBlock, spatialFactor },
    settings,
  };
}

/** What config.json says of the architecture, and where it is silent the shapes. */
function combine<Part extends PartName, Settings, Architecture>(
  weights: WeightDescription,
  part: Part,
  { settings, declared }: ComponentSettings<Settings, Architecture>,
): { architecture: PartArchitectures[Part] & Partial<Architecture>; settings: Settings } {
  return { architecture: { ...architectureOf(weights, part), ...declared }, settings };
}

/**
 * Checks that text encoders give what a transformer takes.
 * @throws ERR_JITFLUX_INVALID_MODEL
 */
export function checkTextWidths(config: FluxConfig, text: NativeText): void {
  for (const [name, part, wanted, field] of [
    ['CLIP', text.clip, config.pooledDim, 'pooledDim'],
    ['T5', text.t5, config.textDim, 'textDim'],
  ] as const) {
    const { width } = part.architecture;
    if (width === undefined || width === wanted) continue;
    const path = part.weights?.path;
    throw new JitFluxError(
      ERROR_CODES.INVALID_MODEL,
      `The ${name} text encoder ${path} is ${width} wide, but the transformer takes ${wanted} (${field})`,
      { path, field, expected: wanted, found: width },
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

/**
 * The transformer's weights in a directory without `model_index.json`.
 * @throws ERR_JITFLUX_INVALID_MODEL if several files could be meant
 */
async function findCheckpoint(
  directory: string,
  signal: AbortSignal | undefined,
): Promise<WeightDescription | undefined> {
  const names = await listDirectory(directory);
  const index = names.filter((name) => name.endsWith('.safetensors.index.json'));
  let candidates = index.length > 0 ? index : [];
  const described = new Map<string, WeightDescription>();
  if (candidates.length === 0) {
    for (const name of names.filter(
      (name) => /\.(safetensors|pt)$/.test(name) && name !== 'ae.safetensors',
    )) {
      const found = await describeWeights(join(directory, name), { signal });
      described.set(name, found);
      if (found.part === 'transformer') candidates.push(name);
    }
  }
  // An archive has to be meant by its name: reading those of other programs would be refused.
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
  const [name] = candidates;
  if (name === undefined) return undefined;
  return described.get(name) ?? (await describeWeights(join(directory, name), { signal }));
}

/** Weights in formats that are not read. */
const OTHER_WEIGHTS = /\.(gguf|bin|ckpt|pth|onnx|msgpack)$/i;

/** Names of weights in a directory that are in other formats, for a message; empty if there are none. */
async function otherWeights(directory: string): Promise<string> {
  const names = await listDirectory(directory).catch(() => []);
  const others = names.filter((name) => OTHER_WEIGHTS.test(name));
  if (others.length === 0) return '';
  return `${others.slice(0, 3).join(', ')}: such files are not read; use safetensors`;
}

/** Collects what is missing, so that all of it is reported at once. */
class Parts {
  readonly #options: ResolveOptions;
  readonly #missing: string[] = [];

  constructor(options: ResolveOptions) {
    this.#options = options;
  }

  missing(what: string): undefined {
    this.#missing.push(what);
    return undefined;
  }

  async weights(directory: string, what: string): Promise<string | undefined> {
    const { variant, signal } = this.#options;
    const found = await findWeights(directory, { variant, signal });
    if (found !== undefined) return found;
    const others = await otherWeights(directory);
    return this.missing(`${what} (${directory}${others && `, which holds ${others}`})`);
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
      ? `. An original checkpoint comes without text encoders: name a snapshot that has them (textEncoders)`
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

/** A file that was seen before, and may be gone. */
async function existing(path: string) {
  return stat(path).catch((cause: unknown) => {
    throw new JitFluxError(ERROR_CODES.FILE_NOT_FOUND, `Cannot read ${path}`, { path }, { cause });
  });
}

/** A link of the hub's cache whose file has not been downloaded, or is gone. */
async function refuseDangling(path: string): Promise<void> {
  if (!(await lstat(path).catch(() => undefined))?.isSymbolicLink()) return;
  throw new JitFluxError(
    ERROR_CODES.INVALID_MODEL,
    `${path} is a link to a file that is not there: an incomplete download?`,
    { path },
  );
}

async function isFile(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isFile() ?? false;
}
