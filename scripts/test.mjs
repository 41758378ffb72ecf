#!/usr/bin/env node
// Builds what is out of date, then runs the tests; arguments go to vitest (for example a file name or `-t name`).
import { bootstrap } from './lib/bootstrap.mjs';
import { main, run, toolPath } from './lib/tools.mjs';

await main(async () => {
  await bootstrap();
  const vitest = toolPath('vitest', 'vitest.mjs');
  process.exitCode = run(process.execPath, [vitest, 'run', ...process.argv.slice(2)], { allowFailure: true });
});
