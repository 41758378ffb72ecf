#!/usr/bin/env node
// Builds our native code with AddressSanitizer and UndefinedBehaviorSanitizer (build/Asan) and runs tests with it, with
// a look for leaks at the end of every test file and process.
//   node scripts/test-asan.mjs [--all] [--weights] [arguments of vitest]
// By default the tests of the addon, the golden tests on both devices, the generator and how work ends; --all: everything
// that is not about packages or timing. Files that are named run instead. --weights builds and tests the library without
// LibTorch only, which takes a minute or two. Any report of a sanitizer fails the run, also one of a child process whose
// end a test takes as expected.
import { join } from 'node:path';
import {
  EXIT_CODE,
  SANITIZERS,
  optionText,
  reportPath,
  runInstrumented,
  runtimePath,
} from './lib/sanitizers.mjs';
import { ROOT, main, run, takeFlag } from './lib/tools.mjs';

/**
 * How work, models, threads and processes end. Not of test/lifetime: leaks (watches memory, of which the sanitizer keeps what is
 * freed; it looks for leaks itself), memory-steps (limits address space, of which the sanitizer's shadow takes terabytes),
 * fail-allocations (replaces malloc, as the sanitizer does), faults (LeakSanitizer does not work under strace), lock (nothing
 * native).
 */
const ENDINGS = ['changed-weights', 'endings', 'exit', 'workers', 'weights-library', 'dispose'].map(
  (name) => `test/lifetime/${name}.test.ts`,
);
const DEFAULT = ['test/native/', 'test/golden/', 'test/pipeline/pipeline.test.ts', ...ENDINGS];
const ALL = [
  ...['test/native/', 'test/golden/', 'test/cuda/', 'test/pipeline/', 'test/unit/', ...ENDINGS],
  'test/lifetime/service.test.ts',
];
/** Tests of readers, descriptions, conversion and jobs, which need no LibTorch. */
const WEIGHTS = [
  'test/native/convert.test.ts',
  'test/native/describe.test.ts',
  'test/lifetime/weights-library.test.ts',
];

await main(async () => {
  const args = process.argv.slice(2);
  const files = takeFlag(args, 'all') ? ALL : DEFAULT;
  await runInstrumented({ instrument: 'asan', args, files, weights: WEIGHTS, environment });
});

/** @param {string} directory */
function environment(directory) {
  const leakCheck = buildLeakCheck(directory);
  const asan = {
    detect_leaks: 1,
    // Tests ask for more memory than there is, and expect an error.
    allocator_may_return_null: 1,
    // GCC 12 aligns the frames that it keeps for this to 32 bytes, and AVX-512 needs 64 (GCC bug 110027).
    detect_stack_use_after_return: 0,
    // Its record of memory for thread-local variables can hold addresses of none, which LeakSanitizer would read. glibc
    // takes that memory from malloc, where it is found without.
    intercept_tls_get_addr: 0,
    check_initialization_order: 1,
    // Ours is about weights that changed; a test looks at what is left of it otherwise.
    handle_sigbus: 0,
    strict_string_checks: 1,
    exitcode: EXIT_CODE,
    log_path: reportPath(directory),
  };
  return {
    // With the C++ library, where Node holds its own copy of it: AddressSanitizer looks for the functions that throw at
    // its start.
    LD_PRELOAD: [...['libasan.so', 'libubsan.so', 'libstdc++.so.6'].map(runtimePath), leakCheck].join(':'),
    ASAN_OPTIONS: optionText(asan),
    LSAN_OPTIONS: optionText({
      suppressions: join(SANITIZERS, 'leaks.supp'),
      print_suppressions: 0,
      exitcode: EXIT_CODE,
    }),
    // Beside the other runtime it ignores `log_path`; an exit code that no test expects makes up for that.
    UBSAN_OPTIONS: optionText({ print_stacktrace: 1, exitcode: EXIT_CODE }),
    JIT_FLUX_LEAK_CHECK: leakCheck,
    JIT_FLUX_TEST_SETUP: join(SANITIZERS, 'leak-check.ts'),
  };
}

/**
 * Compiles test/sanitizers/leak_check.c into the directory; its path.
 * @param {string} directory
 */
function buildLeakCheck(directory) {
  const path = join(directory, 'leak_check.node');
  const headers = join(ROOT, 'node_modules', 'node-api-headers', 'include');
  const flags = [
    '-shared',
    '-fPIC',
    '-O1',
    '-Wl,-z,lazy',
    '-DNODE_GYP_MODULE_NAME=leak_check',
    `-I${headers}`,
  ];
  run(process.env.CC || 'gcc', [...flags, '-o', path, join(SANITIZERS, 'leak_check.c')]);
  return path;
}
