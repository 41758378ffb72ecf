import type { EngineInfo } from '../native/binding.js';
import { callNative } from '../native/call.js';

export type { EngineInfo, KernelName } from '../native/binding.js';

/** Versions, instruction set and threads of the native engine; loads it if necessary. */
export function engineInfo(): EngineInfo {
  return callNative((binding) => binding.info());
}
