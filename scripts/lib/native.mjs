// The native build: cmake-js + Ninja in .cmake-build/<config>, results copied to build/Release; with CUDA in
// .cmake-build/cuda-<config> and build/Cuda, with sanitizers in .cmake-build/asan-<config> and build/Asan. Where the
// Node-API headers are given, CMake alone does it, without cmake-js.
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
import { setTimeout as sleep } from 'node:timers/promises';
import { ensureCudaCompiler, ensureLibTorch } from './steps.mjs';
import { ROOT, UserError, cleanEnvironment, log, run, toolPath } from './tools.mjs';

const CONFIGURATIONS = ['Release', 'RelWithDebInfo', 'Debug'];
const LIBRARIES = ['jit_flux.node', 'libjit_flux_weights.so', 'libjit_flux_core.so'];
const CUDA_LIBRARY = 'libjit_flux_cuda.so';
const BENCHMARK = 'jit_flux_bench';
const SANITIZERS = 'address,undefined';
/** LibTorch's headers take about this much memory per compiler. */
const BYTES_PER_JOB = 1.5 * 2 ** 30;

/**
 * @param {object} [options]
 * @param {string} [options.config] Release, RelWithDebInfo or Debug
 * @param {boolean} [options.cuda] the CUDA library as well, against a LibTorch with CUDA
 * @param {boolean} [options.sanitize] with AddressSanitizer and UndefinedBehaviorSanitizer
 * @param {string} [options.out] where the libraries go; default build/Release, build/Cuda with `cuda`, build/Asan with `sanitize`
 * @param {string} [options.libtorch] LibTorch directory instead of the one found
 * @param {string} [options.arch] only x64
 * @param {number} [options.jobs] parallel compilers
 * @param {boolean} [options.bench] the benchmark executable as well
 * @param {string[]} [options.define] further -D settings, as NAME=VALUE
 * @param {string[]} [options.nodeHeaders] directories of node_api.h and napi.h, for machines without cmake-js
 */
export async function buildNative(options = {}) {
  const config = options.config ?? 'Release';
  if (!CONFIGURATIONS.includes(config))
    throw new UserError(`Expected one of ${CONFIGURATIONS.join(', ')} for --config but received ${config}`);
  if ((options.arch ?? 'x64') !== 'x64')
    throw new UserError(`jit-flux builds for x64 only, not ${options.arch}`);
  const cuda = options.cuda ?? false;
  if (cuda) ensureCudaCompiler();
  const libtorch = await ensureLibTorch(options.libtorch, { cuda });
  log(`LibTorch ${libtorch.version} (${libtorch.path})`);

  const buildDirectory = cmakeDirectory(options);
  const release = await lock(`${buildDirectory}.lock`);
  try {
    build(buildDirectory, config, libtorch, options);
  } finally {
    release();
  }
}

/** Where CMake builds; the developers' programs stay there, in out/. */
export function cmakeDirectory({ config = 'Release', cuda = false, sanitize = false } = {}) {
  const kind = cuda ? 'cuda-' : sanitize ? 'asan-' : '';
  return join(ROOT, '.cmake-build', kind + config);
}

function build(buildDirectory, config, libtorch, options) {
  // Stated either way: CMake's cache would remember the last one.
  const onOff = (value) => (value ? 'ON' : 'OFF');
  // For tests: not in what is built to be shipped (prebuildify says where it wants it), nor in a package.
  const isDeveloper = options.out === undefined && existsSync(join(ROOT, 'test', 'cuda'));
  const define = [
    `JIT_FLUX_LIBTORCH=${libtorch.path}`,
    `JIT_FLUX_BENCH=${onOff(options.bench)}`,
    `JIT_FLUX_CUDA=${onOff(options.cuda)}`,
    `JIT_FLUX_CUDA_EMULATION=${onOff(isDeveloper && !options.cuda)}`,
    `JIT_FLUX_SANITIZE=${options.sanitize ? SANITIZERS : ''}`,
    ...(options.define ?? []),
  ];
  configure(buildDirectory, config, define, options.nodeHeaders);
  const jobs =
    options.jobs ?? Math.max(1, Math.min(availableParallelism(), Math.floor(totalmem() / BYTES_PER_JOB)));
  if (options.nodeHeaders) cmake(['--build', buildDirectory, '--parallel', String(jobs)], 'the native build');
  else cmakeJs(['build', '-O', buildDirectory, '-B', config, '--parallel', String(jobs)], 'the native build');

  const out = resolve(
    ROOT,
    options.out ?? join('build', options.cuda ? 'Cuda' : options.sanitize ? 'Asan' : 'Release'),
  );
  mkdirSync(out, { recursive: true });
  const names = [...LIBRARIES];
  if (options.cuda) names.push(CUDA_LIBRARY);
  if (options.bench) names.push(BENCHMARK);
  for (const name of names) install(join(buildDirectory, 'out', name), join(out, name));
  // What the libraries were built against; src/engine/load.ts reads it before it opens them.
  const record = { libtorch: libtorch.version, config, ...(options.cuda && { cuda: true }) };
  writeFileSync(join(out, 'jit_flux.build.json'), `${JSON.stringify(record, undefined, 2)}\n`);
  log(`native libraries are in ${out}`);
}

/** Two Ninjas in one directory would spoil each other's results: the second caller waits. Returns the release. */
async function lock(path) {
  mkdirSync(dirname(path), { recursive: true });
  for (let waited = false; ; waited = true) {
    try {
      writeFileSync(path, String(process.pid), { flag: 'wx' });
      return () => rmSync(path, { force: true });
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
    }
    if (!waited) log(`waiting for another build (${path})`);
    await sleep(250);
    // An owner that is gone, or that died before it wrote its number.
    if (!isAlive(Number(readOptional(path)))) rmSync(path, { force: true });
  }
}

function isAlive(pid) {
  try {
    return pid > 0 && process.kill(pid, 0);
  } catch (error) {
    return error.code === 'EPERM';
  }
}

function readOptional(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** Configures if that has not been done with these settings; Ninja notices changes of the CMake files by itself. */
function configure(buildDirectory, config, define, nodeHeaders) {
  const stamp = join(buildDirectory, 'configured.json');
  const settings = JSON.stringify({
    config,
    define,
    node: process.version,
    cc: process.env.CC,
    cxx: process.env.CXX,
    cudacxx: process.env.CUDACXX,
    nodeHeaders,
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
  if (nodeHeaders) {
    // In CMAKE_JS_INC, as cmake-js passes them: cmake/NodeApi.cmake looks there.
    const all = [`CMAKE_BUILD_TYPE=${config}`, `CMAKE_JS_INC=${nodeHeaders.join(';')}`, ...define];
    cmake(
      ['-S', ROOT, '-B', buildDirectory, '-G', 'Ninja', ...all.map((setting) => `-D${setting}`)],
      'cmake',
    );
  } else {
    const settingsArguments = define.map((setting) => `--CD${setting}`);
    cmakeJs(['configure', '-G', 'Ninja', '-O', buildDirectory, '-B', config, ...settingsArguments], 'cmake');
  }
  writeFileSync(stamp, settings);
}

function cmake(args, name) {
  const verbose = process.env.JIT_FLUX_VERBOSE && args[0] === '--build' ? ['--verbose'] : [];
  run('cmake', [...args, ...verbose], { name, env: cleanEnvironment() });
}

function cmakeJs(args, name) {
  const verbose = process.env.JIT_FLUX_VERBOSE ? [] : ['--log-level', 'error'];
  run(process.execPath, [toolPath('cmake-js', 'bin', 'cmake-js'), ...args, ...verbose], {
    name,
    env: cleanEnvironment(),
  });
}

/** Replaces the file in one step, and not at all if it is the same: a process may have the old one mapped. */
function install(from, to) {
  if (existsSync(to) && digest(from) === digest(to)) return;
  const temporary = `${to}.${process.pid}.tmp`;
  copyFileSync(from, temporary);
  renameSync(temporary, to);
}

function digest(path) {
  return createHash('sha256').update(readFileSync(path)).digest('hex');
}
