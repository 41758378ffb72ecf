// What scripts/gpu-check-pack.mjs decides, apart from doing it: which packages, which files of them, which tracked files
// travel packed, and whether all of it fits.
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { dirname, join, relative, sep } from 'node:path';

/** What a call of the device machine carries at most: tracked files and the pack together. */
export const LIMIT_BYTES = 64 * 2 ** 20;

/**
 * Tracked files above this size travel compressed. There are few of them (weights of the tests), and they are nearly
 * all of the repository's bytes.
 */
export const PACKED_FROM_BYTES = 32 * 2 ** 10;

/** Large tracked files that nothing on the device reads; as paths or folders. */
export const LEFT_OUT = ['docs/images/', 'tools/flux-tiny/', 'package-lock.json'];

/**
 * Packages that are dependencies of vitest's by its package.json and are never loaded here: vite asks for lightningcss
 * when it transforms a style sheet. Ten megabytes of machine code.
 */
export const NEVER_LOADED = [/^lightningcss(-|$)/];

/**
 * A package that travels.
 * @typedef {{ name: string, version: string, path: string }} PackedPackage path: below node_modules
 */

/**
 * The packages that `names` need to run, themselves included: dependencies, and optional dependencies as far as they are
 * installed. Looked up as Node does, so that nested copies come along.
 * @param {string} root folder with node_modules
 * @param {readonly string[]} names
 * @param {{ exclude?: readonly RegExp[] }} [o]
 * @returns {PackedPackage[]} sorted by path
 */
export function dependencyClosure(root, names, { exclude = NEVER_LOADED } = {}) {
  const found = new Map();
  const queue = names.map((name) => ({ name, from: root, optional: false }));
  while (queue.length > 0) {
    const { name, from, optional } = queue.pop();
    if (exclude.some((pattern) => pattern.test(name))) continue;
    const directory = findPackage(root, from, name);
    if (directory === undefined) {
      if (optional) continue;
      throw new Error(`${name}, which ${relative(root, from) || 'the package'} needs, is not installed`);
    }
    const path = relative(join(root, 'node_modules'), directory).split(sep).join('/');
    if (found.has(path)) continue;
    const manifest = readManifest(directory);
    found.set(path, { name, version: manifest.version, path });
    const optionalNames = Object.keys(manifest.optionalDependencies ?? {});
    for (const dependency of Object.keys(manifest.dependencies ?? {})) {
      // npm lists an optional dependency under `dependencies` as well.
      const isOptional = optionalNames.includes(dependency);
      queue.push({ name: dependency, from: directory, optional: isOptional });
    }
    for (const dependency of optionalNames) queue.push({ name: dependency, from: directory, optional: true });
  }
  return [...found.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
}

function findPackage(root, from, name) {
  for (let directory = from; ; directory = dirname(directory)) {
    const candidate = join(directory, 'node_modules', name);
    if (existsSync(join(candidate, 'package.json'))) return candidate;
    if (directory === root || directory === dirname(directory)) return undefined;
  }
}

const readManifest = (directory) => JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8'));

/** Whether a file of a package is needed to run it. Licences stay with what they cover. */
export function isShipped(path) {
  const name = path.slice(path.lastIndexOf('/') + 1);
  if (/^(licen[cs]e|copying|notice)/i.test(name)) return true;
  if (/\.(map|md|markdown|[cm]?ts|tsx|flow|html|css|png|svg|txt)$/i.test(name)) return false;
  return !/(^|\/)(docs?|tests?|__tests__|examples?|benchmarks?)\//i.test(path);
}

/**
 * Files of a package that travel, without nested packages, which are packages of their own.
 * @param {string} directory
 * @returns {string[]} paths below it, sorted
 */
export function packageFiles(directory) {
  const files = [];
  const visit = (path) => {
    for (const entry of readdirSync(join(directory, path), { withFileTypes: true })) {
      const below = path === '' ? entry.name : `${path}/${entry.name}`;
      if (entry.isDirectory()) {
        if (entry.name !== 'node_modules') visit(below);
      } else if (entry.isFile() && isShipped(below)) files.push(below);
    }
  };
  visit('');
  return files.sort();
}

/**
 * A tracked file.
 * @typedef {{ path: string, size: number }} TrackedFile
 */

/**
 * Divides the tracked files: `plain` ones travel as they are; `packed` ones inside the pack, `leftOut` ones not at all,
 * and both are emptied in the working tree while it is sent.
 * @param {readonly TrackedFile[]} files
 * @param {{ from?: number, leftOut?: readonly string[] }} [o]
 */
export function divideTracked(files, { from = PACKED_FROM_BYTES, leftOut = LEFT_OUT } = {}) {
  const parts = {
    plain: /** @type {TrackedFile[]} */ ([]),
    packed: /** @type {TrackedFile[]} */ ([]),
    leftOut: /** @type {TrackedFile[]} */ ([]),
  };
  for (const file of files) {
    if (file.size < from || isSource(file.path)) parts.plain.push(file);
    else if (leftOut.some((path) => isBelow(file.path, path))) parts.leftOut.push(file);
    else parts.packed.push(file);
  }
  return parts;
}

/** Text that people edit stays readable on its way: an emptied source would be easy to commit by mistake. */
const isSource = (path) => /\.([cm]?[jt]s|py|cc|cuh?|h|c|cmake|md|json)$/.test(path) && !isData(path);
const isData = (path) => /^(test\/fixtures|models)\//.test(path) || path === 'package-lock.json';
const isBelow = (path, folder) => path === folder || (folder.endsWith('/') && path.startsWith(folder));

/**
 * Whether everything fits, and what takes the most room.
 * @param {readonly { name: string, size: number }[]} parts
 * @param {number} [limit]
 */
export function weigh(parts, limit = LIMIT_BYTES) {
  const total = parts.reduce((sum, { size }) => sum + size, 0);
  const largest = [...parts].sort((a, b) => b.size - a.size).slice(0, 12);
  return { total, limit, left: limit - total, fits: total <= limit, largest };
}

/** @param {number} bytes */
export const mebibytes = (bytes) => `${(bytes / 2 ** 20).toFixed(2)} MiB`;
