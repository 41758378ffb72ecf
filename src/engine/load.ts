/**
 * Loads the native libraries: finds them and LibTorch, checks that they fit together, and lets jit_flux.node open them.
 * Nothing is loaded before the first call of {@link loadNative}, or of {@link loadWeightsLibrary}, which needs no
 * LibTorch.
 */
import { realpathSync } from 'node:fs';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { ERROR_CODES, JitFluxError } from '../errors.js';
import { VERSION } from '../files/package-files.js';
import { connectNativeLog } from '../logging.js';
import type { ControlBinding, NativeBinding, WeightsBinding } from './binding.js';
import { SETUP_COMMAND, minorVersion, type LibTorch } from '../libtorch/libtorch.js';
import {
  BUILD_COMMAND,
  findLibTorchFor,
  locateNativeLibraries,
  type LocateOptions,
  type NativeLibraries,
} from '../libtorch/native-libraries.js';
import { PREBUILT_REQUIREMENTS, SUITABLE_SYSTEMS, systemLibraries } from '../libtorch/requirements.js';

/** What jit_flux.node exports. */
interface NativeLoader {
  load(options: { libraries: string[]; entry: string }): unknown;
}

/** What this file needs of the core's exports. */
interface NativeCore extends Partial<ControlBinding> {
  info?: () => { libtorch?: string; version?: string };
  /** Opens libjit_flux_cuda.so, which brings its kernels along; throws if it cannot. */
  openDeviceLibrary: (path: string) => void;
}

/** What one process loads. */
export interface NativeSet {
  libraries: NativeLibraries;
  libtorch: LibTorch;
}

let loaded: (NativeSet & { binding: unknown; cudaError?: Error }) | undefined;
let loadedWeights: WeightsBinding | undefined;

/**
 * Loads the native core, once per JavaScript environment (main thread, worker thread); later calls return the same
 * object. A failed load may be tried again, for example after `setup`.
 *
 * @throws ERR_JITFLUX_NATIVE_LOAD, ERR_JITFLUX_LIBTORCH_NOT_FOUND, ERR_JITFLUX_LIBTORCH_VERSION
 */
export function loadNative<Binding = NativeBinding>(options: { libtorch?: string } = {}): Binding {
  if (loaded !== undefined) {
    if (options.libtorch !== undefined && !samePath(options.libtorch, loaded.libtorch.path)) {
      throw new JitFluxError(
        ERROR_CODES.NATIVE_LOAD,
        `LibTorch is already loaded from ${loaded.libtorch.path}; a process cannot switch to ${options.libtorch}`,
        { loaded: loaded.libtorch.path, requested: options.libtorch },
      );
    }
    return loaded.binding as Binding;
  }
  assertPlatform();
  const { libraries, libtorch } = locateNative(options);
  const binding = openLibraries(libraries.loader, libraries.core, libtorch);
  assertFits(binding as NativeCore, libraries, libtorch);
  const cudaError = openCuda(binding as NativeCore, libraries, libtorch);
  loaded = { binding, libtorch, libraries, ...(cudaError && { cudaError }) };
  connect(binding as NativeCore);
  return binding as Binding;
}

/**
 * Loads the native library that reads, describes and converts weight files: as {@link loadNative}, but without LibTorch,
 * which need not be there.
 *
 * @throws ERR_JITFLUX_NATIVE_LOAD
 */
export function loadWeightsLibrary(): WeightsBinding {
  if (loadedWeights !== undefined) return loadedWeights;
  assertPlatform();
  const libraries = loaded?.libraries ?? locateNativeLibraries();
  const binding = openLibraries(libraries.loader, libraries.weights) as WeightsBinding;
  assertVersion(binding.info().version, libraries.weights);
  connect(binding);
  loadedWeights = binding;
  return binding;
}

function connect({ setLogHandler }: Partial<ControlBinding>): void {
  if (setLogHandler !== undefined) connectNativeLog(setLogHandler);
}

/**
 * What {@link loadNative} has loaded in this environment, for `doctor`; undefined before. `cudaError`: why the CUDA
 * library could not be opened, although it and its LibTorch are there; the CPU works all the same.
 */
export function loadedNative(): (NativeSet & { cudaError?: Error }) | undefined {
  if (loaded === undefined) return undefined;
  const { libtorch, libraries, cudaError } = loaded;
  return { libtorch, libraries, ...(cudaError && { cudaError }) };
}

/**
 * The libraries and the LibTorch that {@link loadNative} would load.
 *
 * @throws ERR_JITFLUX_NATIVE_LOAD, ERR_JITFLUX_LIBTORCH_NOT_FOUND, ERR_JITFLUX_LIBTORCH_VERSION
 */
export function locateNative(options: LocateOptions = {}): NativeSet {
  const libraries = locateNativeLibraries(options);
  return { libraries, libtorch: findLibTorchFor(libraries, options) };
}

/** LibTorch exists for glibc only; on musl, dlopen would fail with an unhelpful list of symbols. */
function assertPlatform(): void {
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    throw new JitFluxError(
      ERROR_CODES.NATIVE_LOAD,
      `jit-flux runs on Linux x64 only, not on ${process.platform} ${process.arch}`,
      { platform: process.platform, arch: process.arch },
    );
  }
  if (systemLibraries().glibc === undefined) {
    throw new JitFluxError(
      ERROR_CODES.NATIVE_LOAD,
      'jit-flux needs a Linux with glibc; this Node was built for another C library (musl, as in Alpine), ' +
        'for which there is no LibTorch. Use a Debian-based image such as node:22-bookworm-slim.',
      { libc: 'musl' },
    );
  }
}

/** @param entry the library whose exports are returned; `libtorch` is opened before it */
function openLibraries(loaderPath: string, entry: string, libtorch?: LibTorch): unknown {
  const libraries = libtorch?.libraries ?? [];
  try {
    const loader = createRequire(import.meta.url)(loaderPath) as NativeLoader;
    return loader.load({ libraries, entry });
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    const hint = hintFor(message);
    // The dynamic linker's words, and those of what the libraries do while they are loaded. Where the linker can map no
    // more it says no reason; where it may not (noexec) it does.
    const { code } = error as { code?: unknown };
    const memory =
      code === ERROR_CODES.OUT_OF_MEMORY ||
      /cannot allocate memory|out of memory|failed to map segment from shared object(?!:)/i.test(message);
    throw new JitFluxError(
      memory ? ERROR_CODES.OUT_OF_MEMORY : ERROR_CODES.NATIVE_LOAD,
      hint === undefined ? message : `${message}\n${hint}`,
      { libraries, entry, ...(libtorch && { libtorch: libtorch.path }) },
      { cause: error },
    );
  }
}

/**
 * Opens the CUDA library where there is one; returns why it could not be.
 * @internal exported for tests
 */
export function openCuda(
  core: NativeCore,
  libraries: NativeLibraries,
  libtorch: LibTorch,
): Error | undefined {
  if (libraries.cuda === undefined || !libtorch.cuda) return undefined;
  try {
    core.openDeviceLibrary(libraries.cuda);
    return undefined;
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
}

/** What usually helps with an error of the dynamic linker. */
function hintFor(message: string): string | undefined {
  if (/GLIBC(XX)?_[\d.]+' not found/.test(message))
    return (
      `This system is too old for the prebuilt libraries, which need glibc ${PREBUILT_REQUIREMENTS.glibc} and ` +
      `GLIBCXX_${PREBUILT_REQUIREMENTS.glibcxx}: ${SUITABLE_SYSTEMS}, or newer. On an older one build from source.`
    );
  if (message.includes('static TLS block'))
    return 'Start Node with LD_PRELOAD set to the libgomp named above, so that it is loaded early.';
  if (message.includes('undefined symbol'))
    return `The native libraries do not fit this LibTorch. Run \`${BUILD_COMMAND}\` in a source checkout, or \`${SETUP_COMMAND}\`.`;
  if (message.includes('cannot enable executable stack'))
    return 'The system refuses libraries with an executable stack; use the LibTorch that setup installs.';
  if (message.includes('another copy of LibTorch'))
    return 'Load jit-flux in a process of its own, or point JIT_FLUX_LIBTORCH to the copy that is loaded.';
  return undefined;
}

/** The last check: what the core says of itself. */
function assertFits(core: NativeCore, libraries: NativeLibraries, libtorch: LibTorch): void {
  const info = core.info?.();
  if (info?.libtorch !== undefined && minorVersion(info.libtorch) !== minorVersion(libtorch.version)) {
    throw new JitFluxError(
      ERROR_CODES.LIBTORCH_VERSION,
      `${libraries.core} was built for LibTorch ${info.libtorch}, but ${libtorch.path} holds ${libtorch.version}. ` +
        `Run \`${BUILD_COMMAND}\` in a source checkout, or reinstall the package.`,
      { found: libtorch.version, required: `${minorVersion(info.libtorch)}.x`, path: libtorch.path },
    );
  }
  assertVersion(info?.version, libraries.core);
}

function assertVersion(version: string | undefined, library: string): void {
  if (version !== undefined && version !== VERSION) {
    throw new JitFluxError(
      ERROR_CODES.NATIVE_LOAD,
      `${library} belongs to jit-flux ${version}, but this is ${VERSION}. ` +
        `Run \`${BUILD_COMMAND}\` in a source checkout, or reinstall the package.`,
      { found: version, required: VERSION, library },
    );
  }
}

function samePath(a: string, b: string): boolean {
  try {
    return realpathSync(a) === realpathSync(b);
  } catch {
    return resolve(a) === resolve(b);
  }
}
