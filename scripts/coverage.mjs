#!/usr/bin/env node
// What of the code the tests run: lines and branches for every folder of src/ and native/.
//   node scripts/coverage.mjs [--src] [--weights] [--files] [arguments of vitest]
// Builds the native code with gcov's counters (build/Coverage), runs tests with it, and prints a table; --files adds a row
// for every file, with the numbers of the lines that did not run. By default the projects unit, native, golden and
// golden-cuda; projects and files that are named run instead. --weights builds and counts the library without LibTorch only;
// --src builds nothing and counts TypeScript only, by default in the project unit.
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { buildNative, cmakeDirectory, outputDirectory } from './lib/native.mjs';
import { ensureTools, ensureTypeScript } from './lib/steps.mjs';
import { ROOT, UserError, capture, main, run, takeFlag, toolPath } from './lib/tools.mjs';

/**
 * Counts of one file.
 * @typedef {object} FileCoverage
 * @property {Map<number, boolean>} lines whether each line with code ran
 * @property {Map<string, boolean>} branches whether each way out of a decision was taken
 */

const PROJECTS = ['unit', 'native', 'golden', 'golden-cuda'];

await main(async () => {
  const args = process.argv.slice(2);
  const weights = takeFlag(args, 'weights');
  const onlySource = takeFlag(args, 'src');
  const byFile = takeFlag(args, 'files');
  ensureTools();
  ensureTypeScript();
  /** @type {import('./lib/native.mjs').NativeBuildOptions} */
  const build = { instrument: 'coverage', ...(weights && { only: 'weights' }) };
  const cmake = cmakeDirectory(build);
  /** @type {NodeJS.ProcessEnv} */
  const env = { ...process.env };
  if (!onlySource) {
    await buildNative(build);
    for (const file of filesWith(cmake, '.gcda')) rmSync(file);
    env.JIT_FLUX_BUILD_DIR = outputDirectory(build);
    env.JIT_FLUX_VARIANT = 'cpu';
    env.JIT_FLUX_TEST_PROGRAMS = join(cmake, 'out');
    env.JIT_FLUX_TEST_SETUP = join(ROOT, 'test', 'support', 'end-in-order.ts');
  }
  const reports = mkdtempSync(join(tmpdir(), 'jit-flux-coverage-'));
  try {
    const isNamed = args.some((argument) => argument.startsWith('test/') || argument.startsWith('--project'));
    const projects = isNamed ? [] : onlySource ? ['unit'] : PROJECTS;
    const flags = [
      ...projects.map((name) => `--project=${name}`),
      ...['--testTimeout=600000', '--hookTimeout=600000'],
      ...[
        '--coverage.enabled',
        '--coverage.provider=v8',
        '--coverage.include=src/**',
        '--coverage.reporter=json',
      ],
      ...['--coverage.reportOnFailure', `--coverage.reportsDirectory=${reports}`],
    ];
    const vitest = toolPath('vitest', 'vitest.mjs');
    process.exitCode = run(process.execPath, [vitest, 'run', ...args, ...flags], { allowFailure: true, env });
    const source = typescript(join(reports, 'coverage-final.json'));
    const files = new Map([...source, ...(onlySource ? [] : native(cmake))]);
    if (files.size === 0) throw new UserError('nothing was counted');
    print(files, byFile);
  } finally {
    rmSync(reports, { recursive: true, force: true });
  }
});

/**
 * V8's counts, as vitest has mapped them to the sources (Istanbul's format).
 * @param {string} path
 * @returns {[string, FileCoverage][]}
 */
function typescript(path) {
  if (!existsSync(path)) return [];
  /** @type {Record<string, { statementMap: Record<string, { start: { line: number } }>, s: Record<string, number>, b: Record<string, number[]> }>} */
  const report = JSON.parse(readFileSync(path, 'utf8'));
  return Object.entries(report).map(([file, { statementMap, s, b }]) => {
    const lines = new Map();
    for (const [id, { start }] of Object.entries(statementMap))
      lines.set(start.line, (lines.get(start.line) ?? true) && (s[id] ?? 0) > 0);
    const branches = new Map();
    for (const [id, counts] of Object.entries(b))
      counts.forEach((count, way) => branches.set(`${id}.${way}`, count > 0));
    return [relative(ROOT, file), { lines, branches }];
  });
}

/**
 * gcov's counts of our own sources. A header, and a kernel that is compiled for several instruction sets, is in several
 * objects: what one of them ran counts.
 * @param {string} objects folder of the object files
 * @returns {Map<string, FileCoverage>}
 */
function native(objects) {
  const files = new Map();
  for (const counts of filesWith(objects, '.gcda')) {
    const text = capture('gcov', ['--json-format', '--stdout', '--branch-probabilities', counts], {
      cwd: cmakeDirectory({ instrument: 'coverage' }),
    });
    /** @type {{ files: { file: string, lines: { line_number: number, count: number, branches: { count: number, throw: boolean }[] }[] }[] }} */
    const report = JSON.parse(text ?? '{"files":[]}');
    for (const { file, lines } of report.files) {
      const path = file.replace(/^(\.\/|(\.\.\/)+)/, '');
      if (!path.startsWith('native/') || path.includes('..')) continue;
      const known = files.get(path) ?? { lines: new Map(), branches: new Map() };
      files.set(path, known);
      for (const { line_number: line, count, branches } of lines) {
        known.lines.set(line, (known.lines.get(line) ?? false) || count > 0);
        // Not the ways that only an exception takes out of a call.
        branches
          .filter((branch) => !branch.throw)
          .forEach((branch, way) => {
            const key = `${line}.${way}`;
            known.branches.set(key, (known.branches.get(key) ?? false) || branch.count > 0);
          });
      }
    }
  }
  return files;
}

/**
 * @param {Map<string, FileCoverage>} files
 * @param {boolean} byFile
 */
function print(files, byFile) {
  /** @type {Map<string, FileCoverage[]>} */
  const folders = new Map();
  const sorted = [...files].sort(([a], [b]) => (a < b ? -1 : 1));
  for (const [path, counts] of sorted)
    folders.set(dirname(path), [...(folders.get(dirname(path)) ?? []), counts]);
  console.log('\n| folder | lines | branches |\n|---|---|---|');
  for (const [folder, counts] of folders) console.log(row(folder, counts));
  for (const part of ['src', 'native'])
    console.log(
      row(
        `all of ${part}`,
        sorted.filter(([path]) => path.startsWith(`${part}/`)).map(([, c]) => c),
      ),
    );
  if (!byFile) return;
  console.log('\n| file | lines | branches | lines that did not run |\n|---|---|---|---|');
  for (const [path, counts] of sorted) console.log(`${row(path, [counts])} ${missed(counts)} |`);
}

/**
 * @param {string} name
 * @param {FileCoverage[]} counts
 */
function row(name, counts) {
  const share = (/** @type {'lines' | 'branches'} */ kind) => {
    const all = counts.flatMap((file) => [...file[kind].values()]);
    const ran = all.filter(Boolean).length;
    return all.length === 0 ? '-' : `${((100 * ran) / all.length).toFixed(1)} % of ${all.length}`;
  };
  return `| ${name} | ${share('lines')} | ${share('branches')} |`;
}

/** @param {FileCoverage} counts */
function missed({ lines, branches }) {
  const none = [...lines].filter(([, ran]) => !ran).map(([line]) => line);
  const half = [...branches].filter(([, taken]) => !taken).map(([key]) => Number(key.split('.')[0]));
  const some = [...new Set(half)].filter((line) => lines.get(line));
  return [none.sort((a, b) => a - b).join(' '), some.length > 0 ? `(in part: ${some.join(' ')})` : '']
    .join(' ')
    .trim();
}

/**
 * Files below a folder whose names end so.
 * @param {string} folder
 * @param {string} end
 */
function filesWith(folder, end) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(end))
    .map((entry) => join(entry.parentPath, entry.name));
}
