#!/usr/bin/env node
// Checks the formatting of the native sources, or of the files that are named, with clang-format; --fix rewrites them.
//   node scripts/check-clang-format.mjs [--fix] [file]...
import { readdirSync } from 'node:fs';
import { join, relative } from 'node:path';
import { ROOT, UserError, capture, main, run, takeFlag } from './lib/tools.mjs';

await main(() => {
  const named = process.argv.slice(2);
  const fix = takeFlag(named, 'fix');
  const clangFormat = process.env.CLANG_FORMAT || 'clang-format';
  if (capture(clangFormat, ['--version']) === undefined) {
    throw new UserError(
      `${clangFormat} is not installed. On Debian or Ubuntu run:\n  sudo apt-get install -y clang-format`,
    );
  }
  const files = named.length > 0 ? named : nativeSources();
  const mode = fix ? ['-i'] : ['--dry-run', '--Werror'];
  const status = run(clangFormat, [...mode, ...files], { allowFailure: true });
  if (status !== 0) throw new UserError('The formatting differs; `npm run format` fixes it.');
  console.log(`clang-format: ${files.length} files ${fix ? 'formatted' : 'are well formatted'}`);
});

function nativeSources() {
  return ['native', join('bench', 'native'), join('test', 'cuda'), join('test', 'fuzz')]
    .flatMap((folder) => readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile() && /\.(h|cc|c|cu|cuh)$/.test(entry.name))
    .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)))
    .sort();
}
