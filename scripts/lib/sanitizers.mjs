// What the runs under a sanitizer have in common: Node is not instrumented, so that the runtime must be there before it,
// and every report fails the run, also that of a child process whose end a test takes as expected.
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { buildNative, cmakeDirectory, outputDirectory } from './native.mjs';
import { ensureTools, ensureTypeScript } from './steps.mjs';
import { ROOT, UserError, capture, log, run, takeFlag, toolPath } from './tools.mjs';

/** Suppressions, each with its reason, and what is preloaded besides the runtimes. */
export const SANITIZERS = join(ROOT, 'test', 'sanitizers');

/** Exit code of a process with a report, which no test expects. */
export const EXIT_CODE = 99;

/**
 * A library of the compiler, by its full path.
 * @param {string} name
 */
export function runtimePath(name) {
  const path = capture(process.env.CXX || 'g++', [`-print-file-name=${name}`])?.trim();
  if (!path || dirname(path) === '.')
    throw new UserError(`The compiler has no ${name}: install the sanitizers' runtimes`);
  return path;
}

/**
 * As the sanitizers read it from their variables.
 * @param {Record<string, string | number>} options
 */
export function optionText(options) {
  return Object.entries(options)
    .map(([name, value]) => `${name}=${value}`)
    .join(':');
}

/**
 * Builds the native code with a sanitizer and runs vitest with it; throws if there are reports.
 * @param {object} options
 * @param {'asan' | 'tsan'} options.instrument
 * @param {string[]} options.args of the command: `--weights` for the library without LibTorch only, then vitest's. Files
 *   among them run instead of the list
 * @param {readonly string[]} options.files what runs by default
 * @param {readonly string[]} options.weights what runs with `--weights`
 * @param {(directory: string) => NodeJS.ProcessEnv} options.environment for the build in that directory
 * @param {readonly string[]} [options.launcher] what starts Node
 */
export async function runInstrumented({ instrument, args, files, weights, environment, launcher = [] }) {
  const only = takeFlag(args, 'weights') ? 'weights' : undefined;
  ensureTools();
  ensureTypeScript();
  /** @type {import('./native.mjs').NativeBuildOptions} */
  const build = { instrument, ...(only && { only }) };
  await buildNative(build);
  const directory = outputDirectory(build);
  const isNamed = args.some((argument) => argument.startsWith('test/'));
  const chosen = isNamed ? [] : only ? weights : files;
  const reports = join(directory, 'reports');
  rmSync(reports, { recursive: true, force: true });
  mkdirSync(reports, { recursive: true });
  // Everything takes several times as long.
  const limits = ['--testTimeout=600000', '--hookTimeout=600000'];
  const vitest = toolPath('vitest', 'vitest.mjs');
  const [command, ...rest] = [...launcher, process.execPath, vitest, 'run', ...limits, ...chosen, ...args];
  const status = run(command, rest, {
    allowFailure: true,
    env: {
      ...process.env,
      ...environment(directory),
      JIT_FLUX_BUILD_DIR: directory,
      JIT_FLUX_VARIANT: 'cpu',
      JIT_FLUX_TEST_SLOWNESS: '10',
      JIT_FLUX_TEST_PROGRAMS: join(cmakeDirectory(build), 'out'),
    },
  });
  const found = existsSync(reports) ? readdirSync(reports).map((name) => join(reports, name)) : [];
  for (const report of found) console.error(readFileSync(report, 'utf8'));
  if (found.length > 0) throw new UserError(`${found.length} sanitizer reports (${reports})`);
  if (status === 0) log('no sanitizer reports');
  process.exitCode = status;
}

/**
 * What a sanitizer takes as `log_path` for {@link runInstrumented} to find; it adds the process id.
 * @param {string} directory of the build's libraries
 */
export function reportPath(directory) {
  return join(directory, 'reports', 'report');
}
