/** A cache that several users share, and archives that others could exchange. */
import { spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';

import { findLibTorch } from '../../../src/libtorch/libtorch.js';
import { setupLibTorch, type SetupOptions, type SetupProgress } from '../../../src/libtorch/provision.js';
import { ZipFile } from '../../../src/libtorch/zip.js';
import { expectError } from '../../support/errors.js';
import {
  CUDA_LIBRARY_NAMES,
  LIBRARY_NAMES,
  makeManifest,
  makeZip,
  temporaryDirectory,
  writeFakeLibTorch,
  writeFile,
  type FakeEntry,
} from '../../support/fake-libtorch.js';

/** Large enough to be read in several pieces. */
const wheelWith = (library: string) =>
  makeZip([
    ...LIBRARY_NAMES.map((name) => ({
      name: `torch/lib/${name}`,
      data: library,
      unixMode: 0o100755,
      deflate: false,
    })),
    { name: 'torch/lib/large.bin', data: Buffer.alloc(3 << 20, 7), deflate: false },
    { name: 'torch/include/ATen/ATen.h', data: '' },
    { name: 'torch/version.py', data: `__version__ = '2.13.0'\n` },
  ]);
const wheel = wheelWith('good');
const manifest = makeManifest(wheel);
/** Of the same size: only the content tells it from the pinned one. */
const evil = wheelWith('evil');

const isRoot = process.geteuid?.() === 0;
const STRANGER = 4711;
const PART = `${manifest.variants.cpu!.archives[0]!.sha256.slice(0, 16)}-torch-2.13.0.whl.part`;

function freshCache() {
  const root = temporaryDirectory();
  const cacheDir = join(root, 'cache');
  const from = writeFile(join(root, 'given.whl'), wheel);
  const env = { PATH: '/nowhere' };
  const setup = (options: SetupOptions = {}) => setupLibTorch({ cacheDir, manifest, env, ...options });
  const find = (extra: NodeJS.ProcessEnv = {}) =>
    findLibTorch({ cacheDir, manifest, env: { ...env, HOME: root, ...extra } });
  const target = join(cacheDir, 'libtorch', '2.13.0-cpu');
  return { root, cacheDir, from, env, setup, find, target };
}

/** Sets the umask for one test. */
function umask(mask: number): void {
  const before = process.umask(mask);
  onTestFinished(() => void process.umask(before));
}

function installed(target: string): string {
  return readFileSync(join(target, 'lib/libc10.so'), 'utf8');
}

describe('an archive that is exchanged', () => {
  /** Exchanges the given file as soon as it has been verified. */
  async function exchange(replace: (from: string) => void, mirror = false) {
    const { root, from, setup, target, env } = freshCache();
    let isDone = false;
    const onProgress = ({ phase, done, total }: SetupProgress) => {
      if (isDone || !(phase === 'unpack' || (phase === 'verify' && done === total))) return;
      isDone = true;
      replace(mirror ? join(root, 'mirror/torch-2.13.0.whl') : from);
    };
    if (mirror) writeFile(join(root, 'mirror/torch-2.13.0.whl'), wheel);
    const source = mirror ? { env: { ...env, JIT_FLUX_LIBTORCH_MIRROR: join(root, 'mirror') } } : { from };
    await setup({ ...source, onProgress });
    expect(isDone).toBe(true);
    return installed(target);
  }

  it.each([false, true])(
    'by renaming, after it was verified, is not installed (mirror: %s)',
    async (mirror) => {
      const replace = (from: string) => renameSync(writeFile(`${from}.evil`, evil), from);
      expect(await exchange(replace, mirror)).toBe('good');
    },
  );

  it.each([false, true])('by writing into it, after it was verified, is not (mirror: %s)', async (mirror) => {
    expect(await exchange((from) => writeFileSync(from, evil), mirror)).toBe('good');
  });

  it('does not wait for a pipe in its place', async () => {
    const { root, setup } = freshCache();
    const pipe = join(root, 'pipe');
    expect(spawnSync('mkfifo', [pipe]).status).toBe(0);
    await expectError(() => setup({ from: pipe }), 'ERR_JITFLUX_SETUP_FAILED', /it is not a file/);
    await expectError(() => setup({ from: '/dev/zero' }), 'ERR_JITFLUX_SETUP_FAILED', /it is not a file/);
  });
});

describe('a name in downloads', () => {
  /** Downloads with something in the place of the partial file. */
  async function download(plant: (part: string, victim: string) => void) {
    const { root, cacheDir, setup, target, env } = freshCache();
    const victim = writeFile(join(root, 'victim'), 'precious');
    const part = join(cacheDir, 'downloads', PART);
    mkdirSync(join(cacheDir, 'downloads'), { recursive: true });
    plant(part, victim);
    writeFile(join(root, 'mirror/torch-2.13.0.whl'), wheel);
    await setup({ env: { ...env, JIT_FLUX_LIBTORCH_MIRROR: join(root, 'mirror') } });
    expect(readFileSync(victim, 'utf8')).toBe('precious');
    expect(installed(target)).toBe('good');
    expect(readdirSync(join(cacheDir, 'downloads'))).toEqual([]);
  }

  it('that is a symbolic link is not followed', () => download((part, victim) => symlinkSync(victim, part)));
  it('that is a dangling symbolic link is not followed', async () => {
    await download((part, victim) => symlinkSync(`${victim}.new`, part));
  });
  it("that is another file's second name is not written", () =>
    download((part, victim) => linkSync(victim, part)));
  it('that is a pipe does not hang', () => download((part) => void spawnSync('mkfifo', [part])));
  it('that is a directory is removed', () => download((part) => void mkdirSync(part)));
  it('that everyone could write is begun anew', () =>
    download((part) => {
      writeFileSync(part, wheel);
      chmodSync(part, 0o666);
    }));
  it.skipIf(!isRoot)('that belongs to another user is begun anew', () =>
    download((part) => {
      writeFileSync(part, wheel, { mode: 0o600 });
      chownSync(part, STRANGER, STRANGER);
    }),
  );

  it('cannot be read by others while it is downloaded', async () => {
    umask(0);
    const { root, cacheDir, setup, env } = freshCache();
    writeFile(join(root, 'mirror/torch-2.13.0.whl'), wheel);
    const modes = new Set<number>();
    const onProgress = () => {
      for (const name of ['.', PART]) modes.add(lstatSync(join(cacheDir, 'downloads', name)).mode & 0o777);
    };
    await setup({ env: { ...env, JIT_FLUX_LIBTORCH_MIRROR: join(root, 'mirror') }, onProgress });
    expect(modes).toEqual(new Set([0o700, 0o600]));
  });
});

describe('a cache of several users', () => {
  it.each([0o000, 0o002, 0o022, 0o077])('has sensible modes with umask %o', async (mask) => {
    umask(mask);
    const { cacheDir, from, setup, find, target } = freshCache();
    await setup({ from });
    const modeOf = (path: string) => (statSync(path).mode & 0o777).toString(8);
    const open = (mode: number) => (mode & ~mask & 0o755).toString(8);
    for (const directory of [cacheDir, join(cacheDir, 'libtorch'), target, join(target, 'lib')])
      expect(modeOf(directory), directory).toBe(open(0o755));
    expect(modeOf(join(target, 'lib/libc10.so'))).toBe(open(0o755));
    for (const file of ['include/ATen/ATen.h', 'jit-flux-setup.json'])
      expect(modeOf(join(target, file)), file).toBe(open(0o644));
    expect(find().path).toBe(target);
    expect((await setup({ from, force: true })).alreadyPresent).toBe(false);
  });

  it.each([
    ['the cache', '.', 0o777],
    ['the cache, with the sticky bit', '.', 0o1777],
    ['its libtorch folder', 'libtorch', 0o777],
    ['the variant', 'libtorch/2.13.0-cpu', 0o777],
    ['the libraries', 'libtorch/2.13.0-cpu/lib', 0o1777],
    ['a library', 'libtorch/2.13.0-cpu/lib/libtorch_cpu.so', 0o666],
    ['a library that another one needs', 'libtorch/2.13.0-cpu/lib/libother.so.1', 0o666],
    ['the directory around it', '..', 0o777],
  ])('is refused if everyone may write %s', async (_, name, mode) => {
    const { cacheDir, find, target, from, setup } = freshCache();
    writeFakeLibTorch(target, '2.13.0');
    writeFile(join(target, 'lib/libother.so.1'), '');
    expect(find().path).toBe(target);
    const path = join(cacheDir, name);
    chmodSync(path, mode);
    const error = await expectError(find, 'ERR_JITFLUX_UNSAFE_FILE');
    expect(error.details).toMatchObject({
      path,
      mode: `0${mode.toString(8)}`.slice(-4),
      uid: process.geteuid?.(),
    });
    expect(error.message).toContain(path);
    expect(error.message).toMatch(/chmod -R o-w.*JIT_FLUX_CACHE.*JIT_FLUX_LIBTORCH/);
    // It would be refused afterwards, so that it is not said to be installed.
    await expectError(() => setup({ from }), 'ERR_JITFLUX_UNSAFE_FILE');
    expect(find({ JIT_FLUX_TRUST_CACHE: '1' }).path).toBe(target);
    // Whoever names it vouches for it.
    expect(find({ JIT_FLUX_LIBTORCH: target }).path).toBe(target);
  });

  it('may lie in a directory with the sticky bit, such as /tmp', async () => {
    const { root, from, setup, find, target } = freshCache();
    chmodSync(root, 0o1777);
    await setup({ from });
    expect(find().path).toBe(target);
  });

  it('may be written by a group', async () => {
    const { cacheDir, from, setup, find, target } = freshCache();
    await setup({ from });
    for (const path of [cacheDir, target]) chmodSync(path, 0o2775);
    expect(find().path).toBe(target);
  });

  it.skipIf(!isRoot).each(['.', 'libtorch', 'libtorch/2.13.0-cpu', 'libtorch/2.13.0-cpu/lib/libc10.so'])(
    'is refused if another user owns %s',
    async (name) => {
      const { cacheDir, find, target, from, setup } = freshCache();
      await setup({ from });
      chownSync(join(cacheDir, name), STRANGER, STRANGER);
      const error = await expectError(find, 'ERR_JITFLUX_UNSAFE_FILE', /it belongs to user 4711/);
      expect(error.details).toMatchObject({ path: join(cacheDir, name), uid: STRANGER });
      await expectError(() => setup({ from, force: name !== '.' ? false : true }), 'ERR_JITFLUX_UNSAFE_FILE');
      expect(find({ JIT_FLUX_TRUST_CACHE: '1' }).path).toBe(target);
    },
  );

  it('is refused if it links to what another user can change', async () => {
    const { root, target, find } = freshCache();
    writeFakeLibTorch(target, '2.13.0', ['libtorch_cpu.so', 'libtorch.so']);
    const elsewhere = writeFile(join(root, 'elsewhere/libc10.so'), '');
    symlinkSync(elsewhere, join(target, 'lib/libc10.so'));
    expect(find().path).toBe(target);
    chmodSync(join(root, 'elsewhere'), 0o777);
    await expectError(find, 'ERR_JITFLUX_UNSAFE_FILE', /elsewhere/);
  });

  it("looks at NVIDIA's libraries too", async () => {
    const { root, env } = freshCache();
    const cacheDir = join(root, 'cache');
    const variant = join(cacheDir, 'libtorch/2.14.1-cu130');
    writeFakeLibTorch(join(variant, 'torch'), '2.14.1', CUDA_LIBRARY_NAMES);
    const library = writeFile(join(variant, 'nvidia/cu13/lib/libcublas.so.13'), '');
    const find = () => findLibTorch({ cacheDir, env, builtFor: '2.14.1', cuda: true });
    expect(find().cuda).toBe(true);
    chmodSync(library, 0o666);
    await expectError(find, 'ERR_JITFLUX_UNSAFE_FILE', /libcublas/);
  });

  it('holds for a Python torch as well, whose Python may belong to whom it likes', async () => {
    const { root, env } = freshCache();
    const torch = writeFakeLibTorch(join(root, 'site-packages/torch'), '2.13.0');
    const python = writeFile(join(root, 'python'), `#!/bin/sh\necho ${torch}\n`);
    chmodSync(python, 0o755);
    const find = () => findLibTorch({ manifest, env: { ...env, HOME: root, JIT_FLUX_PYTHON: python } });
    if (isRoot) {
      for (const path of ['lib', 'lib/libc10.so']) chownSync(join(torch, path), STRANGER, STRANGER);
      await expectError(find, 'ERR_JITFLUX_UNSAFE_FILE', /belongs to user 4711/);
      chownSync(python, STRANGER, STRANGER);
    }
    expect(find().path).toBe(torch);
    chmodSync(join(torch, 'lib'), 0o777);
    await expectError(find, 'ERR_JITFLUX_UNSAFE_FILE', /everyone may write it/);
  });
});

describe('a cache that cannot be written or read', () => {
  const DIST = new URL('../../../dist/', import.meta.url).href;
  /** Runs code as a user without rights. */
  function asNobody(source: string): Promise<string> {
    const ids = isRoot ? { uid: 65534, gid: 65534 } : {};
    const child = spawn(process.execPath, ['--input-type=module', '--eval', source], {
      ...ids,
      cwd: '/',
      env: {},
    });
    let output = '';
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (text: Buffer) => (output += text.toString()));
    return new Promise((resolve) => child.once('close', () => resolve(output)));
  }
  const report = (call: string) => `
    const { setupLibTorch } = await import('${DIST}libtorch/provision.js');
    const { findLibTorch } = await import('${DIST}libtorch/libtorch.js');
    try { console.log(JSON.stringify(await ${call})); }
    catch (error) { console.log(error.code, error.message); }`;
  const canRead =
    !isRoot || spawnSync(process.execPath, ['--version'], { uid: 65534, cwd: '/' }).status === 0;

  it.skipIf(!canRead)('gives a typed error that says what to do', async () => {
    const { root, cacheDir } = freshCache();
    chmodSync(root, 0o755);
    mkdirSync(cacheDir, { mode: 0o555 });
    if (!isRoot) chmodSync(cacheDir, 0o555);
    const output = await asNobody(
      report(`setupLibTorch({ cacheDir: ${JSON.stringify(cacheDir)}, env: {} })`),
    );
    expect(output).toMatch(/ERR_JITFLUX_SETUP_FAILED .*EACCES/);
    expect(output).toMatch(
      /User \d+ may not write there: let the cache's owner run `npx jit-flux setup`, or name/,
    );
    chmodSync(cacheDir, 0o755);
  });

  it.skipIf(!canRead)('is used if all is there', async () => {
    const { root, cacheDir, target } = freshCache();
    chmodSync(root, 0o755);
    writeFakeLibTorch(target, '2.13.0');
    for (const path of [target, join(cacheDir, 'libtorch'), cacheDir]) chmodSync(path, 0o555);
    const output = await asNobody(
      report(`setupLibTorch({ cacheDir: ${JSON.stringify(cacheDir)}, env: {} })`),
    );
    expect(output).toContain('"alreadyPresent":true');
    for (const path of [cacheDir, join(cacheDir, 'libtorch'), target]) chmodSync(path, 0o755);
  });

  it.skipIf(!canRead)('says that it may not be read', async () => {
    const { root, cacheDir, target } = freshCache();
    chmodSync(root, 0o755);
    writeFakeLibTorch(target, '2.13.0');
    chmodSync(target, 0o000);
    const options = `{ cacheDir: ${JSON.stringify(cacheDir)}, python: false, env: {} }`;
    const output = await asNobody(report(`findLibTorch(${options})`));
    expect(output).toMatch(/ERR_JITFLUX_LIBTORCH_NOT_FOUND[^]*cannot be read: permission denied/);
    chmodSync(target, 0o755);
  });
});

describe('ZipFile', () => {
  /** Unpacks every entry of an archive into a folder. */
  async function unpack(archive: Buffer): Promise<string> {
    const folder = temporaryDirectory();
    const file = await open(writeFile(join(folder, 'a.zip'), archive), 'r');
    try {
      const zip = await ZipFile.read(file);
      for (const entry of zip.entries) await zip.extract(entry, join(folder, 'out', entry.name));
    } finally {
      await file.close();
    }
    return join(folder, 'out');
  }
  const large = Buffer.alloc(3 << 20);

  it.each<[string, FakeEntry[], RegExp]>([
    ['a name twice', [{ name: 'a', data: '1' }, { name: 'a', data: '2' }], /twice/], // prettier-ignore
    ['an empty part of a name', [{ name: 'a//b', data: '' }], /unsafe path/],
    ['a part "."', [{ name: 'a/./b', data: '' }], /unsafe path/],
    ['a part ".." at the end', [{ name: 'a/..', data: '' }], /unsafe path/],
    ['a name of nothing', [{ name: '', data: '' }], /unsafe path/],
    ['a NUL', [{ name: 'a\0b', data: '' }], /unsafe path/],
    ['a backslash', [{ name: '..\\a', data: '' }], /unsafe path/],
    ['a device', [{ name: 'a', data: '', unixMode: 0o020666 }], /not a regular file/],
    ['a pipe', [{ name: 'a', data: '', unixMode: 0o010666 }], /not a regular file/],
    ['a socket', [{ name: 'a', data: '', unixMode: 0o140666 }], /not a regular file/],
    ['a file where a folder must be', [{ name: 'a', data: '1' }, { name: 'a/b', data: '2' }], /EEXIST|ENOTDIR/], // prettier-ignore
  ])('refuses %s', async (_, entries, reason) => {
    await expect(unpack(makeZip(entries))).rejects.toThrow(reason);
  });

  it('gives no file the right of others to write, nor special bits', async () => {
    umask(0);
    const out = await unpack(
      makeZip([
        { name: 'program', data: 'x', unixMode: 0o106777 },
        { name: 'text', data: large, unixMode: 0o100000 },
      ]),
    );
    expect(statSync(join(out, 'program')).mode & 0o7777).toBe(0o755);
    expect(statSync(join(out, 'text')).mode & 0o7777).toBe(0o644);
  });

  it.each([false, true])(
    'refuses more or fewer bytes than the archive says (deflated: %s)',
    async (deflate) => {
      for (const data of [large, Buffer.alloc(100)]) {
        for (const size of [data.length - 1, data.length + 1, 0]) {
          const archive = makeZip([{ name: 'a', data, deflate }]);
          archive.writeUInt32LE(size, archive.indexOf('PK\x01\x02') + 24);
          await expect(unpack(archive), `${data.length} as ${size}`).rejects.toThrow();
        }
      }
    },
  );

  it('refuses entries that share their bytes', async () => {
    const entries = Array.from({ length: 50 }, (_, i) => ({ name: `${i}`, data: i === 0 ? large : '' }));
    const archive = makeZip(entries);
    const first = archive.indexOf('PK\x01\x02');
    const fields = archive.subarray(first + 16, first + 28);
    for (
      let at = archive.indexOf('PK\x01\x02', first + 4);
      at >= 0;
      at = archive.indexOf('PK\x01\x02', at + 4)
    ) {
      fields.copy(archive, at + 16);
      archive.writeUInt32LE(0, at + 42);
    }
    await expect(unpack(archive)).rejects.toThrow(/overlap/);
  });

  it('does not follow a link that is in the way', async () => {
    const folder = temporaryDirectory();
    const victim = writeFile(join(folder, 'victim'), 'precious');
    symlinkSync(victim, join(folder, 'a'));
    const file = await open(writeFile(join(folder, 'a.zip'), makeZip([{ name: 'a', data: 'x' }])), 'r');
    const zip = await ZipFile.read(file);
    await expect(zip.extract(zip.entries[0]!, join(folder, 'a'))).rejects.toThrow('EEXIST');
    await file.close();
    expect(readFileSync(victim, 'utf8')).toBe('precious');
  });

  it('takes any bytes without more than an error', async () => {
    const archive = makeZip([
      { name: 'a/b', data: 'hello' },
      { name: 'c', data: 'x', deflate: false },
    ]);
    let seed = 1;
    const random = (below: number) => (seed = (seed * 48271) % 2147483647) % below;
    for (let i = 0; i < 300; i++) {
      const damaged = Buffer.from(archive.subarray(0, random(4) ? archive.length : random(archive.length)));
      for (let n = random(6); n > 0 && damaged.length > 0; n--) damaged[random(damaged.length)] = random(256);
      const out = await unpack(damaged).catch((error: unknown) => {
        expect(error).toBeInstanceOf(Error);
      });
      if (out !== undefined && existsSync(out))
        expect(readdirSync(join(out, '..')).sort()).toEqual(['a.zip', 'out']);
    }
  });
});
