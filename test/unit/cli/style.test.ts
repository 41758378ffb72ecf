import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { run } from '../../../src/cli/run.js';
import { capture, cli, errorOf } from './helpers.js';

const VARIABLES = ['NO_COLOR', 'FORCE_COLOR'] as const;
const before = VARIABLES.map((name) => process.env[name]);
beforeEach(() => VARIABLES.forEach((name) => delete process.env[name]));
afterEach(() =>
  VARIABLES.forEach((name, i) => {
    if (before[i] === undefined) delete process.env[name];
    else process.env[name] = before[i];
  }),
);

/** Standard error of a command that is refused. */
async function refused(isTTY: boolean, ...words: string[]): Promise<string> {
  const { stream: stderr, text } = capture({ isTTY });
  await run(['plan', '--dtype', 'x', ...words], {
    stdout: { write: () => undefined },
    stderr,
    signal: new AbortController().signal,
  });
  return text();
}

const RED = '\x1b[31mjit-flux:\x1b[39m Expected';

describe('colours', () => {
  it('are on a terminal only', async () => {
    expect(await refused(true)).toContain(RED);
    expect(await refused(false)).toMatch(/^jit-flux: Expected/);
  });

  it('are as asked for', async () => {
    expect(await refused(true, '--no-color')).toMatch(/^jit-flux: Expected/);
    expect(await refused(false, '--color')).toContain(RED);
    process.env['FORCE_COLOR'] = '1';
    expect(await refused(false)).toContain(RED);
    expect(await refused(false, '--no-color')).toMatch(/^jit-flux: Expected/);
  });

  it('are never in a JSON document', async () => {
    const { stdout } = await cli(['plan', '--model', 'flux-tiny', '--json', '--color', '--verbose']);
    expect(stdout).not.toContain('\x1b');
    expect(JSON.parse(stdout)).toMatchObject({ model: 'flux-tiny' });
  });
});

describe('--verbose', () => {
  it('says what was decided, on standard error', async () => {
    const quiet = await cli(['plan', '--model', 'flux-tiny']);
    const verbose = await cli(['plan', '--model', 'flux-tiny', '-v']);
    // What is free changes from one moment to the next.
    const results = [quiet, verbose].map(({ stdout }) => stdout.replace(/available .*/, ''));
    expect([quiet.stderr, results[1]]).toEqual(['', results[0]]);
    expect(verbose.stderr).toMatch(/^Model flux-tiny \(jit-flux\) in .*\nDevice cpu, float32\n$/);
  });

  it('shows where an error comes from, and its causes', async () => {
    const words = ['generate', 'a b', '--prompt-file', '/nonexistent/prompts.txt', '--json'];
    const plain = await cli(words);
    expect(plain.stderr).toBe('');
    const { stderr, ...verbose } = await cli([...words, '--verbose']);
    expect(errorOf({ ...verbose, stderr })).toEqual(errorOf(plain));
    expect(stderr).toMatch(/^JitFluxError: .*\n {4}at /);
    expect(stderr).toMatch(/^caused by Error: ENOENT.*\n {4}at /m);
  });
});
