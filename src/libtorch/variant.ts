/** Which LibTorch `setup --variant auto` takes. */
import { cudaVariant, readManifest, type LibTorchManifest } from './libtorch.js';
import { findCudaLibraries } from './native-libraries.js';
import { CUDA_DRIVER, hasNvidiaDevice, nvidiaDriver } from './nvidia.js';

export const AUTO_VARIANT = 'auto';

export interface VariantChoice {
  variant: string;
  /** Why this one. */
  reason: string;
}

/** What the choice depends on. */
export interface VariantFacts {
  /** Of an NVIDIA device. */
  hasDevice: boolean;
  /** Major version; undefined if unknown. */
  driver: number | undefined;
  /** This package has a CUDA library. */
  hasLibrary: boolean;
}

/** The variant with CUDA where it can be used; it is 20 times as large as the other. */
export function chooseVariant(
  manifest: LibTorchManifest = readManifest(),
  facts: VariantFacts = factsOfThisMachine(),
): VariantChoice {
  const cpu = (reason: string): VariantChoice => ({ variant: manifest.defaultVariant, reason });
  const [variant, pinned] = cudaVariant(manifest) ?? [];
  if (variant === undefined || !pinned?.available) return cpu('there is no variant with CUDA');
  if (!facts.hasDevice) return cpu('no NVIDIA device and driver here');
  if (facts.driver !== undefined && facts.driver < CUDA_DRIVER)
    return cpu(`the NVIDIA driver ${facts.driver} is older than ${CUDA_DRIVER}, which CUDA 13 needs`);
  if (!facts.hasLibrary) return cpu('this installation of jit-flux has no CUDA library');
  return { variant, reason: 'NVIDIA device found' };
}

function factsOfThisMachine(): VariantFacts {
  return {
    hasDevice: hasNvidiaDevice(),
    driver: nvidiaDriver(),
    hasLibrary: findCudaLibraries() !== undefined,
  };
}
