/** Projects of users, compiled against dist/ as it is built. */
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import ts from 'typescript';
import { afterAll, beforeAll, expect, it } from 'vitest';

import { compilerArguments, MODES } from '../../scripts/lib/type-consumers.mjs';
import { PACKAGE_ROOT } from '../../src/files/package-files.js';

let project: string;
beforeAll(() => {
  project = mkdtempSync(join(tmpdir(), 'jit-flux-consumer-'));
  mkdirSync(join(project, 'node_modules', '@types'), { recursive: true });
  symlinkSync(PACKAGE_ROOT, join(project, 'node_modules', 'jit-flux'));
  const types = join('node_modules', '@types', 'node');
  symlinkSync(join(PACKAGE_ROOT, types), join(project, types));
  for (const name of ['types.mts', 'types.cts'])
    copyFileSync(join(PACKAGE_ROOT, 'test', 'package', 'consumer', name), join(project, name));
});
afterAll(() => rmSync(project, { recursive: true, force: true }));

const parsed = new Map<string, ts.SourceFile | undefined>();

/**
 * Messages of the compiler about some files of the project and everything of this package: what `skipLibCheck: false` adds
 * for us. Types of the language and of Node are read once and are not checked themselves, which would take half a minute.
 */
function complaints(args: readonly string[]): string[] {
  const { options, fileNames, errors } = ts.parseCommandLine(args);
  const host = { ...ts.createCompilerHost(options), getCurrentDirectory: () => project };
  const parse = host.getSourceFile.bind(host);
  host.getSourceFile = (path, how, ...rest) => {
    const format = typeof how === 'object' ? how.impliedNodeFormat : undefined;
    const key = `${path} ${format}`;
    if (!/node_modules\/(typescript|@types|undici-types)\//.test(path)) return parse(path, how, ...rest);
    if (!parsed.has(key)) parsed.set(key, parse(path, how, ...rest));
    return parsed.get(key);
  };
  const names = fileNames.map((name) => join(project, name));
  const program = ts.createProgram(names, options, host);
  const ours = program
    .getSourceFiles()
    .filter(({ fileName }) => names.includes(fileName) || fileName.startsWith(join(PACKAGE_ROOT, 'dist')));
  expect(ours.length).toBeGreaterThan(names.length + 20);
  return [
    ...errors,
    ...program.getOptionsDiagnostics(),
    ...program.getGlobalDiagnostics(),
    ...ours.flatMap((file) => [
      ...program.getSyntacticDiagnostics(file),
      ...program.getSemanticDiagnostics(file),
    ]),
  ].map(({ file, messageText }) => {
    return `${file?.fileName}: ${ts.flattenDiagnosticMessageText(messageText, '\n')}`;
  });
}

it.each(MODES)('$module, $moduleResolution: $files', (mode) => {
  expect(complaints(compilerArguments(mode))).toEqual([]);
});

it('declarations that a project cannot use are noticed', () => {
  // What tsc makes of src/index.cts.
  const entry = JSON.stringify(join(PACKAGE_ROOT, 'dist', 'index.js'));
  writeFileSync(join(project, 'required.d.cts'), `import api = require(${entry});\nexport = api;\n`);
  const mode = { ...MODES.find(({ module }) => module === 'node16')!, files: ['required.d.cts'] };
  expect(complaints(compilerArguments(mode)).join()).toContain('only resolves to an ES module');
});
