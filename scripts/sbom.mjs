#!/usr/bin/env node
// Writes what a release consists of as a CycloneDX document: the npm packages that users install, as npm names them from
// package-lock.json; the LibTorch archives that `setup` fetches, from libtorch.json; and the prebuilt libraries, if
// prebuilds/ is there. Needs no network.
//   node scripts/sbom.mjs [--out FILE]
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { lockedFolders } from './lib/npm-lock.mjs';
import { ROOT, UserError, capture, log, main, takeOption } from './lib/tools.mjs';

/** @typedef {Record<string, unknown> & { 'bom-ref': string }} Component */

await main(() => {
  const args = process.argv.slice(2);
  const out = takeOption(args, 'out');
  if (args.length > 0) throw new UserError(`Unknown argument: ${args[0]}`);
  const text = capture('npm', ['sbom', '--sbom-format', 'cyclonedx', '--package-lock-only']);
  if (text === undefined) throw new UserError('`npm sbom` failed: it needs npm 9.5 or newer');
  const bom = JSON.parse(text);
  const { name, version, dependencies } = readJson('package.json');
  // npm takes the folder's name for that of the package.
  bom.metadata.component.name = name;
  keepInstalled(bom, `${name}@${version}`, Object.keys(dependencies));
  const archives = libtorchArchives();
  const libraries = prebuiltLibraries();
  bom.components.push(...archives, ...libraries);
  for (const { 'bom-ref': ref } of [...archives, ...libraries]) {
    bom.dependencies.push({ ref, dependsOn: [] });
    bom.dependencies[0].dependsOn.push(ref);
  }
  const result = `${JSON.stringify(bom, null, 2)}\n`;
  if (out === undefined) process.stdout.write(result);
  else {
    writeFileSync(out, result);
    log(`wrote ${out}: ${bom.components.length} components`);
  }
});

/**
 * Leaves what users install. `npm sbom --omit dev` (npm 11.19) also omits packages that a development tool needs too.
 * @param {{ components: Component[], dependencies: { ref: string, dependsOn: string[] }[] }} bom changed
 * @param {string} own this package
 * @param {string[]} needed names of its dependencies
 */
function keepInstalled(bom, own, needed) {
  const lock = readJson('package-lock.json');
  const reference = (/** @type {string} */ folder) =>
    `${folder.slice(folder.lastIndexOf('node_modules/') + 'node_modules/'.length)}@${lock.packages[folder].version}`;
  const folders = lockedFolders(lock, needed);
  const installed = new Set(folders.map(reference));
  const direct = needed.map((name) => reference(`node_modules/${name}`));
  bom.components = bom.components.filter((component) => installed.has(component['bom-ref']));
  const inner = bom.dependencies.filter(({ ref }) => installed.has(ref));
  bom.dependencies = [{ ref: own, dependsOn: direct }, ...inner];
}

/** @param {string} path */
function readJson(path) {
  return JSON.parse(readFileSync(join(ROOT, path), 'utf8'));
}

/** One component per archive; an archive of several variants is listed once. @returns {Component[]} */
function libtorchArchives() {
  /** @type {{ variants: Record<string, { archives: { file: string, url: string, sha256: string }[] }> }} */
  const { variants } = readJson('libtorch.json');
  const all = Object.values(variants).flatMap(({ archives }) => archives);
  return [...new Map(all.map((archive) => [archive.file, archive])).values()].map(({ file, url, sha256 }) => {
    // A wheel is named <distribution>-<version>-<tags>.whl.
    const [distribution, version] = file.split('-');
    const name = distribution.replaceAll('_', '-');
    return {
      'bom-ref': `libtorch/${file}`,
      type: 'library',
      name,
      version,
      // Not installed with the package, but by `jit-flux setup`, and one variant of them.
      scope: 'optional',
      purl: `pkg:pypi/${name}@${encodeURIComponent(version)}`,
      hashes: [{ alg: 'SHA-256', content: sha256 }],
      externalReferences: [{ type: 'distribution', url }],
    };
  });
}

/** @returns {Component[]} */
function prebuiltLibraries() {
  const folder = join(ROOT, 'prebuilds');
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((path) => /\.(node|so)$/.test(path))
    .sort()
    .map((path) => ({
      'bom-ref': `prebuilds/${path}`,
      type: 'file',
      name: `prebuilds/${path}`,
      scope: 'required',
      hashes: [
        {
          alg: 'SHA-256',
          content: createHash('sha256')
            .update(readFileSync(join(folder, path)))
            .digest('hex'),
        },
      ],
    }));
}
