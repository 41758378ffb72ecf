import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { PACKAGE_ROOT, packageRoot } from '../../../src/files/package-root.js';
import { temporaryDirectory, writeFile } from '../../support/fake-libtorch.js';

it('PACKAGE_ROOT is where package.json is', () => {
  expect(existsSync(join(PACKAGE_ROOT, 'package.json'))).toBe(true);
});

describe('packageRoot', () => {
  it('leads out of app.asar where the package is unpacked', () => {
    const root = temporaryDirectory();
    const packed = join(root, 'app.asar/node_modules/jit-flux/');
    expect(packageRoot(packed)).toBe(packed);
    const unpacked = join(root, 'app.asar.unpacked/node_modules/jit-flux/');
    writeFile(join(unpacked, 'libtorch.json'), '');
    expect(packageRoot(packed)).toBe(unpacked);
    expect(packageRoot(unpacked)).toBe(unpacked);
  });
});
