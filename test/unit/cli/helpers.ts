import { Writable } from 'node:stream';

import type { Io } from '../../../src/cli/command.js';
import { run } from '../../../src/cli/run.js';

export interface Outcome {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs the command line in this process. */
export async function cli(
  argv: string[],
  signal: AbortSignal = new AbortController().signal,
  more: Pick<Io, 'env'> = {},
): Promise<Outcome> {
  let stdout = '';
  let stderr = '';
  const code = await run(argv, {
    stdout: { write: (text) => (stdout += text.toString()) },
    stderr: new Writable({
      write(chunk: Buffer, _encoding, done) {
        stderr += chunk.toString();
        done();
      },
    }),
    signal,
    ...more,
  });
  return { code, stdout, stderr };
}

/** The `error` member of the JSON document that a failing command prints. */
export function errorOf({ stdout }: Outcome): { code: string; message: string; details?: unknown } {
  return (JSON.parse(stdout) as { error: { code: string; message: string } }).error;
}
