#!/usr/bin/env node
// The golden tests once for every instruction set that our kernels have and this CPU supports: a process chooses its
// kernels once.
//   node scripts/test-isa.mjs [--reports <folder>] [arguments of vitest]
// --reports keeps vitest's JSON reports, one file for each set.
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { bootstrap } from './lib/bootstrap.mjs';
import { compiledModule } from './lib/steps.mjs';
import { ROOT, log, main, run, takeOption, toolPath } from './lib/tools.mjs';

await main(async () => {
  const args = process.argv.slice(2);
  const kept = takeOption(args, 'reports');
  await bootstrap();
  const { native } = await compiledModule('engine/call');
  const { supportedIsas } = native().info();
  // The kernels for AMX run everywhere, if need be on emulated tiles.
  if (!supportedIsas.includes('amx')) supportedIsas.push('amx_emulated');

  const reports = kept === undefined ? mkdtempSync(join(tmpdir(), 'jit-flux-isa-')) : resolve(kept);
  mkdirSync(reports, { recursive: true });
  let failed = 0;
  try {
    for (const isa of supportedIsas) {
      log(`golden tests with ${isa} kernels`);
      const report = [
        '--reporter=default',
        '--reporter=json',
        `--outputFile.json=${join(reports, isa)}.json`,
      ];
      const vitest = [toolPath('vitest', 'vitest.mjs'), 'run', '--project', 'golden', ...report, ...args];
      const env = { ...process.env, JIT_FLUX_ISA: isa };
      // Also for what goes wrong outside of a test, which no report counts.
      if (run(process.execPath, vitest, { allowFailure: true, env }) !== 0) failed++;
    }
    const files = supportedIsas.map((isa) => join(reports, `${isa}.json`));
    const summary = [join(ROOT, 'scripts', 'lib', 'test-summary.mjs'), ...files];
    const status = run(process.execPath, summary, { allowFailure: true });
    process.exitCode = status !== 0 ? status : failed > 0 ? 1 : 0;
  } finally {
    if (kept === undefined) rmSync(reports, { recursive: true, force: true });
  }
});
