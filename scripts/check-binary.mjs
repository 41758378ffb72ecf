#!/usr/bin/env node
// Checks what the native libraries ask of a machine: dependencies, search paths, exports, instruction sets.
//   node scripts/check-binary.mjs [DIR]...
// Default: build/Release, build/Cuda and prebuilds/linux-x64[-cuda], those that exist. Exit code 1 if anything is wrong.
// What is below prebuilds/ must also be stripped and run on the systems that src/libtorch/requirements.ts promises.
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { homedir } from 'node:os';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { compiledModule } from './lib/steps.mjs';
import { ROOT, UserError, capture, main, toolPath } from './lib/tools.mjs';

const SYSTEM_LIBRARIES = ['libc.so.6', 'libdl.so.2', 'libpthread.so.0', 'libm.so.6', 'ld-linux-x86-64.so.2'];
const CPP_LIBRARIES = ['libstdc++.so.6', 'libgcc_s.so.1'];
// Found by SONAME among the libraries that the loader has opened before.
const LIBTORCH_LIBRARIES = ['libtorch.so', 'libtorch_cpu.so', 'libc10.so', 'libgomp.so.1'];

const CUDA_LIBRARIES = ['libc10_cuda.so', 'libtorch_cuda.so', 'libcudart.so.13', 'libcublasLt.so.13'];

const LIBRARIES = [
  {
    names: ['jit_flux.node', 'jit-flux.node'],
    needed: SYSTEM_LIBRARIES,
    exports: ['napi_register_module_v1', 'node_api_module_get_api_version_v1'],
  },
  {
    names: ['libjit_flux_weights.so'],
    needed: [...SYSTEM_LIBRARIES, ...CPP_LIBRARIES],
    exports: ['jit_flux_init'],
  },
  {
    names: ['libjit_flux_core.so'],
    needed: [...SYSTEM_LIBRARIES, ...CPP_LIBRARIES, ...LIBTORCH_LIBRARIES],
    exports: ['jit_flux_init'],
  },
  {
    names: ['libjit_flux_cuda.so'],
    // Only in a CUDA build.
    isOptional: true,
    needed: [...SYSTEM_LIBRARIES, ...CPP_LIBRARIES, ...LIBTORCH_LIBRARIES, ...CUDA_LIBRARIES],
    exports: ['jit_flux_cuda_backend'],
  },
];

const { PREBUILT_REQUIREMENTS, compareVersions } = await compiledModule('libtorch/requirements');

await main(() => {
  const args = process.argv.slice(2);
  if (capture('readelf', ['--version']) === undefined)
    throw new UserError(
      'readelf is not installed. On Debian or Ubuntu run:\n  sudo apt-get install -y binutils',
    );

  const defaults = ['build/Release', 'build/Cuda', 'prebuilds/linux-x64', 'prebuilds/linux-x64-cuda'].map(
    (path) => join(ROOT, path),
  );
  const directories = args.length > 0 ? args.map((path) => resolve(path)) : defaults.filter(existsSync);
  if (directories.length === 0) throw new UserError('Nothing to check: run `npm run build:native` first');

  /** @type {string[]} */
  const problems = [];
  for (const directory of directories) {
    for (const { names, isOptional, needed, exports } of LIBRARIES) {
      const path = names.map((name) => join(directory, name)).find(existsSync);
      if (path !== undefined) checkLibrary(path, needed, exports, problems);
      else if (!isOptional || isCudaBuild(directory)) problems.push(`${names[0]} is missing in ${directory}`);
    }
  }
  if (args.length === 0) checkInstructionSets(problems);
  if (problems.length > 0) throw new UserError(`\n${problems.map((problem) => `  - ${problem}`).join('\n')}`);
  console.log('check-binary: all well');
});

/** @param {string} directory */
function isPrebuilt(directory) {
  return basename(dirname(directory)) === 'prebuilds';
}

/** @param {string} directory */
function isCudaBuild(directory) {
  if (isPrebuilt(directory)) return directory.endsWith('-cuda');
  const record = join(directory, 'jit_flux.build.json');
  return existsSync(record) && JSON.parse(readFileSync(record, 'utf8')).cuda === true;
}

/**
 * @param {string} path
 * @param {readonly string[]} allowed
 * @param {readonly string[]} expectedExports
 * @param {string[]} problems
 */
function checkLibrary(path, allowed, expectedExports, problems) {
  const name = relative(ROOT, path);
  const prebuilt = isPrebuilt(dirname(path));
  const problem = (/** @type {string} */ text) => problems.push(`${name}: ${text}`);

  const dynamic = readelf(['-d'], path);
  const needed = matches(dynamic, /\(NEEDED\).*\[(.+)\]/g);
  for (const library of needed) if (!allowed.includes(library)) problem(`depends on ${library}`);
  if (/\((RPATH|RUNPATH)\)/.test(dynamic)) problem('has a RPATH or RUNPATH');
  if (/\(TEXTREL\)/.test(dynamic)) problem('has text relocations');
  if (!/\(FLAGS_1\).*\bNODELETE\b/.test(dynamic)) problem('is not linked with -z nodelete');

  const segments = readelf(['-l'], path);
  if (/GNU_STACK.*\bRWE\b/.test(segments)) problem('asks for an executable stack');

  if (prebuilt && /\s\.(symtab|debug_info)\s/.test(readelf(['-S'], path))) problem('is not stripped');

  const symbols = matchAll(
    readelf(['--dyn-syms'], path),
    /^\s*\d+:\s+[0-9a-f]+\s+\S+\s+(\S+)\s+(\S+)\s+\S+\s+(\S+)\s+([^\s@]+)/gm,
  ).map(([, type, binding, section, symbol]) => ({ type, binding, section, symbol }));
  const exported = symbols.filter(({ section }) => section !== 'UND').map(({ symbol }) => symbol);
  for (const symbol of exported) if (!expectedExports.includes(symbol)) problem(`exports ${symbol}`);
  for (const symbol of expectedExports) if (!exported.includes(symbol)) problem(`does not export ${symbol}`);

  const nodeApi = nodeApiSymbols();
  for (const { section, symbol } of symbols) {
    if (section === 'UND' && /^(napi_|node_api_)/.test(symbol) && !nodeApi.has(symbol))
      problem(`uses ${symbol}, which Node-API ${nodeApiVersion()} does not have`);
  }

  const content = readFileSync(path);
  for (const directory of [ROOT, process.env.JIT_FLUX_CACHE || join(homedir(), '.cache')])
    if (content.includes(`${directory.replace(/\/$/, '')}/`)) problem(`holds paths below ${directory}`);

  const versions = readelf(['-V'], path);
  /** @type {Partial<Record<string, string>>} */
  const ceilings = PREBUILT_REQUIREMENTS;
  /** @type {Record<string, string>} */
  const highest = {};
  for (const kind of ['GLIBC', 'GLIBCXX', 'CXXABI', 'GCC', 'GOMP', 'OMP']) {
    const found = matches(versions, new RegExp(`\\b${kind}_([0-9.]+)`, 'g')).sort(compareVersions);
    const newest = found.at(-1);
    if (newest === undefined) continue;
    highest[kind] = newest;
    const ceiling = prebuilt ? ceilings[kind.toLowerCase()] : undefined;
    if (ceiling !== undefined && compareVersions(newest, ceiling) > 0)
      problem(`needs ${kind} ${newest}; the limit is ${ceiling}`);
  }
  const requirements = Object.entries(highest).map(([kind, version]) => `${kind} ${version}`);
  console.log(`${name}: needs ${[...requirements, ...needed].join(', ')}`);
}

/**
 * A weak function that was compiled for AVX-512 and is picked by the linker for everybody would crash an older machine,
 * so the objects of the higher levels may define such functions only in their own namespace.
 * @param {string[]} problems
 */
function checkInstructionSets(problems) {
  const builds = ['Release', 'cuda-Release'].map((name) => join(ROOT, '.cmake-build', name, 'CMakeFiles'));
  const isas = ['avx2', 'avx512', 'avx512bf16', 'amx'];
  for (const [build, isa] of builds.flatMap((build) => isas.map((isa) => [build, isa]))) {
    const directory = join(build, `jit_flux_kernels_${isa}.dir`);
    if (!existsSync(directory)) continue;
    const files = readdirSync(directory, { recursive: true, encoding: 'utf8' })
      .map((file) => join(directory, file))
      .filter((file) => file.endsWith('.o'));
    for (const file of files) {
      for (const symbol of matches(capture('nm', [file]) ?? '', /^[0-9a-f]+ [Wui] (\S+)/gm))
        if (!symbol.includes(`isa_${isa}`))
          problems.push(`${relative(ROOT, file)}: defines ${symbol} outside of namespace isa_${isa}`);
    }
  }
}

function nodeApiVersion() {
  return JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')).binary.napi_versions[0];
}

function nodeApiSymbols() {
  // cmake-js brings the headers along.
  const headers = createRequire(toolPath('cmake-js', 'package.json'))('node-api-headers');
  const { js_native_api_symbols: js, node_api_symbols: node } = headers.symbols[`v${nodeApiVersion()}`];
  return new Set([...js, ...node]);
}

/**
 * @param {string[]} options
 * @param {string} path
 */
function readelf(options, path) {
  const output = capture('readelf', ['-W', ...options, path]);
  if (output === undefined) throw new UserError(`readelf cannot read ${path}`);
  return output;
}

/**
 * @param {string} text
 * @param {RegExp} pattern
 */
function matchAll(text, pattern) {
  return [...text.matchAll(pattern)];
}

/**
 * @param {string} text
 * @param {RegExp} pattern
 */
function matches(text, pattern) {
  return matchAll(text, pattern).map((match) => match[1]);
}
