#!/usr/bin/env node
// Compiles every CUDA kernel with nvcc alone, for all architectures that are shipped, with warnings as errors, and says
// what each kernel uses: registers, shared memory, spills. Needs neither a GPU nor LibTorch; without nvcc it is skipped.
//   node scripts/check-cuda.mjs [--jobs N] [--architectures 80,90]
// The kernels of native/kernels/cuda must not include LibTorch's headers: that is checked as well.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';
import { findNvcc } from './lib/steps.mjs';
import { ROOT, UserError, capture, main, takeOption } from './lib/tools.mjs';

const SOURCES = join(ROOT, 'native', 'kernels', 'cuda');
const INCLUDES = join(ROOT, 'native');
// Each is compiled to machine code, the last one to PTX as well, as in cmake/Cuda.cmake.
const ARCHITECTURES = ['80', '86', '89', '90'];
const FLAGS = [
  '-std=c++17',
  '-O3',
  '-DNDEBUG',
  '-Werror=all-warnings',
  '-Xcompiler=-Wall,-fPIC,-fvisibility=hidden',
  '--expt-relaxed-constexpr',
  '-Xptxas=-v',
];
const LIBTORCH_HEADERS = /^(ATen|c10|torch|caffe2)\//;

await main(async () => {
  const args = process.argv.slice(2);
  const jobs = Number(takeOption(args, 'jobs', String(availableParallelism())));
  const chosen = takeOption(args, 'architectures', ARCHITECTURES.join(',')).split(',');
  if (args.length > 0) throw new UserError(`Unknown argument: ${args[0]}`);
  const unknown = chosen.filter((name) => !ARCHITECTURES.includes(name));
  if (unknown.length > 0) {
    throw new UserError(`Expected some of ${ARCHITECTURES.join(',')} for --architectures but received ${unknown.join(',')}`); // prettier-ignore
  }
  if (!Number.isInteger(jobs) || jobs < 1) throw new UserError('Expected a positive integer for --jobs');

  const files = existsSync(SOURCES) ? readdirSync(SOURCES).filter((name) => name.endsWith('.cu')) : [];
  if (files.length === 0) throw new UserError(`There are no kernels in ${relative(ROOT, SOURCES)}`);
  const problems = files.flatMap((name) => libTorchIncludes(join(SOURCES, name)));
  const nvcc = findNvcc();
  if (nvcc === undefined) {
    if (problems.length > 0) throw new UserError(problems.join('\n'));
    console.log('check:cuda skipped: nvcc is not installed');
    return;
  }
  console.log(/release [^\n]*/.exec(capture(nvcc, ['--version']) ?? '')?.[0] ?? nvcc);

  const output = mkdtempSync(join(tmpdir(), 'jit-flux-cuda-'));
  try {
    const tasks = files.sort().flatMap((name) => chosen.map((architecture) => ({ name, architecture })));
    const started = performance.now();
    const results = await inParallel(tasks, jobs, (task) => compile(nvcc, task, output));
    for (const { name, architecture, status, log } of results)
      if (status !== 0) problems.push(`${name} for sm_${architecture}:\n${log.trim()}`);
    for (const name of files) printUsage(name, results, chosen.join('/'));
    if (problems.length > 0) throw new UserError(problems.join('\n\n'));
    const seconds = ((performance.now() - started) / 1000).toFixed(0);
    console.log(`check:cuda: ${files.length} files for sm_${chosen.join(', sm_')} in ${seconds} s, all well`);
  } finally {
    rmSync(output, { recursive: true, force: true });
  }
});

/**
 * One file for one architecture, and what came of it.
 * @typedef {{ name: string, architecture: string }} Task
 * @typedef {Task & { status: number | null, log: string }} Compilation
 *
 * What ptxas says of one kernel: registers of a thread; bytes of shared memory, and of spills stored and loaded.
 * @typedef {{ kernel: string, registers: number, shared: number, stores: number, loads: number }} Usage
 */

/**
 * @param {string} nvcc
 * @param {Task} task
 * @param {string} output folder of the object
 * @returns {Promise<Compilation>}
 */
function compile(nvcc, { name, architecture }, output) {
  const code = [`arch=compute_${architecture},code=sm_${architecture}`];
  if (architecture === ARCHITECTURES.at(-1))
    code.push(`arch=compute_${architecture},code=compute_${architecture}`);
  const object = join(output, `${name}.${architecture}.o`);
  const args = [...FLAGS, ...code.map((value) => `-gencode=${value}`), '-I', INCLUDES];
  return new Promise((resolvePromise, reject) => {
    const child = spawn(nvcc, [...args, '-c', join(SOURCES, name), '-o', object], { cwd: ROOT });
    let log = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (log += chunk));
    child.once('error', reject);
    child.once('close', (status) => resolvePromise({ name, architecture, status, log }));
  });
}

/**
 * A line per kernel of a file, with a column per architecture.
 * @param {string} name
 * @param {readonly Compilation[]} results
 * @param {string} architectures as the columns are named
 */
function printUsage(name, results, architectures) {
  /** @type {Map<string, (Usage & { architecture: string })[]>} */
  const kernels = new Map();
  for (const { name: compiled, architecture, log } of results) {
    if (compiled !== name) continue;
    for (const usage of usageOf(log))
      kernels.set(usage.kernel, [...(kernels.get(usage.kernel) ?? []), { architecture, ...usage }]);
  }
  if (kernels.size > 0) console.log(`\n${name}: registers for sm_${architectures}, shared memory`);
  const symbols = [...kernels.keys()];
  const names = demangle(symbols);
  for (const [index, symbol] of symbols.entries()) {
    const usages = kernels.get(symbol) ?? [];
    const registers = usages.map((usage) => usage.registers).join('/');
    const shared = Math.max(...usages.map((usage) => usage.shared));
    const spills = usages
      .filter((usage) => usage.stores + usage.loads > 0)
      .map((usage) => `sm_${usage.architecture}: ${usage.stores} bytes stored, ${usage.loads} loaded`);
    const warning = spills.length > 0 ? `  SPILLS ${spills.join('; ')}` : '';
    console.log(`  ${registers.padEnd(15)} ${String(shared).padStart(5)}  ${names[index]}${warning}`);
  }
}

/**
 * What ptxas reports of each kernel.
 * @param {string} log
 * @returns {Usage[]}
 */
function usageOf(log) {
  /** @type {Usage[]} */
  const usages = [];
  let kernel = '';
  let spills = { stores: 0, loads: 0 };
  for (const line of log.split('\n')) {
    kernel = /Compiling entry function '([^']+)'/.exec(line)?.[1] ?? kernel;
    const [, stores, loads] = /(\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line) ?? [];
    if (stores !== undefined) spills = { stores: Number(stores), loads: Number(loads) };
    const registers = /Used (\d+) registers/.exec(line)?.[1];
    if (registers === undefined) continue;
    const shared = Number(/(\d+) bytes smem/.exec(line)?.[1] ?? 0);
    usages.push({ kernel, registers: Number(registers), shared, ...spills });
  }
  return usages;
}

/** @param {string[]} symbols */
function demangle(symbols) {
  const names = capture('c++filt', symbols)?.trim().split('\n') ?? symbols;
  // Without return type, anonymous namespaces and the arguments: the template arguments tell instances apart.
  return names.map((name) =>
    name
      .replace(/^void /, '')
      .replaceAll('(anonymous namespace)::', '')
      .replace(/\(.*\)$/, ''),
  );
}

/**
 * What a file includes of LibTorch, directly or through our own headers.
 * @param {string} file
 * @param {Set<string>} [seen]
 * @returns {string[]}
 */
function libTorchIncludes(file, seen = new Set()) {
  if (seen.has(file)) return [];
  seen.add(file);
  const problems = [];
  for (const [, header] of readFileSync(file, 'utf8').matchAll(/^\s*#\s*include\s*[<"]([^>"]+)[>"]/gm)) {
    if (LIBTORCH_HEADERS.test(header))
      problems.push(`${relative(ROOT, file)} includes ${header} of LibTorch`);
    const own = [join(INCLUDES, header), resolve(dirname(file), header)].find(existsSync);
    if (own !== undefined) problems.push(...libTorchIncludes(own, seen));
  }
  return problems;
}

/**
 * Runs at most `jobs` tasks at a time; the results are in the order of the tasks.
 * @template Task, Result
 * @param {readonly Task[]} tasks
 * @param {number} jobs
 * @param {(task: Task) => Promise<Result>} run
 */
async function inParallel(tasks, jobs, run) {
  /** @type {Result[]} */
  const results = [];
  let next = 0;
  const worker = async () => {
    while (next < tasks.length) {
      const index = next++;
      results[index] = await run(tasks[index]);
    }
  };
  await Promise.all(Array.from({ length: jobs }, worker));
  return results;
}
