/**
 * How much memory a model will take, known before it is loaded: from headers, file sizes and the sizes of the request.
 * Estimates, on the safe side by some percent; docs/models.md compares them with measurements.
 */
import { ERROR_CODES, invalidArgument, JitFluxError } from '../errors.js';
import type { BlockWeights } from '../engine/binding.js';
import { requestedBlockWeights } from '../engine/block-weights.js';
import { deviceInfo, isAccelerator } from '../engine/device.js';
import type { Device, FluxConfig, LoadOptions } from '../types.js';
import { CLIP_L, T5_XXL } from './known-models.js';
import { type AvailableMemory, availableMemory } from './available-memory.js';
import { decoderPlacement, textPlacement, transformerPlacement } from './component-options.js';
import {
  blockParameters,
  type ClipShape,
  clipParameters,
  fusedParameters,
  modulationParameters,
  type T5Shape,
  t5Parameters,
  transformerParameters,
  type AutoencoderShape,
  vaeParameters,
} from './parameters.js';
import { resolveModel } from './resolve-model.js';
import { type ResolvedRun, resolveRun } from './run.js';
import type { ModelKind, ModelSpec } from './spec.js';
import type { WeightDescription } from './weight-headers.js';

export type ComponentName =
  'text_encoder' | 'text_encoder_2' | 'transformer' | 'vae' | 'runtime' | 'device_runtime';

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
  /** Weights in the device's memory, in the type that was chosen. */
  residentBytes: number;
  /** Weights that wait in page-locked host memory to be streamed to the device. */
  streamedBytes?: number;
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
  /** In the host's memory. */
  bytes: number;
  /** In the GPU's, if the model uses one. */
  deviceBytes?: number;
}

/** The memory that a model and a request will take. Plain data. */
export interface MemoryPlan {
  model: string;
  /** Absent of a model that is known by its name only. */
  path?: string;
  kind: ModelKind;
  dtype: NonNullable<LoadOptions['dtype']>;
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
  /** The same of the GPU, if the model uses one. */
  accelerator?: { device: Device; peakBytes: number; availableBytes: number | undefined };
  /** Whether the peaks are at most what is available; true where that is unknown. */
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
  /** Requests at work at a time, default 1. Each holds latents and conditioning of its own. */
  concurrency?: number;
}

/** The request of a run, for its memory plan. */
export function memoryRequest(run: ResolvedRun): Required<Omit<MemoryPlanRequest, 'concurrency'>> {
  const { width, height, images, textTokens, plan } = run;
  return { width, height, images, textTokens, steps: plan.steps };
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
      | 'weightStreaming'
      | 'textEncoderDevice'
      | 'decoderDevice'
      | 'keepDecoder'
      | 'keepModulation'
      | 'textEncoders'
      | 'keepTextEncoders'
      | 'signal'
    >,
    MemoryPlanRequest {}

/** Node, LibTorch and its threads: 255 MB were measured after a picture of flux-tiny on two cores. The rest is margin. */
export const RUNTIME_BYTES = 350_000_000;
/** CUDA's context and kernels, cuBLAS's and cuDNN's workspaces, and the allocator's slack. Not yet measured. */
export const DEVICE_RUNTIME_BYTES = 1_000_000_000;
/** Blocks in device memory while weights are streamed (native/residency/block_streamer.h). */
const STREAMED_SLOTS = 3;
/** Default budget of a decode; see `Autoencoder.decode`. */
const DECODE_BUDGET_BYTES = 2 * 1024 ** 3;
/** The autoencoder works on strips of this size (native/models/autoencoder/autoencoder.cc). */
const STRIP_BYTES = 32 * 1024 ** 2;
const MIN_STRIP_ROWS = 8;

/**
 * Computes what a model will take in memory, without loading it; without native code, unless a GPU is named: then its
 * free memory is looked up.
 * @param model a model directory or checkpoint, as `FluxPipeline.load` takes, a known name such as `flux.1-dev`, or what
 *   `resolveModel` returned
 * @throws what `FluxPipeline.load` throws for a model that is incomplete or does not fit together
 */
export async function planMemory(model: string | ModelSpec, o: MemoryPlanOptions = {}): Promise<MemoryPlan> {
  const source = await resolveModel(model, { textEncoders: o.textEncoders, signal: o.signal });
  return planModelMemory(source, o, await memoryAvailableTo(o));
}

/** What this process may take: of the host's memory and, on a GPU, of the device's. */
export interface Available {
  host: AvailableMemory | undefined;
  /** Bytes; undefined if no GPU is used. */
  device?: number | undefined;
}

/** The GPU that is planned for: the transformer's, else that of the other parts. Parts on a further one are not. */
function plannedAccelerator(o: MemoryPlanOptions): Device | undefined {
  return [o.device, o.decoderDevice, o.textEncoderDevice].find(isAccelerator);
}

/** @throws ERR_JITFLUX_DEVICE_UNAVAILABLE if the options name a GPU that is not there */
export async function memoryAvailableTo(o: MemoryPlanOptions): Promise<Available> {
  const host = await availableMemory();
  const device = plannedAccelerator(o);
  if (device === undefined) return { host };
  const { freeBytes, reservedBytes, allocatedBytes } = await deviceInfo(device);
  return { host, device: freeBytes + reservedBytes - allocatedBytes };
}

/**
 * {@link planMemory} for a model that has been found. Pure. Where `packWeights` is not given, the weights are packed
 * unless they fit only as the file holds them, and on a GPU streamed if they fit only so (`weightStreaming`); all give
 * the same pictures.
 */
export function planModelMemory(source: ModelSpec, o: MemoryPlanOptions, available: Available): MemoryPlan {
  const plan = planForm(source, o, requestedBlockWeights(o), available);
  if (plan.fits) return plan;
  if (plan.blockWeights === 'packed' && o.packWeights !== true)
    return planForm(source, o, 'mapped', available);
  if (plan.blockWeights === 'resident' && o.weightStreaming !== false) {
    const streamed = planForm(source, o, 'streamed', available);
    if (streamed.fits) return streamed;
  }
  return plan;
}

/** {@link planModelMemory} where nothing but the text encoders is loaded, on `o.device`. `o.images` counts prompts. */
export function planEncoding(source: ModelSpec, o: MemoryPlanOptions, available: Available): MemoryPlan {
  return planForm(source, o, requestedBlockWeights(o), available, ['encode']);
}

const PHASES = ['encode', 'sample', 'decode'] as const satisfies PhaseMemory['phase'][];

function planForm(
  source: ModelSpec,
  o: MemoryPlanOptions,
  blockWeights: BlockWeights,
  available: Available,
  work: readonly PhaseMemory['phase'][] = PHASES,
): MemoryPlan {
  const { info } = source;
  const transformer = transformerPlacement(o);
  const { dtype } = transformer;
  const text = textPlacement(o, source.text);
  const decoder = decoderPlacement(o, source.decoder);
  const width = positive('width', o.width ?? info.defaults.width);
  const height = positive('height', o.height ?? info.defaults.height);
  const images = positive('images', o.images ?? 1);
  const textTokens = positive('textTokens', o.textTokens ?? info.text.defaultLength ?? info.text.length);
  const steps = positive('steps', o.steps ?? resolveRun({}, info).plan.steps);
  const runs = positive('concurrency', o.concurrency ?? 1);
  const sizeOf = (type: string) => (type === 'float32' ? 4 : 2);
  const size = sizeOf(dtype);
  const textSize = sizeOf(text.dtype);
  const decoderSize = sizeOf(decoder.dtype);
  const { spatialFactor, channels } = info.decoder;
  const [rows, cols] = [Math.ceil(height / spatialFactor / 2), Math.ceil(width / spatialFactor / 2)];
  const pictureBytes = images * height * width * 3 * 5;

  const component = (
    name: ComponentName,
    file: WeightDescription | undefined,
    placement: { device: Device; dtype: string },
    known: {
      parameters: number | undefined;
      transientBytes: number;
      /** Bytes copied if the file holds the compute type; absent: all of them. */
      copiedBytes?: number | undefined;
      /** Bytes that the chosen form saves. */
      savedBytes?: number | undefined;
      streamedBytes?: number | undefined;
    },
  ): ComponentMemory => {
    const weights = file ?? publishedWeights(known.parameters ?? 0);
    const stored = weights.storedDType;
    const parameters = weights.parameters ?? known.parameters;
    const allBytes = parameters === undefined ? weights.fileBytes : parameters * sizeOf(placement.dtype);
    const saved = known.savedBytes ?? 0;
    const residentBytes = allBytes - saved;
    const mapped =
      known.copiedBytes !== undefined && stored === placement.dtype && !isAccelerator(placement.device);
    return {
      component: name,
      ...(file && { path: file.path }),
      format: weights.format,
      ...(parameters !== undefined && { parameters }),
      fileBytes: weights.fileBytes,
      ...(stored !== undefined && { storedDType: stored }),
      device: placement.device,
      residentBytes,
      ...(known.streamedBytes !== undefined && { streamedBytes: known.streamedBytes }),
      copiedBytes: mapped ? (known.copiedBytes ?? 0) : residentBytes,
      mapped,
      transientBytes: known.transientBytes,
    };
  };

  const all: ComponentMemory[] = [
    {
      component: 'runtime',
      fileBytes: 0,
      device: 'cpu',
      residentBytes: RUNTIME_BYTES,
      copiedBytes: RUNTIME_BYTES,
      mapped: false,
      transientBytes: 0,
    },
  ];
  if (source.text?.kind === 'native') {
    const { clip, t5 } = source.text;
    const clipShape = complete<ClipShape>(clip.architecture, CLIP_L);
    const t5Shape = complete<T5Shape>(t5.architecture, T5_XXL);
    all.push(
      component('text_encoder', clip.weights, text, {
        parameters: clipShape && clipParameters(clipShape),
        copiedBytes: 0,
        transientBytes: clipShape ? clipTransientBytes(clipShape, images, textSize) : 0,
      }),
      component('text_encoder_2', t5.weights, text, {
        parameters: t5Shape && t5Parameters(t5Shape),
        copiedBytes: 0,
        transientBytes: t5Shape ? t5TransientBytes(t5Shape, textTokens, images, textSize) : 0,
      }),
    );
  } else if (source.text) {
    all.push(
      component('text_encoder', source.text.weights, text, { parameters: undefined, transientBytes: 0 }),
    );
  }
  const { config } = source.transformer;
  all.push(
    component('transformer', source.transformer.weights, transformer, {
      parameters: config && transformerParameters(config),
      copiedBytes: config && copiedBytes(config, size, blockWeights),
      savedBytes: config && savedBytes(config, size, blockWeights, o.keepModulation ?? true),
      streamedBytes: config && blockWeights === 'streamed' ? blockParameters(config) * size : undefined,
      transientBytes: config
        ? transformerTransientBytes(config, {
            imageTokens: rows * cols,
            textTokens,
            images,
            steps,
            runs,
            size,
          })
        : 0,
    }),
    component('vae', source.decoder.weights, decoder, {
      parameters: source.decoder.kind === 'native' ? vaeParameters(source.decoder.architecture) : undefined,
      transientBytes:
        (source.decoder.kind === 'native'
          ? Math.min(
              decodeBytes(source.decoder.architecture, 2 * rows, 2 * cols, decoderSize),
              DECODE_BUDGET_BYTES,
            )
          : images * channels * 4 * rows * cols * 64) + pictureBytes,
    }),
  );

  const planned = plannedAccelerator(o);
  if (planned !== undefined) {
    all.push({
      component: 'device_runtime',
      fileBytes: 0,
      device: planned,
      residentBytes: DEVICE_RUNTIME_BYTES,
      copiedBytes: DEVICE_RUNTIME_BYTES,
      mapped: false,
      transientBytes: 0,
    });
  }
  const components = all.filter((c) => isRuntime(c) || work.some((phase) => ACTIVE[phase](c)));
  const phases = planPhases(components, planned, work, o);
  const peakBytes = Math.max(...phases.map(({ bytes }) => bytes));
  const { host } = available;
  const onDevice = phases.flatMap(({ deviceBytes }) => deviceBytes ?? []);
  const accelerator =
    planned === undefined
      ? undefined
      : { device: planned, peakBytes: Math.max(...onDevice), availableBytes: available.device };
  const fitsDevice = (accelerator?.peakBytes ?? 0) <= (accelerator?.availableBytes ?? Infinity);
  return {
    model: info.name,
    ...(source.path !== undefined && { path: source.path }),
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
    available: host,
    ...(accelerator && { accelerator }),
    fits: (host === undefined || peakBytes <= host.bytes) && fitsDevice,
  };
}

/**
 * Refuses a model that cannot fit.
 * @throws ERR_JITFLUX_OUT_OF_MEMORY with all the numbers
 */
export function checkMemory(plan: MemoryPlan): void {
  const { available, accelerator } = plan;
  if (plan.fits) return;
  const weights = plan.components.filter((c) => !isRuntime(c));
  const encoding = plan.phases.every(({ phase }) => phase === 'encode');
  const parts = weights.map(({ component, residentBytes }) => `${component} ${gigabytes(residentBytes)}`);
  const short = (accelerator?.peakBytes ?? 0) > (accelerator?.availableBytes ?? Infinity);
  const worst = plan.phases.find(({ bytes, deviceBytes }) =>
    short ? deviceBytes === accelerator?.peakBytes : bytes === plan.peakBytes,
  );
  const needed = short ? accelerator!.peakBytes : plan.peakBytes;
  const there = short ? accelerator!.availableBytes! : (available?.bytes ?? 0);
  const where = short
    ? `on ${accelerator!.device}`
    : available?.limitedBy === 'machine'
      ? 'MemAvailable'
      : available?.limitedBy;
  const advice = [
    ...(plan.dtype === 'float32' ? ["dtype 'bfloat16'"] : []),
    ...(encoding ? encodingAdvice(plan) : generationAdvice(plan, weights)),
  ];
  const what = encoding
    ? 'for its text encoders'
    : `at ${plan.width}x${plan.height} (${worst?.phase ?? 'sample'})`;
  throw new JitFluxError(
    ERROR_CODES.OUT_OF_MEMORY,
    `${plan.model} in ${plan.dtype} needs ${gigabytes(needed)} ${what}, but only ${gigabytes(there)} are available ` +
      `(${where}). Weights: ${parts.join(', ')}. ` +
      `${advice.length > 0 ? `Try ${advice.join('; ')}; ` : ''}memoryCheck: false skips this check`,
    { ...plan },
  );
}

function encodingAdvice({ accelerator }: MemoryPlan): string[] {
  return accelerator ? ["textEncoderDevice 'cpu'"] : [];
}

function generationAdvice(plan: MemoryPlan, weights: readonly ComponentMemory[]): string[] {
  const { accelerator } = plan;
  return [
    ...(plan.blockWeights === 'packed' ? ['packWeights: false'] : []),
    ...(accelerator || plan.blockWeights === 'int8' ? [] : ["quantize 'int8'"]),
    ...(plan.blockWeights === 'resident' ? ['weightStreaming', 'keepModulation: false'] : []),
    ...(accelerator ? ["textEncoderDevice 'cpu'", 'keepDecoder: false'] : []),
    ...(weights.some(isText)
      ? ['keepTextEncoders: false, or prompts encoded in advance (encodePrompt)']
      : []),
    'a smaller picture',
  ];
}

const isRuntime = ({ component }: ComponentMemory) => component.endsWith('runtime');
const isText = ({ component }: ComponentMemory) => component.startsWith('text_encoder');

/** What the files of a model are that is known by its name only. */
function publishedWeights(parameters: number): Omit<WeightDescription, 'path'> {
  return { format: 'safetensors', fileBytes: 2 * parameters, parameters, storedDType: 'bfloat16' };
}

/** An architecture of which everything is known that a model like `example` has. */
function complete<T extends object>(found: Partial<T>, example: T): T | undefined {
  return Object.keys(example).every((name) => found[name as keyof T] !== undefined)
    ? (found as T)
    : undefined;
}

/** Which components work in a phase. */
const ACTIVE: Record<PhaseMemory['phase'], (c: ComponentMemory) => boolean> = {
  encode: isText,
  sample: ({ component }) => component === 'transformer',
  decode: ({ component }) => component === 'vae',
};

/**
 * What is in memory in each phase: copied weights always, mapped ones while they are in use. Released text encoders
 * are there only while they encode. The transformer's workspace stays from one picture to the next.
 */
function planPhases(
  components: readonly ComponentMemory[],
  accelerator: Device | undefined,
  phases: readonly PhaseMemory['phase'][],
  { keepTextEncoders = true, keepDecoder = true }: MemoryPlanOptions,
): PhaseMemory[] {
  const kept = (c: ComponentMemory) =>
    isText(c) ? keepTextEncoders : c.component === 'vae' ? keepDecoder : true;
  /** Of the components in one memory: the host's or the GPU's. */
  const sum = (phase: PhaseMemory['phase'], device: Device): number => {
    let bytes = 0;
    let transient = 0;
    for (const c of components) {
      if (device === 'cpu') bytes += c.streamedBytes ?? 0;
      if (!sameDevice(c.device, device)) continue;
      const working = ACTIVE[phase](c);
      if (working) bytes += c.residentBytes;
      else if (kept(c)) bytes += c.copiedBytes;
      if (c.component === 'transformer') bytes += c.transientBytes;
      // Text encoders run one after another.
      else if (working) transient = Math.max(transient, c.transientBytes);
    }
    return bytes + transient;
  };
  return phases.map((phase) => ({
    phase,
    bytes: sum(phase, 'cpu'),
    ...(accelerator !== undefined && { deviceBytes: sum(phase, accelerator) }),
  }));
}

function sameDevice(a: Device, b: Device): boolean {
  const full = (device: Device) => (device === 'cuda' ? 'cuda:0' : device);
  return full(a) === full(b);
}

/** Activations of CLIP, B prompts. */
export function clipTransientBytes(c: ClipShape, prompts: number, size: number): number {
  const tokens = prompts * c.maxTokens;
  return tokens * ((2 * 4 + 5 * size) * c.width + 2 * size * c.mlpWidth);
}

/** Activations of T5: residual and its norm, q, k, v and result, the gated MLP, scores and position bias. */
export function t5TransientBytes(c: T5Shape, tokens: number, prompts: number, size: number): number {
  const inner = c.heads * c.headDim;
  const rows = prompts * tokens;
  const scores = (prompts + 1) * c.heads * tokens * tokens * 4;
  return rows * (2 * 4 * c.width + size * (c.width + 4 * inner + 3 * c.mlpWidth)) + scores;
}

/**
 * What sampling takes: the workspace (residual, norm, the fused projections of a single block, its input to the last
 * one, q, k, v, k and v packed, attention and projection), the preparation of weights, modulation of all steps, text tokens, and the sampler's latents.
 */
export function transformerTransientBytes(
  c: FluxConfig,
  o: { imageTokens: number; textTokens: number; images: number; steps: number; runs: number; size: number },
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
  return workspace + preparing + o.runs * (modulation + text + latents) + rope;
}

/**
 * Activations of decoding one picture of h x w latent cells without tiling: the bound of the native decoder
 * (`Autoencoder::decode_bytes`).
 */
export function decodeBytes(c: AutoencoderShape, h: number, w: number, size: number): number {
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

/** Device memory that quantised or streamed block weights, and modulation weights that do not stay, spare. */
function savedBytes(c: FluxConfig, size: number, form: BlockWeights, keepModulation: boolean): number {
  const d = c.hiddenSize;
  const largestBlock = 2 * (4 + 2 * c.mlpRatio) * d * d * size;
  const spared =
    form === 'int8'
      ? blockParameters(c) * (size - 1)
      : form === 'streamed'
        ? Math.max(0, blockParameters(c) * size - STREAMED_SLOTS * largestBlock)
        : 0;
  return spared + (keepModulation ? 0 : modulationParameters(c) * size);
}

function positive(option: string, value: number): number {
  if (Number.isSafeInteger(value) && value > 0) return value;
  throw invalidArgument(option, 'a positive integer', value);
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(bytes < 1e10 ? 2 : 1)} GB`;
}
