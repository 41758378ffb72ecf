/** Where this package's own native libraries are, and which LibTorch fits them. Opens none of them. */
import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { ERROR_CODES, JitFluxError, invalidArgument } from '../errors.js';
import { PACKAGE_FILES, PACKAGE_ROOT } from '../files/package-files.js';
import { cudaVariant, findLibTorch, readManifest, type LibTorch } from './libtorch.js';
import { hasNvidiaDevice } from './nvidia.js';

/** The native libraries of this package, as found on disk. */
export interface NativeLibraries {
  /** jit_flux.node. */
  loader: string;
  /** libjit_flux_weights.so, which needs no LibTorch. */
  weights: string;
  /** libjit_flux_core.so. */
  core: string;
  /** libjit_flux_cuda.so, in a CUDA build. */
  cuda?: string;
  /** LibTorch version they were built against. */
  builtFor: string;
  /** They came with the package. */
  prebuilt?: true;
}

/** Where and how the libraries are looked for. */
export interface LocateOptions {
  env?: NodeJS.ProcessEnv;
  /** Explicit LibTorch directory, which a CUDA build must fit in order to be chosen. */
  libtorch?: string | undefined;
  /** @internal for tests */ root?: string;
  /** @internal for tests */ hasDevice?: () => boolean;
}

/** jit_flux.build.json, written beside the libraries by scripts/build-native.mjs. */
interface BuildRecord {
  libtorch?: string;
}

/** A directory that may hold the libraries. */
interface Place {
  directory: string;
  /** Name of jit_flux.node there. */
  loader: string;
  prebuilt?: true;
}

const VARIANTS = ['cpu', 'cuda'] as const;
type Variant = (typeof VARIANTS)[number];

export const BUILD_COMMAND = 'npm run build:native';
export const CUDA_BUILD_COMMAND = 'npm run build:cuda';
const WEIGHTS_NAME = 'libjit_flux_weights.so';
const CORE_NAME = 'libjit_flux_core.so';
const CUDA_NAME = 'libjit_flux_cuda.so';
const RECORD_NAME = 'jit_flux.build.json';

/**
 * LibTorch for the libraries. A CUDA build takes one with CUDA; failing that, any of its version, with which it serves
 * the CPU, unless `JIT_FLUX_VARIANT` insists on CUDA.
 */
export function findLibTorchFor(libraries: NativeLibraries, options: LocateOptions = {}): LibTorch {
  const env = options.env ?? process.env;
  const { builtFor } = libraries;
  const wanted = { libtorch: options.libtorch, builtFor, env };
  if (libraries.cuda === undefined) return findLibTorch(wanted);
  try {
    return findLibTorch({ ...wanted, cuda: true });
  } catch (error) {
    if (variantOf(env) === 'cuda') throw error;
    try {
      return findLibTorch(wanted);
    } catch {
      throw error;
    }
  }
}

/**
 * Finds this package's own libraries: `JIT_FLUX_BUILD_DIR`, else a local build, else the prebuilt ones.
 * `JIT_FLUX_VARIANT` says whether the CPU or the CUDA build. Without it the CUDA build is taken where it can do
 * something (a device and a LibTorch with CUDA are there), or where there is no other.
 *
 * @throws ERR_JITFLUX_NATIVE_LOAD if they are in none of these places
 * @throws ERR_JITFLUX_INVALID_ARGUMENT if `JIT_FLUX_VARIANT` is none of the variants
 */
export function locateNativeLibraries(options: LocateOptions = {}): NativeLibraries {
  const env = options.env ?? process.env;
  const variant = variantOf(env);
  if (env.JIT_FLUX_BUILD_DIR) {
    const place = { directory: resolve(env.JIT_FLUX_BUILD_DIR), loader: 'jit_flux.node' };
    const libraries = librariesIn([place], variant === 'cuda');
    if (libraries === undefined) throw missing([place], variant);
    return libraries;
  }
  const cuda = variant === 'cpu' ? undefined : findCudaLibraries(options);
  if (variant === 'cuda') {
    if (cuda === undefined) throw missing(cudaPlaces(options), variant);
    return cuda;
  }
  if (cuda !== undefined && isCudaUsable(cuda, options)) return cuda;
  const cpuPlaces = placesOf(options, 'Release', '');
  const libraries = librariesIn(cpuPlaces, false) ?? cuda;
  if (libraries === undefined) throw missing(cpuPlaces, variant);
  return libraries;
}

/** The CUDA build, chosen or not, if there is one. */
export function findCudaLibraries(options: LocateOptions = {}): NativeLibraries | undefined {
  return librariesIn(cudaPlaces(options), true);
}

function cudaPlaces(options: LocateOptions): Place[] {
  return placesOf(options, 'Cuda', '-cuda');
}

function placesOf({ root }: LocateOptions, build: string, suffix: string): Place[] {
  const prebuilds = root === undefined ? PACKAGE_FILES.prebuilds : join(root, 'prebuilds');
  return [
    { directory: join(root ?? PACKAGE_ROOT, 'build', build), loader: 'jit_flux.node' },
    // prebuildify names the file after the package.
    {
      directory: join(prebuilds, `${process.platform}-${process.arch}${suffix}`),
      loader: 'jit-flux.node',
      prebuilt: true,
    },
  ];
}

/** The first place that has all libraries. @param needsCuda the CUDA library is one of them */
function librariesIn(places: Place[], needsCuda: boolean): NativeLibraries | undefined {
  for (const place of places) {
    const loader = join(place.directory, place.loader);
    const weights = join(place.directory, WEIGHTS_NAME);
    const core = join(place.directory, CORE_NAME);
    const cuda = join(place.directory, CUDA_NAME);
    const hasCuda = existsSync(cuda);
    if (![loader, weights, core].every(existsSync) || (needsCuda && !hasCuda)) continue;
    return {
      loader,
      weights,
      core,
      ...(hasCuda && { cuda }),
      builtFor: builtFor(place.directory, hasCuda),
      ...(place.prebuilt && { prebuilt: true }),
    };
  }
  return undefined;
}

function isCudaUsable(libraries: NativeLibraries, options: LocateOptions): boolean {
  const env = options.env ?? process.env;
  if (!(options.hasDevice ?? (() => hasNvidiaDevice(env)))()) return false;
  try {
    findLibTorch({ libtorch: options.libtorch, builtFor: libraries.builtFor, cuda: true, env });
    return true;
  } catch {
    return false; // the CPU build may find one that it can use, or say what is wrong
  }
}

function variantOf(env: NodeJS.ProcessEnv): Variant | undefined {
  const value = env.JIT_FLUX_VARIANT;
  if (!value) return undefined;
  const variant = VARIANTS.find((name) => name === value);
  if (variant === undefined)
    throw invalidArgument('JIT_FLUX_VARIANT', VARIANTS.map((name) => `'${name}'`).join(' or '), value);
  return variant;
}

function missing(places: Place[], variant: Variant | undefined): JitFluxError {
  const tried = places.map(({ directory }) => directory);
  const isCuda = variant === 'cuda';
  const command = isCuda ? CUDA_BUILD_COMMAND : BUILD_COMMAND;
  return new JitFluxError(
    ERROR_CODES.NATIVE_LOAD,
    `The native libraries of jit-flux${isCuda ? ' for CUDA' : ''} are missing. Looked in:\n` +
      `${tried.map((line) => `  - ${line}`).join('\n')}\n` +
      `In a source checkout run \`${command}\`; otherwise ` +
      (isCuda
        ? 'unset JIT_FLUX_VARIANT.'
        : 'reinstall the package, or, if a bundler has copied it, let it copy its whole folder (docs/install.md).'),
    { tried, command },
  );
}

/** Prebuilt libraries have no record: they are made for the pinned version. */
function builtFor(directory: string, cuda: boolean): string {
  const path = join(directory, RECORD_NAME);
  if (existsSync(path)) {
    const libtorch = readRecord(path).libtorch;
    if (libtorch !== undefined) return libtorch;
  }
  const manifest = readManifest();
  const pinned = cuda ? cudaVariant(manifest)?.[1] : undefined;
  return pinned?.version ?? manifest.version;
}

function readRecord(path: string): BuildRecord {
  try {
    const record = JSON.parse(readFileSync(path, 'utf8')) as BuildRecord | null;
    if (typeof record === 'object' && record !== null && typeof (record.libtorch ?? '') === 'string')
      return record;
  } catch {
    // as below
  }
  throw new JitFluxError(
    ERROR_CODES.NATIVE_LOAD,
    `${path} is damaged. In a source checkout run \`${BUILD_COMMAND}\`; otherwise reinstall the package.`,
    { path, command: BUILD_COMMAND },
  );
}
