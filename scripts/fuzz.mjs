#!/usr/bin/env node
// Fuzzes the readers of files: targets in C++ (test/fuzz/*.cc, libFuzzer with AddressSanitizer and
// UndefinedBehaviorSanitizer) and in JavaScript (test/fuzz/*.mjs, guided by the branches that an input reaches).
//   npm run fuzz -- <target>... [--seconds n] [--runs n] [--seed n] [--jobs n]
//   npm run fuzz -- --all --seconds 60 --jobs 2
//   npm run fuzz -- --list
//   npm run fuzz -- <target> --input <file>     one input again, with its report
//   npm run fuzz -- <target> --minimize         test/fuzz/corpus/<target> anew, from it and what was found since
//   npm run fuzz -- --coverage                  lines and branches of the readers that corpora and regressions reach
// What breaks a target is kept in test/fuzz/findings/<target>; what an input reaches for the first time in
// .cmake-build/fuzz-corpus/<target>, from where later runs go on.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'; // prettier-ignore
import { availableParallelism, tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { ROOT, UserError, capture, log, main, newest, run, takeFlag, takeOption } from './lib/tools.mjs';
import { compileTypeScript } from './lib/steps.mjs';

const FOLDER = join(ROOT, 'test', 'fuzz');
const FINDINGS = join(FOLDER, 'findings');
const FOUND = join(ROOT, '.cmake-build', 'fuzz-corpus');

/** Longest input in bytes, where it is not 4096. The descriptions of whole models are longer. */
const MAX_LENGTH = /** @type {Record<string, number>} */ ({
  json: 1024,
  index: 1024,
  pickle: 2048,
  zip: 2048,
  safetensors: 2048,
  directory: 2048,
  weights: 2048,
});
/** Seconds in which an input must be done, megabytes that one allocation and the whole process may have. */
const LIMITS = { seconds: 5, allocation: 64, process: 1024 };

/** What the sanitizers are told. A leak is a finding. */
const SANITIZERS = {
  // Shallow stacks of allocations and a small quarantine: several times as many inputs.
  ASAN_OPTIONS: 'detect_leaks=1:allocator_may_return_null=0:malloc_context_size=2:quarantine_size_mb=8',
  UBSAN_OPTIONS: 'print_stacktrace=1',
};

/** @typedef {{ name: string, file: string, native: boolean }} Target */
/** @typedef {{ target: string, runs: number, seconds: number, coverage: string, finding?: string }} Result */

await main(async () => {
  const args = process.argv.slice(2);
  const seconds = number('seconds', takeOption(args, 'seconds'));
  const runs = number('runs', takeOption(args, 'runs'));
  const seed = number('seed', takeOption(args, 'seed')) ?? 1 + Math.floor(Math.random() * 2 ** 31);
  const jobs = number('jobs', takeOption(args, 'jobs')) ?? Math.min(2, availableParallelism());
  const input = takeOption(args, 'input');
  const [all, list, minimize, coverage] = ['all', 'list', 'minimize', 'coverage'].map((flag) =>
    takeFlag(args, flag),
  );
  const targets = findTargets();
  if (list) {
    for (const { name, file } of targets) console.log(`${name.padEnd(16)} ${relative(ROOT, file)}`);
    return;
  }
  const unknown = args.filter((name) => !targets.some((target) => target.name === name));
  if (unknown.length > 0 || (args.length === 0 && !all && !coverage)) {
    const names = targets.map((target) => target.name).join(', ');
    throw new UserError(
      `${unknown.length > 0 ? `no target ${unknown.join(', ')}` : 'name a target, or --all'}: ${names}`,
    );
  }
  const chosen = targets.filter(({ name, native }) => (coverage ? native : all || args.includes(name)));
  if (coverage) return reportCoverage(chosen);
  prepare(chosen);
  if (minimize) {
    for (const target of chosen) await minimizeCorpus(target);
    return;
  }
  const limit = { seconds: seconds ?? (runs === undefined ? 60 : 0), runs: runs ?? 0, seed };
  /** @type {Result[]} */
  const results = [];
  const waiting = [...chosen];
  await Promise.all(
    Array.from({ length: Math.min(jobs, chosen.length) }, async () => {
      for (let target = waiting.shift(); target; target = waiting.shift()) {
        results.push(await fuzz(target, limit, input));
      }
    }),
  );
  if (input !== undefined) return;
  console.log(`\nseed ${seed}`);
  for (const { target, runs: count, seconds: time, coverage: reached, finding } of results) {
    const row = [
      target.padEnd(16),
      `${count} inputs`.padStart(18),
      `${time} s`.padStart(8),
      reached.padStart(20),
    ];
    console.log(row.join(' ') + (finding === undefined ? '' : `  FOUND ${finding}`));
  }
  const findings = results.filter(({ finding }) => finding !== undefined);
  if (findings.length > 0) {
    console.log('\nto see it again:');
    for (const { target, finding } of findings) console.log(`  npm run fuzz -- ${target} --input ${finding}`);
    process.exitCode = 1;
  }
});

/**
 * @param {string} name
 * @param {string | undefined} text
 */
function number(name, text) {
  if (text === undefined) return undefined;
  if (!/^\d+$/.test(text)) throw new UserError(`--${name} is a number, not ${text}`);
  return Number(text);
}

/** @returns {Target[]} */
function findTargets() {
  return readdirSync(FOLDER)
    .filter((file) => /\.(cc|mjs)$/.test(file))
    .sort()
    .map((file) => ({
      name: file.replace(/\.\w+$/, ''),
      file: join(FOLDER, file),
      native: file.endsWith('.cc'),
    }));
}

/** @param {Target[]} targets */
function prepare(targets) {
  if (targets.some(({ native }) => native)) build(targets, 'Fuzz', []);
  if (targets.some(({ native }) => !native)) {
    const compiled = join(ROOT, 'dist', 'index.js');
    if (newest(compiled) < newest(join(ROOT, 'src'))) {
      compileTypeScript();
    }
  }
}

/**
 * @param {Target[]} targets
 * @param {string} name
 * @param {string[]} options
 */
function build(targets, name, options) {
  const compiler = process.env.FUZZ_CXX || 'clang++';
  if (capture(compiler, ['--version']) === undefined) {
    throw new UserError(
      `${compiler} is not installed. On Debian run:\n  sudo apt-get install -y clang libclang-rt-dev`,
    );
  }
  const folder = join(ROOT, '.cmake-build', name);
  const configure = [
    '-S',
    FOLDER,
    '-B',
    folder,
    '-G',
    'Ninja',
    `-DCMAKE_CXX_COMPILER=${compiler}`,
    ...options,
  ];
  run('cmake', configure, { stdio: ['ignore', 'ignore', 'inherit'] });
  const names = targets.filter(({ native }) => native).map((target) => `fuzz_${target.name}`);
  run('ninja', ['-C', folder, '--quiet', ...names]);
  return folder;
}

/** @param {Target} target */
function inputsOf({ name }) {
  return [join(FOLDER, 'corpus', name), join(FOLDER, 'regressions', name)].filter((path) => existsSync(path));
}

/**
 * @param {Target} target
 * @param {{ seconds: number, runs: number, seed: number }} limit
 * @param {string | undefined} input
 * @returns {Promise<Result>}
 */
async function fuzz(target, limit, input) {
  const findings = join(FINDINGS, target.name);
  const found = join(FOUND, target.name);
  for (const folder of [findings, found]) mkdirSync(folder, { recursive: true });
  log(`${target.name}: ${input ?? (limit.runs > 0 ? `${limit.runs} inputs` : `${limit.seconds} seconds`)}`);
  const runOnce = target.native ? runNative : runJavaScript;
  let done = await runOnce(target, limit, input, findings, found);
  // The limit is one of wall time, which passes also while a process has no processor: an input that is done in time when it
  // runs alone is no finding.
  while (input === undefined && done.finding !== undefined && /\/timeout-\w+$/.test(done.finding)) {
    const path = join(ROOT, done.finding);
    const alone = await runOnce(target, limit, path, findings, found);
    if (alone.finding !== undefined) return done;
    log(`${target.name}: ${done.finding} is done in time by itself: something else had the processor`);
    rmSync(path);
    const left = {
      seed: limit.seed + done.runs,
      runs: Math.max(limit.runs - done.runs, limit.runs > 0 ? 1 : 0),
      seconds: Math.max(limit.seconds - done.seconds, limit.seconds > 0 ? 1 : 0),
    };
    const { runs, seconds, ...rest } = await runOnce(target, left, undefined, findings, found);
    done = { ...rest, runs: done.runs + runs, seconds: done.seconds + seconds };
  }
  return done;
}

/** @param {Target} target */
function nativeOptions({ name }) {
  const dictionary = join(FOLDER, 'dictionaries', `${name}.dict`);
  return [
    `-max_len=${MAX_LENGTH[name] ?? 4096}`,
    `-timeout=${LIMITS.seconds}`,
    // Slow, and yet in time: a process without a processor is, too.
    '-report_slow_units=3600',
    `-malloc_limit_mb=${LIMITS.allocation}`,
    `-rss_limit_mb=${LIMITS.process}`,
    '-print_final_stats=1',
    '-print_funcs=0',
    ...(existsSync(dictionary) ? [`-dict=${dictionary}`] : []),
  ];
}

/**
 * @param {Target} target
 * @param {{ seconds: number, runs: number, seed: number }} limit
 * @param {string | undefined} input
 * @param {string} findings
 * @param {string} found
 * @returns {Promise<Result>}
 */
async function runNative(target, limit, input, findings, found) {
  const program = join(ROOT, '.cmake-build', 'Fuzz', `fuzz_${target.name}`);
  const before = new Set(readdirSync(findings));
  const args =
    input !== undefined
      ? [...nativeOptions(target), input]
      : [
          ...nativeOptions(target),
          `-artifact_prefix=${findings}/`,
          `-seed=${limit.seed}`,
          ...(limit.runs > 0 ? [`-runs=${limit.runs}`] : []),
          ...(limit.seconds > 0 ? [`-max_total_time=${limit.seconds}`] : []),
          found,
          ...inputsOf(target),
        ];
  const began = Date.now();
  const { status, output } = await child(program, args, { env: { ...process.env, ...SANITIZERS } });
  const time = Math.round((Date.now() - began) / 1000);
  const last = [...output.matchAll(/^#(\d+)\s+\S+\s+cov: (\d+) ft: (\d+)/gm)].at(-1);
  const count = Number(/number_of_executed_units: (\d+)/.exec(output)?.[1] ?? last?.[1] ?? 0);
  const result = { target: target.name, runs: count, seconds: time, coverage: `${last?.[2] ?? '?'} edges` };
  if (status === 0) {
    if (input !== undefined) process.stderr.write(output);
    return result;
  }
  process.stderr.write(output.slice(-8000));
  const added = readdirSync(findings).filter((name) => !before.has(name));
  const finding = input ?? (added[0] !== undefined ? join(findings, added[0]) : undefined);
  return { ...result, finding: finding === undefined ? `exit code ${status}` : relative(ROOT, finding) };
}

/**
 * @param {Target} target
 * @param {Partial<import('../test/fuzz/support/loop.mjs').Settings>} settings
 * @param {string} scratch
 */
function loopArguments(target, settings, scratch) {
  const dictionary = join(FOLDER, 'dictionaries', `${target.name}.dict`);
  const words = existsSync(dictionary)
    ? [...readFileSync(dictionary, 'utf8').matchAll(/^(?:\w+=)?(".*")$/gm)].map(([, text]) => unquote(text))
    : [];
  const all = { file: target.file, inputs: inputsOf(target), words, runs: 0, seconds: 0, seed: 1, once: false, merge: false, ...settings, current: join(scratch, 'current') }; // prettier-ignore
  const loop = join(FOLDER, 'support', 'loop.mjs');
  return [`--max-old-space-size=${LIMITS.process}`, '--no-warnings', loop, JSON.stringify(all)];
}

/** The text of a libFuzzer dictionary's entry. @param {string} quoted */
function unquote(quoted) {
  return quoted
    .slice(1, -1)
    .replace(/\\(?:x([0-9a-fA-F]{2})|(.))/g, (_, hex, plain) =>
      hex ? String.fromCharCode(parseInt(hex, 16)) : plain,
    );
}

/**
 * @param {Target} target
 * @param {{ seconds: number, runs: number, seed: number }} limit
 * @param {string | undefined} input
 * @param {string} findings
 * @param {string} found
 * @returns {Promise<Result>}
 */
async function runJavaScript(target, limit, input, findings, found) {
  const scratch = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'jit-flux-fuzz-run-'));
  try {
    const settings =
      input !== undefined
        ? { inputs: [input], once: true }
        : {
            inputs: [...inputsOf(target), found],
            keep: found,
            runs: limit.runs > 0 ? limit.runs : Number.MAX_SAFE_INTEGER,
            seconds: limit.seconds,
            seed: limit.seed,
          };
    const current = join(scratch, 'current');
    const began = Date.now();
    let heartbeat = '';
    let beat = Date.now();
    let late = false;
    const { status, output } = await child(process.execPath, loopArguments(target, settings, scratch), {
      // A JavaScript process cannot interrupt itself.
      watch: (kill) => {
        const now = existsSync(current) ? readFileSync(current).subarray(0, 4).toString('hex') : '';
        if (now !== heartbeat) [heartbeat, beat] = [now, Date.now()];
        else if (now !== '' && Date.now() - beat > 2 * LIMITS.seconds * 1000) {
          late = true;
          kill();
        }
      },
    });
    const time = Math.round((Date.now() - began) / 1000);
    const last = [...output.matchAll(/^#(\d+) \S+.* cov: (\d+ of \d+)/gm)].at(-1);
    const state = existsSync(current) ? readFileSync(current) : Buffer.alloc(8);
    const ran = state.length >= 8 ? state.readUInt32LE(0) : 0;
    const result = { target: target.name, runs: status === 0 ? Number(last?.[1] ?? 0) : ran, seconds: time, coverage: `${last?.[2] ?? '?'} branches` }; // prettier-ignore
    if (status === 0) {
      if (input !== undefined) process.stderr.write(output);
      return result;
    }
    process.stderr.write(output.slice(-8000));
    if (input !== undefined) return { ...result, finding: input };
    const bytes = state.subarray(8, 8 + (state.length >= 8 ? state.readUInt32LE(4) : 0));
    const kind = late ? 'timeout' : 'crash';
    const file = join(findings, `${kind}-${createHash('sha1').update(bytes).digest('hex')}`);
    writeFileSync(file, bytes);
    return { ...result, finding: relative(ROOT, file) };
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/**
 * Runs a program, its output in memory.
 * @param {string} command
 * @param {string[]} args
 * @param {{ env?: NodeJS.ProcessEnv, watch?: (kill: () => void) => void }} [o] watch: called every second
 * @returns {Promise<{ status: number | string, output: string }>}
 */
function child(command, args, o = {}) {
  return new Promise((resolve, reject) => {
    const running = spawn(command, args, {
      cwd: ROOT,
      env: o.env ?? process.env,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    for (const stream of [running.stdout, running.stderr]) {
      stream.on('data', (/** @type {Buffer} */ data) => {
        output = (output + data.toString('utf8')).slice(-1_000_000);
      });
    }
    const timer = o.watch && setInterval(() => o.watch?.(() => running.kill('SIGKILL')), 1000);
    running.on('error', reject);
    running.on('close', (code, signal) => {
      clearInterval(timer);
      resolve({ status: code ?? signal ?? 1, output });
    });
  });
}

/**
 * The smallest inputs that reach all that is reached.
 * @param {Target} target
 */
async function minimizeCorpus(target) {
  const corpus = join(FOLDER, 'corpus', target.name);
  const fresh = `${corpus}.new`;
  rmSync(fresh, { recursive: true, force: true });
  mkdirSync(fresh, { recursive: true });
  const from = [corpus, join(FOUND, target.name)].filter((path) => existsSync(path));
  if (target.native) {
    const program = join(ROOT, '.cmake-build', 'Fuzz', `fuzz_${target.name}`);
    const env = { ...process.env, ...SANITIZERS };
    const { status, output } = await child(program, [...nativeOptions(target), '-merge=1', fresh, ...from], {
      env,
    });
    if (status !== 0)
      throw new UserError(`the corpus of ${target.name} was not merged:\n${output.slice(-4000)}`);
  } else {
    const scratch = mkdtempSync(join(tmpdir(), 'jit-flux-fuzz-run-'));
    const settings = { inputs: from, keep: fresh, merge: true };
    const { status, output } = await child(process.execPath, loopArguments(target, settings, scratch));
    rmSync(scratch, { recursive: true, force: true });
    if (status !== 0)
      throw new UserError(`the corpus of ${target.name} was not merged:\n${output.slice(-4000)}`);
  }
  rmSync(corpus, { recursive: true, force: true });
  renameSync(fresh, corpus);
  log(`${target.name}: ${readdirSync(corpus).length} inputs in its corpus`);
}

/** @param {Target[]} targets */
async function reportCoverage(targets) {
  const folder = build(targets, 'FuzzCoverage', ['-DFUZZ_COVERAGE=ON']);
  const profiles = [];
  for (const target of targets) {
    const profile = join(folder, `${target.name}.profraw`);
    const inputs = [...inputsOf(target), join(FOUND, target.name)].filter((path) => existsSync(path));
    const files = inputs.flatMap((path) => readdirSync(path).map((name) => join(path, name)));
    const env = { ...process.env, LLVM_PROFILE_FILE: profile };
    await child(join(folder, `fuzz_${target.name}`), files, { env });
    profiles.push(profile);
  }
  const merged = join(folder, 'all.profdata');
  run(tool('llvm-profdata'), ['merge', '-sparse', ...profiles, '-o', merged]);
  const programs = targets.map(({ name }) => join(folder, `fuzz_${name}`));
  const objects = programs.flatMap((program, i) => (i === 0 ? [program] : ['-object', program]));
  const sources = ['weights', 'describe', 'base'].map((part) => join(ROOT, 'native', part));
  run(tool('llvm-cov'), ['report', `-instr-profile=${merged}`, ...objects, ...sources]);
  const html = join(folder, 'report');
  const show = [
    'show',
    '-format=html',
    '-show-branches=count',
    `-output-dir=${html}`,
    `-instr-profile=${merged}`,
  ];
  run(tool('llvm-cov'), [...show, ...objects, ...sources]);
  log(`line by line: ${relative(ROOT, html)}/index.html`);
}

/** LLVM's tools carry their version in their names. @param {string} name */
function tool(name) {
  const version = /version (\d+)/.exec(capture('clang++', ['--version']) ?? '')?.[1];
  return capture(`${name}-${version}`, ['--version']) === undefined ? name : `${name}-${version}`;
}
