#!/usr/bin/env node
// Builds our native code with AddressSanitizer and UndefinedBehaviorSanitizer (build/Asan) and runs tests with it.
//   node scripts/test-asan.mjs [--all] [arguments of vitest]
// By default the tests of the addon, the golden tests and the generator; --all: everything that is not about packages,
// timing or CUDA. Files that are named run instead. Any report of a sanitizer fails the run, also
// one of a child process whose end a test takes as expected.
import { readFileSync, readdirSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { buildNative } from './lib/native.mjs';
import { ensureTools, ensureTypeScript } from './lib/steps.mjs';
import { ROOT, UserError, capture, log, main, run, takeFlag, toolPath } from './lib/tools.mjs';

/** How work ends, which was always a matter for the sanitizers. */
const ENDINGS = ['exit', 'workers', 'weights-library'].map((name) => `test/lifetime/${name}.test.ts`);
const DEFAULT = ['test/native/', 'test/golden/', 'test/pipeline/pipeline.test.ts', ...ENDINGS];
const ALL = [
  ...['test/native/', 'test/golden/', 'test/pipeline/', 'test/unit/', ...ENDINGS],
  ...['test/lifetime/dispose.test.ts', 'test/lifetime/service.test.ts'],
];
const BUILD = join(ROOT, 'build', 'Asan');
const REPORT = 'sanitizer-report';

const ASAN_OPTIONS = {
  // LeakSanitizer does not look into V8's heap: everything that a JavaScript object owns would be a leak.
  // test/lifetime/leaks.test.ts watches memory instead.
  detect_leaks: 0,
  // Tests ask for more memory than there is, and expect an error.
  allocator_may_return_null: 1,
  // GCC 12 aligns the frames that it keeps for this to 32 bytes, and AVX-512 needs 64 (GCC bug 110027).
  detect_stack_use_after_return: 0,
  check_initialization_order: 1,
  strict_string_checks: 1,
  exitcode: 99,
};

await main(async () => {
  const args = process.argv.slice(2);
  const all = takeFlag(args, 'all');
  ensureTools();
  ensureTypeScript();
  await buildNative({ sanitize: true });
  for (const report of reports()) rmSync(report);

  const isNamed = args.some((argument) => argument.startsWith('test/'));
  const files = isNamed ? [] : all ? ALL : DEFAULT;
  // Everything takes several times as long.
  const limits = ['--testTimeout=600000', '--hookTimeout=600000'];
  // The emulated kernels come from the ordinary build.
  const projects = isNamed ? [] : ['--project=!*cuda'];
  const vitest = toolPath('vitest', 'vitest.mjs');
  const status = run(process.execPath, [vitest, 'run', ...limits, ...projects, ...files, ...args], {
    allowFailure: true,
    env: environment(),
  });
  const found = reports();
  for (const report of found) console.error(readFileSync(report, 'utf8'));
  if (found.length > 0) throw new UserError(`${found.length} sanitizer reports (${BUILD})`);
  if (status === 0) log('no sanitizer reports');
  process.exitCode = status;
});

function environment() {
  const logPath = `log_path=${join(BUILD, REPORT)}`;
  const options = Object.entries(ASAN_OPTIONS).map(([name, value]) => `${name}=${value}`);
  return {
    ...process.env,
    JIT_FLUX_BUILD_DIR: BUILD,
    JIT_FLUX_VARIANT: 'cpu',
    // Node is not instrumented, so that the runtimes must be there before it. With the C++ library, where Node holds its
    // own copy of it: AddressSanitizer looks for the functions that throw at its start.
    LD_PRELOAD: ['libasan.so', 'libubsan.so', 'libstdc++.so.6'].map(libraryPath).join(':'),
    ASAN_OPTIONS: [...options, logPath].join(':'),
    // Beside the other runtime it ignores `log_path`; an exit code that no test expects makes up for that.
    UBSAN_OPTIONS: `print_stacktrace=1:exitcode=${ASAN_OPTIONS.exitcode}`,
  };
}

/** @param {string} name */
function libraryPath(name) {
  const path = capture(process.env.CXX || 'g++', [`-print-file-name=${name}`])?.trim();
  if (!path || dirname(path) === '.')
    throw new UserError(`The compiler has no ${name}: install the sanitizers' runtimes`);
  return path;
}

function reports() {
  return readdirSync(BUILD)
    .filter((name) => name.startsWith(REPORT))
    .map((name) => join(BUILD, name));
}
