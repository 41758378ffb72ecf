import { spawnSync } from 'node:child_process';
import { SLOWNESS } from './slowness.js';

/** The Node of programs that tests start: another version than the tests' own for `npm run test:nodes`. */
export const NODE = process.env.JIT_FLUX_TEST_NODE ?? process.execPath;

export interface ProgramEnd {
  status: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** Runs a Node program to its end; one that hangs is killed after `seconds` times {@link SLOWNESS}. */
export function runProgram(
  args: readonly string[],
  o: { seconds?: number; env?: Record<string, string> } = {},
): ProgramEnd {
  const { status, signal, stdout, stderr } = spawnSync(NODE, args, {
    encoding: 'utf8',
    timeout: (o.seconds ?? 60) * 1000 * SLOWNESS,
    killSignal: 'SIGKILL',
    maxBuffer: 64 * 1024 * 1024,
    env: { ...process.env, ...o.env },
  });
  return { status, signal, stdout, stderr };
}

/** Runs an ES module given as text. */
export function runSource(
  source: string,
  o: { seconds?: number; env?: Record<string, string>; flags?: readonly string[] } = {},
): ProgramEnd {
  return runProgram([...(o.flags ?? []), '--input-type=module', '--eval', source], o);
}
