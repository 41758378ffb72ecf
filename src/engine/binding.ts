/**
 * The types of what libjit_flux_core.so and libjit_flux_weights.so export: written by hand, one entry per function
 * registered in native/addon, native/weights_addon and native/node. Everything above this file speaks of tensors and models; handles appear nowhere else.
 */
import type { LogLevel } from '../logging.js';
import type {
  AutoencoderConfig,
  BlockWeights,
  ClipConfig,
  DType,
  FluxConfig,
  PartlyKnown,
  Grid,
  LoadOptions,
  T5Config,
  TensorData,
} from '../types.js';

declare const handle: unique symbol;
/** A native object; opaque, type-tagged in C++. */
export interface Handle<Kind extends string> {
  readonly [handle]: Kind;
}
export type TensorHandle = Handle<'tensor'>;
export type AbortHandle = Handle<'abort flag'>;
export type TransformerHandle = Handle<'transformer'>;
export type ConditioningHandle = Handle<'conditioning'>;
export type ScriptModuleHandle = Handle<'TorchScript module'>;
export type ClipHandle = Handle<'CLIP text encoder'>;
export type T5Handle = Handle<'T5 encoder'>;
export type AutoencoderHandle = Handle<'autoencoder'>;
export type AnyHandle =
  | TensorHandle
  | TransformerHandle
  | ConditioningHandle
  | ScriptModuleHandle
  | ClipHandle
  | T5Handle
  | AutoencoderHandle;

/** Cancellation and progress of one asynchronous call. */
export interface NativeJob {
  abort?: AbortHandle;
  progress?: (done: number, total: number, what: string) => void;
}

/** What every model takes when it is loaded. */
export interface NativeLoadOptions {
  /** Index of an accelerator, or -1 for the CPU. */
  device: number;
  /** float32, bfloat16 or, on accelerators, float16. */
  dtype: DType;
  /** 0: default. */
  threads: number;
  verify: boolean;
  /** Whether weights may be used from a mapping of the file. */
  mapWeights: boolean;
}

/** How a decode is cut into tiles. */
export interface NativeTiling {
  mode: 'never' | 'auto' | 'always' | 'fixed';
  memoryBudgetBytes: number;
  /** For `'fixed'`, in latent cells. */
  tileSize?: number;
  overlap?: number;
}

/** One tensor of a weight file. */
export interface WeightEntry {
  name: string;
  dtype: string;
  shape: number[];
  bytes: number;
}

/** Names and texts; a name may be any. */
export type MetadataEntries = [name: string, text: string][];

/** What `inspectWeights` finds in a file. */
export interface WeightInspection {
  format: 'torchscript' | 'safetensors';
  /** Key layout, if the tensors are a FLUX transformer. */
  layout?: 'diffusers' | 'original';
  /** Common prefix of the parameters' names, possibly empty. */
  prefix?: string;
  config?: FluxConfig;
  /** Why the tensors are no FLUX transformer. */
  problem?: Error & { code: string; details?: Record<string, unknown> };
  tensors: WeightEntry[];
  totalBytes: number;
  /** The texts of a safetensors file (`__metadata__`), where they were asked for. */
  metadata?: Record<string, string>;
}

/** What shapes tell of a FLUX transformer; the RoPE axes if a rule or the file's metadata tells them. */
export type FluxArchitecture = Omit<FluxConfig, 'ropeAxes'> & PartlyKnown<Pick<FluxConfig, 'ropeAxes'>>;
/** What shapes tell of CLIP's text encoder. */
export type ClipArchitecture = Omit<ClipConfig, 'heads' | 'eosTokenId'>;
/** What shapes tell of T5's encoder. */
export type T5Architecture = Omit<T5Config, 'maxTokens' | 'maxDistance'>;
/** What shapes tell of an autoencoder. */
export type AutoencoderArchitecture = Omit<AutoencoderConfig, 'normGroups' | 'scalingFactor' | 'shiftFactor'>;

/** Architectures by the part of a model that has them. */
export interface PartArchitectures {
  transformer: FluxArchitecture;
  clip: ClipArchitecture;
  t5: T5Architecture;
  autoencoder: AutoencoderArchitecture;
}
export type PartName = keyof PartArchitectures;

/** What a weight file, or the shards of an index, is: from its headers. Plain data. */
export type WeightDescription = WeightFileDescription & (UnknownPart | DescribedPart);

/** What is known of every weight file. */
export interface WeightFileDescription {
  /** As it was given. */
  path: string;
  /** Every file that was opened, an index first. */
  files: string[];
  format: 'torchscript' | 'safetensors';
  /** Size of the weight files on disk. */
  fileBytes: number;
  /** Elements of the part's tensors, or of all if no architecture was resolved. */
  parameters: number;
  /** Elements of all tensors by the type that holds them: `{ bfloat16: 1000 }`. */
  storedTypes: Record<string, number>;
  /** Of sizes and samples of the files: 16 hexadecimal digits. */
  fingerprint: string;
  /** Tensors beside those of the part, which are not used; their first names. */
  extra?: { count: number; names: string[] } | undefined;
}

/** A part whose tensors are complete and fit together. */
export type DescribedPart = {
  [Part in PartName]: {
    part: Part;
    /** Key layout, of the parts that have two. */
    layout?: 'diffusers' | 'original' | undefined;
    /** What stands before the names of all parameters, possibly empty. */
    prefix: string;
    architecture: PartArchitectures[Part];
    problem?: undefined;
  };
}[PartName];

/** Tensors that are none of the known parts, or not as such a part needs them. */
export interface UnknownPart {
  /** What the names look like. */
  part?: PartName | undefined;
  layout?: undefined;
  prefix?: undefined;
  architecture?: undefined;
  problem: { code: string; message: string; details?: Record<string, unknown> | undefined };
}

/** One part of a model, and what it has to do. */
export interface MemoryRequest<Part extends PartName = PartName> {
  part: Part;
  /** Absent where only its file is known. What does not decide memory may be left out. */
  architecture?: Readonly<MemoryArchitectures[Part]> | undefined;
  /** As counted in the file; else the architecture's. */
  parameters?: number | undefined;
  /** Type of most weights in the file. */
  storedDType?: string | undefined;
  fileBytes: number;
  /** To compute in. */
  dtype: string;
  device: 'cpu' | 'accelerator';
  /** Of the blocks of a transformer or, if `'int8'`, of T5. */
  blockWeights: BlockWeights;
  keepModulation: boolean;
  /** Whether weights may be used from the mapped file. */
  mapWeights: boolean;
  work: {
    /** Of image tokens. */
    rows: number;
    cols: number;
    textTokens: number;
    images: number;
    steps: number;
    /** Requests at a time. */
    runs: number;
  };
}

/** What of an architecture decides the memory. */
export interface MemoryArchitectures {
  transformer: FluxArchitecture;
  clip: ClipArchitecture;
  t5: T5Architecture;
  autoencoder: Pick<AutoencoderArchitecture, 'latentChannels' | 'channels' | 'layersPerBlock' | 'encoder'>;
}

/** Bytes of one part of a model; see `ComponentMemory` of src/model/memory-plan.ts. */
export interface PartMemory {
  /** Absent where neither the file nor an architecture tells. */
  parameters?: number;
  residentBytes: number;
  copiedBytes: number;
  streamedBytes?: number;
  mapped: boolean;
  transientBytes: number;
}

/** What {@link WeightsBinding.convertWeights} did. */
export interface WeightConversion {
  /** Key layout of the input, if it is a FLUX transformer. */
  layout?: 'diffusers' | 'original';
  tensors: number;
  /** Tensors of the input that are no part of the transformer. */
  skippedTensors: number;
  fileBytes: number;
  /** Tensor data that an interrupted run had written already. */
  resumedBytes: number;
  /** Finite numbers that became infinite in the new type, others than zero that became zero. */
  becameInfinite: number;
  becameZero: number;
  /** The first tensors with numbers that became infinite. */
  infiniteTensors: string[];
  /** The output was there already: see `completed`. */
  reused: boolean;
  /** Names this conversion: sources and options. */
  identity: string;
}

/** What {@link EngineInfo.kernelCalls} counts. */
export type KernelName =
  | 'layerNormModulate'
  | 'gatedResidual'
  | 'gatedResidualLayerNormModulate'
  | 'qkNormRope'
  | 'gelu'
  | 'gatherEmbed'
  | 'quantizeRows'
  | 'liftStep'
  | 'attention'
  | 'attentionFallback'
  | 'deviceAttention'
  | 'linearPlain'
  | 'linearPacked'
  | 'linearWidened'
  | 'linearInt8'
  | 'linearDevice'
  | 'linearStreamed'
  | 'graphLaunch'
  | 'arenaReused'
  | 'arenaAllocated';

/** Facts about the loaded engine. */
export interface EngineInfo {
  version: string;
  /** LibTorch version the core was built against. */
  libtorch: string;
  /** Instruction set of the kernels in use; `JIT_FLUX_ISA` forces another. */
  isa: string;
  supportedIsas: string[];
  /**
   * Calls of every fused kernel and kind of linear layer in this process: proof that the fast paths run.
   * `attentionFallback` counts attention by LibTorch, for head sizes that our kernel does not take (on a GPU: that no fused
   * kernel takes); `linearPlain`
   * linear layers whose weights are multiplied as the file holds them. On a GPU the same names count its kernels, and
   * `deviceAttention`, `linearDevice` and `linearStreamed` what LibTorch does there; of a pass that is
   * launched as a CUDA graph, only `graphLaunch` and what lies outside of the graph. `arenaReused` and `arenaAllocated`
   * count large intermediate tensors that found memory of an earlier pass, and that did not.
   */
  kernelCalls: Record<KernelName, number>;
  /** LibTorch's own choice, for example `AVX512`. */
  cpuCapability: string;
  /** Default number of threads of the inference thread's OpenMP team. */
  threads: number;
}

/** A GPU. Bytes are as of the call. */
export interface DeviceInfo {
  /** The device is `cuda:<index>`. */
  index: number;
  name: string;
  /** For example `9.0`. */
  computeCapability: string;
  multiprocessors: number;
  totalBytes: number;
  /** Left on the device, whoever uses the rest. */
  freeBytes: number;
  /** In tensors of this process. */
  allocatedBytes: number;
  /** Held by LibTorch's allocator, tensors included. */
  reservedBytes: number;
  /** Most that was in tensors since the start or `resetPeakMemory`. */
  peakAllocatedBytes: number;
}

/** Host memory that the engine holds in this process. */
export interface NativeMemoryUse {
  /** Behind tensors and packed weights, kept buffers included. */
  tensorBytes: number;
  /** Most that this was. */
  peakTensorBytes: number;
  /** Of `tensorBytes`: buffers kept for the next pass that nothing uses now. */
  idleBytes: number;
  /** Weight files that are mapped; the system decides how much of them is in memory. */
  mappedBytes: number;
}

/** What streaming weights to a GPU took, by the GPU's clock. */
export interface NativeTransferStatistics {
  bytes: number;
  copyMilliseconds: number;
  stallMilliseconds: number;
}

/** One pass of a transformer. */
interface NativePass {
  transformer: TransformerHandle;
  conditioning: ConditioningHandle;
  /** Absent: all tokens of the grid in order. */
  anchors?: Int32Array | undefined;
  grid: Grid;
  /** One step for all images, or one per image. */
  step: Int32Array;
}

/** A pass over latents at the anchors: a list for all images or one per image, by its length. */
interface AnchorTokens {
  tokens: TensorHandle;
}

/** A pass over latents of the whole grid, of which the anchors are taken. */
interface WholeGrid {
  latents: TensorHandle;
  /** `anchors` holds one list per image. */
  perImage: boolean;
}

/** What every library exports to control its work in this JavaScript environment. */
export interface ControlBinding {
  /**
   * Messages of this JavaScript environment's work up to `level` go to the handler, on a later turn of the event loop. What
   * it throws is ignored. LibTorch's warnings are of level `'warn'`.
   */
  setLogHandler(handler: ((level: LogLevel, message: string) => void) | undefined, level: LogLevel): void;
  createAbortFlag(): AbortHandle;
  raiseAbortFlag(flag: AbortHandle): void;
}

/** libjit_flux_core.so. */
export interface NativeBinding extends ControlBinding {
  info(): EngineInfo;
  memoryUse(): NativeMemoryUse;

  /** Opens libjit_flux_cuda.so; once per process. */
  openDeviceLibrary(path: string): void;
  deviceCount(): number;
  /** Why an opened library has no devices. */
  deviceUnavailableReason(): string | undefined;
  deviceInfo(device: number, job?: NativeJob): Promise<DeviceInfo>;
  resetPeakMemory(device: number): void;

  tensorFrom(o: { data: TensorData; shape: number[]; dtype: DType; device: number }): TensorHandle;
  /** One seed: one draw. One seed per image: each image is a draw of its own. */
  tensorRandn(o: { shape: number[]; seeds: bigint[]; dtype: DType; device: number }): TensorHandle;
  tensorTo(tensor: TensorHandle, device: number, job?: NativeJob): Promise<TensorHandle>;
  tensorInfo(tensor: TensorHandle): { shape: number[]; dtype: DType; device: string };
  tensorClone(tensor: TensorHandle): TensorHandle;
  /** Images (first dimension) that hold NaN or infinite values. */
  tensorNotFinite(tensor: TensorHandle, job?: NativeJob): Promise<Int32Array>;
  /** `scale * tensor + otherScale * other` in a new tensor of the type of `tensor`. */
  tensorCombine(
    o: { tensor: TensorHandle; scale: number; other?: TensorHandle | undefined; otherScale: number },
    job?: NativeJob,
  ): Promise<TensorHandle>;
  /** One number per image (first dimension). */
  tensorReduce(
    o: { tensor: TensorHandle; reduction: 'sum' | 'norm' | 'min' | 'max' },
    job?: NativeJob,
  ): Promise<Float64Array>;
  tensorRead(tensor: TensorHandle, job?: NativeJob): Promise<Float32Array>;
  tensorLoad(
    path: string,
    names: string[],
    job?: NativeJob,
  ): Promise<{ tensors: TensorHandle[]; metadata: MetadataEntries }>;
  release(handle: AnyHandle): void;

  gather(
    o: { latents: TensorHandle; anchors: Int32Array; perImage: boolean },
    job?: NativeJob,
  ): Promise<TensorHandle>;
  lift(
    /** `blur: false`: the nearest-anchor field as it is. */
    o: { velocity: TensorHandle; anchors: Int32Array; grid: Grid; blur: boolean },
    job?: NativeJob,
  ): Promise<TensorHandle>;
  importance(o: { velocity: TensorHandle; grid: Grid }, job?: NativeJob): Promise<Float32Array>;
  /** The `count` most important tokens that are no anchors, per image. */
  selectTokens(
    o: { velocity: TensorHandle; anchors: Int32Array; perImage: boolean; count: number; grid: Grid },
    job?: NativeJob,
  ): Promise<Int32Array>;
  predictClean(
    o: { latents: TensorHandle; velocity: TensorHandle; sigma: number },
    job?: NativeJob,
  ): Promise<TensorHandle>;
  /** Blends towards the target once per weight. */
  microFlow(
    o: { latents: TensorHandle; newTokens: Int32Array; target: TensorHandle; weights: Float64Array },
    job?: NativeJob,
  ): Promise<void>;
  microFlowTarget(
    o: {
      clean: TensorHandle;
      noise: TensorHandle;
      anchors: Int32Array;
      newTokens: Int32Array;
      /** Of `anchors` and `newTokens`. */
      perImage: boolean;
      sigma: number;
      grid: Grid;
    },
    job?: NativeJob,
  ): Promise<TensorHandle>;
  step(
    o: {
      latents: TensorHandle;
      velocity: TensorHandle;
      anchors?: Int32Array | undefined;
      grid: Grid;
      dSigma: number;
    },
    job?: NativeJob,
  ): Promise<TensorHandle>;

  unpack(
    o: { tokens: TensorHandle; grid: Grid; scale: number; shift: number },
    job?: NativeJob,
  ): Promise<TensorHandle>;
  pack(latents: TensorHandle, job?: NativeJob): Promise<TensorHandle>;
  toImage(pictures: TensorHandle, job?: NativeJob): Promise<Uint8Array>;
  /** The images (first dimension) of all tensors, those of `tensors[i]` `repeats[i]` times each. */
  stackImages(o: { tensors: TensorHandle[]; repeats: Int32Array }, job?: NativeJob): Promise<TensorHandle>;
  /** Some images of a tensor, in the same memory. */
  imagesOf(o: { tensor: TensorHandle; first: number; count: number }): TensorHandle;

  loadTransformer(
    path: string,
    options: NativeLoadOptions & {
      blockWeights: BlockWeights;
      cudaGraphs: boolean;
      timeEmbedding: NonNullable<LoadOptions['timeEmbedding']>;
      keepModulation: boolean;
      ropeAxes?: readonly number[] | undefined;
    },
    job?: NativeJob,
  ): Promise<{ handle: TransformerHandle; config: FluxConfig }>;
  prepareTransformer(transformer: TransformerHandle, job?: NativeJob): Promise<void>;
  condition(
    o: {
      transformer: TransformerHandle;
      prompt: TensorHandle;
      pooled: TensorHandle;
      /** One for all images, or one per image. */
      guidance: Float64Array;
      sigmas: Float64Array;
    },
    job?: NativeJob,
  ): Promise<ConditioningHandle>;
  forward(o: NativePass & (AnchorTokens | WholeGrid), job?: NativeJob): Promise<TensorHandle>;
  /** `forward`, lift and Euler update of the latents in one call; resolves to the full velocity. */
  advance(o: NativePass & WholeGrid & { dSigma: number }, job?: NativeJob): Promise<TensorHandle>;

  /** Since the last call; undefined unless the weights are streamed. */
  transferStatistics(
    transformer: TransformerHandle,
    job?: NativeJob,
  ): Promise<NativeTransferStatistics | undefined>;

  loadClipTextEncoder(
    path: string,
    /** `heads` 0: heads of 64. */
    options: NativeLoadOptions & { heads: number; eps: number; eosTokenId: number },
    job?: NativeJob,
  ): Promise<{ handle: ClipHandle; config: ClipConfig }>;
  encodeClip(
    encoder: ClipHandle,
    ids: TensorHandle,
    job?: NativeJob,
  ): Promise<{ pooled: TensorHandle; hidden: TensorHandle }>;

  loadT5Encoder(
    path: string,
    options: NativeLoadOptions & { maxDistance: number; eps: number; int8: boolean },
    job?: NativeJob,
  ): Promise<{ handle: T5Handle; config: T5Config }>;
  encodeT5(encoder: T5Handle, ids: TensorHandle, job?: NativeJob): Promise<TensorHandle>;

  loadAutoencoder(
    path: string,
    options: NativeLoadOptions & { normGroups: number; eps: number },
    job?: NativeJob,
  ): Promise<{
    handle: AutoencoderHandle;
    config: Omit<AutoencoderConfig, 'scalingFactor' | 'shiftFactor'>;
  }>;
  decodeLatents(
    autoencoder: AutoencoderHandle,
    latents: TensorHandle,
    tiling: NativeTiling,
    job?: NativeJob,
  ): Promise<TensorHandle>;
  encodePictures(
    autoencoder: AutoencoderHandle,
    pictures: TensorHandle,
    job?: NativeJob,
  ): Promise<{ mean: TensorHandle; logvar: TensorHandle }>;
  decodeBytes(autoencoder: AutoencoderHandle, h: number, w: number): number;

  loadScriptModule(bytes: Uint8Array, name: string, job?: NativeJob): Promise<ScriptModuleHandle>;
  runScriptModule(
    module: ScriptModuleHandle,
    inputs: TensorHandle[],
    job?: NativeJob,
  ): Promise<TensorHandle[]>;
}

/** libjit_flux_weights.so, which needs no LibTorch. */
export interface WeightsBinding extends ControlBinding {
  info(): { version: string };
  inspectWeights(
    path: string,
    o: { verify: boolean; metadata: boolean },
    job?: NativeJob,
  ): Promise<Omit<WeightInspection, 'metadata'> & { metadata?: MetadataEntries }>;
  /** `problem` comes as an Error. */
  describeWeights(path: string, job?: NativeJob): Promise<WeightDescription>;
  /** Which file of a folder holds its weights. `variant`: '' for none. */
  findWeights(folder: string, variant: string, job?: NativeJob): Promise<string | undefined>;
  componentMemory(request: MemoryRequest): PartMemory;
  /** Progress counts bytes of tensor data. */
  convertWeights(
    input: string,
    output: string,
    options: {
      format: 'torchscript' | 'safetensors';
      dtype: 'keep' | 'float32' | 'bfloat16' | 'float16';
      resume: boolean;
      verify: boolean;
      /** Identity of an earlier conversion to the same output; not repeated if nothing has changed. */
      completed: string;
      ropeAxes?: readonly number[] | undefined;
    },
    job?: NativeJob,
  ): Promise<WeightConversion>;
}
