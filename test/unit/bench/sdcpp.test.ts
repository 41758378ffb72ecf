import { chmodSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { sampleSteps, stepSeconds } from '../../../bench/lib/sdcpp.mjs';

const OUTPUT =
  '\r  |====>    | 12/40 - 1.20GB/s\r  |=> | 1/3 - 31.25s/it\u001b[K\r  |==> | 2/3 - 2.50it/s\u001b[K';

/** A program that prints something and then waits, as sd-cli does while it decodes. */
function program(script: string): string {
  const path = join(mkdtempSync(join(tmpdir(), 'jit-flux-')), 'sd-cli');
  writeFileSync(path, `#!/bin/sh\n${script}\n`);
  chmodSync(path, 0o755);
  return path;
}

const run = {
  model: 'm',
  autoencoder: 'a',
  clip: 'c',
  type: 'f16',
  side: 64,
  steps: 2,
  threads: 1,
  work: tmpdir(),
};

describe('steps of stable-diffusion.cpp', () => {
  it('are read from its progress lines, in seconds, those of loading left out', () => {
    expect(stepSeconds(OUTPUT, 3)).toEqual([31.25, 0.4]);
    expect(stepSeconds(OUTPUT, 40)).toEqual([]);
  });

  it('end the program, which has a picture to decode yet', async () => {
    const path = program("printf '\\r|=> 1/2 - 3.00s/it'; printf '\\r|==> 2/2 - 2.00s/it'; exec sleep 600");
    expect(await sampleSteps(path, run)).toEqual([3, 2]);
  });

  it('are missing with the reason where it fails', async () => {
    await expect(sampleSteps(program('echo no such tensor >&2; exit 3'), run)).rejects.toThrow(
      /ended with code 3 before its last step: no such tensor/,
    );
    await expect(sampleSteps('/nonexistent/sd-cli', run)).rejects.toThrow(/ENOENT/);
  });
});
