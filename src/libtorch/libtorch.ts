/**
 * Where LibTorch is. One search order for the build (scripts/build-native.mjs), the loader (load.ts) and `setup`:
 * the explicit option, `JIT_FLUX_LIBTORCH`, `LIBTORCH`, the cache that `npx jit-flux setup` fills, the `torch` of an
 * installed Python. Nothing is loaded here; a candidate is judged by its files alone.
 */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { ERROR_CODES, JitFluxError, invalidArgument } from '../errors.js';
import { userCacheDirectory } from '../files/user-directories.js';
import { exposed, findExposure } from '../files/ownership.js';
import { PACKAGE_FILES, shippedFile } from '../files/package-files.js';
import { findPythonTorch, pythonName } from './python.js';

export const SETUP_COMMAND = 'npx jit-flux setup';

const CUDA_LIBRARIES = ['libc10_cuda.so', 'libtorch_cuda.so'];

/** An archive that `setup` can fetch: a Python wheel or a LibTorch zip. */
export interface LibTorchArchive {
  /** File name; below `JIT_FLUX_LIBTORCH_MIRROR` it is found under this name. */
  file: string;
  /** Folder inside the archive that is unpacked; see {@link LibTorchVariant.directory}. */
  root: string;
  size: number;
  /** Lower-case hex. */
  sha256: string;
  url: string;
  /** How pip finds the same file, whatever the local Python's version. */
  pip?: {
    requirements: string[];
    pythonVersion: string;
    implementation: string;
    abi: string;
    platform: string;
  };
}

export interface LibTorchVariant {
  version: string;
  /** False for a variant that is planned but not pinned yet. */
  available: boolean;
  unavailableReason?: string;
  /** It has the CUDA libraries. Default false. */
  cuda?: boolean;
  /**
   * The LibTorch directory inside the variant's folder of the cache. With it, every archive's `root` is kept as pip
   * installs it (`torch/lib/...`, `nvidia/cu13/lib/...`), because libtorch_cuda.so looks for the CUDA libraries in
   * `$ORIGIN/../../nvidia`. Without it there is one archive, and its `root` becomes the folder itself.
   */
  directory?: string;
  /** Bytes on disk once unpacked. */
  unpackedSize: number;
  archives: LibTorchArchive[];
}

/** libtorch.json: the pinned LibTorch. */
export interface LibTorchManifest {
  version: string;
  /** Oldest and newest minor version that the sources build against. */
  supported: { minimum: string; maximum: string };
  defaultVariant: string;
  variants: Record<string, LibTorchVariant>;
}

/** A LibTorch directory that passed validation. */
export interface LibTorch {
  /** Absolute path of the directory that holds `lib/`. */
  path: string;
  /** Full version, for example `2.13.0+cpu`. */
  version: string;
  /** What led to it. */
  source: 'option' | 'JIT_FLUX_LIBTORCH' | 'LIBTORCH' | 'cache' | 'python';
  /** It has the CUDA libraries. */
  cuda: boolean;
  /** Absolute paths of the libraries to load before the core, in order. */
  libraries: string[];
}

export interface FindLibTorchOptions {
  /** Explicit directory; nothing else is tried. */
  libtorch?: string | undefined;
  /** Cache directory instead of {@link cacheDirectory}. */
  cacheDir?: string | undefined;
  /**
   * `'run'` (default): the minor version must equal that of `builtFor`, since LibTorch's C++ ABI is stable only within
   * one. `'build'`: any supported version will do, and the headers must be there.
   */
  purpose?: 'run' | 'build';
  /** Version the native libraries were built against. Default: the pinned one. */
  builtFor?: string | undefined;
  /** Only one with the CUDA libraries will do. Default false: either kind. */
  cuda?: boolean | undefined;
  /** Consider the `torch` of an installed Python. Default true. */
  python?: boolean;
  env?: NodeJS.ProcessEnv;
  manifest?: LibTorchManifest;
}

/** What is looked for, as the errors say it. */
interface Wanted {
  required: string;
  cuda: boolean;
  command: string;
}

/** A place that was looked at, and what was wrong with it. */
interface Attempt {
  place: string;
  reason: string;
}

export function readManifest(path = shippedFile(PACKAGE_FILES.libtorch)): LibTorchManifest {
  return JSON.parse(readFileSync(path, 'utf8')) as LibTorchManifest;
}

/**
 * `JIT_FLUX_CACHE`, else `$XDG_CACHE_HOME/jit-flux`, else `~/.cache/jit-flux`. The latter two are passed over where they
 * are relative: nothing is loaded from the working directory by accident.
 *
 * @throws ERR_JITFLUX_INVALID_ARGUMENT if there is none
 */
export function cacheDirectory(env: NodeJS.ProcessEnv = process.env): string {
  if (env.JIT_FLUX_CACHE) return resolve(env.JIT_FLUX_CACHE);
  const cache = userCacheDirectory(env);
  if (cache === undefined)
    throw invalidArgument('JIT_FLUX_CACHE', 'a directory, as this user has no home,', env.JIT_FLUX_CACHE);
  return join(cache, 'jit-flux');
}

/** The folder that `setup` makes for a variant. */
export function variantCacheDirectory(cacheDir: string, version: string, variant: string): string {
  return join(cacheDir, 'libtorch', `${version}-${variant}`);
}

/** The LibTorch directory inside a variant's folder; cmake/LibTorch.cmake follows the same rule. */
export function libTorchDirectory(variantDirectory: string, pinned: LibTorchVariant): string {
  return join(variantDirectory, pinned.directory ?? '');
}

/** `'2.13'` of `'2.13.0+cpu'`. */
export function minorVersion(version: string): string {
  return /^\d+\.\d+/.exec(version)?.[0] ?? version;
}

/**
 * Finds and validates LibTorch.
 *
 * The option and `JIT_FLUX_LIBTORCH` are binding: what they name is used or refused, never passed over. The other
 * places are tried in turn. What nobody has named, in the cache or a Python, must be such that no other user could have
 * changed it.
 *
 * @throws ERR_JITFLUX_UNSAFE_FILE naming the path, the owner and the mode that are wrong
 * @throws ERR_JITFLUX_LIBTORCH_NOT_FOUND naming every place tried and the command that fixes it
 * @throws ERR_JITFLUX_LIBTORCH_VERSION if a place named by the user holds another version than the build needs
 */
export function findLibTorch(options: FindLibTorchOptions = {}): LibTorch {
  const env = options.env ?? process.env;
  const manifest = options.manifest ?? readManifest();
  const purpose = options.purpose ?? 'run';
  const builtFor = options.builtFor ?? manifest.version;
  const required =
    purpose === 'run'
      ? `${minorVersion(builtFor)}.x`
      : `${manifest.supported.minimum} - ${manifest.supported.maximum}`;
  const accepts = (version: string): boolean =>
    purpose === 'run' ? minorVersion(version) === minorVersion(builtFor) : isSupported(version, manifest);
  const cuda = options.cuda ?? false;
  const wanted: Wanted = { required, cuda, command: setupCommand(manifest, accepts, cuda) };
  const attempts: Attempt[] = [];

  /** The candidate if it is usable; otherwise undefined, or an error if the user insisted on it. */
  const consider = (
    path: string,
    source: LibTorch['source'],
    place: string,
    binding: boolean,
  ): LibTorch | undefined => {
    const directory = resolve(path);
    const reason = whyUnusable(directory, purpose);
    if (reason !== undefined) {
      attempts.push({ place, reason });
      if (binding) throw notFound(attempts, wanted, source);
      return undefined;
    }
    const version = versionOf(directory);
    if (version === undefined || !accepts(version)) {
      attempts.push({ place, reason: `version ${version ?? 'unknown'}, required ${required}` });
      if (binding) throw wrongVersion(directory, version, wanted, source);
      return undefined;
    }
    const hasCuda = CUDA_LIBRARIES.every((name) => existsSync(join(directory, 'lib', name)));
    if (cuda && !hasCuda) {
      attempts.push({ place, reason: `has no CUDA (no lib/libtorch_cuda.so)` });
      if (binding) throw withoutCuda(directory, version, wanted, source);
      return undefined;
    }
    try {
      return { path: directory, version, source, cuda: hasCuda, libraries: librariesOf(directory) };
    } catch (error) {
      attempts.push({ place, reason: reasonOf(error) }); // it is being removed, or may not be read
      if (binding) throw notFound(attempts, wanted, source);
      return undefined;
    }
  };

  if (options.libtorch !== undefined) {
    if (typeof options.libtorch !== 'string' || options.libtorch === '')
      throw invalidArgument('libtorch', 'the path of a LibTorch directory', options.libtorch);
    return consider(options.libtorch, 'option', `option "libtorch": ${options.libtorch}`, true)!;
  }
  if (env.JIT_FLUX_LIBTORCH) {
    const place = `JIT_FLUX_LIBTORCH: ${env.JIT_FLUX_LIBTORCH}`;
    return consider(env.JIT_FLUX_LIBTORCH, 'JIT_FLUX_LIBTORCH', place, true)!;
  }
  attempts.push({ place: 'JIT_FLUX_LIBTORCH', reason: 'not set' });
  if (env.LIBTORCH) {
    const found = consider(env.LIBTORCH, 'LIBTORCH', `LIBTORCH: ${env.LIBTORCH}`, false);
    if (found) return found;
  } else {
    attempts.push({ place: 'LIBTORCH', reason: 'not set' });
  }

  const cacheDir = options.cacheDir === undefined ? cacheDirectory(env) : resolve(options.cacheDir);
  for (const [variant, pinned] of cachedVariants(manifest)) {
    if (!accepts(pinned.version) || (cuda && !pinned.cuda)) continue;
    const directory = libTorchDirectory(variantCacheDirectory(cacheDir, pinned.version, variant), pinned);
    const found = consider(directory, 'cache', `cache of "${SETUP_COMMAND}": ${directory}`, false);
    if (found === undefined) continue;
    assertUnexposed(found, `The LibTorch in the cache`, { env, within: cacheDir });
    return found;
  }

  if (options.python ?? true) {
    const name = pythonName(env);
    const installed = findPythonTorch(env);
    if (installed === undefined) {
      attempts.push({ place: `Python torch (${name})`, reason: 'no torch installed there' });
    } else {
      const { directory, python } = installed;
      const found = consider(directory, 'python', `Python torch (${name}): ${directory}`, false);
      if (found) {
        // Whoever owns the Python has had a program run already.
        assertUnexposed(found, `The torch of ${python}`, { env, trusted: [statSync(python).uid] });
        return found;
      }
    }
  }
  throw notFound(attempts, wanted);
}

/**
 * Refuses a LibTorch that a user other than root and the process's own could have changed, unless `JIT_FLUX_TRUST_CACHE`
 * says that the others are trusted.
 *
 * @param o.within the cache, as far as which owners and modes must be right
 * @throws ERR_JITFLUX_UNSAFE_FILE
 */
export function assertUnexposed(
  libtorch: LibTorch,
  what: string,
  o: { env: NodeJS.ProcessEnv; within?: string; trusted?: number[] },
): void {
  if (isCacheTrusted(o.env)) return;
  const files = libraryDirectories(libtorch).flatMap((directory) =>
    readdirSync(directory)
      .filter((name) => /\.so(\.|$)/.test(name))
      .map((name) => join(directory, name)),
  );
  const exposure = findExposure(join(libtorch.path, 'lib'), files, o);
  if (exposure) throw exposed(what, exposure, EXPOSURE_REMEDY);
}

export const EXPOSURE_REMEDY =
  'Give it to the user who loads it or to root and take the right to write from the others (chown, chmod -R o-w), or ' +
  'name another cache in JIT_FLUX_CACHE. If you trust these users, name the directory in JIT_FLUX_LIBTORCH, or set ' +
  'JIT_FLUX_TRUST_CACHE=1.';

/** Whether the user vouches for everyone who can write the cache: a volume that belongs to one container alone. */
export function isCacheTrusted(env: NodeJS.ProcessEnv): boolean {
  return env.JIT_FLUX_TRUST_CACHE === '1';
}

/** Where the dynamic linker finds what is loaded: beside LibTorch, and what NVIDIA's wheels have installed. */
function libraryDirectories({ path, cuda }: LibTorch): string[] {
  const own = [join(path, 'lib')];
  const nvidia = join(dirname(path), 'nvidia');
  if (!cuda || !existsSync(nvidia)) return own;
  return [
    ...own,
    ...readdirSync(nvidia)
      .map((name) => join(nvidia, name, 'lib'))
      .filter(existsSync),
  ];
}

/** Version of a LibTorch directory, from version.py (wheel) or build-version (official archive). */
export function versionOf(directory: string): string | undefined {
  const fromWheel = readOptional(join(directory, 'version.py'));
  if (fromWheel !== undefined) return /^__version__\s*=\s*['"]([^'"]+)['"]/m.exec(fromWheel)?.[1];
  return readOptional(join(directory, 'build-version'))?.trim() || undefined;
}

/**
 * The libraries of a LibTorch directory in loading order. Each one's dependencies precede it, so that every lookup by
 * SONAME ends at a library that is loaded already. libgomp comes first: it uses static TLS, of which little is left
 * once a process is up.
 */
export function librariesOf(directory: string): string[] {
  const lib = join(directory, 'lib');
  const names = readdirSync(lib);
  const openmp = names.filter((name) => /^lib[gi]omp.*\.so/.test(name)).sort();
  const torch = ['libc10.so', 'libc10_cuda.so', 'libtorch_cpu.so', 'libtorch_cuda.so', 'libtorch.so'].filter(
    (name) => names.includes(name),
  );
  return [...openmp, ...torch].map((name) => join(lib, name));
}

/** The variant with CUDA: its name and what is pinned. */
export function cudaVariant(manifest = readManifest()): [string, LibTorchVariant] | undefined {
  return Object.entries(manifest.variants).find(([, pinned]) => pinned.cuda);
}

/** The command that installs a LibTorch that would do, the default variant's where possible. */
function setupCommand(
  manifest: LibTorchManifest,
  accepts: (version: string) => boolean,
  cuda: boolean,
): string {
  const fitting = cachedVariants(manifest).find(
    ([, pinned]) => pinned.available && accepts(pinned.version) && (!cuda || pinned.cuda),
  );
  if (fitting === undefined || fitting[0] === manifest.defaultVariant) return SETUP_COMMAND;
  return `${SETUP_COMMAND} --variant ${fitting[0]}`;
}

/** The default variant first. */
function cachedVariants(manifest: LibTorchManifest): [string, LibTorchVariant][] {
  return Object.entries(manifest.variants).sort(
    ([a], [b]) => Number(b === manifest.defaultVariant) - Number(a === manifest.defaultVariant),
  );
}

function whyUnusable(directory: string, purpose: 'run' | 'build'): string | undefined {
  try {
    statSync(join(directory, 'lib'));
  } catch (error) {
    const reason = reasonOf(error);
    if (reason !== 'does not exist') return reason;
    if (!existsSync(directory)) return reason;
  }
  const needed = ['lib/libc10.so', 'lib/libtorch_cpu.so', 'lib/libtorch.so'];
  if (purpose === 'build') needed.push('include/ATen/ATen.h');
  const missing = needed.filter((file) => !existsSync(join(directory, file)));
  return missing.length === 0 ? undefined : `not a LibTorch directory: ${missing.join(', ')} missing`;
}

function reasonOf(error: unknown): string {
  const { code } = error as NodeJS.ErrnoException;
  if (code === 'ENOENT') return 'does not exist';
  return code === 'EACCES' ? 'cannot be read: permission denied' : `cannot be read: ${code}`;
}

function isSupported(version: string, manifest: LibTorchManifest): boolean {
  const { minimum, maximum } = manifest.supported;
  return compareMinor(version, minimum) >= 0 && compareMinor(version, maximum) <= 0;
}

function compareMinor(a: string, b: string): number {
  const [majorA = 0, minorA = 0] = a.split('.').map((part) => Number.parseInt(part, 10));
  const [majorB = 0, minorB = 0] = b.split('.').map((part) => Number.parseInt(part, 10));
  return majorA - majorB || minorA - minorB;
}

function readOptional(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

/** @param source the setting that named the one place, if it was one */
function notFound(
  attempts: Attempt[],
  { required, cuda, command }: Wanted,
  source?: LibTorch['source'],
): JitFluxError {
  const tried = attempts.map(({ place, reason }) => `${place} (${reason})`);
  const remedy =
    source === undefined
      ? `Run \`${command}\` to install it, or point JIT_FLUX_LIBTORCH to a LibTorch directory.`
      : `Run \`${command}\` and remove the setting, or name a LibTorch directory.`;
  return new JitFluxError(
    ERROR_CODES.LIBTORCH_NOT_FOUND,
    `No usable LibTorch ${required}${cuda ? ' with CUDA' : ''} was found. Tried:\n` +
      `${tried.map((line) => `  - ${line}`).join('\n')}\n` +
      remedy,
    { required, cuda, tried, command, ...(source && { source }) },
  );
}

function wrongVersion(
  path: string,
  version: string | undefined,
  { required, cuda, command }: Wanted,
  source: LibTorch['source'],
): JitFluxError {
  return new JitFluxError(
    ERROR_CODES.LIBTORCH_VERSION,
    `LibTorch ${version ?? 'of unknown version'} in ${path} (from ${originOf(source)}) cannot be used: ` +
      `this build of jit-flux requires ${required}. ` +
      `Run \`${command}\` and remove the setting, or name a LibTorch ${required}.`,
    { found: version, required, cuda, path, source, command },
  );
}

function withoutCuda(
  path: string,
  version: string,
  { required, command }: Wanted,
  source: LibTorch['source'],
): JitFluxError {
  return new JitFluxError(
    ERROR_CODES.LIBTORCH_VERSION,
    `LibTorch ${version} in ${path} (from ${originOf(source)}) has no CUDA, which this build of jit-flux needs. ` +
      `Run \`${command}\` and remove the setting, or name a LibTorch ${required} with CUDA.`,
    { found: version, required, cuda: true, path, source, command },
  );
}

function originOf(source: LibTorch['source']): string {
  return source === 'option' ? 'the option "libtorch"' : source;
}
