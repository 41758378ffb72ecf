/**
 * CUDA for tests: the first GPU or, where there is none, the CUDA kernels in their emulation on the CPU
 * (test/cuda/emulation): same engine path, same kernels, LibTorch's own operators on the CPU.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { callNative } from '../../src/engine/call.js';
import { PROGRAMS } from './programs.js';

const EMULATION = join(PROGRAMS, 'libjit_flux_cuda_emulation.so');

/** What is tested when a GPU is asked for, or why nothing can be. */
export function cudaUnderTest(): { kind: 'gpu' | 'emulation' } | { kind: 'none'; reason: string } {
  const count = callNative((binding) => binding.deviceCount());
  if (count > 0) return { kind: openedEmulation ? 'emulation' : 'gpu' };
  if (!existsSync(EMULATION)) return { kind: 'none', reason: `no GPU, and ${EMULATION} was not built` };
  try {
    callNative((binding) => binding.openDeviceLibrary(EMULATION));
  } catch (error) {
    // The CUDA build has its own library open, or is another build than the emulation's.
    return { kind: 'none', reason: `no GPU, and no emulation here: ${(error as Error).message}` };
  }
  openedEmulation = true;
  return { kind: 'emulation' };
}
let openedEmulation = false;
