// node scripts/lib/test-summary.mjs <vitest.json>: one closing line with the numbers of vitest's JSON report. Fails if a
// test or a whole file failed, or if there were none.
import { readFileSync } from 'node:fs';

const report = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const skipped = report.numPendingTests + report.numTodoTests;
// A file that cannot be loaded has no tests, so it is not among the failed ones.
const brokenFiles = report.testResults.filter(
  (file) => file.status === 'failed' && file.assertionResults.length === 0,
);
for (const file of brokenFiles) console.log(`could not run ${file.name}`);
console.log(`Tests: ${report.numPassedTests} passed, ${report.numFailedTests} failed, ${skipped} skipped`);
const failed = report.numFailedTests > 0 || brokenFiles.length > 0;
process.exitCode = failed || report.numPassedTests === 0 ? 1 : 0;
