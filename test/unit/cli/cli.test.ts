import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { VERSION } from '../../../src/files/package-files.js';
import { cli, errorOf } from './helpers.js';

describe('jit-flux', () => {
  it('lists its commands', async () => {
    const { code, stdout, stderr } = await cli(['--help']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    for (const command of ['generate', 'plan', 'inspect', 'convert', 'setup', 'doctor']) {
      expect(stdout).toContain(`jit-flux ${command}`);
      const help = await cli([command, '--help']);
      expect(help.code).toBe(0);
      expect(help.stdout).toContain('--json');
    }
  });

  it('knows its version', async () => {
    expect(await cli(['--version'])).toEqual({ code: 0, stdout: `${VERSION}\n`, stderr: '' });
  });

  it.each([[['paint']], [['generate']], [['generate', 'a', 'b']], [['plan', '--colour', 'red']]])(
    'refuses %j',
    async (argv) => {
      const plain = await cli(argv);
      expect([plain.code, plain.stdout]).toEqual([2, '']);
      expect(plain.stderr).toMatch(/^jit-flux: /);
      const json = await cli([...argv, '--json']);
      expect([json.code, json.stderr]).toEqual([2, '']);
      expect(errorOf(json).code).toBe('ERR_JITFLUX_INVALID_ARGUMENT');
    },
  );
});

describe('jit-flux generate, refusing', () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'jit-flux-cli-'));
    await mkdir(join(directory, 'empty'));
    await writeFile(join(directory, 'file'), '');
  });
  afterEach(() => rm(directory, { recursive: true, force: true }));

  it.each([
    ['--preset jit-5x', 'ERR_JITFLUX_UNKNOWN_PRESET'],
    ['--width 100', 'ERR_JITFLUX_INVALID_ARGUMENT'],
    ['--height 8', 'ERR_JITFLUX_INVALID_ARGUMENT'],
    ['--steps -4', 'ERR_JITFLUX_INVALID_ARGUMENT'],
    ['--steps 0', 'ERR_JITFLUX_INVALID_ARGUMENT'],
    ['--steps 2.5', 'ERR_JITFLUX_INVALID_ARGUMENT'],
    ['--stage-ratios 0.4,0.65,0.9', 'ERR_JITFLUX_INVALID_ARGUMENT'],
    ['--token-ratios 0,0.62,1', 'ERR_JITFLUX_INVALID_ARGUMENT'],
    ['--guidance NaN', 'ERR_JITFLUX_INVALID_ARGUMENT'],
    ['--guidance -1', 'ERR_JITFLUX_INVALID_ARGUMENT'],
    ['--seed -1', 'ERR_JITFLUX_INVALID_ARGUMENT'],
    ['--seed 18446744073709551616', 'ERR_JITFLUX_INVALID_ARGUMENT'],
    ['--num-images 0', 'ERR_JITFLUX_INVALID_ARGUMENT'],
    ['--threads 0', 'ERR_JITFLUX_INVALID_ARGUMENT'],
    ['--device gpu', 'ERR_JITFLUX_INVALID_ARGUMENT'],
    ['--dtype int4', 'ERR_JITFLUX_INVALID_ARGUMENT'],
    ['--model DIR/missing', 'ERR_JITFLUX_FILE_NOT_FOUND'],
    ['--model DIR/empty', 'ERR_JITFLUX_INVALID_MODEL'],
    ['-o DIR/out.gif', 'ERR_JITFLUX_INVALID_ARGUMENT'],
    ['-o DIR/missing/out.png', 'ERR_JITFLUX_WRITE_FAILED'],
    ['-o DIR/file/out.png', 'ERR_JITFLUX_WRITE_FAILED'],
  ])('%s', async (flags, errorCode) => {
    const out = flags.includes('-o') ? [] : ['-o', join(directory, 'out.png')];
    const argv = ['generate', 'a red circle', ...out, ...flags.replaceAll('DIR', directory).split(' ')];
    const json = await cli([...argv, '--json']);
    expect([json.code, json.stderr]).toEqual([2, '']);
    expect(errorOf(json).code).toBe(errorCode);
    const plain = await cli(argv);
    expect([plain.code, plain.stdout]).toEqual([2, '']);
    expect(plain.stderr).toMatch(/^jit-flux: /);
    expect((await readdir(directory)).sort()).toEqual(['empty', 'file']);
  });

  it('refuses to have no prompt', async () => {
    const outcome = await cli(['generate', '--json', '-o', join(directory, 'out.png')]);
    expect(outcome.code).toBe(2);
    expect(errorOf(outcome).message).toContain('prompt');
  });

  it('ends with 130 when it is interrupted', async () => {
    const argv = ['generate', 'a red circle', '-o', join(directory, 'out.png')];
    const plain = await cli(argv, AbortSignal.abort(new Error('SIGINT')));
    expect(plain).toEqual({ code: 130, stdout: '', stderr: 'Interrupted\n' });
    const json = await cli([...argv, '--json'], AbortSignal.abort(new Error('SIGINT')));
    expect(json.code).toBe(130);
    expect(errorOf(json).code).toBe('ERR_JITFLUX_ABORTED');
    expect((await readdir(directory)).sort()).toEqual(['empty', 'file']);
  });
});

describe('jit-flux doctor', () => {
  it('reports every check, and exits with 2 if one failed', async () => {
    const { code, stdout, stderr } = await cli(['doctor', '--no-self-test', '--json']);
    expect(stderr).toBe('');
    const report = JSON.parse(stdout) as {
      ok: boolean;
      checks: { name: string; status: string; detail: string }[];
    };
    expect(report.checks.map(({ name }) => name)).toEqual([
      'Node',
      'platform',
      'CPU',
      'memory',
      'native libraries',
      'LibTorch',
      'bundled model',
      'self-test',
      'CUDA',
    ]);
    expect(report.checks.find(({ name }) => name === 'bundled model')?.status).toBe('ok');
    expect(report.ok).toBe(report.checks.every(({ status }) => status !== 'failed'));
    expect(code).toBe(report.ok ? 0 : 2);
  });
});
