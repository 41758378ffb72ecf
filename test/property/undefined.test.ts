/** An option that is `undefined` is one that was not given: every option of every exported function. */
import { expect, it } from 'vitest';

import { describeFailures, FIXED_SEED, runInProcess } from '../support/hostile/process.js';

// Options of the command line are texts.
it.each(['sampler', 'engine', 'model', 'pipeline'])(
  '%s',
  async (family) => {
    const o = { seed: FIXED_SEED, runs: 0, seconds: 600, program: 'test/property/undefined-child.js' };
    const report = await runInProcess(family, o);
    expect(report.failures.length, describeFailures(family, o, report)).toBe(0);
    expect(report.cases).toBeGreaterThan(report.refused);
  },
  3_600_000,
);
