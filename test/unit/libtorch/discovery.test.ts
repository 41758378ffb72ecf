import { chmodSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { JitFluxError } from '../../../src/errors.js';
import {
  cacheDirectory,
  findLibTorch,
  readManifest,
  type FindLibTorchOptions,
} from '../../../src/libtorch/libtorch.js';
import {
  CUDA_LIBRARY_NAMES,
  makeManifest,
  temporaryDirectory,
  writeFakeLibTorch,
  writeFile,
} from '../../support/fake-libtorch.js';

const manifest = makeManifest(Buffer.alloc(0));

/** A machine with nothing on it: an empty home, and a Python without torch. */
function bareMachine() {
  const root = temporaryDirectory();
  const env: NodeJS.ProcessEnv = { HOME: join(root, 'home'), JIT_FLUX_PYTHON: join(root, 'no-python') };
  const find = (options: FindLibTorchOptions = {}) => findLibTorch({ env, manifest, ...options });
  return { root, env, find, cached: join(root, 'home/.cache/jit-flux/libtorch/2.13.0-cpu') };
}

/** A stand-in for Python that reports `directory` as torch's place. */
function fakePython(path: string, directory: string): string {
  writeFile(path, `#!/bin/sh\necho ${directory}\n`);
  chmodSync(path, 0o755);
  return path;
}

function errorOf(action: () => unknown): JitFluxError {
  try {
    action();
  } catch (error) {
    expect(error).toBeInstanceOf(JitFluxError);
    return error as JitFluxError;
  }
  throw new Error('expected an error');
}

describe('findLibTorch', () => {
  it('lists every place tried and the command that helps', () => {
    const { find, cached, env } = bareMachine();
    env.LIBTORCH = '/nowhere/libtorch';
    const error = errorOf(() => find());
    expect(error.code).toBe('ERR_JITFLUX_LIBTORCH_NOT_FOUND');
    expect(error.message).toContain('JIT_FLUX_LIBTORCH (not set)');
    expect(error.message).toContain('LIBTORCH: /nowhere/libtorch (does not exist)');
    expect(error.message).toContain(cached);
    expect(error.message).toContain('Python torch');
    expect(error.message).toContain('npx jit-flux setup');
    expect(error.details?.tried).toHaveLength(4);
  });

  it('prefers option, JIT_FLUX_LIBTORCH, LIBTORCH, cache, Python, in this order', () => {
    const { root, env, find, cached } = bareMachine();
    const at = (name: string) => writeFakeLibTorch(join(root, name), '2.13.0');
    env.JIT_FLUX_PYTHON = fakePython(join(root, 'python'), at('site-packages/torch'));
    expect(find()).toMatchObject({ source: 'python', path: join(root, 'site-packages/torch') });
    writeFakeLibTorch(cached, '2.13.0+cpu');
    expect(find()).toMatchObject({ source: 'cache', path: cached, version: '2.13.0+cpu' });
    env.LIBTORCH = at('a');
    expect(find()).toMatchObject({ source: 'LIBTORCH', path: env.LIBTORCH });
    env.JIT_FLUX_LIBTORCH = at('b');
    expect(find()).toMatchObject({ source: 'JIT_FLUX_LIBTORCH', path: env.JIT_FLUX_LIBTORCH });
    expect(find({ libtorch: at('c') })).toMatchObject({ source: 'option', path: join(root, 'c') });
  });

  it('asks no Python when told not to', () => {
    const { root, env, find } = bareMachine();
    env.JIT_FLUX_PYTHON = fakePython(join(root, 'python'), writeFakeLibTorch(join(root, 'torch'), '2.13.0'));
    expect(errorOf(() => find({ python: false })).code).toBe('ERR_JITFLUX_LIBTORCH_NOT_FOUND');
  });

  it('gives the libraries as absolute paths in loading order', () => {
    const { root, find } = bareMachine();
    const names = ['libtorch.so', 'libtorch_cpu.so', 'libc10.so', 'libgomp-24e2ab19.so.1.0.0', 'libshm.so'];
    const libtorch = writeFakeLibTorch(join(root, 'lt'), '2.13.1', names);
    expect(find({ libtorch }).libraries).toEqual(
      ['libgomp-24e2ab19.so.1.0.0', 'libc10.so', 'libtorch_cpu.so', 'libtorch.so'].map((name) =>
        join(libtorch, 'lib', name),
      ),
    );
  });

  it('puts the CUDA libraries after what they depend on', () => {
    const { root, find } = bareMachine();
    const names = ['libtorch_cuda.so', 'libtorch.so', 'libc10_cuda.so', 'libtorch_cpu.so', 'libc10.so'];
    const libtorch = writeFakeLibTorch(join(root, 'lt'), '2.13.0+cu130', names);
    expect(find({ libtorch }).libraries.map((path) => path.split('/').at(-1))).toEqual([
      'libc10.so',
      'libc10_cuda.so',
      'libtorch_cpu.so',
      'libtorch_cuda.so',
      'libtorch.so',
    ]);
  });

  it.each(['option', 'JIT_FLUX_LIBTORCH'])('refuses another minor version named by %s', (source) => {
    const { root, env, find, cached } = bareMachine();
    writeFakeLibTorch(cached, '2.13.0');
    const directory = writeFakeLibTorch(join(root, 'old'), '2.12.1+cpu');
    if (source === 'JIT_FLUX_LIBTORCH') env.JIT_FLUX_LIBTORCH = directory;
    const error = errorOf(() => find(source === 'option' ? { libtorch: directory } : {}));
    expect(error.code).toBe('ERR_JITFLUX_LIBTORCH_VERSION');
    expect(error.message).toContain('2.12.1+cpu');
    expect(error.message).toContain('2.13.x');
    expect(error.message).toContain(directory);
    expect(error.details).toMatchObject({ found: '2.12.1+cpu', required: '2.13.x', path: directory, source });
  });

  it('passes over a LIBTORCH that belongs to another program', () => {
    const { root, env, find, cached } = bareMachine();
    env.LIBTORCH = writeFakeLibTorch(join(root, 'old'), '2.9.0');
    expect(errorOf(() => find()).message).toContain('version 2.9.0, required 2.13.x');
    writeFakeLibTorch(cached, '2.13.0');
    expect(find().source).toBe('cache');
  });

  it('follows the version that the libraries were built for', () => {
    const { root, find } = bareMachine();
    const libtorch = writeFakeLibTorch(join(root, 'lt'), '2.12.0');
    expect(find({ libtorch, builtFor: '2.12.1+cpu' }).version).toBe('2.12.0');
    expect(errorOf(() => find({ libtorch, builtFor: '2.1.2' })).message).toContain('2.1.x');
  });

  it('wants headers and any supported version for a build', () => {
    const { root, find } = bareMachine();
    const libtorch = writeFakeLibTorch(join(root, 'lt'), '2.11.0');
    expect(errorOf(() => find({ libtorch, purpose: 'build' })).message).toContain(
      'include/ATen/ATen.h missing',
    );
    writeFile(join(libtorch, 'include/ATen/ATen.h'), '');
    expect(find({ libtorch, purpose: 'build' }).version).toBe('2.11.0');
    writeFakeLibTorch(libtorch, '2.10.0');
    expect(errorOf(() => find({ libtorch, purpose: 'build' })).message).toContain('2.11 - 2.14');
  });

  it('reads the version of an official archive', () => {
    const { root, find } = bareMachine();
    const libtorch = writeFakeLibTorch(join(root, 'lt'), '2.13.0');
    rmSync(join(libtorch, 'version.py'));
    expect(errorOf(() => find({ libtorch })).message).toContain('unknown version');
    writeFile(join(libtorch, 'build-version'), '2.13.0+cpu\n');
    expect(find({ libtorch }).version).toBe('2.13.0+cpu');
  });

  it('says which files an incomplete directory lacks', () => {
    const { root, find } = bareMachine();
    const libtorch = writeFakeLibTorch(join(root, 'lt'), '2.13.0', ['libc10.so']);
    const error = errorOf(() => find({ libtorch }));
    expect(error.code).toBe('ERR_JITFLUX_LIBTORCH_NOT_FOUND');
    expect(error.message).toContain('lib/libtorch_cpu.so, lib/libtorch.so missing');
    expect(error.details?.tried).toHaveLength(1);
  });

  it('refuses an option that is no path', () => {
    expect(errorOf(() => bareMachine().find({ libtorch: '' })).code).toBe('ERR_JITFLUX_INVALID_ARGUMENT');
  });
});

describe('findLibTorch for CUDA', () => {
  const pinned = readManifest();

  it('finds the cached wheels, whose LibTorch lies in a folder beside the CUDA libraries', () => {
    const { find, cached } = bareMachine();
    const directory = cached.replace('2.13.0-cpu', '2.14.1-cu130/torch');
    writeFakeLibTorch(cached, '2.13.0+cpu');
    writeFakeLibTorch(directory, '2.14.1+cu130', CUDA_LIBRARY_NAMES);
    const options = { manifest: pinned, builtFor: '2.14.1' };
    expect(find({ ...options, cuda: true })).toMatchObject({ path: directory, source: 'cache', cuda: true });
    // It serves a CPU build of its version as well.
    expect(find(options)).toMatchObject({ path: directory, cuda: true });
    expect(find({ manifest: pinned, builtFor: '2.13.0' })).toMatchObject({ path: cached, cuda: false });
    writeFile(join(directory, 'include/ATen/ATen.h'), '');
    expect(find({ manifest: pinned, purpose: 'build', cuda: true }).path).toBe(directory);
  });

  it('takes a Python torch with CUDA, and passes over one without', () => {
    const { root, env, find } = bareMachine();
    const torch = join(root, 'site-packages/torch');
    env.JIT_FLUX_PYTHON = fakePython(join(root, 'python'), writeFakeLibTorch(torch, '2.14.0'));
    const options = { manifest: pinned, builtFor: '2.14.1', cuda: true };
    const error = errorOf(() => find(options));
    expect(error.code).toBe('ERR_JITFLUX_LIBTORCH_NOT_FOUND');
    expect(error.message).toContain('No usable LibTorch 2.14.x with CUDA');
    expect(error.message).toContain('has no CUDA');
    expect(error.message).toContain('`npx jit-flux setup --variant cu130`');
    writeFakeLibTorch(torch, '2.14.0+cu130', CUDA_LIBRARY_NAMES);
    expect(find(options)).toMatchObject({ source: 'python', path: torch, cuda: true });
  });

  it.each(['option', 'JIT_FLUX_LIBTORCH'])('refuses one without CUDA that %s names', (source) => {
    const { root, env, find } = bareMachine();
    const libtorch = writeFakeLibTorch(join(root, 'lt'), '2.14.1+cpu');
    if (source === 'JIT_FLUX_LIBTORCH') env.JIT_FLUX_LIBTORCH = libtorch;
    const options = { manifest: pinned, builtFor: '2.14.1', cuda: true };
    const error = errorOf(() => find(source === 'option' ? { ...options, libtorch } : options));
    expect(error.code).toBe('ERR_JITFLUX_LIBTORCH_VERSION');
    expect(error.message).toContain(`LibTorch 2.14.1+cpu in ${libtorch}`);
    expect(error.message).toContain('has no CUDA');
    expect(error.details).toMatchObject({ command: 'npx jit-flux setup --variant cu130', source });
  });

  it('refuses one of another version with the error for that', () => {
    const { root, find } = bareMachine();
    const libtorch = writeFakeLibTorch(join(root, 'lt'), '2.13.0+cu130', CUDA_LIBRARY_NAMES);
    const error = errorOf(() => find({ manifest: pinned, builtFor: '2.14.1', cuda: true, libtorch }));
    expect(error.code).toBe('ERR_JITFLUX_LIBTORCH_VERSION');
    expect(error.message).toContain('requires 2.14.x');
  });
});

describe('cacheDirectory', () => {
  it('follows JIT_FLUX_CACHE, XDG_CACHE_HOME and HOME', () => {
    expect(cacheDirectory({ HOME: '/h' })).toBe('/h/.cache/jit-flux');
    expect(cacheDirectory({ HOME: '/h', XDG_CACHE_HOME: '/x' })).toBe('/x/jit-flux');
    expect(cacheDirectory({ HOME: '/h', XDG_CACHE_HOME: '/x', JIT_FLUX_CACHE: '/j' })).toBe('/j');
  });
});

describe('libtorch.json', () => {
  it('pins every archive of every available variant by size and hash', () => {
    const pinned = readManifest();
    expect(pinned.variants[pinned.defaultVariant]?.version).toBe(pinned.version);
    for (const variant of Object.values(pinned.variants)) {
      expect(variant.archives.length > 0).toBe(variant.available);
      for (const archive of variant.archives) {
        expect(archive.sha256).toMatch(/^[0-9a-f]{64}$/);
        expect(archive.size).toBeGreaterThan(0);
        expect(archive.url).toMatch(/^https:\/\//);
        expect(decodeURIComponent(archive.url).endsWith(`/${archive.file}`)).toBe(true);
        for (const requirement of archive.pip?.requirements ?? [])
          expect(requirement).toMatch(/^[a-z0-9-]+==[0-9][0-9.a-z+]*$/);
      }
      if (variant.available) expect(variant.unpackedSize).toBeGreaterThan(0);
      // Without a folder of their own, the archives' roots would overwrite each other.
      if (variant.archives.length > 1) expect(variant.directory).toBe(variant.archives[0]?.root);
    }
  });
});
