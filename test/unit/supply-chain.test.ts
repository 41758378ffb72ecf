/** What docs/supply-chain.md promises of the packages that are installed. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

import { lockedFolders, type Lock } from '../../scripts/lib/npm-lock.mjs';

const ROOT = join(import.meta.dirname, '..', '..');
const json = (path: string): unknown => JSON.parse(readFileSync(join(ROOT, path), 'utf8'));

interface Manifest {
  scripts?: Record<string, string>;
  dependencies: Record<string, string>;
  gypfile?: boolean;
}
/** npm runs these where a package is installed from a registry. */
const INSTALL_SCRIPTS = ['preinstall', 'install', 'postinstall'];
const installScripts = ({ scripts = {} }: Manifest) =>
  INSTALL_SCRIPTS.filter((name) => scripts[name] !== undefined);

describe('packages', () => {
  const own = json('package.json') as Manifest;
  const lock = json('package-lock.json') as Lock & {
    lockfileVersion: number;
    packages: Record<string, { integrity?: string; resolved?: string; hasInstallScript?: boolean }>;
  };
  const folders = lockedFolders(lock, Object.keys(own.dependencies));

  it('this one runs nothing when it is installed, although it has a binding.gyp', () => {
    expect(installScripts(own)).toEqual([]);
    expect(own.gypfile).toBe(false);
  });

  it.each(folders)('%s runs nothing when it is installed', (folder) => {
    expect(lock.packages[folder]?.hasInstallScript).toBeUndefined();
    expect(installScripts(json(join(folder, 'package.json')) as Manifest)).toEqual([]);
    // npm would run node-gyp.
    expect(existsSync(join(ROOT, folder, 'binding.gyp'))).toBe(false);
  });

  it('every package of the lockfile has a SHA-512, and comes from the registry', () => {
    expect(lock.lockfileVersion).toBe(3);
    const others = Object.entries(lock.packages).filter(([folder]) => folder !== '');
    expect(others.length).toBeGreaterThan(folders.length);
    for (const [folder, { integrity, resolved }] of others) {
      expect(integrity, folder).toMatch(/^sha512-[A-Za-z0-9+/]{86}==$/);
      // Not recorded: the registry of whoever installs it.
      expect(resolved ?? 'https://registry.npmjs.org/', folder).toMatch(/^https:\/\/registry\.npmjs\.org\//);
    }
  });
});

describe('libtorch.json', () => {
  const { variants } = json('libtorch.json') as {
    variants: Record<string, { archives: { file: string; size: number; sha256: string; url: string }[] }>;
  };

  it.each(Object.entries(variants))(
    '%s: every archive has size, SHA-256 and an HTTPS address',
    (_, variant) => {
      expect(variant.archives.length).toBeGreaterThan(0);
      for (const { file, size, sha256, url } of variant.archives) {
        expect(file).toMatch(/^[\w.+-]+\.whl$/);
        expect(size).toBeGreaterThan(0);
        expect(sha256).toMatch(/^[0-9a-f]{64}$/);
        expect(url).toMatch(/^https:\/\/(download\.pytorch\.org|files\.pythonhosted\.org)\//);
        expect(decodeURIComponent(url.split('/').at(-1)!)).toBe(file);
      }
    },
  );
});
