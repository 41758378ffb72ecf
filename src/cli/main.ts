#!/usr/bin/env node
import { EXIT } from './command.js';
import { run } from './run.js';

const controller = new AbortController();
process.on('SIGINT', () => {
  // The first interrupt stops cleanly; somebody who asks again wants out at once.
  if (controller.signal.aborted) process.exit(EXIT.interrupted);
  controller.abort(new Error('SIGINT'));
});
// A reader that has seen enough (`jit-flux plan | head -1`) is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  process.exit(error.code === 'EPIPE' ? EXIT.ok : EXIT.failure);
});

process.exitCode = await run(process.argv.slice(2), {
  stdout: process.stdout,
  stderr: process.stderr,
  signal: controller.signal,
});
