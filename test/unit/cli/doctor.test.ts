import { describe, expect, it } from 'vitest';

import { checkPlatform } from '../../../src/cli/doctor.js';
import type { NativeLibraries } from '../../../src/libtorch/native-libraries.js';
import { PREBUILT_REQUIREMENTS } from '../../../src/libtorch/requirements.js';
import { cli } from './helpers.js';

interface Report {
  ok: boolean;
  checks: {
    name: string;
    status: string;
    detail: string;
    remedy?: string;
    facts?: Record<string, unknown>;
  }[];
}

/** The report of `doctor` with these variables of the environment. */
async function doctor(
  variables: Record<string, string>,
  ...options: string[]
): Promise<Report & { code: number }> {
  const before = { ...process.env };
  Object.assign(process.env, variables);
  try {
    const { code, stdout } = await cli(['doctor', '--json', ...options]);
    return { code, ...(JSON.parse(stdout) as Report) };
  } finally {
    process.env = before;
  }
}

const named = ({ checks }: Report, name: string) => checks.find((check) => check.name === name);

describe('jit-flux doctor', () => {
  it('says of missing native libraries how to get them, and skips the self-test', async () => {
    const report = await doctor({ JIT_FLUX_BUILD_DIR: '/nowhere' });
    expect(named(report, 'native libraries')).toMatchObject({
      status: 'failed',
      remedy: 'Reinstall jit-flux, or run `npm run build:native` in a source checkout.',
      facts: { code: 'ERR_JITFLUX_NATIVE_LOAD', tried: ['/nowhere'] },
    });
    expect(named(report, 'self-test')).toMatchObject({ status: 'skipped' });
    expect([report.ok, report.code]).toEqual([false, 2]);
  });

  it('says of a missing LibTorch where it looked and what to run', async () => {
    const nothing = { LIBTORCH: '/nowhere', JIT_FLUX_CACHE: '/nowhere', JIT_FLUX_PYTHON: '/nowhere' };
    const report = await doctor({ JIT_FLUX_LIBTORCH: '', ...nothing }, '--no-self-test');
    expect(named(report, 'LibTorch')).toMatchObject({
      status: 'failed',
      remedy: 'Run `npx jit-flux setup`.',
      facts: { code: 'ERR_JITFLUX_LIBTORCH_NOT_FOUND' },
    });
  });

  it('says of a LibTorch that was named in vain which setting to change', async () => {
    const report = await doctor({ JIT_FLUX_LIBTORCH: '/nowhere' }, '--no-self-test');
    expect(named(report, 'LibTorch')).toMatchObject({
      status: 'failed',
      remedy: 'Unset JIT_FLUX_LIBTORCH and run `npx jit-flux setup`, or let it name a LibTorch 2.13.x.',
      facts: { code: 'ERR_JITFLUX_LIBTORCH_NOT_FOUND', tried: [expect.stringContaining('/nowhere')] },
    });
  });

  it('gives every failure a remedy', async () => {
    const report = await doctor({ JIT_FLUX_BUILD_DIR: '/nowhere', JIT_FLUX_LIBTORCH: '/nowhere' });
    const failed = report.checks.filter(({ status }) => status === 'failed');
    expect(failed.length).toBeGreaterThan(1);
    for (const { remedy } of failed) expect(remedy).toMatch(/^\S.*\.$/);
  });
});

describe('checkPlatform', () => {
  const built: NativeLibraries = { loader: '/l', weights: '/w', core: '/c', builtFor: '2.13.0' };
  const prebuilt: NativeLibraries = { ...built, prebuilt: true };

  it('wants of the system what the prebuilt libraries need', () => {
    const { glibc, glibcxx } = PREBUILT_REQUIREMENTS;
    expect(checkPlatform(prebuilt, { glibc, glibcxx })).toMatchObject({ status: 'ok' });
    const old = checkPlatform(prebuilt, { glibc: '2.31', glibcxx: '3.4.28' });
    expect(old).toMatchObject({ status: 'failed', facts: { glibc: '2.31', needs: { glibc, glibcxx } } });
    expect(old.remedy).toContain(`glibc ${glibc}`);
    expect(old.remedy).toContain('build from source');
  });

  it('wants a new enough libstdc++, if it can be known', () => {
    expect(checkPlatform(prebuilt, { glibc: '2.39', glibcxx: '3.4.24' })).toMatchObject({ status: 'failed' });
    expect(checkPlatform(prebuilt, { glibc: '2.39' })).toMatchObject({ status: 'ok' });
  });

  it('wants less for libraries that were built here', () => {
    expect(checkPlatform(built, { glibc: '2.31', glibcxx: '3.4.28' })).toMatchObject({ status: 'ok' });
    expect(checkPlatform(built, { glibc: '2.27', glibcxx: '3.4.25' })).toMatchObject({ status: 'failed' });
    expect(checkPlatform(undefined, {}).detail).toContain('musl');
  });
});
