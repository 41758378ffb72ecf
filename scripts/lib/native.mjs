// The native build: cmake-js configures and builds with Ninja in .cmake-build/<kind><config>, and the results are copied
// to build/<config>; with CUDA to build/Cuda, instrumented to build/Asan, build/Tsan or build/Coverage. Everything that is
// compiled goes this way.
import { createHash } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { availableParallelism, totalmem } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { compiledModule, ensureCudaCompiler, ensureLibTorch } from './steps.mjs';
import { ROOT, UserError, cleanEnvironment, log, run, toolPath } from './tools.mjs';

const CONFIGURATIONS = ['Release', 'RelWithDebInfo', 'Debug'];
const CORE = 'libjit_flux_core.so';
const LIBRARIES = ['jit_flux.node', 'libjit_flux_weights.so', CORE];
const CUDA_LIBRARY = 'libjit_flux_cuda.so';
const BENCHMARK = 'jit_flux_bench';
/**
 * Builds that watch what runs, and how CMake is told.
 * @type {Record<Instrumentation, string>}
 */
const INSTRUMENTATIONS = {
  asan: 'JIT_FLUX_SANITIZE=address,undefined,float-cast-overflow',
  tsan: 'JIT_FLUX_SANITIZE=thread',
  coverage: 'JIT_FLUX_COVERAGE=ON',
};
/** LibTorch's headers take about this much memory per compiler. */
const BYTES_PER_JOB = 1.5 * 2 ** 30;

/** @typedef {'asan' | 'tsan' | 'coverage'} Instrumentation */

/**
 * @typedef {object} NativeBuildOptions
 * @property {string} [config] Release, RelWithDebInfo or Debug
 * @property {boolean} [cuda] the CUDA library as well, against a LibTorch with CUDA
 * @property {Instrumentation} [instrument] with AddressSanitizer and UndefinedBehaviorSanitizer, with ThreadSanitizer,
 *   or counting for gcov
 * @property {string} [out] where the libraries go; default build/<config>, with `cuda` build/Cuda and with `instrument`
 *   build/Asan, build/Tsan or build/Coverage, followed by -<config> unless that is Release
 * @property {string} [libtorch] LibTorch directory instead of the one found
 * @property {string} [arch] only x64
 * @property {number} [jobs] parallel compilers
 * @property {boolean} [bench] the benchmark executable as well
 * @property {'weights'} [only] the loader and the library without LibTorch; the core comes from build/<config>
 * @property {string[]} [define] further -D settings, as NAME=VALUE
 */

/** @param {NativeBuildOptions} [options] */
export async function buildNative(options = {}) {
  const config = options.config ?? 'Release';
  if (!CONFIGURATIONS.includes(config))
    throw new UserError(`Expected one of ${CONFIGURATIONS.join(', ')} for --config but received ${config}`);
  if ((options.arch ?? 'x64') !== 'x64')
    throw new UserError(`jit-flux builds for x64 only, not ${options.arch}`);
  const cuda = options.cuda ?? false;
  if (options.instrument !== undefined && !Object.hasOwn(INSTRUMENTATIONS, options.instrument))
    throw new UserError(
      `Expected one of ${Object.keys(INSTRUMENTATIONS).join(', ')} for --instrument but received ${options.instrument}`,
    );
  if (cuda && options.instrument) throw new UserError('--instrument is for the CPU build');
  if (cuda) ensureCudaCompiler();
  const libtorch = await ensureLibTorch(options.libtorch, { cuda });
  log(`LibTorch ${libtorch.version} (${libtorch.path})`);

  const buildDirectory = cmakeDirectory(options);
  mkdirSync(dirname(buildDirectory), { recursive: true });
  // Two Ninjas in one directory would spoil each other's results.
  const { acquireLock } = await compiledModule('files/lock');
  const lock = `${buildDirectory}.lock`;
  let isAnnounced = false;
  /** @param {{ pid: number, host: string } | undefined} holder */
  const onWait = (holder) => {
    const who = holder ? `, process ${holder.pid} on ${holder.host}` : '';
    if (!isAnnounced) log(`waiting for another build (${lock}${who})`);
    isAnnounced = true;
  };
  // A build blocks the event loop and has no heartbeat.
  const held = await acquireLock(lock, { onWait, staleAfter: Infinity });
  try {
    build(buildDirectory, config, libtorch, options);
  } finally {
    await held.release();
  }
}

/**
 * Where CMake builds; the developers' programs stay there, in out/.
 * @param {Pick<NativeBuildOptions, 'config' | 'cuda' | 'instrument'>} [options]
 */
export function cmakeDirectory({ config = 'Release', cuda = false, instrument } = {}) {
  const kind = cuda ? 'cuda' : instrument;
  return join(ROOT, '.cmake-build', kind === undefined ? config : `${kind}-${config}`);
}

/**
 * Where the libraries of a build go when nothing else is said.
 * @param {Pick<NativeBuildOptions, 'config' | 'cuda' | 'instrument' | 'only'>} [options]
 */
export function outputDirectory({ config = 'Release', cuda = false, instrument, only } = {}) {
  const name = cuda ? 'cuda' : instrument;
  if (name === undefined) return join(ROOT, 'build', config);
  const kind = name[0].toUpperCase() + name.slice(1) + (only === undefined ? '' : `-${only}`);
  return join(ROOT, 'build', config === 'Release' ? kind : `${kind}-${config}`);
}

/**
 * @param {string} buildDirectory
 * @param {string} config
 * @param {{ path: string, version: string }} libtorch
 * @param {NativeBuildOptions} options
 */
function build(buildDirectory, config, libtorch, options) {
  // Stated either way: CMake's cache would remember the last one.
  const onOff = (/** @type {boolean | undefined} */ value) => (value ? 'ON' : 'OFF');
  // For tests: not in what is built to be shipped (prebuildify says where it wants it), nor in a package.
  const isDeveloper = options.out === undefined && existsSync(join(ROOT, 'test', 'cuda'));
  const define = [
    `JIT_FLUX_LIBTORCH=${libtorch.path}`,
    `JIT_FLUX_BENCH=${onOff(options.bench)}`,
    `JIT_FLUX_CUDA=${onOff(options.cuda)}`,
    `JIT_FLUX_CUDA_EMULATION=${onOff(isDeveloper && !options.cuda)}`,
    ...(options.instrument ? [INSTRUMENTATIONS[options.instrument]] : []),
    ...(options.define ?? []),
  ];
  configure(buildDirectory, config, define);
  const jobs =
    options.jobs ?? Math.max(1, Math.min(availableParallelism(), Math.floor(totalmem() / BYTES_PER_JOB)));
  const target = options.only === undefined ? [] : ['--target', 'jit_flux_without_libtorch'];
  cmakeJs('build', buildDirectory, config, ['--parallel', String(jobs), ...target]);

  const out = options.out === undefined ? outputDirectory(options) : resolve(ROOT, options.out);
  mkdirSync(out, { recursive: true });
  const names = [...LIBRARIES];
  if (options.cuda) names.push(CUDA_LIBRARY);
  if (options.bench) names.push(BENCHMARK);
  for (const name of names) {
    const isBuilt = options.only === undefined || name !== CORE;
    install(join(isBuilt ? join(buildDirectory, 'out') : join(ROOT, 'build', config), name), join(out, name));
  }
  // What the libraries were built against; src/engine/load.ts reads it before it opens them.
  const record = { libtorch: libtorch.version, config, ...(options.cuda && { cuda: true }) };
  writeFileSync(join(out, 'jit_flux.build.json'), `${JSON.stringify(record, undefined, 2)}\n`);
  log(`native libraries are in ${out}`);
}

/**
 * Configures if that has not been done with these settings; Ninja notices changes of the CMake files by itself.
 * @param {string} buildDirectory
 * @param {string} config
 * @param {readonly string[]} define
 */
function configure(buildDirectory, config, define) {
  const stamp = join(buildDirectory, 'configured.json');
  const settings = JSON.stringify({
    config,
    define,
    node: process.version,
    cc: process.env.CC,
    cxx: process.env.CXX,
    cudacxx: process.env.CUDACXX,
  });
  const isConfigured =
    existsSync(join(buildDirectory, 'build.ninja')) &&
    existsSync(stamp) &&
    readFileSync(stamp, 'utf8') === settings;
  if (isConfigured) return;
  rmSync(stamp, { force: true });
  // A cache made for another compiler or checkout directory cannot be reconfigured in place.
  const cache = join(buildDirectory, 'CMakeCache.txt');
  if (existsSync(cache) && !readFileSync(cache, 'utf8').includes(`CMAKE_HOME_DIRECTORY:INTERNAL=${ROOT}\n`))
    rmSync(buildDirectory, { recursive: true, force: true });
  cmakeJs('configure', buildDirectory, config, ['-G', 'Ninja', ...define.map((setting) => `--CD${setting}`)]);
  writeFileSync(stamp, settings);
}

/**
 * @param {'configure' | 'build'} command
 * @param {string} buildDirectory
 * @param {string} config
 * @param {readonly string[]} args
 */
function cmakeJs(command, buildDirectory, config, args) {
  const tool = toolPath('cmake-js', 'bin', 'cmake-js');
  const quiet = process.env.JIT_FLUX_VERBOSE ? [] : ['--log-level', 'error'];
  run(process.execPath, [tool, command, '-O', buildDirectory, '-B', config, ...args, ...quiet], {
    name: command === 'build' ? 'the native build' : 'cmake',
    env: cleanEnvironment(),
  });
}

/**
 * Replaces the file in one step, and not at all if it is the same: a process may have the old one mapped.
 * @param {string} from
 * @param {string} to
 */
function install(from, to) {
  if (existsSync(to) && digest(from) === digest(to)) return;
  const temporary = `${to}.${process.pid}.tmp`;
  copyFileSync(from, temporary);
  renameSync(temporary, to);
}

/** @param {string} path */
function digest(path) {
  return createHash('sha256').update(readFileSync(path)).digest('hex');
}
