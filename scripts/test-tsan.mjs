#!/usr/bin/env node
// Builds our native code with ThreadSanitizer (build/Tsan) and runs tests with it that have several threads at work.
//   node scripts/test-tsan.mjs [--native] [--weights] [arguments of vitest]
// First test/sanitizers/thread_tests.cc, a program without Node: queues of work, aborts, logs, counters and the end of
// a process in the middle of it. With --native that is all, and takes seconds. Then jobs, aborts, logs, disposal, worker
// threads and the ends of processes in Node, on the CPU and through the emulated device; files that are named run instead.
// --weights builds and tests the library without LibTorch only, which takes a minute or two: job queue, aborts, progress,
// logs and ends are the same code there. Any report fails the run.
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import {
  EXIT_CODE,
  SANITIZERS,
  optionText,
  reportPath,
  runInstrumented,
  runtimePath,
} from './lib/sanitizers.mjs';
import { ROOT, capture, log, main, run, takeFlag } from './lib/tools.mjs';

/** Without randomised addresses, where that is allowed (not in every container): the sanitizer's shadow has its place. */
const SETARCH = ['setarch', '--addr-no-randomize'];
const LAUNCHER = capture(SETARCH[0], [...SETARCH.slice(1), 'true']) === undefined ? [] : SETARCH;
/** At the end of a process threads are stopped, not joined. */
const OPTIONS = { exitcode: EXIT_CODE, report_thread_leaks: 0 };
const FILES = [
  ...['test/native/log.test.ts', 'test/native/tensor.test.ts', 'test/native/transformer.test.ts'],
  ...['exit', 'workers', 'weights-library', 'dispose'].map((name) => `test/lifetime/${name}.test.ts`),
  ...['test/golden/operators.test.ts', 'test/cuda/engine.test.ts'],
];
const WEIGHTS = ['test/native/convert.test.ts', 'test/lifetime/weights-library.test.ts'];

await main(async () => {
  const args = process.argv.slice(2);
  runProgram();
  if (takeFlag(args, 'native')) return;
  await runInstrumented({
    instrument: 'tsan',
    args,
    files: FILES,
    weights: WEIGHTS,
    environment,
    launcher: LAUNCHER,
  });
});

/** Builds the program without Node, and runs it to an ordinary end and to one in the middle of its work. */
function runProgram() {
  const directory = join(ROOT, '.cmake-build');
  const program = join(directory, 'thread_tests');
  const sources = ['test/sanitizers/thread_tests.cc', 'native/base/work_thread.cc', 'native/base/log.cc'];
  const flags = [
    '-std=c++20',
    '-O1',
    '-g1',
    '-Wall',
    '-Wextra',
    '-Werror',
    '-fsanitize=thread',
    '-fno-omit-frame-pointer',
  ];
  mkdirSync(directory, { recursive: true });
  run(process.env.CXX || 'g++', [...flags, '-Inative', ...sources, '-o', program]);
  const [launcher, ...rest] = [...LAUNCHER, program];
  const TSAN_OPTIONS = optionText(OPTIONS);
  for (const end of [[], ['exit']])
    run(launcher, [...rest, ...end], { name: 'thread_tests', env: { ...process.env, TSAN_OPTIONS } });
  log('thread_tests: no sanitizer reports');
}

/** @param {string} directory */
function environment(directory) {
  const tsan = {
    suppressions: join(SANITIZERS, 'threads.supp'),
    ...OPTIONS,
    log_path: reportPath(directory),
    // Node and LibTorch are not instrumented: what they do to memory is not seen, nor are their atomic operations.
    ignore_noninstrumented_modules: 1,
    // Tests ask for more memory than there is, and expect an error.
    allocator_may_return_null: 1,
    history_size: 7,
  };
  return {
    LD_PRELOAD: runtimePath('libtsan.so'),
    TSAN_OPTIONS: optionText(tsan),
    // LibTorch's OpenMP threads meet by futexes, which the sanitizer does not see.
    OMP_NUM_THREADS: '1',
  };
}
