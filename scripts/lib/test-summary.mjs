// node scripts/lib/test-summary.mjs <vitest.json>...: one closing line with the numbers of vitest's JSON reports, added
// up. Fails if a test or a whole file failed, or if a report has no test that passed.
import { readFileSync } from 'node:fs';

const sums = { passed: 0, failed: 0, skipped: 0 };
let ok = process.argv.length > 2;
for (const path of process.argv.slice(2)) {
  /**
   * What is read of it.
   * @type {{
   *   numPassedTests: number, numFailedTests: number, numPendingTests: number, numTodoTests: number,
   *   testResults: { name: string, status: string, assertionResults: unknown[] }[],
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
  ok &&= report.numFailedTests === 0 && brokenFiles.length === 0 && report.numPassedTests > 0;
}
console.log(`Tests: ${sums.passed} passed, ${sums.failed} failed, ${sums.skipped} skipped`);
process.exitCode = ok ? 0 : 1;
