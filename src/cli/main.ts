#!/usr/bin/env node
import { constants } from 'node:os';
import { EXIT } from './command.js';
import { run } from './run.js';

const controller = new AbortController();
let received: NodeJS.Signals | undefined;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    // The first one stops cleanly; somebody who asks again wants out at once.
    if (received !== undefined) process.exit(exitCodeOf(signal));
    received = signal;
    controller.abort(new Error(signal));
  });
}
// A reader that has seen enough (`jit-flux generate ... 2>&1 | head -1`) is no failure, and no reason to lose a picture.
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') process.exitCode = EXIT.failure;
  });
}

const code = await run(process.argv.slice(2), {
  stdout: process.stdout,
  stderr: process.stderr,
  stdin: process.stdin,
  signal: controller.signal,
  env: process.env,
});
if (code === EXIT.interrupted && received !== undefined) process.exitCode = exitCodeOf(received);
else if (code !== EXIT.ok) process.exitCode = code;

/** As a shell says it of a program that the signal has ended. */
function exitCodeOf(signal: NodeJS.Signals): number {
  return 128 + constants.signals[signal];
}
