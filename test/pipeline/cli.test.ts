/** The command line in processes of its own; needs `npm run build:all`. */
import { spawn, type ChildProcess, type ChildProcessByStdio } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';

import { decode } from 'fast-png';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { readPngText } from '../../src/image/index.js';

const MAIN = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const TRANSFORMER = fileURLToPath(new URL('../../models/flux-tiny/transformer.pt', import.meta.url));

interface Outcome {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Runs the command; `watch` may signal it while it runs. */
function jitFlux(
  argv: string[],
  watch?: (child: ChildProcess, stderr: string) => void,
  cwd?: string,
  env: NodeJS.ProcessEnv = process.env,
  started?: (child: ChildProcessByStdio<null, Readable, Readable>) => void,
): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [MAIN, ...argv], { cwd, env, stdio: ['ignore', 'pipe', 'pipe'] });
    started?.(child);
    let stdout = '';
    let stderr = '';
    child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => {
      stderr += chunk.toString();
      watch?.(child, stderr);
    });
    child.once('error', reject);
    child.once('close', (code) => resolve({ code, stdout, stderr }));
  });
}

describe('jit-flux', () => {
  let directory: string;
  beforeAll(async () => {
    expect(existsSync(MAIN), `${MAIN} is missing: run npm run build:ts`).toBe(true);
    directory = await mkdtemp(join(tmpdir(), 'jit-flux-e2e-'));
  });
  afterAll(() => rm(directory, { recursive: true, force: true }));
  const generate = (name: string, ...flags: string[]) => [
    ...['generate', 'a red circle on a grey background', '-o', join(directory, name)],
    ...['--width', '128', '--height', '128', '--seed', '7', ...flags],
  ];

  it('has --from between what is typed and what is set', async () => {
    const path = (name: string) => join(directory, name);
    const first = await jitFlux([...generate('own.png', '--steps', '4', '-q')]);
    expect(first.code, first.stderr).toBe(0);
    await writeFile(path('settings.json'), JSON.stringify({ width: 64, steps: 9, 'num-images': 2 }));
    const set = ['--config', path('settings.json')];
    const again = await jitFlux([
      'generate',
      '--from',
      path('own.png'),
      '-H',
      '64',
      '-o',
      path('set.png'),
      '-q',
      ...set,
    ]);
    expect(again.code, again.stderr).toBe(0);
    // The picture's width and steps, the flag's height, the file's number.
    for (const name of ['set-1.png', 'set-2.png']) {
      expect(readPngText(await readFile(path(name))).metadata).toMatchObject({
        width: 128,
        height: 64,
        steps: 4,
      });
    }
  });

  it('tells phases and decisions with --verbose, and the document alone on standard output', async () => {
    const { code, stdout, stderr } = await jitFlux(generate('v.png', '--preset', 'jit-7x', '-v', '--json'));
    expect(code, stderr).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ plan: { preset: 'jit-7x' } });
    for (const line of [
      /^Model flux-tiny \(jit-flux\) in \//m,
      /^Device cpu, float32$/m,
      /^\[native\] debug: /m,
      /^\[jit-flux\] info: loaded flux-tiny in /m,
      /^Run: jit-7x, 11 steps, 128x128, 1 picture, seed 7, guidance 3.5, 24 text tokens$/m,
      /^Step 11 of 11: stage 0, 256 of 256 tokens, \d+ ms$/m,
      /^Encode \d.*\nCondition .*\nStage 2: 4 steps of \d+ tokens, /m,
      /^Decode \d.*\nTotal .*\nWrite \d/m,
    ]) {
      expect(stderr).toMatch(line);
    }
    const plain = await jitFlux(generate('p.png', '--preset', 'jit-7x'));
    expect(plain.stderr).not.toMatch(/Decode|debug/);
  });

  it('generates the same file twice', async () => {
    const first = await jitFlux(generate('a.png', '--preset', 'jit-4x'));
    expect(first.code, first.stderr).toBe(0);
    expect(first.stdout).toContain('a.png  128x128  seed 7');
    expect(first.stderr).toContain('stage 2, 89 of 256 tokens');
    const second = await jitFlux(generate('b.png', '--preset', 'jit-4x', '--json'));
    expect(second.code, second.stderr).toBe(0);
    expect(JSON.parse(second.stdout)).toMatchObject({
      seed: 7,
      images: [{ path: join(directory, 'b.png'), width: 128, height: 128, seed: 7 }],
      plan: { preset: 'jit-4x', steps: 18 },
    });
    const [a, b] = [await readFile(join(directory, 'a.png')), await readFile(join(directory, 'b.png'))];
    expect(a.equals(b)).toBe(true);
    expect(decode(a, { checkCrc: true })).toMatchObject({ width: 128, height: 128, channels: 3 });
    expect(readPngText(a).metadata).toMatchObject({ seed: 7, preset: 'jit-4x', steps: 18 });
  });

  it('writes several pictures, and nothing but the result when quiet', async () => {
    const { code, stdout, stderr } = await jitFlux(
      generate('many.png', '--num-images', '2', '--steps', '3', '--quiet'),
    );
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const paths = ['many-1.png', 'many-2.png'].map((name) => join(directory, name));
    expect(stdout).toBe(`${paths.join('\n')}\n`);
    for (const path of paths) expect(existsSync(path)).toBe(true);
  });

  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const)('stops on %s with %i and leaves no file', async (signal, expected) => {
    const cwd = await mkdtemp(join(directory, 'interrupt-'));
    const argv = ['generate', 'a red circle', '--preset', 'dense', '--steps', '500', '--seed', '1'];
    let sent = false;
    const { code, stderr } = await jitFlux(
      argv,
      (child, text) => {
        if (!sent && text.includes('Step 1 of')) sent = child.kill(signal);
      },
      cwd,
    );
    expect(sent).toBe(true);
    expect(code).toBe(expected);
    expect(stderr).toContain('Interrupted');
    expect(await readdir(cwd)).toEqual([]);
  });

  it.each(['stdout', 'stderr'] as const)(
    'makes its picture when nobody reads its %s any more',
    async (name) => {
      const path = join(directory, `unread-${name}.png`);
      const { code } = await jitFlux(
        generate(`unread-${name}.png`, '--steps', '3'),
        undefined,
        undefined,
        {
          ...process.env,
          JIT_FLUX_LOG_LEVEL: 'debug',
        },
        (child) => child[name].destroy(),
      );
      expect(code).toBe(0);
      expect(decode(await readFile(path))).toMatchObject({ width: 128, height: 128 });
    },
  );

  it('does not lose a picture whose directory has gone meanwhile', async () => {
    const lost = await mkdtemp(join(directory, 'lost-'));
    const argv = ['generate', 'a red circle', '--steps', '3', '--seed', '1', '-o', join(lost, 'a.png')];
    const { code, stdout, stderr } = await jitFlux(argv, (_child, text) => {
      if (text.includes('Step 1 of')) rmSync(lost, { recursive: true, force: true });
    });
    expect(code).toBe(1);
    const [path = ''] = /\S+\.png(?= {2})/.exec(stdout) ?? [];
    try {
      expect(stderr).toContain(`the directory does not exist; the picture is in ${path}`);
      expect(decode(await readFile(path))).toMatchObject({ channels: 3 });
    } finally {
      await rm(path, { force: true });
    }
  });

  it('makes pictures of many prompts and seeds in one run, and only those that are missing', async () => {
    const cwd = await mkdtemp(join(directory, 'many-'));
    await writeFile(
      join(cwd, 'prompts.txt'),
      'a red circle\n{"prompt": "two green stars", "seed": 9, "out": "stars.png", "width": 128}\n',
    );
    const common = ['generate', '--prompt-file', 'prompts.txt', '--steps', '2', '--preset', 'dense'];
    const size = ['--width', '64', '--height', '64'];
    const first = await jitFlux([...common, ...size, '--seed', '1,3-4', '--quiet'], undefined, cwd);
    expect(first.code, first.stderr).toBe(0);
    const names = ['jit-flux-1.png', 'jit-flux-3.png', 'jit-flux-4.png', 'stars.png'];
    expect(first.stdout).toBe(`${names.join('\n')}\n`);
    const { metadata } = readPngText(await readFile(join(cwd, 'stars.png')));
    expect(metadata).toMatchObject({ prompt: 'two green stars', seed: 9, width: 128, height: 64 });

    const again = await jitFlux(
      [...common, ...size, '--seed', '3-5', '--skip-existing', '--json'],
      undefined,
      cwd,
    );
    expect(JSON.parse(again.stdout)).toMatchObject({
      runs: [{ images: [{ path: 'jit-flux-5.png', seed: 5 }] }],
      skipped: ['jit-flux-3.png', 'jit-flux-4.png', 'stars.png'],
    });
    // What was made before an interruption is told.
    const endless = ['generate', 'a red circle', '--seed', '20-29', '--preset', 'dense', '--steps', '60'];
    let sent = false;
    const stopped = await jitFlux(
      [...endless, ...size],
      (child, text) => {
        if (!sent && text.includes('2 of 10: a red circle, seed 21')) sent = child.kill('SIGINT');
      },
      cwd,
    );
    expect([stopped.code, stopped.stderr]).toEqual([
      130,
      expect.stringMatching(/\nMade before: jit-flux-20.png\nInterrupted\n$/),
    ]);
    // One file name for all: they are numbered on.
    const numbered = [...common, ...size, '--seed', '1,2', '-o', 'all.png', '-q'];
    const { stdout } = await jitFlux(numbered, undefined, cwd);
    expect(stdout).toBe('all-1.png\nall-2.png\nstars.png\n');
  });

  it('takes prompts that begin with a dash, and tells those without quotes', async () => {
    const small = [
      '--width',
      '64',
      '--height',
      '64',
      '--steps',
      '1',
      '-q',
      '-o',
      join(directory, 'dash.png'),
    ];
    for (const words of [['-1 degrees, a red star'], ['--', '--a red star']]) {
      const { code, stderr } = await jitFlux(['generate', ...small, ...words]);
      expect([code, stderr]).toEqual([0, '']);
      const { metadata } = readPngText(await readFile(join(directory, 'dash.png')));
      expect(metadata?.['prompt']).toBe(words.at(-1));
    }
    // The unconditional picture.
    expect((await jitFlux(['generate', '', ...small])).code).toBe(0);
    const unquoted = await jitFlux(['generate', 'a', 'red', 'fox', ...small]);
    expect([unquoted.code, unquoted.stderr]).toEqual([2, expect.stringContaining('in quotes: "a red fox"')]);
  });

  it('tells what the bundled model knows', async () => {
    const { stdout } = await jitFlux([
      ...['generate', 'a red fox', '--width', '64', '--height', '64', '--steps', '1', '--json'],
      ...['-o', join(directory, 'fox.png')],
    ]);
    const { warnings } = JSON.parse(stdout) as { warnings: Record<string, unknown>[] };
    expect(warnings).toMatchObject([
      {
        code: 'UNKNOWN_WORDS',
        words: ['fox'],
        message: expect.stringMatching(
          /"fox"\. It knows: .* red .*\. Prompts that work: "three pink/,
        ) as string,
      },
    ]);
    const { vocabulary, examples } = warnings[0] as { vocabulary: string[]; examples: string[] };
    expect(examples).toHaveLength(3);
    for (const prompt of examples) for (const word of prompt.split(' ')) expect(vocabulary).toContain(word);
  });

  it('repeats a picture byte for byte, and says how it was made', async () => {
    const path = (name: string) => join(directory, name);
    const settings = ['--schedule', 'shift', '--anchors', 'strided', '--activation', 'grid', '--micro-flow'];
    const custom = [...settings, 'finite-time', '--guidance', '2', '--steps', '5', '--dtype', 'bfloat16'];
    for (const flags of [[], ['--preset', 'jit-7x', '--quantize', 'int8'], custom]) {
      const first = await jitFlux(generate('first.png', ...flags, '--quiet'));
      expect(first.code, first.stderr).toBe(0);
      const again = await jitFlux(['generate', '--from', path('first.png'), '-o', path('again.png'), '-q']);
      expect(again.code, again.stderr).toBe(0);
      expect(again.stderr).toBe('');
      expect(await readFile(path('again.png'))).toEqual(await readFile(path('first.png')));
    }
    const shown = await jitFlux(['inspect', path('first.png')]);
    expect(shown.stdout).toMatch(/prompt +a red circle on a grey background\nseed +7\npreset +custom\n/);
    expect(shown.stdout).toMatch(/schedule +shift\n.*activation +grid\nmicroFlow +finite-time\n/s);
    const json = await jitFlux(['inspect', path('first.png'), '--json']);
    expect(JSON.parse(json.stdout)).toMatchObject({
      ...{ format: 'png', width: 128, height: 128 },
      metadata: { seed: 7, dtype: 'bfloat16' },
    });

    // What is typed replaces what the picture says.
    const other = ['--from', path('first.png'), '--seed', '8', '--num-images', '2', '-o', path('two.png')];
    expect((await jitFlux(['generate', ...other, '-q'])).code).toBe(0);
    const facts = readPngText(await readFile(path('two-2.png'))).metadata;
    expect(facts).toMatchObject({ seed: 9, steps: 5, schedule: 'shift', batch: 2 });
    // A preset replaces all that it decides.
    const dense = ['--preset', 'dense', '--steps', '2', '-o', path('dense.png'), '-q'];
    expect((await jitFlux(['generate', '--from', path('first.png'), ...dense])).code).toBe(0);
    expect(readPngText(await readFile(path('dense.png'))).metadata).toMatchObject({
      ...{ seed: 7, guidance: 2, preset: 'dense', steps: 2, stageRatios: '1', activation: 'importance' },
    });
    const one = await jitFlux([
      'generate',
      '--from',
      path('two-2.png'),
      '--no-metadata',
      '-o',
      path('one.png'),
    ]);
    expect(one.stderr).toContain('was one of 2 sampled together: alone it may differ in the last bits');
    expect(readPngText(await readFile(path('one.png')))).toEqual({ text: {} });
    const none = await jitFlux(['generate', '--from', path('one.png')]);
    expect([none.code, none.stderr]).toEqual([2, expect.stringContaining('a picture of jit-flux')]);
  });

  it('replaces the picture that was named, and no other', async () => {
    const cwd = await mkdtemp(join(directory, 'named-'));
    const argv = (prompt: string, ...flags: string[]) => [
      ...['generate', prompt, '--seed', '3', '--steps', '2', '--preset', 'dense', '--width', '64'],
      ...['--height', '64', '--quiet', ...flags],
    ];
    const paths: string[] = [];
    for (const flags of [[], [], ['-o', 'jit-flux-3.png'], ['--num-images', '2'], ['--num-images', '2']]) {
      const { code, stdout, stderr } = await jitFlux(argv('a red circle', ...flags), undefined, cwd);
      expect(code, stderr).toBe(0);
      paths.push(...stdout.trim().split('\n'));
    }
    expect(paths).toEqual([
      ...['jit-flux-3.png', 'jit-flux-3_2.png', 'jit-flux-3.png'],
      ...['jit-flux-3-1.png', 'jit-flux-3-2.png', 'jit-flux-3-1_2.png', 'jit-flux-3-2_2.png'],
    ]);
    expect((await readdir(cwd)).sort()).toEqual([...new Set(paths)].sort());
  });

  it('refuses bad input with exit code 2 and writes nothing', async () => {
    const cwd = await mkdtemp(join(directory, 'refused-'));
    for (const [flags, code] of [
      ['--preset jit-5x', 'ERR_JITFLUX_UNKNOWN_PRESET'],
      ['--width 100', 'ERR_JITFLUX_INVALID_ARGUMENT'],
      ['--guidance NaN', 'ERR_JITFLUX_INVALID_ARGUMENT'],
      ['--model nowhere', 'ERR_JITFLUX_FILE_NOT_FOUND'],
      ['--device cuda:7', 'ERR_JITFLUX_DEVICE_UNAVAILABLE'],
    ] as const) {
      const outcome = await jitFlux(
        ['generate', 'a red circle', '--json', '--quiet', ...flags.split(' ')],
        undefined,
        cwd,
      );
      expect(outcome.code).toBe(2);
      expect(JSON.parse(outcome.stdout)).toMatchObject({ error: { code } });
      expect(await readdir(cwd)).toEqual([]);
    }
  });

  it('inspects a weight file', async () => {
    const { code, stdout } = await jitFlux(['inspect', TRANSFORMER, '--json']);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      format: 'torchscript',
      layout: 'diffusers',
      parameters: 2_366_784,
      config: { doubleBlocks: 2, singleBlocks: 4, hiddenSize: 128 },
    });
    const missing = await jitFlux(['inspect', join(directory, 'missing.pt'), '--json']);
    expect(missing.code).toBe(2);
    expect(JSON.parse(missing.stdout)).toMatchObject({ error: { code: 'ERR_JITFLUX_FILE_NOT_FOUND' } });
  });

  it('passes its own check-up', async () => {
    const { code, stdout } = await jitFlux(['doctor', '--json']);
    expect(JSON.parse(stdout)).toMatchObject({ ok: true });
    expect(code).toBe(0);
  });

  it('says of a self-test that a variable has spoilt which one', async () => {
    const env = { ...process.env, JIT_FLUX_ISA: 'mmx' };
    const { code, stdout } = await jitFlux(['doctor', '--json'], undefined, undefined, env);
    const { checks } = JSON.parse(stdout) as {
      checks: { name: string; status: string; detail: string; remedy?: string }[];
    };
    const test = checks.find(({ name }) => name === 'self-test');
    expect([code, test?.status]).toEqual([2, 'failed']);
    expect(test?.detail).toContain('JIT_FLUX_ISA');
    expect(test?.remedy).toContain('Correct the variable');
  });

  it('plans and inspects without LibTorch, which nothing else does', async () => {
    const env = { ...process.env, JIT_FLUX_LIBTORCH: '/nowhere' };
    const run = (command: string, o = env) => jitFlux(command.split(' '), undefined, undefined, o);
    const { code, stdout } = await run('plan --preset jit-7x --json');
    expect(code).toBe(0);
    const inspected = await run(`inspect ${TRANSFORMER} --json`);
    expect(inspected.code).toBe(0);
    const blocked = await run('generate red -o /nowhere.png --json');
    expect(JSON.parse(blocked.stdout)).toMatchObject({ error: { code: 'ERR_JITFLUX_LIBTORCH_NOT_FOUND' } });
    const none = { ...env, JIT_FLUX_BUILD_DIR: '/nowhere' };
    for (const command of ['plan --json', `inspect ${TRANSFORMER} --json`]) {
      const missing = await run(command, none);
      expect(missing.code, command).toBe(2);
      expect(JSON.parse(missing.stdout)).toMatchObject({ error: { code: 'ERR_JITFLUX_NATIVE_LOAD' } });
    }
    expect(JSON.parse(stdout)).toMatchObject({
      stages: [{ activeTokens: 1310 }, {}, { activeTokens: 4096 }],
    });
  });
});
