import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { run } from '../../src/cli/run.js';
import { ERROR_CODES, JitFluxError, withoutControls } from '../../src/errors.js';

const ESCAPE = '\u001b[2J';

describe('control characters', () => {
  it('are written out, but for line breaks and tabs', () => {
    expect(withoutControls(`a\tb\nc${ESCAPE}\r\0\u007f\u009bd é 猫`)).toBe(
      'a\tb\nc\\x1b[2J\\x0d\\x00\\x7f\\x9bd é 猫',
    );
  });

  it('reach no message of an error, and stay in its details', () => {
    const path = `/tmp/${ESCAPE}`;
    const error = new JitFluxError(ERROR_CODES.WRITE_FAILED, `Cannot write ${path}`, { path });
    expect(error.message).toBe('Cannot write /tmp/\\x1b[2J');
    expect(error.details).toEqual({ path });
  });

  it.each([
    ['a model that is not there', ['plan', '--model', `/nonexistent/${ESCAPE}`]],
    ['an output that cannot be written', ['generate', 'x', '--out', `/nonexistent/${ESCAPE}/a.png`]],
    ['an unknown option', ['plan', `--${ESCAPE}`]],
    ['an unknown command', [ESCAPE]],
    ['a preset', ['plan', '--preset', ESCAPE]],
  ])('of %s do not reach the terminal', async (_, argv) => {
    let output = '';
    const stream = { isTTY: false, write: (text: string) => ((output += text), true) };
    const io = { stdout: stream, stderr: stream, signal: new AbortController().signal };
    process.env.JIT_FLUX_CACHE = mkdtempSync(join(tmpdir(), 'jit-flux-'));
    try {
      expect(await run(argv, io as unknown as Parameters<typeof run>[1])).toBe(2);
    } finally {
      delete process.env.JIT_FLUX_CACHE;
    }
    expect(output).not.toContain('\u001b');
    // A value in quotes is written as in JSON.
    expect(output).toMatch(/\\(x|u00)1b\[2J/);
  });
});
