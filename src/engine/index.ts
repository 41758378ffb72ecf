export { Tensor } from './tensor.js';
export {
  checkLoadValues,
  computeDType,
  LOAD_OPTIONS,
  nativeLoadOptions,
  readLoadOptions,
} from './load-options.js';
export { jit } from './jit.js';
export { JitSampler } from './jit-sampler.js';
export {
  Conditioning,
  DEFAULT_GUIDANCE,
  FluxTransformer,
  type TransferStatistics,
} from './flux-transformer.js';
export {
  deviceIndex,
  deviceInfo,
  devices,
  type DeviceInfo,
  isAccelerator,
  parseDevice,
  resetPeakMemory,
} from './device.js';
export type { AutoencoderSettings, ClipSettings, T5Settings } from './component-config.js';
export { ClipTextEncoder } from './clip-text-encoder.js';
export { T5Encoder } from './t5-encoder.js';
export { Autoencoder, DEFAULT_DECODE_BUDGET_BYTES } from './autoencoder.js';
export { TorchScriptModule } from './script-module.js';
export { latentOps } from './latent-ops.js';
export { memoryReport, type EngineMemory, type MemoryReport } from './memory.js';
export { inspectWeights, type WeightEntry, type WeightInspection } from './inspect.js';
export { loadTensors } from './load-tensors.js';
export { componentMemory, describeWeights, mostStored, type WeightDescription } from './describe.js';
