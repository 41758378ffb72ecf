import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  LEAST_REQUIREMENTS,
  PREBUILT_REQUIREMENTS,
  compareVersions,
  systemLibraries,
} from '../../../src/libtorch/requirements.js';
import { temporaryDirectory, writeFile } from '../../support/fake-libtorch.js';

describe('systemLibraries', () => {
  it('reads the versions of this process', () => {
    const { glibc, glibcxx } = systemLibraries();
    expect(glibc).toMatch(/^2\.\d+$/);
    // Node's own builds use the system's library.
    if (glibcxx !== undefined) expect(glibcxx).toMatch(/^3\.4\.\d+$/);
  });

  it('takes the newest version that libstdc++ lists, as numbers', () => {
    const names = ['', '3.4', '3.4.9', '3.4.29', '3.4.30_odd'].map((version) => `GLIBCXX_${version}`);
    const library = writeFile(join(temporaryDirectory(), 'libstdc++.so.6.0.29'), `\0${names.join('\0')}\0`);
    const report = { header: { glibcVersionRuntime: '2.34' }, sharedObjects: ['/lib/libc.so.6', library] };
    expect(systemLibraries(report)).toEqual({ glibc: '2.34', glibcxx: '3.4.29' });
  });

  it('leaves out what it cannot know', () => {
    expect(systemLibraries({})).toEqual({});
    expect(systemLibraries({ sharedObjects: ['/nowhere/libstdc++.so.6'] })).toEqual({});
  });
});

it('promises no less than LibTorch and Node need', () => {
  for (const name of ['glibc', 'glibcxx'] as const)
    expect(compareVersions(PREBUILT_REQUIREMENTS[name], LEAST_REQUIREMENTS[name])).toBeGreaterThanOrEqual(0);
  expect(compareVersions('2.9', '2.34')).toBeLessThan(0);
  expect(compareVersions('3.4', '3.4.0')).toBe(0);
});
