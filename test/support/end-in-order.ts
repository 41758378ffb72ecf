/**
 * Setup of every test file in scripts/coverage.mjs: vitest ends its processes by SIGTERM, whose default action leaves no
 * time to write the counts of the native code.
 */
process.once('SIGTERM', () => process.exit(0));
