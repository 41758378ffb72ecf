#!/usr/bin/env node
// Declarations for `require`: node scripts/commonjs-declarations.mjs <dist>. A program of its own, as it needs TypeScript,
// which is not installed yet where the scripts of a fresh clone begin. tsc writes `import api = require('./index.js'); export = api;`, which TypeScript refuses under
// `module: node16`, because a CommonJS module cannot require an ES module there; Node can. So every export is named here,
// and its type is taken from the ES module's declarations: both kinds of import give the same types.
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';
import { UserError, main } from './lib/tools.mjs';

/** Entry points, as paths in dist/ without extension. */
const ENTRIES = ['index', 'sampler/index'];

await main(async () => {
  const [dist] = process.argv.slice(2);
  if (dist === undefined) throw new UserError('Name the folder of the declarations');
  writeCommonJsDeclarations(dist);
});

/**
 * Writes `<entry>.d.cts` beside every `<entry>.d.ts`.
 * @param {string} dist
 */
function writeCommonJsDeclarations(dist) {
  const files = ENTRIES.map((entry) => join(dist, `${entry}.d.ts`));
  const program = ts.createProgram(files, {
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    target: ts.ScriptTarget.ES2022,
    noEmit: true,
    types: [],
  });
  for (const file of files) {
    const path = file.replace(/ts$/, 'cts');
    writeFileSync(path, declarationsOf(program, file));
    // It would lead to src/index.cts, which has nothing of this.
    rmSync(`${path}.map`, { force: true });
  }
}

/**
 * @param {ts.Program} program
 * @param {string} file
 */
function declarationsOf(program, file) {
  const checker = program.getTypeChecker();
  const source = program.getSourceFile(file);
  const module = source && checker.getSymbolAtLocation(source);
  if (!module) throw new Error(`${file} is no module`);
  const exported = checker.getExportsOfModule(module);
  const names = new Set(exported.map(({ name }) => name));
  const esm = `'./index.js' with { 'resolution-mode': 'import' }`;
  const lines = [
    `import type * as esm from ${esm};`,
    // Of interfaces and the like. What has a value needs a line of its own, which takes the place of its type here.
    `export type * from ${esm};`,
  ];
  for (const alias of exported) {
    const { name } = alias;
    const symbol = alias.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(alias) : alias;
    if (!(symbol.flags & ts.SymbolFlags.Value)) continue;
    const comment = commentOf(symbol);
    lines.push(`${comment}export declare const ${name}: typeof esm.${name};`);
    if (!(symbol.flags & ts.SymbolFlags.Type)) continue;
    const { declared, used } = typeParametersOf(symbol, names);
    lines.push(`${comment}export type ${name}${declared} = esm.${name}${used};`);
  }
  return `${lines.join('\n')}\n`;
}

/**
 * What stands in front of a declaration, for editors.
 * @param {ts.Symbol} symbol
 */
function commentOf(symbol) {
  const declaration = symbol.declarations?.[0];
  if (!declaration) return '';
  // A constant's stands in front of its statement.
  const node = ts.isVariableDeclaration(declaration) ? declaration.parent.parent : declaration;
  const text = node.getSourceFile().text;
  const comments = ts.getLeadingCommentRanges(text, node.getFullStart()) ?? [];
  const last = comments.map(({ pos, end }) => text.slice(pos, end)).filter((one) => one.startsWith('/**'));
  return last.length > 0 ? `${last[last.length - 1]}\n` : '';
}

/**
 * Type parameters of a class as they are declared, with what they name of this package, and as they are used.
 * @param {ts.Symbol} symbol
 * @param {ReadonlySet<string>} names exported ones
 */
function typeParametersOf(symbol, names) {
  const parameters = symbol.declarations?.flatMap((declaration) =>
    ts.isClassDeclaration(declaration) ? [...(declaration.typeParameters ?? [])] : [],
  );
  if (!parameters?.length) return { declared: '', used: '' };
  const declared = parameters.map((parameter) =>
    parameter.getText().replace(/\w+/g, (word) => (names.has(word) ? `esm.${word}` : word)),
  );
  return {
    declared: `<${declared.join(', ')}>`,
    used: `<${parameters.map(({ name }) => name.text).join(', ')}>`,
  };
}
