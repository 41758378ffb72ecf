/**
 * The runtime with another default device, so that the golden suites run unchanged on every one: on the CPU, or with
 * JIT_FLUX_TEST_DEVICE=cuda (project golden-cuda) on the first GPU or in the emulation.
 */
import * as runtime from '../../src/engine/index.js';
import type { Device, LoadOptions } from '../../src/types.js';
import { cudaUnderTest } from './cuda.js';

export * from '../../src/engine/index.js';

export const DEVICE: Device = process.env.JIT_FLUX_TEST_DEVICE === 'cuda' ? 'cuda' : 'cpu';

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
