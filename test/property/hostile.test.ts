/** Every exported function with hostile arguments: a result, or a JitFluxError with a known code. */
import { expect, it } from 'vitest';

import { describeFailures, runInProcess, runs, seeds } from '../support/hostile/process.js';

const FAMILIES = [
  { family: 'sampler', cases: 3000 },
  { family: 'engine', cases: 300 },
  { family: 'model', cases: 400 },
  { family: 'cli', cases: 80 },
  { family: 'pipeline', cases: 60 },
];

it.each(FAMILIES.flatMap((f) => seeds().map((seed) => ({ ...f, seed }))))(
  '$family, seed $seed',
  async ({ family, cases, seed }) => {
    const o = { seed, runs: runs(cases), seconds: 240 + runs(cases) / 20 };
    const report = await runInProcess(family, o);
    expect(report.failures.length, describeFailures(family, o, report)).toBe(0);
    expect(report.cases).toBeGreaterThan(0);
  },
  3_600_000,
);
