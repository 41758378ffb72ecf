#!/usr/bin/env node
// clang-tidy (.clang-tidy) over the native rooms that are free of LibTorch, after `npm run build:native`, whose
// compile_commands.json it reads: some two minutes of one core. The others use built-in functions and headers of GCC that
// clang does not know.
//   node scripts/check-clang-tidy.mjs [--jobs N] [file]...
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join, relative, resolve } from 'node:path';
import { cmakeDirectory } from './lib/native.mjs';
import { ROOT, UserError, capture, main, takeOption } from './lib/tools.mjs';

const WITHOUT_LIBTORCH = /^native\/(base|weights|describe|convert|node|weights_addon|loader)\//;
const CLANG_TIDY = process.env.CLANG_TIDY || 'clang-tidy';

await main(async () => {
  const args = process.argv.slice(2);
  const jobs = Number(takeOption(args, 'jobs', String(availableParallelism())));
  if (!Number.isInteger(jobs) || jobs < 1) throw new UserError('Expected a positive integer for --jobs');
  if (capture(CLANG_TIDY, ['--version']) === undefined)
    throw new UserError(
      `${CLANG_TIDY} is not installed. On Debian or Ubuntu run:\n  sudo apt-get install -y clang-tidy`,
    );
  const build = cmakeDirectory();
  const database = join(build, 'compile_commands.json');
  if (!existsSync(database))
    throw new UserError('There is nothing to read: run `npm run build:native` first');
  /** @type {{ file: string, command: string }[]} */
  const commands = JSON.parse(readFileSync(database, 'utf8'));
  const folder = join(build, 'clang-tidy');
  mkdirSync(folder, { recursive: true });
  // clang cannot read the headers that GCC has precompiled.
  const adapted = commands.map(({ command, ...rest }) => ({
    ...rest,
    command: command.replaceAll(/ (-Winvalid-pch|-include \S+cmake_pch\S+)/g, ''),
  }));
  writeFileSync(join(folder, 'compile_commands.json'), JSON.stringify(adapted));
  const known = new Set(commands.map(({ file }) => relative(ROOT, file)));
  const named = args.map((path) => relative(ROOT, resolve(path)));
  for (const path of named)
    if (!known.has(path)) throw new UserError(`${path} is no source of the native build`);
  const files = named.length > 0 ? named : [...known].filter((path) => WITHOUT_LIBTORCH.test(path)).sort();

  const queue = [...files];
  let failed = 0;
  const worker = async () => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift())
      if (!(await check(folder, file))) failed++;
  };
  await Promise.all(Array.from({ length: jobs }, worker));
  if (failed > 0) throw new UserError(`clang-tidy complains of ${failed} of ${files.length} files`);
  console.log(`clang-tidy: ${files.length} files, all well`);
});

/**
 * @param {string} folder of compile_commands.json
 * @param {string} file
 * @returns {Promise<boolean>} whether there is nothing to complain of
 */
function check(folder, file) {
  // GCC's warnings that clang does not know are no matter here.
  const args = [
    '--quiet',
    '-p',
    folder,
    '--extra-arg=-Wno-unknown-warning-option',
    `--extra-arg=-isystem${folder}`,
    join(ROOT, file),
  ];
  return new Promise((resolvePromise, reject) => {
    const child = spawn(CLANG_TIDY, args, { cwd: ROOT, stdio: ['ignore', 'pipe', 'ignore'] });
    let output = '';
    child.stdout.on('data', (chunk) => (output += chunk));
    child.once('error', reject);
    child.once('close', (status) => {
      if (status !== 0) console.log(output.trim() || `${file}: clang-tidy ended with ${status}`);
      resolvePromise(status === 0);
    });
  });
}
