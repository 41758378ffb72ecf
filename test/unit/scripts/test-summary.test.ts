/** The closing line of .ci/run, and what it does not let pass. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const ROOT = join(import.meta.dirname, '..', '..', '..');
const SCRIPT = join(ROOT, 'scripts', 'lib', 'test-summary.mjs');

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'jit-flux-summary-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A report of vitest: the statuses of the tests by file; a file may be there twice, from two projects. */
function summary(files: [file: string, ...statuses: string[]][], ...options: string[]) {
  const all = files.flatMap(([, ...statuses]) => statuses);
  const count = (status: string) => all.filter((one) => one === status).length;
  const report = {
    numPassedTests: count('passed'),
    numFailedTests: count('failed'),
    numPendingTests: count('pending'),
    numTodoTests: 0,
    testResults: files.map(([file, ...statuses]) => ({
      name: join(ROOT, file),
      status: statuses.length === 0 || statuses.includes('failed') ? 'failed' : 'passed',
      assertionResults: statuses.map((status) => ({ status })),
    })),
  };
  const path = join(folder, 'report.json');
  writeFileSync(path, JSON.stringify(report));
  const { status, stdout } = spawnSync(process.execPath, [SCRIPT, ...options, path], {
    cwd: ROOT,
    encoding: 'utf8',
  });
  return { status, stdout };
}

describe('test-summary', () => {
  const ran: [string, ...string[]] = ['test/golden/a.test.ts', 'passed', 'pending'];
  const skipped: [string, ...string[]] = ['test/golden/a.test.ts', 'pending', 'pending'];
  const must = ['--must-run', 'test/cuda', '--must-run', 'test/golden'];

  it('adds up, and lets single tests be skipped', () => {
    expect(summary([ran, ran], ...must)).toEqual({
      status: 0,
      stdout: 'Tests: 2 passed, 0 failed, 2 skipped\n',
    });
  });

  it('fails if all of a file that must run was skipped, although it ran in another project', () => {
    const { status, stdout } = summary([ran, skipped], ...must);
    expect(status).toBe(1);
    expect(stdout).toMatch(/^every test of \S+golden\/a\.test\.ts was skipped$/m);
    expect(summary([ran, skipped])).toMatchObject({ status: 0 });
    expect(summary([ran, ['test/pipeline/b.test.ts', 'pending']], ...must)).toMatchObject({ status: 0 });
  });

  it('fails if a test failed, a file could not be loaded, or nothing passed', () => {
    expect(summary([ran, ['test/unit/b.test.ts', 'failed']])).toMatchObject({ status: 1 });
    expect(summary([ran, ['test/unit/b.test.ts']])).toMatchObject({ status: 1 });
    expect(summary([['test/unit/b.test.ts', 'pending']])).toMatchObject({ status: 1 });
  });
});
