export { FluxPipeline } from './flux-pipeline.js';
export { encodeOnly } from './encode-only.js';
export { initialNoise, type InitialNoiseOptions } from './initial-noise.js';
export { EncodedPrompts, loadEncodedPrompts, type EncodedTensors } from './encoded-prompts.js';
export { DecodedImage, GeneratedImage, type PngOptions } from './image.js';
export {
  planMemory,
  type ComponentMemory,
  type ComponentName,
  type MemoryPlan,
  type MemoryPlanOptions,
  type MemoryPlanRequest,
  type PhaseMemory,
} from '../model/memory-plan.js';
export { BUNDLED_MODEL } from '../model/bundled-model.js';
export { KNOWN_MODELS, type KnownModel } from '../model/known-models.js';
export { resolveModel, type ResolveOptions } from '../model/resolve-model.js';
export type { RunOptions } from '../model/run.js';
export type {
  Inference,
  ModelInfo,
  ModelKind,
  ModelSpec,
  NativeDecoder,
  NativeText,
  ProgramFile,
  TextEncoderSpec,
  TorchScriptText,
} from '../model/spec.js';
export type {
  AutoencoderArchitecture,
  ClipArchitecture,
  DescribedPart,
  FluxArchitecture,
  PartArchitectures,
  PartName,
  T5Architecture,
  UnknownPart,
  WeightDescription,
  WeightFileDescription,
} from '../engine/describe.js';
export type { AvailableMemory } from '../model/available-memory.js';
export type { Durations, Outcome, Phase, PipelineStats } from './statistics.js';
export {
  DEFAULT_MAX_QUEUE,
  type DecodeRequest,
  type GenerateRequest,
  type GenerateResult,
  type GenerateTimings,
  type GenerateWarning,
  type PipelineOptions,
  type WarmUpOptions,
} from './types.js';
