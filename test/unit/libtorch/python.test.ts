/** Nothing of the working directory is run or loaded by looking for LibTorch or by `setup`. */
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { describe, expect, it } from 'vitest';

import { findPython, findPythonTorch, pythonEnvironment } from '../../../src/libtorch/python.js';
import { temporaryDirectory, writeFakeLibTorch, writeFile } from '../../support/fake-libtorch.js';

const DIST = new URL('../../../dist/', import.meta.url).href;
/** A real Python: what it does is the point here. */
const PYTHON = findPython({ PATH: process.env.PATH });
const HAS_PIP = PYTHON !== undefined && spawnSync(PYTHON, ['-I', '-m', 'pip', '--version']).status === 0;

/** A working directory that somebody else has filled, and a program that runs in it. */
function hostileDirectory(root = temporaryDirectory()) {
  const cwd = join(root, 'cwd');
  mkdirSync(cwd, { recursive: true });
  const trap = join(root, 'trap');
  /** Runs a module of this package's; a file named "trap" appears once code of the directory has run. */
  const run = (source: string, env: NodeJS.ProcessEnv = {}) => {
    const { stdout, stderr, status } = spawnSync(
      process.execPath,
      ['--input-type=module', '--eval', source],
      {
        cwd,
        encoding: 'utf8',
        timeout: 60_000,
        env: { HOME: root, PATH: process.env.PATH, JIT_FLUX_CACHE: join(root, 'cache'), ...env },
      },
    );
    expect(status, stderr).toBe(0);
    return stdout.trim();
  };
  return { root, cwd, trap, run, isSprung: () => existsSync(trap) };
}

const FIND = `
  import { findLibTorch } from '${DIST}libtorch/libtorch.js';
  try { console.log(findLibTorch().path); } catch (error) { console.log(error.code); }`;

const SETUP = `
  import { setupLibTorch } from '${DIST}libtorch/provision.js';
  const archive = {
    file: 'torch.whl', root: 'torch', size: 1, sha256: 'ab'.repeat(32), url: 'http://127.0.0.1:9/torch.whl',
    pip: { requirements: ['torch==2.13.0'], pythonVersion: '3.11', implementation: 'cp', abi: 'cp311', platform: 'any' },
  };
  const cpu = { version: '2.13.0', available: true, unpackedSize: 0, archives: [archive] };
  const manifest = {
    version: '2.13.0', supported: { minimum: '2.11', maximum: '2.14' }, defaultVariant: 'cpu', variants: { cpu },
  };
  await setupLibTorch({ manifest }).catch((error) => console.log(error.code, error.message));`;

function trapProgram(path: string, trap: string): void {
  writeFile(path, `#!/bin/sh\n: > ${trap}\n`);
  chmodSync(path, 0o755);
}

describe('the search for LibTorch', () => {
  it.skipIf(PYTHON === undefined)('finds no torch in the working directory', () => {
    const { cwd, run } = hostileDirectory();
    writeFakeLibTorch(join(cwd, 'torch'), '2.13.0');
    writeFile(join(cwd, 'torch/__init__.py'), '');
    expect(run(FIND)).toBe('ERR_JITFLUX_LIBTORCH_NOT_FOUND');
    for (const env of [
      { PYTHONPATH: '.' },
      { PYTHONPATH: `:${cwd}` },
      { PYTHONHOME: cwd, PYTHONUSERBASE: cwd, PYTHONPATH: cwd },
    ])
      expect(run(FIND, env), JSON.stringify(env)).toBe('ERR_JITFLUX_LIBTORCH_NOT_FOUND');
  });

  it.skipIf(PYTHON === undefined)('runs no modules of the working directory', () => {
    const { cwd, run, trap, isSprung } = hostileDirectory();
    const code = `open(${JSON.stringify(trap)}, "w")\n`;
    for (const name of ['site', 'sitecustomize', 'usercustomize', 'importlib', 'os', 'startup'])
      writeFile(join(cwd, `${name}.py`), code);
    writeFile(join(cwd, 'pyvenv.cfg'), 'home = .\n');
    run(FIND, { PYTHONPATH: cwd, PYTHONSTARTUP: join(cwd, 'startup.py'), PYTHONINSPECT: '1' });
    expect(isSprung()).toBe(false);
  });

  it.each(['', '.', './', 'bin', ':.:', ':'])('runs no program of it with %j in PATH', (entry) => {
    const { cwd, run, trap, isSprung } = hostileDirectory();
    for (const folder of ['', 'bin']) trapProgram(join(cwd, folder, 'python3'), trap);
    run(FIND, { PATH: `${entry}:/nowhere` });
    expect(isSprung()).toBe(false);
  });

  it.each(['XDG_CACHE_HOME', 'HOME'])('has no cache in it with %s relative', (name) => {
    const { cwd, run } = hostileDirectory();
    for (const folder of ['.', '.cache'])
      writeFakeLibTorch(join(cwd, folder, 'jit-flux/libtorch/2.13.0-cpu'), '2.13.0');
    for (const value of ['.', ''])
      expect(run(FIND, { JIT_FLUX_CACHE: '', [name]: value, PATH: '' })).not.toContain(cwd);
  });

  it('takes a Python that the user names relative to it', () => {
    const { root } = hostileDirectory();
    const path = writeFile(join(root, 'python'), '');
    expect(findPython({ JIT_FLUX_PYTHON: relative(process.cwd(), path) })).toBe(path);
    expect(findPython({ JIT_FLUX_PYTHON: 'python', PATH: `relative:${root}` })).toBeUndefined();
    chmodSync(path, 0o755);
    expect(findPython({ JIT_FLUX_PYTHON: 'python', PATH: `relative:${root}` })).toBe(path);
  });

  it.skipIf(PYTHON === undefined)("finds the torch of the user's own packages", () => {
    const { root } = hostileDirectory();
    const script = 'import site; print(site.getusersitepackages())';
    const env = { HOME: root, PATH: process.env.PATH };
    const folder = spawnSync(PYTHON!, ['-c', script], { encoding: 'utf8', env, cwd: '/' }).stdout.trim();
    expect(folder.startsWith(root)).toBe(true);
    const torch = writeFakeLibTorch(join(folder, 'torch'), '2.13.0');
    writeFile(join(torch, '__init__.py'), '');
    expect(findPythonTorch(env)).toEqual({ python: PYTHON, directory: torch });
  });

  it('passes over an answer that is no absolute path', () => {
    const { root } = hostileDirectory();
    const python = writeFile(join(root, 'python'), '#!/bin/sh\necho torch\n');
    chmodSync(python, 0o755);
    expect(findPythonTorch({ JIT_FLUX_PYTHON: python })).toBeUndefined();
  });
});

describe('setup with pip', () => {
  it.skipIf(!HAS_PIP)('runs no pip of the working directory', () => {
    const { cwd, run, trap, isSprung } = hostileDirectory();
    const code = `open(${JSON.stringify(trap)}, "w")\n`;
    for (const name of ['pip.py', 'pip/__init__.py', 'pip/__main__.py', 'sitecustomize.py', 'argparse.py'])
      writeFile(join(cwd, name), code);
    writeFile(join(cwd, 'setup.cfg'), '[install]\nuser=1\n');
    const output = run(SETUP, { PYTHONPATH: '.', PIP_PYTHON: './python', PIP_NO_INDEX: '1' });
    expect(output).toContain('ERR_JITFLUX_SETUP_FAILED');
    // It is pip that says so, not one that has done nothing.
    expect(output).toMatch(/pip download torch==2\.13\.0: (No matching distribution|ResolutionImpossible)/);
    expect(isSprung()).toBe(false);
  });

  it('gives Python and pip no variables that name other code, and PATH no relative entries', () => {
    const env = pythonEnvironment({
      PATH: `:.:bin:/usr/bin::/bin:`,
      HOME: '/home/user',
      PYTHONPATH: '.',
      PYTHONHOME: '.',
      PYTHONSTARTUP: './x.py',
      PIP_PYTHON: './python',
      PIP_TARGET: '/x',
      PIP_REQUIREMENT: 'x',
      PIP_INDEX_URL: 'https://index',
      PIP_CERT: 'corporate.pem',
      HTTPS_PROXY: 'http://proxy',
      LD_LIBRARY_PATH: '/opt/lib',
    });
    expect(env).toEqual({
      PATH: '/usr/bin:/bin',
      HOME: '/home/user',
      PIP_INDEX_URL: 'https://index',
      PIP_CERT: join(process.cwd(), 'corporate.pem'),
      HTTPS_PROXY: 'http://proxy',
      LD_LIBRARY_PATH: '/opt/lib',
    });
  });

  it('runs it in isolated mode in a neutral directory', () => {
    const { root, run } = hostileDirectory();
    const python = writeFile(
      join(root, 'python'),
      `#!/bin/sh\n{ pwd; printf '%s\\n' "$@"; env; } > ${root}/call\nexit 1\n`,
    );
    chmodSync(python, 0o755);
    run(SETUP, { JIT_FLUX_PYTHON: python, PYTHONPATH: '.', PATH: `.:${process.env.PATH}` });
    const [directory, ...rest] = readFileSync(join(root, 'call'), 'utf8').split('\n');
    expect(directory).toBe('/');
    expect(rest.slice(0, 4)).toEqual(['-I', '-m', 'pip', 'download']);
    expect(rest.find((line) => /^PYTHON|^PATH=(\.|.*:\.:)/.test(line))).toBeUndefined();
  });
});
