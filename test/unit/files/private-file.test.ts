/** Files under predictable names, where somebody else puts something in their place at the same time. */
import { spawn } from 'node:child_process';
import { link, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, expect, it } from 'vitest';

import { openPrivate, writeAll } from '../../../src/files/private-file.js';

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'jit-flux-private-'));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

it('replaces another name of a file', async () => {
  const [victim, path] = [join(directory, 'victim'), join(directory, 'file')];
  await writeFile(victim, 'precious', { mode: 0o600 });
  await link(victim, path);
  const file = await openPrivate(path);
  await writeAll(file, Buffer.from('new'), 0);
  await file.close();
  expect(await readFile(victim, 'utf8')).toBe('precious');
  expect(await readFile(path, 'utf8')).toBe('new');
});

it('writes into nothing else while links are put in its place again and again', async () => {
  const [victim, path] = [join(directory, 'victim'), join(directory, 'file')];
  await writeFile(victim, 'precious', { mode: 0o600 });
  const source = `
    const { linkSync, symlinkSync } = require('node:fs');
    const [victim, path] = process.argv.slice(1);
    process.stdout.write('begun');
    for (let i = 0; ; i++) try { (i % 2 ? linkSync : symlinkSync)(victim, path); } catch {}`;
  const adversary = spawn(process.execPath, ['-e', source, victim, path]);
  await new Promise((begun) => adversary.stdout.once('data', begun));
  try {
    for (let i = 0; i < 200; i++) {
      // Faster than every one of its attempts: that is said, as the system says it.
      const file = await openPrivate(path).catch((error: NodeJS.ErrnoException) => {
        expect(error.code).toBe('EEXIST');
      });
      if (file === undefined) continue;
      const { nlink, mode } = await file.stat();
      expect(nlink).toBeLessThan(2);
      expect(mode & 0o777).toBe(0o600);
      await writeAll(file, Buffer.from('new'), 0);
      await file.close();
      await rm(path, { force: true });
    }
  } finally {
    adversary.kill('SIGKILL');
  }
  expect(await readFile(victim, 'utf8')).toBe('precious');
});
