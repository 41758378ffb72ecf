export { FluxPipeline, type EncodedPrompts } from './flux-pipeline.js';
export { GeneratedImage } from './image.js';
export {
  BUNDLED_MODEL,
  MODEL_INDEX,
  pixelsPerToken,
  readModelDirectory,
  type ModelDirectory,
  type ModelIndex,
} from './model-directory.js';
export type { GenerateRequest, GenerateResult, GenerateTimings, GenerateWarning } from './types.js';
