/** The documentation names what there is, and nothing else. */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

import { COMMANDS } from '../../src/cli/commands.js';
import { flagsOf } from '../../src/cli/flags.js';
import { variableOf } from '../../src/cli/settings.js';
import { ERROR_CODES } from '../../src/errors.js';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const SELF = fileURLToPath(import.meta.url);
const read = (path: string) => readFileSync(join(ROOT, path), 'utf8');

/** Texts of the files below a folder. */
function texts(folder: string): string[] {
  return readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !/\.(png|pt|safetensors|json|bin|npz)$/.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((path) => path !== SELF && statSync(path).size < 1e6)
    .map((path) => readFileSync(path, 'utf8'));
}

function names(sources: readonly string[], pattern: RegExp): Set<string> {
  return new Set(sources.flatMap((text) => [...text.matchAll(pattern)].map((match) => match[1] as string)));
}

/** Code in the first column of a document's tables. */
function documented(text: string): string[] {
  return [...text.matchAll(/^\| (`[^|]*) \|/gm)].flatMap(([, cell]) =>
    [...(cell as string).matchAll(/`([^`]+)`/g)].map(([, name]) => name as string),
  );
}

const union = (...sets: Set<string>[]) => new Set(sets.flatMap((set) => [...set]));
const without = (all: Iterable<string>, some: Iterable<string>) => {
  const excluded = new Set(some);
  return [...all].filter((name) => !excluded.has(name)).sort();
};

describe('docs/environment.md', () => {
  const product = [...texts('src'), ...texts('native')];
  const developers = ['scripts', 'test', 'bench'].flatMap(texts);
  /** Reading of an environment variable, in TypeScript and C++. */
  const READ = /(?:\benv\.|\benv\[['"]|(?:getenv|is_set)\(['"])([A-Z][A-Z0-9_]+)\b/g;
  const NAME = /\b(JIT_FLUX_[A-Z][A-Z0-9_]*)\b/g;
  const [users, forDevelopers] = read('docs/environment.md').split('\n## For developers\n') as [
    string,
    string,
  ];

  // Names that C++ and CMake define look alike.
  const cmake = [read('CMakeLists.txt'), read('binding.gyp'), ...texts('cmake')];
  const compileTime = union(
    names(cmake, NAME),
    names([...product, ...developers], /#define (JIT_FLUX_[A-Z0-9_]+)/g),
  );

  it('lists every variable that the package reads', () => {
    const found = union(new Set(without(names(product, NAME), compileTime)), names(product, READ));
    expect(without(found, documented(users))).toEqual([]);
  });

  it('lists every variable that scripts, tests and benchmarks read', () => {
    const found = union(
      new Set(without(names(developers, NAME), compileTime)),
      new Set([...names(developers, READ)].filter((name) => name.startsWith('JIT_FLUX_'))),
    );
    // Of flags the page states the rule, and the help lists them.
    const ofFlags = COMMANDS.flatMap((command) => [...flagsOf(command).keys()].map(variableOf));
    const known = [...documented(users + forDevelopers), ...ofFlags.filter((name) => name !== undefined)];
    expect(without(found, known)).toEqual([]);
  });

  it('lists no variable of ours that nothing reads', () => {
    const ours = (text: string) => documented(text).filter((name) => name.startsWith('JIT_FLUX_'));
    expect(ours(users).length).toBeGreaterThan(5);
    expect(without(ours(users), names(product, NAME))).toEqual([]);
    expect(without(ours(forDevelopers), names(developers, NAME))).toEqual([]);
  });

  it('lists nothing twice', () => {
    const all = documented(users + forDevelopers);
    expect(all).toEqual([...new Set(all)]);
  });
});

it('docs/errors.md lists every error code, once', () => {
  expect(documented(read('docs/errors.md')).sort()).toEqual(Object.values(ERROR_CODES).sort());
});

const PAGES = [
  ...readdirSync(ROOT).filter((name) => name.endsWith('.md')),
  ...readdirSync(join(ROOT, 'docs'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`),
];

/** Relative links of a page, as they are written. What is in code is no link. */
function linksOf(page: string): string[] {
  const text = read(page)
    .replace(/^```[^]*?^```/gm, '')
    .replace(/`[^`\n]*`/g, '');
  return [...text.matchAll(/\]\(<?([^)>\s]+)>?\)/g)]
    .map(([, target]) => target as string)
    .filter((target) => !/^[a-z]+:/.test(target));
}

/** The file that a link leads to, and the place in it. */
function targetOf(page: string, link: string): { file: string; anchor?: string | undefined } {
  const [path, anchor] = link.split('#') as [string, string?];
  return {
    file: path === '' ? join(ROOT, page) : resolve(ROOT, dirname(page), decodeURIComponent(path)),
    anchor,
  };
}

it.each(PAGES)('links of %s lead somewhere', (page) => {
  const broken = linksOf(page).filter((link) => {
    const { file, anchor } = targetOf(page, link);
    if (!existsSync(file)) return true;
    return anchor !== undefined && file.endsWith('.md') && !anchorsOf(file).has(anchor);
  });
  expect(broken).toEqual([]);
});

it('links of the package lead to what is in the package', () => {
  const output = execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
    cwd: ROOT,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const [{ files }] = JSON.parse(output) as [{ files: { path: string }[] }];
  const shipped = new Set<string>();
  // Folders too.
  for (const { path } of files)
    for (let part = path; part !== '.'; part = dirname(part)) shipped.add(join(ROOT, part));
  const pages = files.map(({ path }) => path).filter((path) => path.endsWith('.md'));
  expect(pages).toContain('README.md');
  expect(pages).toContain('docs/install.md');
  const broken = pages.flatMap((page) =>
    linksOf(page)
      .filter((link) => !shipped.has(targetOf(page, link).file.replace(/\/$/, '')))
      .map((link) => `${page}: ${link}`),
  );
  expect(broken).toEqual([]);
});

const known = new Map<string, Set<string>>();

function anchorsOf(file: string): Set<string> {
  const found = known.get(file) ?? anchors(readFileSync(file, 'utf8'));
  known.set(file, found);
  return found;
}

/** Anchors of a page: those of its headings, as GitHub makes them, and those that it sets. */
function anchors(text: string): Set<string> {
  const found = new Set<string>();
  for (const [, heading] of text.replace(/^```[^]*?^```/gm, '').matchAll(/^#+ (.*)$/gm)) {
    const plain = (heading as string).replace(/\[([^\]]*)\]\([^)]*\)/g, '$1').toLowerCase();
    const base = plain.replace(/[^\p{L}\p{N} _-]/gu, '').replace(/ /g, '-');
    let anchor = base;
    for (let i = 1; found.has(anchor); i++) anchor = `${base}-${i}`;
    found.add(anchor);
  }
  for (const [, id] of text.matchAll(/<a id="([^"]+)">/g)) found.add(id as string);
  return found;
}
