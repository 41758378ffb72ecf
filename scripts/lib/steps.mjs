// The steps from a fresh clone to a working checkout. Each does nothing when its result is up to date.
import { existsSync, mkdirSync, utimesSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { ROOT, UserError, capture, hasCode, log, newest, run, toolPath } from './tools.mjs';

const MINIMUM_NODE = [20, 19];

/** Checks the tools that the build needs, and says how to get those that are missing. */
export function ensureTools() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < MINIMUM_NODE[0] || (major === MINIMUM_NODE[0] && minor < MINIMUM_NODE[1]))
    throw new UserError(
      `Node ${MINIMUM_NODE.join('.')} or newer is needed; this is ${process.versions.node}`,
    );
  if (process.platform !== 'linux' || process.arch !== 'x64')
    throw new UserError(`jit-flux builds on Linux x64 only, not on ${process.platform} ${process.arch}`);
  /** @type {[command: string, args: string[], packages: string, purposeIfOptional?: string][]} */
  const tools = [
    ['cmake', ['--version'], 'cmake'],
    ['ninja', ['--version'], 'ninja-build'],
    [process.env.CXX || 'g++', ['--version'], 'g++'],
    [
      process.env.JIT_FLUX_PYTHON || 'python3',
      ['-I', '-m', 'pip', '--version'],
      'python3 python3-pip',
      'fetches LibTorch',
    ],
  ];
  const missing = tools.filter(([command, args]) => capture(command, args) === undefined);
  // Python is needed for one thing only, and there are other ways to get LibTorch.
  const needed = missing.filter(([, , , optional]) => !optional);
  for (const [command, , , purpose] of missing.filter(([, , , optional]) => optional))
    log(`note: ${command} with pip is missing; it ${purpose} where the official site cannot be reached`);
  if (needed.length > 0) {
    throw new UserError(
      `Missing: ${needed.map(([command]) => command).join(', ')}. On Debian or Ubuntu run:\n` +
        `  sudo apt-get install -y ${needed.map(([, , packages]) => packages).join(' ')}`,
    );
  }
}

/** `npm ci` when node_modules is missing or older than the lockfile. */
export function ensureDependencies() {
  const marker = join(ROOT, 'node_modules', '.package-lock.json');
  const lockfile = join(ROOT, 'package-lock.json');
  if (existsSync(marker) && newest(marker) >= newest(lockfile)) return;
  // A touched lockfile (a checkout sets its time) with the same content needs no reinstallation.
  if (existsSync(marker) && capture('npm', ['ls', '--all', '--silent']) !== undefined) return;
  log('installing the development dependencies');
  run('npm', ['ci', '--no-audit', '--no-fund']);
}

/** Compiles the TypeScript if a source is newer than the last complete compilation. */
export function ensureTypeScript() {
  const stamp = join(ROOT, '.cmake-build', 'typescript.stamp');
  const inputs = ['src', 'tsconfig.json', 'tsconfig.build.json', 'package.json'];
  if (
    Math.max(...inputs.map((path) => newest(join(ROOT, path)))) < newest(stamp) &&
    existsSync(join(ROOT, 'dist', 'errors.js'))
  )
    return;
  log('compiling the TypeScript');
  const started = new Date();
  compileTypeScript();
  // The time of the start: a source that was changed meanwhile counts as newer.
  mkdirSync(dirname(stamp), { recursive: true });
  writeFileSync(stamp, '');
  utimesSync(stamp, started, started);
}

/**
 * src/ to dist/, with the declarations for `require`.
 * @param {{ allowFailure?: boolean }} [o]
 * @returns {number | null} of tsc, which writes dist/ in spite of errors
 */
export function compileTypeScript({ allowFailure = false } = {}) {
  const tsc = [toolPath('typescript', 'bin', 'tsc'), '-p', 'tsconfig.build.json'];
  const status = run(process.execPath, tsc, { name: 'tsc', allowFailure });
  const declarations = join(ROOT, 'scripts', 'commonjs-declarations.mjs');
  run(process.execPath, [declarations, join(ROOT, 'dist')], { name: 'declarations for require' });
  return status;
}

/**
 * The modules of src/ that the scripts use.
 * @typedef {{
 *   'libtorch/libtorch': typeof import('../../src/libtorch/libtorch.js'),
 *   'libtorch/provision': typeof import('../../src/libtorch/provision.js'),
 *   'libtorch/requirements': typeof import('../../src/libtorch/requirements.js'),
 *   'engine/call': typeof import('../../src/engine/call.js'),
 *   'files/lock': typeof import('../../src/files/lock.js'),
 * }} Modules
 */

/**
 * A compiled module of src/: finding and provisioning LibTorch, and locks, have one implementation. It must be usable
 * while other sources do not compile, so errors elsewhere are shown but do not matter here.
 * @template {keyof Modules} Name
 * @param {Name} name its path below src/
 * @returns {Promise<Modules[Name]>}
 */
export async function compiledModule(name) {
  const compiled = join(ROOT, 'dist', `${name}.js`);
  const sources = ['src/libtorch', 'src/files', 'src/errors.ts'].map((path) => newest(join(ROOT, path)));
  if (newest(compiled) < Math.max(...sources)) {
    const status = compileTypeScript({ allowFailure: true });
    if (!existsSync(compiled)) throw new UserError('The TypeScript sources do not compile');
    if (status !== 0)
      log('warning: the TypeScript sources have errors (above); going on with the native build');
  }
  return await import(pathToFileURL(compiled).href);
}

/** nvcc as cmake/Cuda.cmake finds it, or undefined. */
export function findNvcc() {
  const candidates = process.env.CUDACXX ? [process.env.CUDACXX] : ['/usr/local/cuda/bin/nvcc', 'nvcc'];
  return candidates.find((command) => capture(command, ['--version']) !== undefined);
}

/** Stops early, before gigabytes are fetched, where the CUDA library cannot be compiled. */
export function ensureCudaCompiler() {
  if (findNvcc() === undefined)
    throw new UserError(
      'nvcc is not installed. Install the CUDA toolkit 13.0 (its compiler and runtime headers are enough), ' +
        'or name its nvcc in CUDACXX; see docs/cuda.md',
    );
}

/**
 * LibTorch for the build: the one found, or the pinned one after provisioning.
 * @param {string | undefined} [explicit]
 */
export async function ensureLibTorch(explicit, { cuda = false } = {}) {
  const { cudaVariant, findLibTorch, readManifest } = await compiledModule('libtorch/libtorch');
  try {
    return findLibTorch({ libtorch: explicit, purpose: 'build', cuda });
  } catch (error) {
    const named = explicit !== undefined || process.env.JIT_FLUX_LIBTORCH;
    if (named || !hasCode(error, 'ERR_JITFLUX_LIBTORCH_NOT_FOUND')) throw error;
  }
  const { defaultVariant, variants } = readManifest();
  const [cudaName] = cudaVariant() ?? [];
  const variant = cuda ? cudaName : defaultVariant;
  const pinned = variant === undefined ? undefined : variants[variant];
  if (variant === undefined || pinned === undefined)
    throw new Error(`libtorch.json has no variant ${cuda ? 'with CUDA' : defaultVariant}`);
  const { archives, unpackedSize } = pinned;
  const megabytes = (/** @type {number} */ bytes) => `${Math.round(bytes / 1e6)} MB`;
  const size = archives.reduce((sum, archive) => sum + archive.size, 0);
  log(
    `no LibTorch${cuda ? ' with CUDA' : ''} found: fetching the pinned one ` +
      `(${megabytes(size)}, ${megabytes(unpackedSize)} unpacked)`,
  );
  const { setupLibTorch } = await compiledModule('libtorch/provision');
  const { path } = await setupLibTorch({ variant, onProgress: progressPrinter() });
  return findLibTorch({ libtorch: path, purpose: 'build', cuda });
}

/**
 * Prints a line per phase and per tenth of it.
 * @returns {(progress: import('../../src/libtorch/provision.js').SetupProgress) => void}
 */
function progressPrinter() {
  let shown = '';
  return ({ phase, done, total, source }) => {
    const tenth = total > 0 ? Math.floor((10 * done) / total) * 10 : 0;
    const line = phase === 'wait' ? `waiting for another process (${source})` : `${phase} ${tenth} %`;
    if (line === shown) return;
    shown = line;
    log(line);
  };
}
