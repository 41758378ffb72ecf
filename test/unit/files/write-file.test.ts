import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { assertWritable, writeFileAtomic } from '../../../src/image/index.js';

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
