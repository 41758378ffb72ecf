/**
 * The runtime with another default device, so that the golden suites run unchanged on every one: on the CPU, or with
 * JIT_FLUX_TEST_DEVICE=cuda on the first GPU. Where there is none, the CUDA kernels run in their emulation on the CPU
 * (test/cuda/emulation): same engine path, same kernels, LibTorch's own operators on the CPU.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { PACKAGE_ROOT } from '../../src/libtorch/libtorch.js';
import { callNative } from '../../src/engine/call.js';
import * as runtime from '../../src/engine/index.js';
import type { Device, LoadOptions } from '../../src/types.js';

export * from '../../src/engine/index.js';

export const DEVICE: Device = process.env.JIT_FLUX_TEST_DEVICE === 'cuda' ? 'cuda' : 'cpu';

const EMULATION = join(PACKAGE_ROOT, '.cmake-build', 'Release', 'out', 'libjit_flux_cuda_emulation.so');

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

if (DEVICE === 'cuda') {
  const found = cudaUnderTest();
  if (found.kind === 'none') throw new Error(`JIT_FLUX_TEST_DEVICE=cuda: ${found.reason}`);
}

/** float32 unless said otherwise, on every device: what the golden data were made in. */
const here = <O extends LoadOptions>(o: O | undefined): O =>
  ({ device: DEVICE, dtype: 'float32', ...o }) as unknown as O;

export type Tensor = runtime.Tensor;
export const Tensor = {
  // Integers are token ids, which models take on the CPU.
  from: ((data, shape, o) =>
    runtime.Tensor.from(data, shape, {
      ...(data instanceof Float32Array && { device: DEVICE }),
      ...o,
    })) as typeof runtime.Tensor.from,
  randn: ((shape, o) => runtime.Tensor.randn(shape, { device: DEVICE, ...o })) as typeof runtime.Tensor.randn,
};

/** The class with another default for its `load`. */
function onDevice<Model extends { load(path: string, o?: LoadOptions): Promise<unknown> }>(
  model: Model,
): Pick<Model, 'load'> {
  return { load: (path: string, o?: LoadOptions) => model.load(path, here(o)) };
}

export type FluxTransformer = runtime.FluxTransformer;
export const FluxTransformer = onDevice(runtime.FluxTransformer);
export type ClipTextEncoder = runtime.ClipTextEncoder;
export const ClipTextEncoder = onDevice(runtime.ClipTextEncoder);
export type T5Encoder = runtime.T5Encoder;
export const T5Encoder = onDevice(runtime.T5Encoder);
export type Autoencoder = runtime.Autoencoder;
export const Autoencoder = onDevice(runtime.Autoencoder);
