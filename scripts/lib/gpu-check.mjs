// The parts of scripts/gpu-check.mjs that decide without doing.
import { existsSync, readdirSync } from 'node:fs';
import { join, relative } from 'node:path';
import { UserError } from './tools.mjs';

export const STAGES = ['unpack', 'build', 'test', 'bench', 'report'];

/**
 * Stages to run, in their order whatever that of the arguments; default and `all`: all of them.
 * @param {readonly string[]} args
 */
export function planStages(args) {
  for (const name of args) {
    if (name !== 'all' && !STAGES.includes(name))
      throw new UserError(`Unknown stage ${name}; there are ${STAGES.join(', ')} and all`);
  }
  if (args.length === 0 || args.includes('all')) return STAGES;
  // `report` alone is asked for on another machine, over the results of several calls.
  if (args.every((name) => name === 'report')) return ['report'];
  return STAGES.filter((name) => name === 'unpack' || args.includes(name));
}

/**
 * LD_LIBRARY_PATH with LibTorch's libraries and those of CUDA beside it, as pip installs them.
 * @param {string} torch
 * @param {string} [before]
 */
export function torchLibraryPath(torch, before) {
  const wheels = join(torch, '..', 'nvidia');
  const folders = [join(torch, 'lib')];
  if (existsSync(wheels))
    for (const name of readdirSync(wheels).sort()) {
      const lib = join(wheels, name, 'lib');
      if (existsSync(lib)) folders.push(lib);
    }
  return [...folders, ...(before ? [before] : [])].join(':');
}

/**
 * The document of the tests of the CUDA backend.
 * @param {any} document
 */
export function parseBackend(document) {
  if (document === undefined) return { tests: [], failures: [], summary: '' };
  const tests = document.tests ?? [];
  const failures = tests.filter(({ ok }) => !ok).map(({ name, error }) => ({ name, message: error ?? '' }));
  const first =
    failures.length > 0 ? `; ${failures.map(({ name, message }) => `${name}: ${message}`).join('; ')}` : '';
  const reason = document.reason ? `; ${document.reason}` : '';
  return {
    tests,
    failures,
    summary: `${tests.length - failures.length} passed, ${failures.length} failed${first}${reason}`,
  };
}

/**
 * What compute-sanitizer printed.
 * @param {string} text
 * @returns {{ errors: number, summary: string, first: string }}
 */
export function parseSanitizer(text) {
  const summaries = [...text.matchAll(/^=+ (?:ERROR|RACECHECK) SUMMARY: (.*)$/gm)].map(
    ([, summary]) => summary,
  );
  const summary = summaries.at(-1) ?? '';
  // "0 errors", and of racecheck "0 hazards displayed (0 errors, 0 warnings)".
  const errors = Number(/(\d+) errors?\b/.exec(summary)?.[1] ?? 0);
  const lines = text
    .split('\n')
    .filter((line) => line.startsWith('=========') && !/COMPUTE-SANITIZER/.test(line));
  return { errors, summary, first: errors > 0 ? lines.slice(0, 20).join('\n') : '' };
}

/**
 * vitest's JSON report, shortened.
 * @param {any} report
 * @param {string} root
 */
export function parseVitest(report, root) {
  if (report === undefined)
    return { passed: 0, failed: 1, skipped: 0, failures: [{ name: 'vitest', message: 'no report' }] };
  const failures = report.testResults.flatMap((file) => {
    const name = relative(root, file.name);
    const failed = file.assertionResults
      .filter(({ status }) => status === 'failed')
      .map(({ fullName, failureMessages }) => ({
        name: `${name}: ${fullName}`,
        message: (failureMessages?.[0] ?? '').slice(0, 2000),
      }));
    // A file that cannot be loaded has no tests, so it is not among the failed ones.
    const isBroken = file.status === 'failed' && file.assertionResults.length === 0;
    return isBroken ? [{ name, message: (file.message ?? 'cannot be loaded').slice(0, 2000) }] : failed;
  });
  const files = report.testResults.map((file) => ({
    name: relative(root, file.name),
    status: file.status,
    tests: file.assertionResults.length,
    seconds: (file.endTime - file.startTime) / 1000,
  }));
  return {
    passed: report.numPassedTests,
    failed: Math.max(report.numFailedTests, failures.length),
    skipped: report.numPendingTests + report.numTodoTests,
    failures,
    files,
  };
}

/** @param {string} text */
export const lastLines = (text, count) => text.trimEnd().split('\n').slice(-count).join('\n');
