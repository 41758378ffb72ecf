#!/usr/bin/env node
// Makes .gpu/pack.tar.xz for a machine with a GPU, PyTorch, CMake and nvcc, but without Node and network: Node itself, what
// the check needs of node_modules, the compiled TypeScript, and the data of the tests, which are too large to travel as they
// are. scripts/gpu-check.sh unpacks it there, over a checkout without those data; docs/gpu/README.md says how.
//   npm run gpu-check:pack [-- --limit MIB] [--dry-run]
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { lockedFolders } from './lib/npm-lock.mjs';
import { ensureTypeScript } from './lib/steps.mjs';
import { ROOT, UserError, capture, main, run, takeFlag, takeOption } from './lib/tools.mjs';

/** Tracked folders that travel in the pack; as they are they would fill it. */
const PACKED = ['models', 'test/fixtures'];
/** Tracked folders that nothing there reads. */
const LEFT_OUT = ['docs/images', 'tools/flux-tiny'];
/** Not needed to run a package; vite asks for lightningcss when it transforms a style sheet. */
const EXCLUDED = ['*.map', '*.d.ts', '*.d.mts', '*.d.cts', 'node_modules/lightningcss*'];
/** What the lent machine of this project takes: checkout and pack together. */
const LIMIT_MIB = 64;
// One block with a dictionary that spans most of it: the same weights are there in several formats.
const XZ = '-T1 --x86 --lzma2=preset=6,dict=96MiB';

const mebibytes = (/** @type {number} */ bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
const filesOf = (/** @type {string[]} */ ...args) =>
  (capture('git', ['ls-files', '-z', ...args]) ?? '').split('\0').filter(Boolean);
const sizeOf = (/** @type {readonly string[]} */ files) =>
  files.reduce((sum, file) => sum + (existsSync(join(ROOT, file)) ? statSync(join(ROOT, file)).size : 0), 0);

await main(async () => {
  const args = process.argv.slice(2);
  const limit = Number(takeOption(args, 'limit', String(LIMIT_MIB))) * 2 ** 20;
  const dryRun = takeFlag(args, 'dry-run');
  if (args.length > 0) throw new UserError(`Unknown argument: ${args[0]}`);
  const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
  const lock = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8'));
  const needed = ['vitest', 'cmake-js', 'node-addon-api', ...Object.keys(manifest.dependencies)];
  // Their nested ones are below them.
  const folders = lockedFolders(lock, needed).filter(
    (folder) => folder.lastIndexOf('node_modules/') === 0 && existsSync(join(ROOT, folder)),
  );
  const sent = filesOf('--cached', '--others', '--exclude-standard').filter(
    (file) => ![...PACKED, ...LEFT_OUT].some((folder) => file.startsWith(`${folder}/`)),
  );
  const pack = join(ROOT, '.gpu', 'pack.tar.xz');
  console.log(
    `${folders.length} packages, ${mebibytes(sizeOf(filesOf(...PACKED)))} of ${PACKED.join(' and ')}`,
  );
  if (dryRun) return;

  ensureTypeScript();
  rmSync(join(ROOT, '.gpu'), { recursive: true, force: true });
  mkdirSync(join(ROOT, '.gpu'));
  // Below a folder that git ignores, so that it is still there in the next call; `.gpu` itself is sent anew.
  const node = join(ROOT, '.cmake-build', 'packed-node', 'node');
  mkdirSync(dirname(node), { recursive: true });
  copyFileSync(process.execPath, node);
  run('strip', ['--strip-all', node]);
  const env = { ...process.env, XZ_OPT: XZ };
  const excluded = EXCLUDED.map((pattern) => `--exclude=${pattern}`);
  run('tar', ['-cJhf', pack, ...excluded, relative(ROOT, node), 'dist', ...folders, ...PACKED], { env });
  const commit = capture('git', ['rev-parse', '--short=10', 'HEAD'])?.trim() ?? 'unknown';
  const changes = capture('git', ['status', '--porcelain', '--untracked-files=no']);
  writeFileSync(join(ROOT, '.gpu', 'commit'), changes === '' ? commit : `${commit} with changes`);

  const total = statSync(pack).size + sizeOf(sent);
  console.log(
    `${mebibytes(statSync(pack).size)} of pack, ${mebibytes(sizeOf(sent))} of checkout, ${mebibytes(limit)} may travel`,
  );
  if (total > limit) {
    const largest = sent
      .map((file) => `${mebibytes(sizeOf([file]))} ${file}`)
      .sort((a, b) => parseFloat(b) - parseFloat(a));
    throw new UserError(
      `${mebibytes(total - limit)} too much; the largest files:\n${largest.slice(0, 8).join('\n')}`,
    );
  }
  console.log(
    'Now take what is packed out of the checkout that is sent, and bring it back afterwards:\n' +
      `  git switch --detach && git rm -rq ${[...PACKED, ...LEFT_OUT].join(' ')} && git commit -qnm 'As sent to the device'\n` +
      '  git switch -',
  );
});
