import type { EngineInfo } from './binding.js';
import { callNative } from './call.js';

export type { EngineInfo, KernelName } from './binding.js';

/** Versions, instruction set and threads of the native engine; loads it if necessary. */
export function engineInfo(): EngineInfo {
  return callNative((binding) => binding.info());
}
