// node scripts/lib/test-summary.mjs [--must-run FOLDER]... <vitest.json>...: one closing line with the numbers of vitest's
// JSON reports, added up. Fails if a test or a whole file failed, if a report has no test that passed, or if every test of
// a file below one of the folders was skipped: that of golden-cuda, for want of the emulation.
import { readFileSync } from 'node:fs';
import { resolve, sep } from 'node:path';
import { takeOption } from './tools.mjs';

const sums = { passed: 0, failed: 0, skipped: 0 };
const paths = process.argv.slice(2);
/** @type {string[]} */
const mustRun = [];
for (let folder; (folder = takeOption(paths, 'must-run')) !== undefined;) mustRun.push(resolve(folder) + sep);
let ok = paths.length > 0;
for (const path of paths) {
  /**
   * What is read of it.
   * @type {{
   *   numPassedTests: number, numFailedTests: number, numPendingTests: number, numTodoTests: number,
   *   testResults: { name: string, status: string, assertionResults: { status: string }[] }[],
   * }}
   */
  const report = JSON.parse(readFileSync(path, 'utf8'));
  sums.passed += report.numPassedTests;
  sums.failed += report.numFailedTests;
  sums.skipped += report.numPendingTests + report.numTodoTests;
  // A file that cannot be loaded has no tests, so it is not among the failed ones.
  const brokenFiles = report.testResults.filter(
    (file) => file.status === 'failed' && file.assertionResults.length === 0,
  );
  for (const file of brokenFiles) console.log(`could not run ${file.name}`);
  const skippedFiles = report.testResults.filter(
    ({ name, assertionResults: tests }) =>
      mustRun.some((folder) => name.startsWith(folder)) &&
      tests.every(({ status }) => status !== 'passed' && status !== 'failed'),
  );
  for (const file of skippedFiles) console.log(`every test of ${file.name} was skipped`);
  ok &&= report.numFailedTests === 0 && report.numPassedTests > 0;
  ok &&= brokenFiles.length === 0 && skippedFiles.length === 0;
}
console.log(`Tests: ${sums.passed} passed, ${sums.failed} failed, ${sums.skipped} skipped`);
process.exitCode = ok ? 0 : 1;
