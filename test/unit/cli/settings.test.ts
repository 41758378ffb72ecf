import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { COMMANDS } from '../../../src/cli/commands.js';
import { flagsOf } from '../../../src/cli/flags.js';
import { variableOf } from '../../../src/cli/settings.js';
import { cli, errorOf } from './helpers.js';

let home: string;
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'jit-flux-settings-'));
  await mkdir(join(home, 'jit-flux'));
});
afterEach(() => rm(home, { recursive: true, force: true }));

/** Runs a command with a file of settings and variables. */
async function withSettings(content: unknown, words: string, env: Record<string, string> = {}) {
  const text = typeof content === 'string' ? content : JSON.stringify(content);
  if (content !== undefined) await writeFile(join(home, 'jit-flux', 'config.json'), text);
  return cli(words.split(' '), undefined, { env: { XDG_CONFIG_HOME: home, ...env } });
}

const sizeOf = ({ stdout }: { stdout: string }) => {
  const { width, height } = JSON.parse(stdout) as { width: number; height: number };
  return [width, height];
};

describe('defaults of flags', () => {
  it('are taken from the flag, else the variable, else the file', async () => {
    const file = { model: 'flux-tiny', width: 64, height: '64' };
    expect(sizeOf(await withSettings(file, 'plan --json'))).toEqual([64, 64]);
    const env = { JIT_FLUX_WIDTH: '128', JIT_FLUX_HEIGHT: '' };
    expect(sizeOf(await withSettings(file, 'plan --json', env))).toEqual([128, 64]);
    expect(sizeOf(await withSettings(file, 'plan --json -W 256', env))).toEqual([256, 64]);
    expect(sizeOf(await withSettings(file, 'plan --json --width=256', env))).toEqual([256, 64]);
  });

  it('are nearer in the section of a command', async () => {
    const file = { plan: { width: 128 }, model: 'flux-tiny', width: 64, generate: { width: 32 } };
    expect(sizeOf(await withSettings(file, 'plan --json'))).toEqual([128, 256]);
  });

  it('are none without the file', async () => {
    const file = { model: 'flux-tiny', width: 64 };
    expect(sizeOf(await withSettings(file, 'plan --json --no-config'))).toEqual([1024, 1024]);
    expect(sizeOf(await withSettings('no JSON', 'plan --json --no-config'))).toEqual([1024, 1024]);
  });

  it('may be in a file that is named', async () => {
    const path = join(home, 'other.json');
    await writeFile(path, JSON.stringify({ width: 512 }));
    expect(sizeOf(await withSettings({ width: 64 }, `plan --json --config ${path}`))).toEqual([512, 1024]);
    expect(sizeOf(await withSettings({ width: 64 }, 'plan --json', { JIT_FLUX_CONFIG: path }))).toEqual([
      512, 1024,
    ]);
    const missing = await withSettings(undefined, 'plan --json --config /nonexistent/c.json');
    expect(errorOf(missing).code).toBe('ERR_JITFLUX_FILE_NOT_FOUND');
  });

  it('of models are not for other commands', async () => {
    // `convert` would write another type, `setup` fetch another LibTorch.
    const file = { dtype: 'float16', variant: 'fp16' };
    const { stderr } = await withSettings(file, 'convert /nonexistent/in.pt out.pt -v', {
      JIT_FLUX_DTYPE: 'float16',
    });
    expect(stderr).not.toContain('--dtype');
    const own = await withSettings({ convert: { dtype: 'float16' } }, 'convert /nonexistent/in.pt out.pt -v');
    expect(own.stderr).toContain(`--dtype float16 ("convert.dtype" in ${home}/jit-flux/config.json)`);
  });

  it('are told with --verbose', async () => {
    const { stderr, stdout } = await withSettings({ model: 'flux-tiny' }, 'plan --verbose --json', {
      JIT_FLUX_NUM_IMAGES: '2',
    });
    expect(stderr).toContain(`--model flux-tiny ("model" in ${home}/jit-flux/config.json)`);
    expect(stderr).toContain('--num-images 2 (JIT_FLUX_NUM_IMAGES)');
    expect(JSON.parse(stdout)).toMatchObject({ model: 'flux-tiny', images: 2 });
  });

  it.each<[unknown, string]>([
    [{ modle: 'x' }, 'unknown key "modle"; did you mean "model"?'],
    [{ generate: { widht: 1 } }, 'unknown key "generate.widht"; did you mean "width"?'],
    [{ setup: { model: 1 } }, 'unknown key "setup.model"'],
    [{ json: true }, 'unknown key "json"; --json is for the command line only'],
    [{ 'allow-torchscript-code': true }, '--allow-torchscript-code is for the command line only'],
    [{ width: 'abc' }, 'for --width but received "abc" (from "width" in CONFIG)'],
    [{ width: 100 }, 'for --width but received 100 (from "width" in CONFIG)'],
    [{ dtype: 'bf16' }, '(from "dtype" in CONFIG); did you mean bfloat16?'],
    [{ dtype: ['bfloat16'] }, '(from "dtype" in CONFIG)'],
    [
      { plan: { 'stream-weights': 'yes' } },
      'true or false for --stream-weights but received "yes" (from "plan.stream-weights" in CONFIG)',
    ],
    [{ plan: true }, '"plan" in CONFIG is no object of flags'],
    ['[]', 'CONFIG is no object of flags'],
    ['{"width":', 'CONFIG is not valid JSON'],
  ])('that are wrong are an error that names file and key: %j', async (content, message) => {
    const outcome = await withSettings(content, 'plan --json');
    expect(outcome.code).toBe(2);
    expect(errorOf(outcome).code).toBe('ERR_JITFLUX_INVALID_ARGUMENT');
    expect(errorOf(outcome).message).toContain(
      message.replace('CONFIG', join(home, 'jit-flux', 'config.json')),
    );
    // Help is not in need of them.
    expect((await withSettings(content, 'plan --help')).code).toBe(0);
  });

  it.each([
    [{ JIT_FLUX_DTYPE: 'bf16' }, '(from JIT_FLUX_DTYPE)'],
    [
      { JIT_FLUX_ENCODERS_ON_CPU: 'maybe' },
      '1, 0, true or false for --encoders-on-cpu but received "maybe" (from JIT_FLUX_ENCODERS_ON_CPU)',
    ],
    [{ JIT_FLUX_WIDTH: '1e9' }, '(from JIT_FLUX_WIDTH)'],
  ])('that are wrong are an error that names the variable: %j', async (env, message) => {
    const outcome = await withSettings(undefined, 'plan --json', env);
    expect([outcome.code, errorOf(outcome).message]).toEqual([2, expect.stringContaining(message)]);
  });

  it('have no variable that means something else', () => {
    const page = readFileSync(
      fileURLToPath(new URL('../../../docs/environment.md', import.meta.url)),
      'utf8',
    );
    const rows = [...page.matchAll(/^\| (`JIT_FLUX_[^|]*) \|([^|]*)\|/gm)].filter(
      ([, , what]) => what!.trim() !== "the flag's",
    );
    const taken = rows.flatMap(([, names]) => [...names!.matchAll(/JIT_FLUX_\w+/g)].map(String));
    expect(taken).toContain('JIT_FLUX_VARIANT');
    const variables = COMMANDS.flatMap((command) => [...flagsOf(command).keys()].map(variableOf));
    expect(variables).toContain('JIT_FLUX_MODEL');
    expect(variables.filter((name) => name !== undefined && taken.includes(name))).toEqual([]);
  });
});
