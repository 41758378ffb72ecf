/** What docs/supply-chain.md promises of the packages that are installed. */
import { execFileSync } from 'node:child_process';
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

it('scripts/sbom.mjs lists what is installed: every package and every archive, with its hash', () => {
  const script = join(ROOT, 'scripts', 'sbom.mjs');
  interface Component {
    'bom-ref': string;
    name: string;
    version?: string;
    hashes: { alg: string; content: string }[];
  }
  const bom = JSON.parse(execFileSync(process.execPath, [script], { encoding: 'utf8' })) as {
    bomFormat: string;
    metadata: { component: { name: string; version: string; 'bom-ref': string } };
    components: Component[];
    dependencies: { ref: string; dependsOn: string[] }[];
  };
  const own = json('package.json') as Manifest & { version: string };
  expect(bom.bomFormat).toBe('CycloneDX');
  expect(bom.metadata.component).toMatchObject({ name: 'jit-flux', version: own.version });

  const { packages } = json('package-lock.json') as { packages: Record<string, { version: string }> };
  const installed = lockedFolders(json('package-lock.json') as Lock, Object.keys(own.dependencies)).map(
    (folder) => `${folder.replace(/^.*node_modules\//, '')}@${packages[folder]!.version}`,
  );
  const { variants } = json('libtorch.json') as {
    variants: Record<string, { archives: { file: string; sha256: string }[] }>;
  };
  const archives = Object.values(variants).flatMap((variant) => variant.archives);
  const references = bom.components.map((component) => component['bom-ref']);
  expect(new Set(references).size).toBe(references.length);
  expect(references.filter((reference) => !/^(libtorch|prebuilds)\//.test(reference)).sort()).toEqual(
    [...new Set(installed)].sort(),
  );
  for (const { file, sha256 } of archives)
    expect(bom.components.find((component) => component['bom-ref'] === `libtorch/${file}`)?.hashes).toEqual([
      { alg: 'SHA-256', content: sha256 },
    ]);
  for (const { name, hashes } of bom.components) expect(hashes, name).toHaveLength(1);
  // Whatever is needed by one of them is among them.
  const known = new Set([...references, bom.metadata.component['bom-ref']]);
  for (const { ref, dependsOn } of bom.dependencies)
    expect([ref, ...dependsOn].filter((one) => !known.has(one))).toEqual([]);
});
