/**
 * How much memory a model will take, known before it is loaded: from headers, file sizes and the sizes of the request.
 * Estimates, on the safe side by some percent; docs/models.md compares them with measurements.
 */
import { ERROR_CODES, invalidArgument, JitFluxError } from '../errors.js';
import { type BlockWeights, requestedBlockWeights } from '../runtime/block-weights.js';
import { DEFAULT_PRESET, getPreset } from '../sampler/presets.js';
import type { Device, FluxConfig, LoadOptions } from '../types.js';
import { type AvailableMemory, availableMemory } from './available-memory.js';
import {
  blockParameters,
  type ClipShape,
  clipParameters,
  fusedParameters,
  modulationParameters,
  type T5Shape,
  t5Parameters,
  transformerParameters,
  type VaeShape,
  vaeParameters,
} from './component-shapes.js';
import { type ModelKind, type ModelSource, resolveModel } from './model-source.js';
import { countParameters, storedDType, type WeightSummary } from './weight-headers.js';

export type ComponentName = 'text_encoder' | 'text_encoder_2' | 'transformer' | 'vae' | 'runtime';

/** Memory of one part of a model. */
export interface ComponentMemory {
  component: ComponentName;
  /** Weight file or index. Absent for the runtime. */
  path?: string;
  format?: 'safetensors' | 'torchscript';
  /** Absent where only native code could count them. */
  parameters?: number;
  /** Size of the files on disk. */
  fileBytes: number;
  /** Type of most weights in the file, if its header tells. */
  storedDType?: string;
  device: Device;
  /** Weights in memory, in the type that was chosen. */
  residentBytes: number;
  /**
   * The part of them that is a copy. The rest is used from the mapped file: the system may drop those pages while they
   * are not in use, and read them again.
   */
  copiedBytes: number;
  /** Whether any of the weights are used from the mapped file. */
  mapped: boolean;
  /** What the part needs besides its weights while it works, at most. */
  transientBytes: number;
}

/** What is in memory during one part of a generation. */
export interface PhaseMemory {
  phase: 'encode' | 'sample' | 'decode';
  bytes: number;
}

/** The memory that a model and a request will take. Plain data. */
export interface MemoryPlan {
  model: string;
  path: string;
  kind: ModelKind;
  dtype: 'float32' | 'bfloat16';
  blockWeights: BlockWeights;
  width: number;
  height: number;
  /** Pictures of a batch. */
  images: number;
  textTokens: number;
  steps: number;
  components: ComponentMemory[];
  phases: PhaseMemory[];
  /** The largest of the phases. */
  peakBytes: number;
  /** Undefined where the system does not tell. */
  available: AvailableMemory | undefined;
  /** Whether the peak is at most what is available; true where that is unknown. */
  fits: boolean;
}

/** The request to plan for. Everything has the model's default. */
export interface MemoryPlanRequest {
  width?: number;
  height?: number;
  /** Pictures of a batch, default 1. */
  images?: number;
  textTokens?: number;
  /** Steps; their modulation vectors are computed in advance. */
  steps?: number;
}

/** Options of {@link planMemory}. */
export interface MemoryPlanOptions
  extends
    Pick<
      LoadOptions,
      | 'dtype'
      | 'device'
      | 'quantize'
      | 'packWeights'
      | 'keepModulation'
      | 'textEncoders'
      | 'keepTextEncoders'
      | 'signal'
    >,
    MemoryPlanRequest {}

/** Node, LibTorch and its threads: 255 MB were measured after a picture of flux-tiny on two cores. The rest is margin. */
export const RUNTIME_BYTES = 350_000_000;
/** Default budget of a decode; see `Autoencoder.decode`. */
const DECODE_BUDGET_BYTES = 2 * 1024 ** 3;
/** The autoencoder works on strips of this size (native/flux/autoencoder.cc). */
const STRIP_BYTES = 32 * 1024 ** 2;
const MIN_STRIP_ROWS = 8;

/**
 * Computes what a model will take in memory, without loading it and without native code.
 * @param path a model directory or checkpoint, as `FluxPipeline.load` takes
 * @throws what `FluxPipeline.load` throws for a model that is incomplete or does not fit together
 */
export async function planMemory(path: string, o: MemoryPlanOptions = {}): Promise<MemoryPlan> {
  const source = await resolveModel(path, { textEncoders: o.textEncoders, signal: o.signal });
  return planModelMemory(source, o, await availableMemory());
}

/**
 * {@link planMemory} for a model that has been found. Pure. Where `packWeights` is not given, the weights are packed
 * unless they fit only as the file holds them; both give the same pictures.
 */
export function planModelMemory(
  source: ModelSource,
  o: MemoryPlanOptions,
  available: AvailableMemory | undefined,
): MemoryPlan {
  const plan = planForm(source, o, requestedBlockWeights(o), available);
  if (plan.fits || plan.blockWeights !== 'packed' || o.packWeights === true) return plan;
  return planForm(source, o, 'mapped', available);
}

function planForm(
  source: ModelSource,
  o: MemoryPlanOptions,
  blockWeights: BlockWeights,
  available: AvailableMemory | undefined,
): MemoryPlan {
  const { info } = source;
  const dtype = o.dtype === 'bfloat16' ? 'bfloat16' : 'float32';
  const device = o.device ?? 'cpu';
  const width = positive('width', o.width ?? info.defaults.width);
  const height = positive('height', o.height ?? info.defaults.height);
  const images = positive('images', o.images ?? 1);
  const textTokens = positive('textTokens', o.textTokens ?? info.text.defaultLength ?? info.text.length);
  const steps = positive('steps', o.steps ?? defaultSteps(source));
  const size = dtype === 'bfloat16' ? 2 : 4;
  const { spatialFactor, channels } = info.decoder;
  const [rows, cols] = [Math.ceil(height / spatialFactor / 2), Math.ceil(width / spatialFactor / 2)];
  const pictureBytes = images * height * width * 3 * 5;

  const component = (
    name: ComponentName,
    weights: WeightSummary,
    known: {
      parameters: number | undefined;
      transientBytes: number;
      /** Bytes copied if the file holds the compute type; absent: all of them. */
      copiedBytes?: number | undefined;
      /** Bytes that the chosen form saves. */
      savedBytes?: number | undefined;
    },
  ): ComponentMemory => {
    const stored = storedDType(weights);
    const parameters = weights.tensors ? countParameters(weights.tensors.values()) : known.parameters;
    const allBytes = parameters === undefined ? weights.fileBytes : parameters * size;
    const saved = known.savedBytes ?? 0;
    const residentBytes = allBytes - saved;
    const mapped = known.copiedBytes !== undefined && stored === dtype;
    return {
      component: name,
      path: weights.path,
      format: weights.format,
      ...(parameters !== undefined && { parameters }),
      fileBytes: weights.fileBytes,
      ...(stored !== undefined && { storedDType: stored }),
      device,
      residentBytes,
      copiedBytes: mapped ? (known.copiedBytes ?? 0) : residentBytes,
      mapped,
      transientBytes: known.transientBytes,
    };
  };

  const components: ComponentMemory[] = [
    {
      component: 'runtime',
      fileBytes: 0,
      device,
      residentBytes: RUNTIME_BYTES,
      copiedBytes: RUNTIME_BYTES,
      mapped: false,
      transientBytes: 0,
    },
  ];
  if (source.text?.kind === 'native') {
    const { clip, t5 } = source.text;
    components.push(
      component('text_encoder', clip.weights, {
        parameters: clip.shape && clipParameters(clip.shape),
        copiedBytes: 0,
        transientBytes: clip.shape ? clipTransientBytes(clip.shape, images, size) : 0,
      }),
      component('text_encoder_2', t5.weights, {
        parameters: t5.shape && t5Parameters(t5.shape),
        copiedBytes: 0,
        transientBytes: t5.shape ? t5TransientBytes(t5.shape, textTokens, images, size) : 0,
      }),
    );
  } else if (source.text) {
    components.push(
      component('text_encoder', source.text.weights, { parameters: undefined, transientBytes: 0 }),
    );
  }
  const { config } = source.transformer;
  components.push(
    component('transformer', source.transformer.weights, {
      parameters: config && transformerParameters(config),
      copiedBytes: config && copiedBytes(config, size, blockWeights),
      savedBytes: config && savedBytes(config, size, blockWeights, o.keepModulation ?? true),
      transientBytes: config
        ? transformerTransientBytes(config, { imageTokens: rows * cols, textTokens, images, steps, size })
        : 0,
    }),
    component('vae', source.decoder.weights, {
      parameters: source.decoder.kind === 'native' ? vaeParameters(source.decoder.settings) : undefined,
      transientBytes:
        (source.decoder.kind === 'native'
          ? Math.min(decodeBytes(source.decoder.settings, 2 * rows, 2 * cols, size), DECODE_BUDGET_BYTES)
          : images * channels * 4 * rows * cols * 64) + pictureBytes,
    }),
  );

  const phases = planPhases(components, o.keepTextEncoders ?? true);
  const peakBytes = Math.max(...phases.map(({ bytes }) => bytes));
  return {
    model: info.name,
    path: source.path,
    kind: source.kind,
    dtype,
    blockWeights,
    width,
    height,
    images,
    textTokens,
    steps,
    components,
    phases,
    peakBytes,
    available,
    fits: available === undefined || peakBytes <= available.bytes,
  };
}

/**
 * Refuses a model that cannot fit.
 * @throws ERR_JITFLUX_OUT_OF_MEMORY with all the numbers
 */
export function checkMemory(plan: MemoryPlan): void {
  const { available } = plan;
  if (plan.fits || available === undefined) return;
  const weights = plan.components.filter(({ component }) => component !== 'runtime');
  const parts = weights.map(({ component, residentBytes }) => `${component} ${gigabytes(residentBytes)}`);
  const worst = plan.phases.find(({ bytes }) => bytes === plan.peakBytes);
  const advice = [
    ...(plan.dtype === 'float32' ? ["dtype 'bfloat16'"] : []),
    ...(plan.blockWeights === 'packed' ? ['packWeights: false'] : []),
    ...(plan.blockWeights === 'int8' ? [] : ["quantize 'int8'"]),
    ...(weights.some(({ component }) => component.startsWith('text_encoder'))
      ? ['keepTextEncoders: false, or prompts encoded in advance (encodePrompt)']
      : []),
    'a smaller picture',
  ];
  throw new JitFluxError(
    ERROR_CODES.OUT_OF_MEMORY,
    `${plan.model} in ${plan.dtype} needs ${gigabytes(plan.peakBytes)} at ${plan.width}x${plan.height}` +
      ` (${worst?.phase ?? 'sample'}), but only ${gigabytes(available.bytes)} are available` +
      ` (${available.limitedBy === 'machine' ? 'MemAvailable' : available.limitedBy}). ` +
      `Weights: ${parts.join(', ')}. Try ${advice.join('; ')}; memoryCheck: false skips this check`,
    { ...plan },
  );
}

/**
 * What is in memory in each phase: copied weights always, mapped ones while they are in use. Released text encoders
 * are there only while they encode. The transformer's workspace stays from one picture to the next.
 */
function planPhases(components: readonly ComponentMemory[], keepTextEncoders: boolean): PhaseMemory[] {
  const isText = (c: ComponentMemory) => c.component.startsWith('text_encoder');
  const active: Record<PhaseMemory['phase'], (c: ComponentMemory) => boolean> = {
    encode: isText,
    sample: (c) => c.component === 'transformer',
    decode: (c) => c.component === 'vae',
  };
  return (Object.keys(active) as PhaseMemory['phase'][]).map((phase) => {
    let bytes = 0;
    let transient = 0;
    for (const c of components) {
      const working = active[phase](c);
      if (working) bytes += c.residentBytes;
      else if (keepTextEncoders || !isText(c)) bytes += c.copiedBytes;
      if (c.component === 'transformer') bytes += c.transientBytes;
      // Text encoders run one after another.
      else if (working) transient = Math.max(transient, c.transientBytes);
    }
    return { phase, bytes: bytes + transient };
  });
}

/** Activations of CLIP, B prompts. */
export function clipTransientBytes(c: ClipShape, prompts: number, size: number): number {
  const tokens = prompts * c.positions;
  return tokens * ((2 * 4 + 5 * size) * c.width + 2 * size * c.mlp);
}

/** Activations of T5: residual and its norm, q, k, v and result, the gated MLP, scores and position bias. */
export function t5TransientBytes(c: T5Shape, tokens: number, prompts: number, size: number): number {
  const inner = c.heads * c.headDim;
  const rows = prompts * tokens;
  const scores = (prompts + 1) * c.heads * tokens * tokens * 4;
  return rows * (2 * 4 * c.width + size * (c.width + 4 * inner + 3 * c.mlp)) + scores;
}

/**
 * What sampling takes: the workspace (residual, norm, the fused projections of a single block, its input to the last
 * one, q, k, v, k and v packed, attention and projection), the preparation of weights, modulation of all steps, text tokens, and the sampler's latents.
 */
export function transformerTransientBytes(
  c: FluxConfig,
  o: { imageTokens: number; textTokens: number; images: number; steps: number; size: number },
): number {
  const d = c.hiddenSize;
  const mlp = c.mlpRatio * d;
  const rows = o.images * (o.imageTokens + o.textTokens);
  // Without bfloat16 dot products attention packs k and v in float32.
  const packed = 2 * d * 4;
  const workspace = rows * ((11 * d + 2 * mlp) * o.size + packed);
  // The largest layer while it is packed: fused, and its packed copy.
  const preparing = 2 * d * (3 * d + mlp) * o.size;
  const modulation = o.steps * o.images * d * (12 * c.doubleBlocks + 3 * c.singleBlocks + 2) * 4;
  const text = o.images * o.textTokens * (d * o.size + c.textDim * 4);
  const latents = 8 * o.images * o.imageTokens * c.inChannels * 4;
  const rope = o.imageTokens * c.headDim * 8;
  return workspace + preparing + modulation + text + latents + rope;
}

/**
 * Activations of decoding one picture of h x w latent cells without tiling: the bound of the native decoder
 * (`Autoencoder::decode_bytes`).
 */
export function decodeBytes(c: VaeShape, h: number, w: number, size: number): number {
  const top = c.channels.at(-1) ?? 0;
  let area = h * w;
  let width = top;
  let values = 7 * area * width;
  let held = 2 * width;
  let own = width;
  for (let i = c.channels.length - 1; i >= 0; i--) {
    const out = c.channels[i] ?? 0;
    if (out === width) held = Math.max(held, 2 * out);
    else {
      const inPlace = 2 * out <= width;
      values = Math.max(values, area * (inPlace ? own : own + 2 * out));
      held = inPlace ? own : 2 * out;
      own = inPlace ? own : out;
    }
    width = out;
    values = Math.max(values, area * held);
    if (i > 0) {
      values = Math.max(values, area * (own + 4 * out));
      area *= 4;
      held = own = out;
    }
  }
  const row = w * 2 ** (c.channels.length - 1) * (c.channels[0] ?? 0) * 2 * size;
  return values * size + 6 * Math.max(STRIP_BYTES, MIN_STRIP_ROWS * row);
}

/** Of a transformer whose file holds the compute type. */
function copiedBytes(c: FluxConfig, size: number, form: BlockWeights): number {
  if (form === 'mapped') return fusedParameters(c) * size;
  return blockParameters(c) * (form === 'int8' ? 1 : size);
}

/** Memory that quantised block weights, and modulation weights that do not stay, spare. */
function savedBytes(c: FluxConfig, size: number, form: BlockWeights, keepModulation: boolean): number {
  const quantised = form === 'int8' ? blockParameters(c) * (size - 1) : 0;
  return quantised + (keepModulation ? 0 : modulationParameters(c) * size);
}

function defaultSteps({ info }: ModelSource): number {
  const preset = info.defaults.preset ?? DEFAULT_PRESET;
  return (preset === 'dense' ? info.defaults.dense?.steps : undefined) ?? getPreset(preset).steps;
}

function positive(option: string, value: number): number {
  if (Number.isSafeInteger(value) && value > 0) return value;
  throw invalidArgument(option, 'a positive integer', value);
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(bytes < 1e10 ? 2 : 1)} GB`;
}
