export { Tensor } from './tensor.js';
export { jit } from './jit.js';
export { JitSampler } from './jit-sampler.js';
export { Conditioning, DEFAULT_GUIDANCE, FluxTransformer } from './flux-transformer.js';
export { TorchScriptModule } from './script-module.js';
export { latentOps } from './latent-ops.js';
export { inspectWeights, type WeightEntry, type WeightInspection } from './inspect.js';
