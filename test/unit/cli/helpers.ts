import { Writable } from 'node:stream';

import type { Io } from '../../../src/cli/command.js';
import { run } from '../../../src/cli/run.js';

export interface Outcome {
  code: number;
  stdout: string;
  stderr: string;
}

/** A stream for standard error that keeps what is written. @param terminal what it says of itself */
export function capture(terminal: object = {}) {
  let text = '';
  const stream = new Writable({
    write(chunk: Buffer, _encoding, done) {
      text += chunk.toString();
      done();
    },
  });
  return { stream: Object.assign(stream, terminal), text: () => text };
}

/** Runs the command line in this process. */
export async function cli(
  argv: string[],
  signal: AbortSignal = new AbortController().signal,
  more: Pick<Io, 'env'> = {},
): Promise<Outcome> {
  let stdout = '';
  const { stream: stderr, text } = capture();
  const code = await run(argv, {
    stdout: { write: (text) => (stdout += text.toString()) },
    stderr,
    signal,
    ...more,
  });
  return { code, stdout, stderr: text() };
}

/** The `error` member of the JSON document that a failing command prints. */
export function errorOf({ stdout }: Outcome): { code: string; message: string; details?: unknown } {
  return (JSON.parse(stdout) as { error: { code: string; message: string } }).error;
}
