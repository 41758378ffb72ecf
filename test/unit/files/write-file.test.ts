import {
  chmod,
  lchown,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { assertWritable, freePath, writeFileAtomic, writeFileOrElsewhere } from '../../../src/image/index.js';
import { runSource } from '../../support/program.js';

describe('writeFileAtomic', () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'jit-flux-write-'));
  });
  afterEach(() => rm(directory, { recursive: true, force: true }));

  it('writes and replaces, and leaves nothing else', async () => {
    const path = join(directory, 'out.png');
    await writeFileAtomic(path, Uint8Array.of(1, 2, 3));
    await writeFileAtomic(path, Uint8Array.of(4));
    expect([...(await readFile(path))]).toEqual([4]);
    expect(await readdir(directory)).toEqual(['out.png']);
  });

  it('follows a symbolic link', async () => {
    await writeFile(join(directory, 'real'), 'old');
    await symlink('real', join(directory, 'link'));
    await writeFileAtomic(join(directory, 'link'), 'new');
    expect(await readFile(join(directory, 'real'), 'utf8')).toBe('new');
    expect((await readdir(directory)).sort()).toEqual(['link', 'real']);
  });

  it.skipIf(process.geteuid?.() !== 0)(
    'does not follow a link that another user has put into a directory that everyone may write',
    async () => {
      const victim = join(directory, 'victim');
      await writeFile(victim, 'precious');
      const tmp = join(directory, 'tmp');
      await mkdir(tmp);
      await chmod(tmp, 0o1777);
      const link = join(tmp, 'out.png');
      await symlink(victim, link);
      await lchown(link, 4711, 4711);
      await expect(writeFileAtomic(link, 'new')).rejects.toMatchObject({
        code: 'ERR_JITFLUX_WRITE_FAILED',
        message: expect.stringMatching(/symbolic link of another user/) as string,
      });
      expect(await readFile(victim, 'utf8')).toBe('precious');
      await chmod(tmp, 0o755);
      await writeFileAtomic(link, 'new');
      expect(await readFile(victim, 'utf8')).toBe('new');
    },
  );

  it('keeps the permissions of the file that it replaces', async () => {
    const path = join(directory, 'out.png');
    for (const mode of [0o600, 0o664, 0o444]) {
      await writeFile(path, '');
      await chmod(path, mode);
      await writeFileAtomic(path, 'new');
      expect((await stat(path)).mode & 0o777).toBe(mode);
      await rm(path);
    }
  });

  it('removes what killed processes have left, once, and nothing else', async () => {
    const program = `
      import fs from 'node:fs/promises';
      import { syncBuiltinESMExports } from 'node:module';
      fs.rename = () => process.kill(process.pid, 'SIGKILL');
      syncBuiltinESMExports();
      const { writeFileAtomic } = await import('${new URL('../../../dist/image/index.js', import.meta.url).href}');
      await writeFileAtomic(${JSON.stringify(join(directory, 'out.png'))}, 'x');`;
    for (let i = 0; i < 3; i++) expect(runSource(program).signal).toBe('SIGKILL');
    // Each removes that of the one before.
    expect(await readdir(directory)).toHaveLength(1);
    const [left] = await readdir(directory);
    const others = [left!.replace(/[0-9a-f]{12}-\d+/, '0123456789ab-1'), '.out.png.tmp', 'a.tmp'];
    for (const name of others) await writeFile(join(directory, name), '');
    await writeFileAtomic(join(directory, 'other.png'), 'x');
    expect((await readdir(directory)).sort()).toEqual([...others, 'other.png'].sort());
  });

  it.each([
    ['ASCII', 'n'.repeat(251)],
    ['two bytes a character', 'é'.repeat(125)],
    ['four bytes a character', '🎨'.repeat(62)],
  ])('takes the longest names that a file system takes: %s', async (_, name) => {
    const path = join(directory, `${name}.png`);
    await assertWritable(path);
    await writeFileAtomic(path, 'picture');
    expect(await readFile(path, 'utf8')).toBe('picture');
    const longer = join(directory, `${name}${'x'.repeat(5)}.png`);
    await expect(assertWritable(longer)).rejects.toThrow(/the name is too long/);
    await expect(writeFileAtomic(longer, 'picture')).rejects.toThrow(/the name is too long/);
    expect(await readdir(directory)).toEqual([`${name}.png`]);
  });

  it('is tried by assertWritable: a place that looks writable is refused, and nothing is left', async () => {
    // Its mode allows root everything, and no file can be made in it.
    await expect(assertWritable('/sys/kernel/out.png')).rejects.toMatchObject({
      code: 'ERR_JITFLUX_WRITE_FAILED',
    });
    const path = join(directory, 'out.png');
    expect(await assertWritable(path)).toBe(path);
    expect(await readdir(directory)).toEqual([]);
  });

  it('goes elsewhere with what must not be lost, and says why', async () => {
    const gone = join(directory, 'gone', 'out.png');
    const { path, failed } = await writeFileOrElsewhere(gone, 'picture');
    try {
      expect(failed).toMatchObject({ code: 'ERR_JITFLUX_WRITE_FAILED', details: { path: gone } });
      expect(path).toMatch(/out-[0-9a-f]{8}\.png$/);
      expect(await readFile(path, 'utf8')).toBe('picture');
    } finally {
      await rm(path);
    }
    const there = join(directory, 'out.png');
    expect(await writeFileOrElsewhere(there, 'picture')).toEqual({ path: there });
    const aborted = writeFileOrElsewhere(gone, 'picture', { signal: AbortSignal.abort() });
    await expect(aborted).rejects.toMatchObject({ code: 'ERR_JITFLUX_ABORTED' });
  });

  it('takes a free name rather than that of another file, also among many writers', async () => {
    const path = join(directory, 'out.png');
    await writeFile(path, 'mine');
    await symlink('nowhere', join(directory, 'out_2.png'));
    expect(await freePath(path)).toBe(join(directory, 'out_3.png'));
    await expect(writeFileAtomic(path, 'other', { replace: false })).rejects.toMatchObject({
      code: 'ERR_JITFLUX_WRITE_FAILED',
      details: { reason: 'a file of this name is there already' },
    });
    const texts = Array.from({ length: 12 }, (_, i) => `picture ${i}`);
    const written = await Promise.all(
      texts.map((text) => writeFileOrElsewhere(path, text, { replace: false })),
    );
    expect(written.every(({ failed }) => failed === undefined)).toBe(true);
    expect(new Set(written.map((one) => one.path)).size).toBe(12);
    expect(await Promise.all(written.map((one) => readFile(one.path, 'utf8')))).toEqual(texts);
    expect(await readFile(path, 'utf8')).toBe('mine');
    expect((await readdir(directory)).filter((name) => name.endsWith('.tmp'))).toEqual([]);
    // Nowhere else is an own name replaced, and no name is made up where one was given.
    await writeFileOrElsewhere(path, 'new');
    expect(await readFile(path, 'utf8')).toBe('new');
  });

  it('leaves the old content and no temporary file when aborted', async () => {
    const path = join(directory, 'out.png');
    await writeFile(path, 'old');
    const early = AbortSignal.abort();
    await expect(writeFileAtomic(path, 'new', { signal: early })).rejects.toMatchObject({
      code: 'ERR_JITFLUX_ABORTED',
    });
    const controller = new AbortController();
    const pending = writeFileAtomic(path, Buffer.alloc(8 << 20), { signal: controller.signal });
    controller.abort();
    await expect(pending).rejects.toMatchObject({ code: 'ERR_JITFLUX_ABORTED' });
    expect(await readFile(path, 'utf8')).toBe('old');
    expect(await readdir(directory)).toEqual(['out.png']);
  });

  it('says why it cannot write', async () => {
    await mkdir(join(directory, 'sub'));
    await writeFile(join(directory, 'file'), '');
    for (const [path, reason] of [
      [join(directory, 'missing', 'out.png'), /directory does not exist/],
      [join(directory, 'sub'), /is a directory/],
      [join(directory, 'file', 'out.png'), /not a directory/],
      ['/dev/null', /not a regular file/],
    ] as const) {
      await expect(writeFileAtomic(path, 'x')).rejects.toMatchObject({
        code: 'ERR_JITFLUX_WRITE_FAILED',
        message: expect.stringMatching(reason) as string,
      });
      await expect(assertWritable(path)).rejects.toMatchObject({ code: 'ERR_JITFLUX_WRITE_FAILED' });
    }
    expect((await readdir(directory)).sort()).toEqual(['file', 'sub']);
  });
});
