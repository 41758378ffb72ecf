#!/usr/bin/env node
// Builds the CUDA build, measures it on this machine's GPU, tests it there, and writes a report; docs/gpu/README.md.
//   npm run gpu-check -- [--only NAME,...] [--budget SECONDS] [--out DIR] [--merge DIR]... [--libtorch DIR]
//                        [--python PYTHON] [--work DIR] [--smoke]
// --only names parts (load, resident, vitest, ...) or groups of them (build, bench, tests); `none` only merges.
// --merge takes in the results of an earlier check, so that a part may run by itself when time ran out.
// --smoke tries all of it out without a GPU: a toy model and the emulated kernels, on the CPU build; the times mean nothing.
// The exit code is 1 if a part failed. A part that cannot run here, or a goal that is missed, is no failure.
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { cpus, release, tmpdir, totalmem } from 'node:os';
import { delimiter, join, relative, resolve } from 'node:path';
import { benchTasks, kernelTask } from '../bench/gpu/bench.mjs';
import { lastLines, runProcess } from '../bench/gpu/process.mjs';
import { NotHere, Recorder, mergeResults, readResults } from '../bench/gpu/record.mjs';
import { renderReport } from '../bench/gpu/report.mjs';
import { ensureTypeScript, findNvcc } from './lib/steps.mjs';
import { ROOT, UserError, capture, main, takeFlag, takeOption } from './lib/tools.mjs';

/** @typedef {import('../bench/gpu/record.mjs').Emit} Emit */
/** @typedef {import('../bench/gpu/record.mjs').Task} Task */

/** Kept for the report. */
const RESERVE = 10;

/** @param {string | undefined} commit where the sources come from, if not from this repository */
function describeMachine(commit) {
  const query = ['--query-gpu=name,compute_cap,memory.total,driver_version', '--format=csv,noheader'];
  const gpu = capture('nvidia-smi', query)?.split('\n')[0]?.split(',') ?? [];
  const [device, computeCapability, deviceMemory, driver] = gpu.map((text) => text.trim());
  const git = (/** @type {string[]} */ ...args) => capture('git', args)?.trim();
  return {
    date: new Date().toISOString(),
    device,
    computeCapability,
    deviceMemory,
    driver,
    cuda: /release ([^\n,]*)/.exec(capture(findNvcc() ?? 'nvcc', ['--version']) ?? '')?.[1],
    node: process.versions.node,
    commit: commit || git('rev-parse', '--short=10', 'HEAD'),
    modified: !commit && git('status', '--porcelain', '--untracked-files=no') !== '',
    jitFlux: JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')).version,
    cpu: cpus()[0]?.model,
    cores: cpus().length,
    memoryGiB: Number((totalmem() / 2 ** 30).toFixed(1)),
    kernel: release(),
  };
}

/**
 * LibTorch's libraries, and those of CUDA beside it as pip installs them.
 * @param {string} libtorch
 */
function libraryPath(libtorch) {
  const wheels = join(libtorch, '..', 'nvidia');
  const names = existsSync(wheels) ? readdirSync(wheels).sort() : [];
  return [join(libtorch, 'lib'), ...names.map((name) => join(wheels, name, 'lib'))].join(':');
}

/**
 * @typedef {object} Options
 * @property {boolean} smoke
 * @property {string | undefined} libtorch a folder, instead of the one that is found
 * @property {string} python
 * @property {string | undefined} work
 * @property {string | undefined} architecture compute capability
 * @property {Record<string, any>} call where the version of LibTorch is noted
 * @property {(text: string) => void} log
 */

class Check {
  /** @param {Options} options */
  constructor(options) {
    this.options = options;
    const { smoke, libtorch } = options;
    this.env = {
      ...process.env,
      JIT_FLUX_VARIANT: smoke ? 'cpu' : 'cuda',
      ...(libtorch && { JIT_FLUX_LIBTORCH: libtorch }),
    };
    // The tests' programs have no loader that opens LibTorch for them. Compilers bring libraries of their own.
    this.programEnv = { ...this.env, ...(libtorch && { LD_LIBRARY_PATH: libraryPath(libtorch) }) };
    this.programs = join(ROOT, '.cmake-build', smoke ? 'Release' : 'cuda-Release', 'out');
    this.kernelTests = join(this.programs, smoke ? 'jit_flux_kernel_tests' : 'jit_flux_cuda_kernel_tests');
  }

  /** In order of importance: figures are what a GPU is borrowed for. @returns {Task[]} */
  tasks() {
    const { smoke, python, work, log } = this.options;
    const env = this.env;
    /** @type {(group: string, name: string, least: number, most: number, run: Task['run']) => Task} */
    const task = (group, name, least, most, run) => ({ group, name, least: smoke ? 1 : least, most, run });
    const device = /** @type {const} */ ('cuda');
    const emulation = smoke ? join(this.programs, 'libjit_flux_cuda_emulation.so') : undefined;
    return [
      task('build', 'build', 30, 1800, (_, seconds) => this.build(seconds, [])),
      task('build', 'load', 5, 60, (emit, seconds) => this.load(emit, seconds)),
      ...benchTasks({ smoke, device, emulation, python, work, env, log }),
      // By themselves: test programs that do not compile leave everything else as it is.
      task('build', 'programs', 20, 600, (_, seconds) => this.build(seconds, ['JIT_FLUX_CUDA_TESTS=ON'])),
      kernelTask({ program: this.kernelTests, env: this.programEnv, log }),
      task('tests', 'kernel-tests', 15, 120, (emit, seconds) => this.kernels(emit, seconds)),
      task('tests', 'backend-tests', 15, 150, (emit, seconds) => this.backend(emit, seconds)),
      task('tests', 'vitest', 30, 900, (emit, seconds) => this.vitest(emit, seconds)),
      // They slow kernels down a hundredfold; an end that they do not reach is no error.
      task('tests', 'memcheck', 30, 90, (emit, seconds) => this.sanitizer('memcheck', emit, seconds)),
      task('tests', 'racecheck', 30, 90, (emit, seconds) => this.sanitizer('racecheck', emit, seconds)),
    ];
  }

  /** @param {number} seconds @param {string[]} define */
  async build(seconds, define) {
    // A packed checkout has dist/ and no compiler.
    if (existsSync(join(ROOT, 'node_modules', 'typescript'))) ensureTypeScript();
    if (!this.options.smoke && findNvcc() === undefined)
      throw new NotHere('there is no nvcc; what is built already is used');
    if (this.options.smoke && define.length > 0) throw new NotHere('the CPU build has them');
    // Another compiler than that of our own machines finds other things to warn of.
    const settings = [...define, 'JIT_FLUX_WERROR=OFF'];
    if (this.options.architecture)
      settings.push(`CMAKE_CUDA_ARCHITECTURES=${this.options.architecture.replace('.', '')}-real`);
    const args = this.options.smoke
      ? []
      : [
          '--cuda',
          ...(this.options.libtorch ? ['--libtorch', this.options.libtorch] : []),
          ...settings.flatMap((text) => ['--define', text]),
        ];
    await this.succeed(process.execPath, [join('scripts', 'build-native.mjs'), ...args], seconds);
  }

  /** That the libraries open, with this LibTorch and this Node. @param {Emit} emit @param {number} seconds */
  async load(emit, seconds) {
    const script =
      "import('jit-flux').then(async (j) => console.log(JSON.stringify({ ...j.engineInfo(), devices: await j.devices() })))";
    const info = JSON.parse(lastLines(await this.succeed(process.execPath, ['-e', script], seconds), 1));
    this.options.call.libtorch = info.libtorch;
    emit('devices', '', info.devices.length);
    for (const { name, totalBytes } of info.devices) emit(name, 'B', totalBytes);
    if (!this.options.smoke && info.devices.length === 0) throw new Error('The engine sees no device');
  }

  /** Every kernel against the CPU's and double precision. @param {Emit} emit @param {number} seconds */
  async kernels(emit, seconds) {
    const json = join(tmpdir(), `jit-flux-kernel-tests-${process.pid}.json`);
    const args = ['--json', json, ...(this.options.smoke ? ['--only', 'autoencoder'] : [])];
    const { how, output } = await this.command(this.program(this.kernelTests), args, seconds);
    if (!existsSync(json)) throw new Error(`it ${how}: ${lastLines(output, 5)}`);
    const { kernels } = JSON.parse(readFileSync(json, 'utf8'));
    rmSync(json);
    const failures = [];
    for (const { name, failures: found, results } of kernels) {
      failures.push(...found.map((/** @type {string} */ text) => `${name}: ${text}`));
      for (const { group, worst, bound, unit } of results)
        emit(`${name}, ${group}`, unit, worst ?? undefined, `at most ${bound}`);
    }
    if (failures.length > 0) throw new Error(failures.join('\n'));
  }

  /** Streams, graphs, copies, memory. @param {Emit} emit @param {number} seconds */
  async backend(emit, seconds) {
    if (this.options.smoke) throw new NotHere('they test the CUDA backend, which the emulation replaces');
    const program = this.program(join(this.programs, 'jit_flux_cuda_backend_tests'));
    const { code, how, output } = await this.command(program, [], seconds);
    const start = output.search(/^\{/m);
    if (start < 0) throw new Error(`it ${how}: ${lastLines(output, 5)}`);
    const { tests = [], reason } = JSON.parse(output.slice(start, output.lastIndexOf('}') + 1));
    const failed = tests.filter((/** @type {any} */ test) => !test.ok);
    emit('passed', '', tests.length - failed.length);
    emit('failed', '', failed.length);
    const messages = failed.map((/** @type {any} */ { name, error }) => `${name}: ${error}`);
    if (code !== 0 || failed.length > 0) throw new Error([...messages, reason ?? `it ${how}`].join('; '));
  }

  /** @param {Emit} emit @param {number} seconds */
  async vitest(emit, seconds) {
    const json = join(tmpdir(), `jit-flux-vitest-${process.pid}.json`);
    const which = this.options.smoke
      ? ['--project=cuda', 'test/cuda/engine.test.ts', '-t', 'devices|fused path']
      : ['--project=cuda', '--project=golden-cuda'];
    const args = [join('node_modules', 'vitest', 'vitest.mjs'), 'run', ...which];
    args.push('--reporter=default', '--reporter=json', `--outputFile.json=${json}`);
    const { how, code, output } = await this.command(process.execPath, args, seconds);
    if (!existsSync(json)) throw new Error(`it ${how}: ${lastLines(output, 15)}`);
    const report = JSON.parse(readFileSync(json, 'utf8'));
    rmSync(json);
    emit('passed', '', report.numPassedTests);
    emit('failed', '', report.numFailedTests);
    emit('skipped', '', report.numPendingTests + report.numTodoTests);
    const messages = [];
    for (const { name, assertionResults, startTime, endTime, status, message } of report.testResults) {
      const file = relative(ROOT, name);
      emit(file, 's', (endTime - startTime) / 1000, `${assertionResults.length} tests, ${status}`);
      // A file that cannot be loaded has no tests to fail.
      if (status === 'failed' && assertionResults.length === 0) messages.push(`${file}: ${message}`);
      for (const test of assertionResults)
        if (test.status === 'failed')
          messages.push(`${file}: ${test.fullName}: ${test.failureMessages?.[0]}`);
    }
    if (code !== 0) throw new Error([`it ${how}`, ...messages].join('\n'));
    if (report.numPassedTests === 0) throw new Error('every test was skipped');
  }

  /** @param {'memcheck' | 'racecheck'} tool @param {Emit} emit @param {number} seconds */
  async sanitizer(tool, emit, seconds) {
    const sanitizer = (process.env.PATH ?? '')
      .split(delimiter)
      .map((folder) => join(folder, 'compute-sanitizer'))
      .find(existsSync);
    if (sanitizer === undefined) throw new NotHere('there is no compute-sanitizer');
    const args = ['--tool', tool, '--error-exitcode', '9', this.program(this.kernelTests)];
    const { code, output, isOverdue, how } = await this.command(sanitizer, args, seconds);
    const summary = [...output.matchAll(/^=+ (?:ERROR|RACECHECK) SUMMARY: (.*)$/gm)].at(-1)?.[1];
    // "0 errors", and of racecheck "0 hazards displayed (0 errors, 0 warnings)".
    const errors = Number(/(\d+) errors?\b/.exec(summary ?? '')?.[1] ?? 0);
    emit('errors', '', errors, summary ?? `it ${how}, no error until then`);
    if (errors > 0 || (code !== 0 && !isOverdue))
      throw new Error(
        output
          .split('\n')
          .filter((line) => line.startsWith('========='))
          .slice(0, 20)
          .join('\n') || how,
      );
  }

  /** @param {string} path */
  program(path) {
    if (!existsSync(path)) throw new NotHere(`${relative(ROOT, path)} was not built`);
    return path;
  }

  /** @param {string} command @param {string[]} args @param {number} seconds */
  command(command, args, seconds) {
    this.options.log(`$ ${[command, ...args].join(' ')}\n`);
    const isProgram = [command, ...args].some((text) => text.startsWith(this.programs));
    const env = { ...(isProgram ? this.programEnv : this.env), CI: '1', NO_COLOR: '1' };
    return runProcess(command, args, { seconds, env, log: this.options.log });
  }

  /** @param {string} command @param {string[]} args @param {number} seconds */
  async succeed(command, args, seconds) {
    const { code, output, how } = await this.command(command, args, seconds);
    if (code !== 0) throw new Error(`it ${how}:\n${lastLines(output, 25)}`);
    return output;
  }
}

// Last: a class exists from its definition on.
await main(async () => {
  const args = process.argv.slice(2);
  const commandLine = ['npm run gpu-check --', ...args].join(' ');
  const option = (/** @type {string} */ name) => takeOption(args, name);
  const smoke = takeFlag(args, 'smoke');
  const out = resolve(option('out') ?? join(ROOT, 'gpu-report'));
  const budget = Number(option('budget') ?? 3600);
  const only = option('only')?.split(',');
  const libtorch = option('libtorch');
  const python = option('python') ?? process.env.JIT_FLUX_PYTHON ?? 'python3';
  const commit = option('commit');
  const work = smoke ? join(tmpdir(), `jit-flux-gpu-smoke-${process.pid}`) : option('work');
  const before = [];
  for (let folder; (folder = option('merge')) !== undefined;)
    before.push(readResults(join(folder, 'results.json')));
  if (args.length > 0) throw new UserError(`Unknown argument: ${args[0]}`);
  if (!(budget > 0)) throw new UserError('Expected a positive number of seconds for --budget');
  mkdirSync(out, { recursive: true });
  /** @param {import('../bench/gpu/record.mjs').Results} results */
  const report = (results) => {
    const text = renderReport(results);
    writeFileSync(join(out, 'report.md'), text);
    // Goals and parts; the rest is in the file.
    console.log(`\n${text.slice(0, text.indexOf('## Comparisons'))}report: ${join(out, 'report.md')}`);
  };
  if (only?.[0] === 'none') {
    const merged = mergeResults(before);
    writeFileSync(join(out, 'results.json'), `${JSON.stringify(merged, null, 1)}\n`);
    return report(merged);
  }

  const machine = describeMachine(commit);
  if (!machine.device && !smoke)
    throw new UserError('nvidia-smi finds no GPU here; --smoke tries the check out without one');
  const log = (/** @type {string} */ text) => appendFileSync(join(out, 'log.txt'), text);
  const call = { ...machine, command: commandLine, smoke };
  const architecture = machine.computeCapability;
  const tasks = new Check({ smoke, libtorch, python, work, log, architecture, call }).tasks();
  const known = [...new Set(tasks.flatMap((task) => [task.group, task.name]))];
  const unknown = only?.find((name) => !known.includes(name));
  if (unknown !== undefined) throw new UserError(`Unknown part ${unknown}; there are ${known.join(', ')}`);
  const recorder = new Recorder(join(out, 'results.json'), call, before);
  await recorder.run(tasks, {
    ...(only && { only }),
    budget: budget - RESERVE,
    say: (text) => {
      console.log(`[gpu-check] ${text}`);
      log(`[gpu-check] ${text}\n`);
    },
  });
  if (smoke && work) rmSync(work, { recursive: true, force: true });
  report(recorder.results);
  if (recorder.failed > 0) process.exitCode = 1;
});
