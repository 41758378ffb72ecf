import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { locateNativeLibraries } from '../../src/libtorch/native-libraries.js';
import { temporaryDirectory } from '../support/fake-libtorch.js';

interface Loader {
  load(...args: unknown[]): unknown;
}

const path = locateNativeLibraries().loader;
const loader = createRequire(import.meta.url)(path) as Loader;

describe('jit_flux.node', () => {
  it('loads without LibTorch and exports one function', () => {
    expect(Object.keys(loader)).toEqual(['load']);
  });

  it.each([
    [[]],
    [[1]],
    [[{}]],
    [[{ libraries: 'x', entry: '/x' }]],
    [[{ libraries: [1], entry: '/x' }]],
    [[{ libraries: ['relative.so'], entry: '/x' }]],
    [[{ libraries: ['/a\0b'], entry: '/x' }]],
    [[{ libraries: [], entry: 'relative.so' }]],
  ])('refuses the arguments %j', (args) => {
    expect(() => loader.load(...args)).toThrow(
      expect.objectContaining({ name: 'TypeError', code: 'ERR_JITFLUX_INVALID_ARGUMENT' }),
    );
  });

  it('names the library that cannot be opened and the linker’s reason, once', () => {
    expect(() => loader.load({ libraries: ['/nowhere/libx.so'], entry: '/x' })).toThrow(
      expect.objectContaining({
        code: 'ERR_JITFLUX_NATIVE_LOAD',
        message: 'Cannot load /nowhere/libx.so: cannot open shared object file: No such file or directory',
      }),
    );
  });

  it('refuses a library without the entry point', () => {
    expect(() => loader.load({ libraries: [], entry: path })).toThrow(
      expect.objectContaining({
        code: 'ERR_JITFLUX_NATIVE_LOAD',
        message: `Cannot use ${path}: it does not export jit_flux_init`,
      }),
    );
  });

  it('passes on what a getter throws', () => {
    const options = {
      get libraries(): string[] {
        throw new RangeError('mine');
      },
      entry: '/x',
    };
    expect(() => loader.load(options)).toThrow(RangeError);
  });

  it('refuses a second copy of LibTorch in the process', () => {
    const directory = temporaryDirectory();
    const copies = ['a', 'b'].map((name) => {
      mkdirSync(join(directory, name));
      const copy = join(directory, name, 'libtorch_cpu.so');
      copyFileSync(path, copy);
      return copy;
    });
    // In a process of its own: what is opened stays.
    const script = `
      const { load } = require(process.argv[1]);
      const message = (library) => {
        try { load({ libraries: [library], entry: '/nowhere.so' }); } catch (error) { return error.message; }
      };
      console.log(JSON.stringify(process.argv.slice(2).map(message)));`;
    const [a, b] = copies as [string, string];
    const result = spawnSync(process.execPath, ['-e', script, path, a, a, b], { encoding: 'utf8' });
    const messages = JSON.parse(result.stdout) as string[];
    expect(messages[0]).toContain('Cannot load /nowhere.so');
    expect(messages[1]).toContain('Cannot load /nowhere.so');
    expect(messages[2]).toContain(`Cannot load ${b}: another copy of LibTorch is already loaded`);
    expect(messages[2]).toContain(a);
  });

  it('opens nothing beside another copy of LibTorch', () => {
    const directory = temporaryDirectory();
    const [own, other] = ['a', 'b'].map((name) => join(directory, name, 'libtorch_cpu.so')) as [
      string,
      string,
    ];
    const second = join(directory, 'b', 'libc10.so');
    for (const folder of ['a', 'b']) mkdirSync(join(directory, folder));
    for (const copy of [own, other, second]) copyFileSync(path, copy);
    // As another addon would open it.
    const script = `
      const [loader, own, second, other] = process.argv.slice(1);
      process.dlopen({ exports: {} }, own, require('node:os').constants.dlopen.RTLD_NOW);
      try { require(loader).load({ libraries: [second, other], entry: '/nowhere.so' }); }
      catch (error) { console.log(error.message); }
      console.log(require('node:fs').readFileSync('/proc/self/maps', 'utf8').includes(second));`;
    const result = spawnSync(process.execPath, ['-e', script, path, own, second, other], {
      encoding: 'utf8',
    });
    expect(result.stdout).toContain(`Cannot load ${other}: another copy of LibTorch is already loaded`);
    expect(result.stdout).toContain(own);
    expect(result.stdout).toMatch(/\nfalse\n$/);
  });

  it('works in several worker threads', () => {
    const script = `
      const { Worker } = require('node:worker_threads');
      const [loader, worker] = process.argv.slice(1);
      require(loader);
      for (let i = 0; i < 4; i++)
        new Worker(worker, { eval: true, argv: [loader] }).on('exit', (code) => console.log('exit ' + code));`;
    const worker = `
      try { require(process.argv[2]).load({ libraries: [], entry: '/nowhere.so' }); }
      catch (error) { if (error.code !== 'ERR_JITFLUX_NATIVE_LOAD') throw error; }`;
    const result = spawnSync(process.execPath, ['-e', script, path, worker], { encoding: 'utf8' });
    expect(result.stderr).toBe('');
    expect(result.stdout).toBe('exit 0\n'.repeat(4));
  });
});
