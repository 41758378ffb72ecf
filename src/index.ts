/**
 * jit-flux: FLUX.1 image generation inside Node.js, accelerated in space by Just-in-Time sparse-token sampling.
 *
 * Importing this module loads no native code; that happens on first use of a tensor, model or pipeline.
 */
export {
  BUNDLED_MODEL,
  DEFAULT_MAX_QUEUE,
  EncodedPrompts,
  encodeOnly,
  FluxPipeline,
  GeneratedImage,
  KNOWN_MODELS,
  loadEncodedPrompts,
  planMemory,
  resolveModel,
  type AvailableMemory,
  type ComponentMemory,
  type ComponentName,
  type Durations,
  type GenerateRequest,
  type GenerateResult,
  type GenerateTimings,
  type GenerateWarning,
  type Inference,
  type KnownModel,
  type MemoryPlan,
  type MemoryPlanOptions,
  type MemoryPlanRequest,
  type ModelInfo,
  type ModelKind,
  type ModelSpec,
  type NativeDecoder,
  type NativeText,
  type Outcome,
  type Phase,
  type PhaseMemory,
  type PipelineOptions,
  type PipelineStats,
  type ResolveOptions,
  type RunOptions,
  type TextEncoderSpec,
  type TorchScriptText,
  type WeightDescription,
} from './pipeline/index.js';
export {
  Autoencoder,
  ClipTextEncoder,
  Conditioning,
  deviceInfo,
  devices,
  DEFAULT_DECODE_BUDGET_BYTES,
  FluxTransformer,
  inspectWeights,
  jit,
  JitSampler,
  latentOps,
  memoryReport,
  resetPeakMemory,
  T5Encoder,
  Tensor,
  TorchScriptModule,
  type WeightEntry,
  type AutoencoderSettings,
  type BlockWeights,
  type ClipSettings,
  type DeviceInfo,
  type EngineMemory,
  type MemoryReport,
  type T5Settings,
  type TransferStatistics,
  type WeightInspection,
} from './engine/index.js';
export {
  createPlan,
  FLUX_1_DEV,
  FLUX_TINY,
  fluxFlops,
  imageSeed,
  PRESET_NAMES,
  PRESETS,
  SamplerCore,
  subSeed,
  type FluxFlops,
  type PlanModel,
  type PlanOptions,
  type Preset,
  type SamplerBackend,
} from './sampler/index.js';
export {
  convertModel,
  type ConversionProgress,
  type ConvertedFile,
  type ConvertOptions,
  type ConvertResult,
} from './convert/index.js';
export {
  setupLibTorch,
  type SetupOptions,
  type SetupProgress,
  type SetupResult,
} from './libtorch/provision.js';
export type { PngMetadata, RgbImage } from './image/index.js';
export { engineInfo, type EngineInfo, type KernelName } from './engine/engine.js';
export type { GenerateTrace, LoadTrace, StepTrace } from './diagnostics.js';
export { LOG_LEVELS, setLogger, type LogEntry, type LoggerOptions, type LogLevel } from './logging.js';
export { ERROR_CODES, JitFluxError, type JitFluxErrorCode } from './errors.js';
export type * from './types.js';
