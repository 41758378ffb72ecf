/**
 * How processes and worker threads end in the middle of work: every way, from every callback, during every phase, and
 * under Node 20, 22 and later (`npm run test:nodes`). Each must end with the status that was asked for, never by SIGSEGV
 * or SIGABRT, and in bounded time. JIT_FLUX_TEST_ROUNDS repeats each of them, to find what happens by chance.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { runProgram, runSource } from '../support/program.js';
import { SLOWNESS } from '../support/slowness.js';

const PROGRAMS = new URL('./programs/', import.meta.url).pathname;
const HEADERS = new URL('../../node_modules/node-api-headers/include', import.meta.url).pathname;
const fixture = (path: string): string => new URL(`../fixtures/${path}`, import.meta.url).pathname;
const MINI = fixture('flux/flux-mini.safetensors');
const NANO = fixture('flux/flux-nano.safetensors');
const PACKAGE = new URL('../../dist/index.js', import.meta.url).href;
const PNG = new URL('../../dist/image/index.js', import.meta.url).href;
const TEXT = new URL('../../dist/text/index.js', import.meta.url).href;
const ENGINE = new URL('../../dist/engine/index.js', import.meta.url).href;
const DESCRIBE = new URL('../../dist/engine/describe.js', import.meta.url).href;
const ROUNDS = Number(process.env.JIT_FLUX_TEST_ROUNDS ?? 1);
const SECONDS = 60;
const timeout = (SECONDS + 10) * ROUNDS * 1000 * SLOWNESS;

const folder = mkdtempSync(join(tmpdir(), 'jit-flux-endings-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Runs ending.mjs `ROUNDS` times; how often it ended in which way. */
function ends(work: string, place: string, way: string): Record<string, number> {
  const counts: Record<string, number> = {};
  for (let round = 0; round < ROUNDS; round++) {
    const { status, signal } = runProgram([join(PROGRAMS, 'ending.mjs'), work, place, way], {
      seconds: SECONDS,
      env: { TMPDIR: folder },
    });
    const end = signal ?? `status ${status}`;
    counts[end] = (counts[end] ?? 0) + 1;
  }
  return counts;
}

describe('a process ends in the middle of a step by', () => {
  it.each([
    ['exit', 'status 7'],
    ['reallyExit', 'status 7'],
    ['exit without listeners', 'status 7'],
    ['a listener that exits', 'status 7'],
    ['an uncaught exception', 'status 1'],
    ['an unhandled rejection', 'status 1'],
    ['an exception with a handler', 'status 7'],
    ['a child process', 'status 7'],
    ['a child process with the engine', 'status 7'],
    ['abort', 'status 0'],
    ['SIGTERM', 'SIGTERM'],
    ['SIGINT', 'SIGINT'],
    ['SIGHUP', 'SIGHUP'],
    ['SIGTERM with a handler', 'status 7'],
    ['SIGINT with a handler', 'status 7'],
    ['SIGHUP with a handler', 'status 7'],
  ])('%s', { timeout }, (way, end) => {
    expect(ends('step', 'callback', way)).toEqual({ [end]: ROUNDS });
  });
});

it('a process ends by an exit listener that throws as it does without jit-flux', { timeout }, () => {
  const plain = runSource(
    "process.prependListener('exit', () => { throw new Error('mine'); }); setImmediate(() => process.exit(3));",
  );
  expect(plain.signal).toBe(null);
  expect(ends('step', 'callback', 'a listener that throws')).toEqual({ [`status ${plain.status}`]: ROUNDS });
});

describe('a process ends in the middle of', () => {
  it.each([
    ['load', 'callback', 'reallyExit', 'status 7'],
    ['load', 'callback', 'SIGTERM', 'SIGTERM'],
    ['encode', 'timer', 'reallyExit', 'status 7'],
    ['encode', 'timer', 'SIGINT with a handler', 'status 7'],
    ['decode', 'callback', 'reallyExit', 'status 7'],
    ['decode', 'callback', 'SIGTERM with a handler', 'status 7'],
    ['module', 'timer', 'reallyExit', 'status 7'],
    ['module', 'timer', 'SIGHUP', 'SIGHUP'],
    ['endless', 'timer', 'exit', 'status 7'],
    ['endless', 'timer', 'an uncaught exception', 'status 1'],
    ['endless', 'timer', 'SIGTERM', 'SIGTERM'],
    ['convert', 'callback', 'reallyExit', 'status 7'],
    ['convert', 'callback', 'SIGTERM', 'SIGTERM'],
    ['png', 'timer', 'reallyExit', 'status 7'],
    ['png', 'timer', 'SIGTERM with a handler', 'status 7'],
    ['picture', 'callback', 'reallyExit', 'status 7'],
    ['events', 'callback', 'reallyExit', 'status 7'],
  ])('%s: %s, %s', { timeout }, (work, place, way, end) => {
    expect(ends(work, place, way)).toEqual({ [end]: ROUNDS });
  });
});

describe('process.exit() is called by', () => {
  it.each(['promise', 'settled', 'timer', 'listener', 'log', 'finalizer'])('%s', { timeout }, (place) => {
    expect(ends('step', place, 'exit without listeners')).toEqual({ 'status 7': ROUNDS });
  });
});

describe('a worker thread ends', () => {
  const run = (cases: [work: string, place: string, way: string, code: number][]) =>
    runProgram([join(PROGRAMS, 'ending-workers.mjs'), String(ROUNDS), JSON.stringify(cases)], {
      seconds: (SECONDS + 10) * ROUNDS * 2,
      env: { TMPDIR: folder },
    });

  it.each<[string, [work: string, place: string, way: string, code: number][]]>([
    [
      'by process.exit() from every callback',
      ['callback', 'promise', 'settled', 'timer', 'listener', 'log', 'finalizer'].map((place) => [
        'step',
        place,
        'exit',
        7,
      ]),
    ],
    [
      'by process.exit() during every phase',
      ['load', 'encode', 'decode', 'module', 'convert', 'picture', 'events'].map((work) => [
        work,
        'callback',
        'exit',
        7,
      ]),
    ],
    [
      'by terminate() during every phase',
      ['load', 'step', 'encode', 'decode', 'module', 'convert', 'picture', 'events'].map((work) => [
        work,
        'stays',
        '',
        1,
      ]),
    ],
    [
      'by an error',
      [
        ['step', 'callback', 'an uncaught exception', 1],
        ['step', 'callback', 'an unhandled rejection', 1],
        ['step', 'callback', 'a listener that exits', 7],
      ],
    ],
  ])('%s', { timeout: timeout * 2 }, (_, cases) => {
    expect(run(cases)).toMatchObject({ status: 0, signal: null, stdout: '[]\n' });
  });
});

describe('beside code of others', () => {
  const addon = join(folder, 'forks.node');
  beforeAll(() => {
    const options = ['-shared', '-fPIC', '-O1', `-I${HEADERS}`, '-o', addon];
    execFileSync(process.env.CC ?? 'cc', [...options, join(PROGRAMS, 'forks.c')]);
  });

  const begin = (before: string, then: string) => `
    const { createRequire } = await import('node:module');
    const addon = createRequire(import.meta.url)(${JSON.stringify(addon)});
    ${before}
    const { Tensor } = await import(${JSON.stringify(ENGINE)});
    await Tensor.randn([4], { seed: 1 }).toFloat32Array();
    const big = Tensor.randn([64, 1024, 1024], { seed: 1 });
    for (let i = 0; i < 20; i++) big.toFloat32Array().catch(() => {});
    ${then}`;

  it('the child of a fork() without exec does not wait for threads that it has not', { timeout }, () => {
    // Where libuv's threads run, which Node starts for the first file, Node's own child ends by SIGSEGV, when libuv joins
    // threads that it has not: with the engine it ends as without.
    const source = begin(
      "await (await import('node:fs/promises')).stat('/'); const before = addon.forkAndExit();",
      'console.log(before !== -1000, addon.forkAndExit() === before); process.reallyExit(7);',
    );
    for (let round = 0; round < ROUNDS; round++) {
      expect(runSource(source)).toMatchObject({ status: 7, signal: null, stdout: 'true true\n' });
    }
  });

  it('exit() of another addon ends the process in the middle of work', { timeout }, () => {
    for (let round = 0; round < ROUNDS; round++) {
      expect(runSource(begin('', 'addon.exitHere(7);'))).toMatchObject({ status: 7, signal: null });
    }
  });
});

describe('at a limit on processes', () => {
  const shim = join(folder, 'no-threads.so');
  beforeAll(() => {
    const options = ['-shared', '-fPIC', '-O1', '-o', shim];
    execFileSync(process.env.CC ?? 'cc', [...options, join(PROGRAMS, 'no-threads.c'), '-ldl']);
  });
  const run = (source: string) =>
    runSource(source, {
      // Behind a sanitizer's runtime, which must come first.
      env: { LD_PRELOAD: [process.env.LD_PRELOAD, shim].filter(Boolean).join(':') },
      seconds: SECONDS,
    });

  it.each([
    [
      'the inference thread',
      `const { Tensor } = await import(${JSON.stringify(ENGINE)});
      const tensor = Tensor.randn([4], { seed: 1 });
      const call = () => tensor.toFloat32Array();`,
    ],
    [
      'the thread of the weights library',
      `const { describeWeights } = await import(${JSON.stringify(DESCRIBE)});
      const nano = ${JSON.stringify(NANO)};
      const call = () => describeWeights(nano, { signal: new AbortController().signal });
      await import('node:fs/promises').then(({ stat }) => stat(nano));`,
    ],
    [
      'the thread that encodes PNG',
      `const { encodePngAsync } = await import(${JSON.stringify(PNG)});
      const call = () => encodePngAsync({ width: 1, height: 1, data: new Uint8Array(3) });`,
    ],
    [
      'the thread that encodes long prompts',
      `const { loadClipTokenizer } = await import(${JSON.stringify(TEXT)});
      const tokenizer = await loadClipTokenizer(${JSON.stringify(fixture('tokenizers/tokenizer'))});
      const call = () => tokenizer.encodeAll(['a b '.repeat(5000)], 77);`,
    ],
  ])('%s is refused: the call rejects, and works later; the process ends by itself', (_, source) => {
    const end = run(`
      ${source}
      process.env.NO_THREADS = 'all';
      for (let i = 0; i < 3; i++)
        console.log(await call().then(() => 'done', ({ name, code }) => name + ' ' + code));
      process.env.NO_THREADS = '';
      console.log(await call().then(() => 'done'));`);
    expect(end).toMatchObject({
      status: 0,
      signal: null,
      stdout: `${'JitFluxError ERR_JITFLUX_NATIVE\n'.repeat(3)}done\n`,
    });
  });

  const mini = `
    const { engineInfo, FluxTransformer, Tensor } = await import(${JSON.stringify(PACKAGE)});
    const threads = engineInfo().threads + 1;
    const load = () => FluxTransformer.load(${JSON.stringify(MINI)}, { ropeAxes: [8, 12, 12], threads });`;

  it('the threads of one operation are refused: the call rejects', () => {
    const end = run(`${mini}
      await Tensor.randn([4], { seed: 1 }).toFloat32Array();
      process.env.NO_THREADS = 'all';
      console.log(await load().then(() => 'done', ({ name, code }) => name + ' ' + code));
      process.env.NO_THREADS = '';
      console.log(await load().then(() => 'done'));`);
    expect(end).toMatchObject({
      status: 0,
      signal: null,
      stdout: 'JitFluxError ERR_JITFLUX_NATIVE\ndone\n',
    });
  });

  // A sanitizer's runtime, which comes first, creates threads for everybody: who asks it cannot be told any more.
  const refusesByCaller = process.env.LD_PRELOAD === undefined;
  const ends = 'libgomp, which calls exit() on the inference thread, ends the process in order';
  it.skipIf(!refusesByCaller)(`${ends} (needs a process without LD_PRELOAD)`, { timeout }, () => {
    for (let round = 0; round < ROUNDS; round++) {
      const end = run(`${mini}
        process.env.NO_THREADS = 'gomp';
        const model = await load();
        const prompt = Tensor.randn([1, 16, 96], { seed: 1 });
        const pooled = Tensor.randn([1, 48], { seed: 1 });
        const tokens = Tensor.randn([1, 4096, 64], { seed: 1 });
        const conditioning = await model.condition({ prompt, pooled, sigmas: [1] });
        await model.forward({ tokens, grid: [64, 64], conditioning, step: 0 });`);
      expect(end.stderr).toContain('libgomp');
      expect(end).toMatchObject({ status: 1, signal: null });
    }
  });
});
