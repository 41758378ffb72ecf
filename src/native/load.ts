/**
 * Loads the native libraries: finds them and LibTorch, checks that they fit together, and lets jit_flux.node open them.
 * Nothing is loaded before the first call of {@link loadNative}.
 */
import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { ERROR_CODES, JitFluxError } from '../errors.js';
import type { NativeBinding } from './binding.js';
import {
  PACKAGE_ROOT,
  SETUP_COMMAND,
  findLibTorch,
  minorVersion,
  readManifest,
  type LibTorch,
} from './libtorch.js';

/** What jit_flux.node exports. */
interface NativeLoader {
  load(options: { libraries: string[]; core: string }): unknown;
}

/** What this file needs of the core's exports. */
interface NativeCore {
  info?: () => { libtorch?: string; version?: string };
}

/** The native libraries of this package, as found on disk. */
export interface NativeLibraries {
  /** jit_flux.node. */
  loader: string;
  /** libjit_flux_core.so. */
  core: string;
  /** LibTorch version they were built against. */
  builtFor: string;
}

/** jit_flux.build.json, written beside the libraries by scripts/build-native.mjs. */
interface BuildRecord {
  libtorch?: string;
}

export const BUILD_COMMAND = 'npm run build:native';
const CORE_NAME = 'libjit_flux_core.so';
const RECORD_NAME = 'jit_flux.build.json';

let loaded: { binding: unknown; libtorch: LibTorch; libraries: NativeLibraries } | undefined;

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
  const libraries = locateNativeLibraries();
  const libtorch = findLibTorch({ libtorch: options.libtorch, builtFor: libraries.builtFor });
  const binding = openLibraries(libraries, libtorch);
  assertFits(binding as NativeCore, libraries, libtorch);
  loaded = { binding, libtorch, libraries };
  return binding as Binding;
}

/** What {@link loadNative} has loaded in this environment, for `doctor`; undefined before. */
export function loadedNative(): { libtorch: LibTorch; libraries: NativeLibraries } | undefined {
  return loaded && { libtorch: loaded.libtorch, libraries: loaded.libraries };
}

/**
 * Finds this package's own libraries: `JIT_FLUX_BUILD_DIR`, else a local build, else the prebuilt ones.
 * @throws ERR_JITFLUX_NATIVE_LOAD if they are in none of these places
 */
export function locateNativeLibraries(env: NodeJS.ProcessEnv = process.env): NativeLibraries {
  const places: { directory: string; loader: string }[] = env.JIT_FLUX_BUILD_DIR
    ? [{ directory: resolve(env.JIT_FLUX_BUILD_DIR), loader: 'jit_flux.node' }]
    : [
        { directory: join(PACKAGE_ROOT, 'build', 'Release'), loader: 'jit_flux.node' },
        // prebuildify names the file after the package.
        {
          directory: join(PACKAGE_ROOT, 'prebuilds', `${process.platform}-${process.arch}`),
          loader: 'jit-flux.node',
        },
      ];
  for (const place of places) {
    const loader = join(place.directory, place.loader);
    const core = join(place.directory, CORE_NAME);
    if (existsSync(loader) && existsSync(core)) return { loader, core, builtFor: builtFor(place.directory) };
  }
  const tried = places.map(({ directory }) => directory);
  throw new JitFluxError(
    ERROR_CODES.NATIVE_LOAD,
    `The native libraries of jit-flux are missing. Looked in:\n${tried.map((line) => `  - ${line}`).join('\n')}\n` +
      `In a source checkout run \`${BUILD_COMMAND}\`; otherwise reinstall the package.`,
    { tried, command: BUILD_COMMAND },
  );
}

/** Prebuilt libraries have no record: they are made for the pinned version. */
function builtFor(directory: string): string {
  const path = join(directory, RECORD_NAME);
  if (existsSync(path)) {
    const record = JSON.parse(readFileSync(path, 'utf8')) as BuildRecord;
    if (record.libtorch !== undefined) return record.libtorch;
  }
  return readManifest().version;
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
  if (glibcVersion() === undefined) {
    throw new JitFluxError(
      ERROR_CODES.NATIVE_LOAD,
      'jit-flux needs a Linux with glibc; this Node was built for another C library (musl, as in Alpine), ' +
        'for which there is no LibTorch. Use a Debian-based image such as node:22-bookworm-slim.',
      { libc: 'musl' },
    );
  }
}

function glibcVersion(): string | undefined {
  const report = process.report as NodeJS.ProcessReport & { excludeNetwork?: boolean };
  const previous = report.excludeNetwork ?? false;
  report.excludeNetwork = true; // a report resolves the names of all open sockets otherwise
  try {
    return (report.getReport() as { header?: { glibcVersionRuntime?: string } }).header?.glibcVersionRuntime;
  } finally {
    report.excludeNetwork = previous;
  }
}

function openLibraries(libraries: NativeLibraries, libtorch: LibTorch): unknown {
  try {
    const loader = createRequire(import.meta.url)(libraries.loader) as NativeLoader;
    return loader.load({ libraries: libtorch.libraries, core: libraries.core });
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    const hint = hintFor(message);
    throw new JitFluxError(
      ERROR_CODES.NATIVE_LOAD,
      hint === undefined ? message : `${message}\n${hint}`,
      { libraries: libtorch.libraries, core: libraries.core, libtorch: libtorch.path },
      { cause: error },
    );
  }
}

/** What usually helps with an error of the dynamic linker. */
function hintFor(message: string): string | undefined {
  if (/GLIBC(XX)?_[\d.]+' not found/.test(message))
    return 'This system is too old for the prebuilt libraries; glibc 2.28 or newer is needed.';
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
  const expected = packageVersion();
  if (info?.version !== undefined && info.version !== expected) {
    throw new JitFluxError(
      ERROR_CODES.NATIVE_LOAD,
      `${libraries.core} belongs to jit-flux ${info.version}, but this is ${expected}. ` +
        `Run \`${BUILD_COMMAND}\` in a source checkout, or reinstall the package.`,
      { found: info.version, required: expected, core: libraries.core },
    );
  }
}

function packageVersion(): string {
  return (JSON.parse(readFileSync(join(PACKAGE_ROOT, 'package.json'), 'utf8')) as { version: string })
    .version;
}

function samePath(a: string, b: string): boolean {
  try {
    return realpathSync(a) === realpathSync(b);
  } catch {
    return resolve(a) === resolve(b);
  }
}
