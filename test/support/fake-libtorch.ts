/** Fake LibTorch directories and archives: a few empty files, enough for everything short of dlopen. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { onTestFinished } from 'vitest';
import { LIBRARY_NAMES } from './fake-archives.js';

export * from './fake-archives.js';

/** A temporary directory that is removed after the test. */
export function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'jit-flux-test-'));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

export const CUDA_LIBRARY_NAMES = [...LIBRARY_NAMES, 'libc10_cuda.so', 'libtorch_cuda.so'];

/** Writes a directory that passes validation as LibTorch of the given version. */
export function writeFakeLibTorch(directory: string, version: string, names = LIBRARY_NAMES): string {
  mkdirSync(join(directory, 'lib'), { recursive: true });
  for (const name of names) writeFileSync(join(directory, 'lib', name), '');
  writeFileSync(
    join(directory, 'version.py'),
    `__all__ = ['__version__', 'debug']\n__version__ = '${version}'\ndebug = False\n`,
  );
  return directory;
}

export function writeFile(path: string, data: string | Buffer): string {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, data);
  return path;
}
