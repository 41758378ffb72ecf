import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parseBackend, parseSanitizer, parseVitest, planStages } from '../../../scripts/lib/gpu-check.mjs';
import {
  LIMIT_BYTES,
  dependencyClosure,
  divideTracked,
  isShipped,
  packageFiles,
  weigh,
} from '../../../scripts/lib/gpu-pack.mjs';

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'jit-flux-pack-test-'));
});
afterEach(() => {
  rmSync(root, { recursive: true, force: true });
});

function write(path: string, content = ''): void {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), content);
}

function install(path: string, manifest: Record<string, unknown>): void {
  write(`node_modules/${path}/package.json`, JSON.stringify({ version: '1.0.0', ...manifest }));
}

describe('dependencyClosure', () => {
  it('follows dependencies as Node looks them up, nested copies included', () => {
    install('runner', { dependencies: { shared: '*', '@scope/tool': '*' } });
    install('shared', { version: '2.0.0' });
    install('@scope/tool', { dependencies: { shared: '^1' } });
    install('@scope/tool/node_modules/shared', { version: '1.5.0' });
    install('unrelated', {});
    expect(dependencyClosure(root, ['runner']).map(({ path, version }) => `${path} ${version}`)).toEqual([
      '@scope/tool 1.0.0',
      '@scope/tool/node_modules/shared 1.5.0',
      'runner 1.0.0',
      'shared 2.0.0',
    ]);
  });

  it('takes optional dependencies that are installed, whatever list they are in', () => {
    install('runner', {
      dependencies: { 'other-platform': '*' },
      optionalDependencies: { 'other-platform': '*', 'this-platform': '*' },
    });
    install('this-platform', {});
    expect(dependencyClosure(root, ['runner']).map(({ name }) => name)).toEqual(['runner', 'this-platform']);
  });

  it('ends at cycles, and leaves out what is never loaded', () => {
    install('a', { dependencies: { b: '*', lightningcss: '*' } });
    install('b', { dependencies: { a: '*' } });
    install('lightningcss', {});
    expect(dependencyClosure(root, ['a']).map(({ name }) => name)).toEqual(['a', 'b']);
  });

  it('says what is missing', () => {
    install('runner', { dependencies: { gone: '*' } });
    expect(() => dependencyClosure(root, ['runner'])).toThrow(/gone, which .*runner needs, is not installed/);
  });
});

it('packageFiles leaves out types, maps, documents and nested packages, and keeps licences', () => {
  for (const path of ['index.js', 'index.d.ts', 'index.js.map', 'README.md', 'LICENSE.md', 'data.json'])
    write(`p/${path}`);
  write('p/node_modules/nested/index.js');
  write('p/test/index.js');
  write('p/dist/binding.node');
  expect(packageFiles(join(root, 'p'))).toEqual(['LICENSE.md', 'data.json', 'dist/binding.node', 'index.js']);
  expect(isShipped('dist/contest/run.js')).toBe(true);
});

describe('divideTracked', () => {
  const files = [
    { path: 'src/index.ts', size: 100_000 },
    { path: 'test/fixtures/big.safetensors', size: 100_000 },
    { path: 'test/fixtures/big.json', size: 100_000 },
    { path: 'test/fixtures/small.safetensors', size: 100 },
    { path: 'docs/images/picture.png', size: 100_000 },
  ];

  it('packs large data, and leaves sources and small files as they are', () => {
    const { plain, packed, leftOut } = divideTracked(files);
    expect(plain.map(({ path }) => path)).toEqual(['src/index.ts', 'test/fixtures/small.safetensors']);
    expect(packed.map(({ path }) => path)).toEqual([
      'test/fixtures/big.safetensors',
      'test/fixtures/big.json',
    ]);
    expect(leftOut.map(({ path }) => path)).toEqual(['docs/images/picture.png']);
  });

  it('leaves out whole folders or single files, and nothing that merely begins like them', () => {
    const { packed } = divideTracked(files, { leftOut: ['test/fixtures/big', 'docs/images/picture.png'] });
    expect(packed.map(({ path }) => path)).toEqual([
      'test/fixtures/big.safetensors',
      'test/fixtures/big.json',
    ]);
  });
});

it('weigh adds up and names the largest', () => {
  const parts = [
    { name: 'a', size: LIMIT_BYTES - 10 },
    { name: 'b', size: 5 },
    { name: 'c', size: 6 },
  ];
  const { fits, left, largest } = weigh(parts);
  expect({ fits, left }).toEqual({ fits: false, left: -1 });
  expect(largest.map(({ name }) => name)).toEqual(['a', 'c', 'b']);
  expect(weigh(parts.slice(0, 2)).fits).toBe(true);
});

describe('planStages', () => {
  it('keeps the order of the stages, and unpacks first', () => {
    expect(planStages(['bench', 'build'])).toEqual(['unpack', 'build', 'bench']);
    expect(planStages([])).toEqual(['unpack', 'build', 'test', 'bench', 'report']);
    expect(planStages(['all', 'test'])).toHaveLength(5);
    expect(planStages(['report'])).toEqual(['report']);
  });

  it('refuses what it does not know', () => {
    expect(() => planStages(['biuld'])).toThrow(/Unknown stage biuld/);
  });
});

describe('parseSanitizer', () => {
  it('reads both summaries', () => {
    expect(parseSanitizer('========= ERROR SUMMARY: 0 errors\n')).toEqual({
      errors: 0,
      summary: '0 errors',
      first: '',
    });
    const text =
      '========= COMPUTE-SANITIZER\n========= Error: Race reported\n' +
      '========= RACECHECK SUMMARY: 3 hazards displayed (2 errors, 1 warning)\n';
    expect(parseSanitizer(text)).toMatchObject({
      errors: 2,
      summary: '3 hazards displayed (2 errors, 1 warning)',
    });
    expect(parseSanitizer(text).first).toContain('Race reported');
  });

  it('has no summary of a run that was ended', () => {
    expect(parseSanitizer('========= COMPUTE-SANITIZER\n')).toEqual({ errors: 0, summary: '', first: '' });
  });
});

it('parseBackend counts, and passes the reason of a missing device on', () => {
  expect(
    parseBackend({
      device: 'NVIDIA H100',
      ok: false,
      tests: [
        { name: 'a', ok: true, milliseconds: 1 },
        { name: 'b', ok: false, error: 'wrong' },
      ],
    }),
  ).toMatchObject({ summary: '1 passed, 1 failed; b: wrong', failures: [{ name: 'b', message: 'wrong' }] });
  expect(parseBackend({ device: null, reason: 'no driver' }).summary).toContain('no driver');
  expect(parseBackend(undefined).failures).toEqual([]);
});

it('parseVitest counts a file that cannot be loaded as a failure', () => {
  const file = { startTime: 0, endTime: 2000, message: '' };
  const report = {
    numPassedTests: 1,
    numFailedTests: 0,
    numPendingTests: 2,
    numTodoTests: 0,
    testResults: [
      {
        ...file,
        name: '/r/test/cuda/a.test.ts',
        status: 'passed',
        assertionResults: [{ status: 'passed', fullName: 'works' }],
      },
      {
        ...file,
        name: '/r/test/cuda/b.test.ts',
        status: 'failed',
        message: 'no such module',
        assertionResults: [],
      },
    ],
  };
  expect(parseVitest(report, '/r')).toMatchObject({
    passed: 1,
    failed: 1,
    skipped: 2,
    failures: [{ name: 'test/cuda/b.test.ts', message: 'no such module' }],
  });
  expect(parseVitest(undefined, '/r').failed).toBe(1);
});
