/**
 * How much memory a model will take, known before it is loaded: from headers, file sizes and the sizes of the request.
 * Estimates, on the safe side by some percent; docs/models.md compares them with measurements.
 */
import { type Names, readOptions } from '../arguments.js';
import { ERROR_CODES, invalidArgument, JitFluxError } from '../errors.js';
import { requestedBlockWeights } from '../engine/block-weights.js';
import {
  componentMemory,
  type MemoryArchitectures,
  mostStored,
  type PartName,
  type WeightDescription,
} from '../engine/describe.js';
import { deviceInfo, isAccelerator } from '../engine/device.js';
import type { BlockWeights, Device, LoadOptions } from '../types.js';
import { CLIP_L, T5_XXL } from './known-models.js';
import { type AvailableMemory, availableMemory } from './available-memory.js';
import {
  checkPlannedOptions,
  checkTextOptions,
  decoderPlacement,
  textPlacement,
  transformerPlacement,
} from './component-options.js';
import { pixelsPerToken } from './size.js';
import { describeModel } from './resolve-model.js';
import { type ResolvedRun, resolveRun, resolveTextLength } from './run.js';
import type { ModelKind, ModelSpec, ProgramFile } from './spec.js';

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
  /** Whether weights may be used from the mapped files; else all of them are copies. */
  mapWeights: boolean;
  /** Whether the blocks of T5 are quantised. */
  quantizeTextEncoders: boolean;
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
  width?: number | undefined;
  height?: number | undefined;
  /** Pictures of a batch, default 1. */
  images?: number | undefined;
  textTokens?: number | undefined;
  /** Steps; their modulation vectors are computed in advance. */
  steps?: number | undefined;
  /** Requests at work at a time, default 1. Each holds latents and conditioning of its own. */
  concurrency?: number | undefined;
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
      | 'quantizeTextEncoders'
      | 'packWeights'
      | 'mapWeights'
      | 'weightStreaming'
      | 'textEncoderDevice'
      | 'decoderDevice'
      | 'keepDecoder'
      | 'keepModulation'
      | 'textEncoders'
      | 'variant'
      | 'keepTextEncoders'
      | 'signal'
    >,
    MemoryPlanRequest {}

const PLAN_OPTIONS: Names<MemoryPlanOptions> = {
  dtype: true,
  device: true,
  quantize: true,
  quantizeTextEncoders: true,
  packWeights: true,
  mapWeights: true,
  weightStreaming: true,
  textEncoderDevice: true,
  decoderDevice: true,
  keepDecoder: true,
  keepModulation: true,
  textEncoders: true,
  variant: true,
  keepTextEncoders: true,
  signal: true,
  width: true,
  height: true,
  images: true,
  textTokens: true,
  steps: true,
  concurrency: true,
};

/** Node, LibTorch and its threads: 255 MB were measured after a picture of flux-tiny on two cores. The rest is margin. */
export const RUNTIME_BYTES = 350_000_000;
/** CUDA's context and kernels, cuBLAS's and cuDNN's workspaces, and the allocator's slack. Not yet measured. */
export const DEVICE_RUNTIME_BYTES = 1_000_000_000;

/**
 * Computes what a model will take in memory, without loading it; by the engine's own sizes. LibTorch is needed
 * only if a GPU is named: then its free memory is looked up.
 * @param model a model directory or checkpoint, as `FluxPipeline.load` takes, a known name such as `flux.1-dev`, or what
 *   `resolveModel` returned
 * @throws what `FluxPipeline.load` throws for a model that is incomplete or does not fit together
 */
export async function planMemory(
  model: string | ModelSpec,
  given: MemoryPlanOptions = {},
): Promise<MemoryPlan> {
  const o = readOptions(given, PLAN_OPTIONS);
  checkPlannedOptions(o);
  const { textEncoders, variant, signal } = o;
  const source = await describeModel(model, { textEncoders, variant, signal });
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
 * {@link planMemory} for a model that has been found. Arithmetic alone. Where `packWeights` is not given, the weights are packed
 * unless they fit only as the file holds them, and on a GPU streamed if they fit only so (`weightStreaming`); all give
 * the same pictures.
 */
export function planModelMemory(source: ModelSpec, o: MemoryPlanOptions, available: Available): MemoryPlan {
  const plan = planForm(source, o, requestedBlockWeights(o), available);
  if (plan.fits) return plan;
  // As the file holds them and in memory of this process, weights would take no less.
  if (plan.blockWeights === 'packed' && o.packWeights !== true && o.mapWeights !== false)
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
  checkTextOptions(o, source.text);
  const decoder = decoderPlacement(o, source.decoder);
  const width = positive('width', o.width ?? info.defaults.width);
  const height = positive('height', o.height ?? info.defaults.height);
  const images = positive('images', o.images ?? 1);
  const textTokens = positive('textTokens', o.textTokens ?? resolveTextLength(undefined, info));
  const steps = positive('steps', o.steps ?? resolveRun({}, info).plan.steps);
  const runs = positive('concurrency', o.concurrency ?? 1);
  const { channels } = info.decoder;
  const unit = pixelsPerToken(info);
  const [rows, cols] = [Math.ceil(height / unit), Math.ceil(width / unit)];

  const component = <Part extends PartName>(
    name: ComponentName,
    part: Part,
    file: WeightDescription | undefined,
    placement: { device: Device; dtype: string },
    architecture: Readonly<MemoryArchitectures[Part]> | undefined,
    form = blockWeights,
  ): ComponentMemory => {
    const take = (weights: { fileBytes: number; parameters?: number | undefined; storedDType?: string }) =>
      componentMemory({
        ...weights,
        part,
        architecture,
        dtype: placement.dtype,
        device: isAccelerator(placement.device) ? 'accelerator' : 'cpu',
        blockWeights: form,
        keepModulation: o.keepModulation ?? true,
        mapWeights: o.mapWeights ?? true,
        work: { rows, cols, textTokens, images, steps, runs },
      });
    // A model that is known by its name only is published in bfloat16.
    const stored = file ? mostStored(file) : 'bfloat16';
    const fileBytes = file?.fileBytes ?? 2 * (take({ fileBytes: 0 }).parameters ?? 0);
    return {
      component: name,
      ...(file && { path: file.path }),
      format: file?.format ?? 'safetensors',
      fileBytes,
      ...(stored !== undefined && { storedDType: stored }),
      device: placement.device,
      ...take({ fileBytes, parameters: file?.parameters, ...(stored && { storedDType: stored }) }),
    };
  };
  /** An archive whose code is run. */
  const program = (
    name: ComponentName,
    { path, format, fileBytes }: ProgramFile,
    device: Device,
    transientBytes: number,
  ): ComponentMemory => ({
    component: name,
    path,
    format,
    fileBytes,
    device,
    residentBytes: fileBytes,
    copiedBytes: fileBytes,
    mapped: false,
    transientBytes,
  });

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
    all.push(
      component('text_encoder', 'clip', clip.weights, text, complete(clip.architecture, CLIP_L)),
      component(
        'text_encoder_2',
        't5',
        t5.weights,
        text,
        complete(t5.architecture, T5_XXL),
        o.quantizeTextEncoders ?? 'mapped',
      ),
    );
  } else if (source.text) {
    all.push(program('text_encoder', source.text.weights, text.device, 0));
  }
  all.push(
    component(
      'transformer',
      'transformer',
      source.transformer.weights,
      transformer,
      source.transformer.config,
    ),
    source.decoder.kind === 'native'
      ? component('vae', 'autoencoder', source.decoder.weights, decoder, {
          encoder: true,
          ...source.decoder.architecture,
        })
      : program(
          'vae',
          source.decoder.weights,
          decoder.device,
          images * (channels * 4 * rows * cols * 64 + height * width * 3 * 5),
        ),
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
    mapWeights: o.mapWeights ?? true,
    quantizeTextEncoders: o.quantizeTextEncoders !== undefined,
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
    ...(encoding ? encodingAdvice(plan, weights) : generationAdvice(plan, weights)),
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

function encodingAdvice(plan: MemoryPlan, weights: readonly ComponentMemory[]): string[] {
  return plan.accelerator ? ["textEncoderDevice 'cpu'"] : quantizingAdvice(plan, weights);
}

/** T5 is what there is to quantise, on the CPU. */
function quantizingAdvice(plan: MemoryPlan, weights: readonly ComponentMemory[]): string[] {
  const helps = weights.some((c) => c.component === 'text_encoder_2' && !isAccelerator(c.device));
  return helps && !plan.quantizeTextEncoders ? ["quantizeTextEncoders 'int8'"] : [];
}

function generationAdvice(plan: MemoryPlan, weights: readonly ComponentMemory[]): string[] {
  const { accelerator } = plan;
  return [
    ...(plan.mapWeights ? [] : ['mapWeights: true']),
    ...(plan.blockWeights === 'packed' && plan.mapWeights ? ['packWeights: false'] : []),
    ...(accelerator || plan.blockWeights === 'int8' ? [] : ["quantize 'int8'"]),
    ...(plan.blockWeights === 'resident' ? ['weightStreaming', 'keepModulation: false'] : []),
    ...(accelerator ? ["textEncoderDevice 'cpu'", 'keepDecoder: false'] : []),
    ...(weights.some(isText)
      ? [
          ...quantizingAdvice(plan, weights),
          'keepTextEncoders: false, or prompts encoded in advance (encodePrompt)',
        ]
      : []),
    'a smaller picture',
  ];
}

const isRuntime = ({ component }: ComponentMemory) => component.endsWith('runtime');
const isText = ({ component }: ComponentMemory) => component.startsWith('text_encoder');

/** An architecture of which everything is known that a model like `example` has. */
function complete<Found extends object, Example extends object>(
  found: Found,
  example: Example,
): Complete<Found, Example> | undefined {
  return isComplete(found, example) ? found : undefined;
}

type Complete<Found, Example> = Found & {
  [Name in keyof Found & keyof Example]-?: NonNullable<Found[Name]>;
};

function isComplete<Found extends object, Example extends object>(
  found: Found,
  example: Example,
): found is Complete<Found, Example> {
  return Object.keys(example).every((name) => found[name as keyof Found] !== undefined);
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

function positive(option: string, value: number): number {
  if (Number.isSafeInteger(value) && value > 0) return value;
  throw invalidArgument(option, 'a positive integer', value);
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(bytes < 1e10 ? 2 : 1)} GB`;
}
