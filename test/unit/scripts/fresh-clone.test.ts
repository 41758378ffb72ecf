/** The commands with which a fresh clone is set up begin before anything is installed. */
import { readFileSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import { dirname, join } from 'node:path';
import { expect, it } from 'vitest';

const ROOT = join(import.meta.dirname, '..', '..', '..');
const { scripts } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
  scripts: Record<string, string>;
};

/** What a program and its modules import when they are loaded. Imports within functions come later, and are none. */
function importsOf(file: string, found = new Map<string, string>(), seen = new Set<string>()) {
  if (seen.has(file)) return found;
  seen.add(file);
  const source = readFileSync(file, 'utf8');
  for (const [, name] of source.matchAll(
    /^(?:import\s+|(?:import|export)\b[^;'"=]*\bfrom\s+)['"]([^'"]+)['"]/gm,
  )) {
    if (name!.startsWith('.')) importsOf(join(dirname(file), name!), found, seen);
    else found.set(name!, file);
  }
  return found;
}

it.each(['setup:dev', 'demo', 'test', 'build:native'])('npm run %s imports nothing but Node', (command) => {
  const program = /^node (\S+\.mjs)/.exec(scripts[command]!)?.[1];
  const imports = importsOf(join(ROOT, program!));
  expect([...imports.keys()]).toContain('node:path');
  expect([...imports].filter(([name]) => !isBuiltin(name))).toEqual([]);
});

it('notices a package', () => {
  expect([...importsOf(join(ROOT, 'scripts/commonjs-declarations.mjs')).keys()]).toContain('typescript');
});
