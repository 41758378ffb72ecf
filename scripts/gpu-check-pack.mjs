#!/usr/bin/env node
// Makes .gpu/, which travels to a lent GPU machine beside the tracked files: Node, the headers of the Node-API, vitest
// and the run-time dependencies, the compiled TypeScript, and the repository's large files compressed. That machine has
// neither Node nor a network; scripts/gpu-check unpacks there. See docs/gpu/README.md.
//   node scripts/gpu-check-pack.mjs [--thin] [--leave-out PATH]... [--limit MIB]
//   node scripts/gpu-check-pack.mjs --restore
// --thin empties the tracked files that are in the pack (or left out), so that they do not travel twice: the repository
// alone is as large as what may be sent. --restore brings them back from git; nothing else puts them right.
import { createHash } from 'node:crypto';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import {
  LEFT_OUT,
  LIMIT_BYTES,
  dependencyClosure,
  divideTracked,
  mebibytes,
  packageFiles,
  weigh,
} from './lib/gpu-pack.mjs';
import { ensureTypeScript } from './lib/steps.mjs';
import { ROOT, UserError, capture, log, main, run, takeFlag, takeOption, toolPath } from './lib/tools.mjs';

const PACK = join(ROOT, '.gpu');
/** Compressed parts by the digest of what is in them: making them takes minutes, most of it for Node. */
const CACHE = join(ROOT, '.cmake-build', 'gpu-pack');
const THINNED = join(PACK, 'thinned.json');
// One block and a dictionary that spans all of it: the same weights are in the repository in three formats.
const XZ = ['-T1', '--x86', '--lzma2=preset=6,dict=96MiB'];

await main(async () => {
  const args = process.argv.slice(2);
  const thin = takeFlag(args, 'thin');
  const restore = takeFlag(args, 'restore');
  const leftOut = [...LEFT_OUT];
  for (let path; (path = takeOption(args, 'leave-out')) !== undefined;) leftOut.push(path);
  const limit = Number(takeOption(args, 'limit', LIMIT_BYTES / 2 ** 20)) * 2 ** 20;
  if (args.length > 0) throw new UserError(`Unknown argument: ${args[0]}`);
  if (restore) return restoreThinned();
  if (existsSync(THINNED)) restoreThinned();
  await pack({ thin, leftOut, limit });
});

async function pack({ thin, leftOut, limit }) {
  const started = performance.now();
  ensureTypeScript();
  mkdirSync(CACHE, { recursive: true });
  mkdirSync(PACK, { recursive: true });
  const tracked = trackedFiles();
  const { plain, packed, leftOut: absent } = divideTracked(tracked, { leftOut });
  const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
  const packages = dependencyClosure(ROOT, ['vitest', ...Object.keys(manifest.dependencies)]);

  // Packed side by side. Node by itself: it changes least and takes longest.
  const node = archive('node.tar.xz', [
    { from: process.execPath, to: 'node/bin/node', strip: true },
    ...[join(process.execPath, '..', '..', 'LICENSE'), '/usr/share/doc/nodejs/copyright']
      .filter(existsSync)
      .slice(0, 1)
      .map((from) => ({ from, to: 'node/LICENSE' })),
  ]);
  const modules = archive('modules.tar.xz', [
    ...packages.flatMap(({ path }) => {
      const directory = join(ROOT, 'node_modules', path);
      return packageFiles(directory).map((file) => ({
        from: join(directory, file),
        to: `node_modules/${path}/${file}`,
      }));
    }),
    ...headers(),
  ]);
  const files = archive(
    'files.tar.xz',
    packed.map(({ path }) => ({ from: join(ROOT, path), to: path })),
  );
  const compiled = archive(
    'dist.tar.xz',
    readdirSync(join(ROOT, 'dist'), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile() && /\.(js|json)$/.test(entry.name))
      .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)))
      .map((path) => ({ from: join(ROOT, path), to: path })),
  );

  const parts = await Promise.all([node, modules, files, compiled]);
  for (const { name, cached } of parts) copyFileSync(cached, join(PACK, name));
  for (const name of readdirSync(PACK)) {
    if (!parts.some((part) => part.name === name)) rmSync(join(PACK, name), { recursive: true });
  }
  const description = {
    jitFlux: manifest.version,
    commit: capture('git', ['rev-parse', 'HEAD'])?.trim() ?? 'unknown',
    modified: Boolean(capture('git', ['status', '--porcelain', '--untracked-files=no'])?.trim()),
    node: process.version,
    packages: Object.fromEntries(packages.map(({ path, version }) => [path, version])),
    nodeApiHeaders: headerVersions(),
    parts: parts.map(({ name, size, contents }) => ({ name, size, contents })),
    // dist/ was made from these: gpu-check refuses to run one against other sources.
    sources: sourceDigest(tracked),
    packedFiles: packed.map(({ path, size }) => ({ path, size })),
    leftOutFiles: absent.map(({ path, size }) => ({ path, size })),
  };
  writeFileSync(join(PACK, 'pack.json'), `${JSON.stringify(description, null, 2)}\n`);
  // For the shell, which unpacks before there is anything that reads JSON.
  writeFileSync(join(PACK, 'packed.txt'), packed.map(({ path }) => `${path}\n`).join(''));

  const untracked = untrackedFiles();
  const weight = weigh(
    [
      ...parts.map(({ name, size }) => ({ name: `.gpu/${name}`, size })),
      { name: '.gpu/pack.json', size: statSync(join(PACK, 'pack.json')).size },
      ...[...plain, ...untracked].map(({ path, size }) => ({ name: path, size })),
    ],
    limit,
  );
  const sizeOf = (list) => list.reduce((sum, { size }) => sum + size, 0);
  console.log(
    [
      `commit ${description.commit.slice(0, 10)}${description.modified ? ', modified' : ''}; Node ${process.version}, ` +
        `vitest ${description.packages.vitest}, ${packages.length} packages`,
      ...parts.map(
        ({ name, size, fresh }) => `  .gpu/${name}  ${mebibytes(size)}${fresh ? '' : ' (as before)'}`,
      ),
      `  ${plain.length} tracked files as they are  ${mebibytes(sizeOf(plain))}`,
      `  ${untracked.length} files that git neither tracks nor ignores  ${mebibytes(sizeOf(untracked))}`,
      `  in the pack: ${packed.length} tracked files of ${mebibytes(sizeOf(packed))}; ` +
        `left out: ${absent.length} of ${mebibytes(sizeOf(absent))}`,
      `travels: ${mebibytes(weight.total)} of ${mebibytes(limit)}, ${mebibytes(weight.left)} left; ` +
        `${((performance.now() - started) / 1000).toFixed(0)} s`,
    ].join('\n'),
  );
  if (!weight.fits) {
    throw new UserError(
      `${mebibytes(-weight.left)} too much. The largest:\n` +
        `${weight.largest.map(({ name, size }) => `  ${mebibytes(size).padStart(10)}  ${name}`).join('\n')}\n` +
        'Leave out what the device does not need: --leave-out test/fixtures/e2e/',
    );
  }
  if (thin) thinOut([...packed, ...absent]);
  else {
    console.log(
      `Without --thin the tracked files travel whole: ${mebibytes(weight.total + sizeOf(packed) + sizeOf(absent))}`,
    );
  }
}

/** The headers that CMake needs, as cmake-js would find them. */
function headers() {
  return Object.entries(headerDirectories()).flatMap(([name, directory]) =>
    readdirSync(directory)
      .filter((file) => /\.h$/.test(file))
      .map((file) => ({ from: join(directory, file), to: `include/${name}/${file}` })),
  );
}

function headerDirectories() {
  const require = createRequire(join(ROOT, 'package.json'));
  const ofCmakeJs = createRequire(toolPath('cmake-js', 'package.json'));
  return {
    'node-api-headers': ofCmakeJs('node-api-headers').include_dir,
    'node-addon-api': join(require.resolve('node-addon-api/package.json'), '..'),
  };
}

function headerVersions() {
  const version = (path) => JSON.parse(readFileSync(path, 'utf8')).version;
  const { 'node-api-headers': api, 'node-addon-api': addon } = headerDirectories();
  return {
    'node-api-headers': version(join(api, '..', 'package.json')),
    'node-addon-api': version(join(addon, 'package.json')),
  };
}

/**
 * Packs files into .cmake-build/gpu-pack/<digest>-<name> unless that is there. The same files give the same bytes.
 * @param {string} name
 * @param {{ from: string, to: string, strip?: boolean }[]} entries
 */
async function archive(name, entries) {
  const sorted = [...entries].sort((a, b) => (a.to < b.to ? -1 : 1));
  const hash = createHash('sha256').update(JSON.stringify(XZ));
  for (const { from, to, strip } of sorted)
    hash
      .update(`${to}\0${strip ?? false}\0`)
      .update(createHash('sha256').update(readFileSync(from)).digest());
  const contents = hash.digest('hex');
  const cached = join(CACHE, `${contents.slice(0, 16)}-${name}`);
  const fresh = !existsSync(cached);
  if (fresh) {
    log(`packing ${name}: ${sorted.length} files`);
    const staging = mkdtempSync(join(tmpdir(), 'jit-flux-pack-'));
    try {
      for (const { from, to, strip } of sorted) {
        mkdirSync(join(staging, to, '..'), { recursive: true });
        copyFileSync(from, join(staging, to));
        if (strip) run('strip', ['--strip-all', join(staging, to)]);
      }
      const list = join(staging, '.list');
      writeFileSync(list, sorted.map(({ to }) => `${to}\n`).join(''));
      const temporary = `${cached}.${process.pid}`;
      const options = '--mtime=@0 --owner=0 --group=0 --numeric-owner --format=gnu';
      const command = `tar -C "$1" ${options} --mode=u=rwX,go=rX -cf - -T "$1/.list" | xz ${XZ.join(' ')} -c > "$2"`;
      const child = spawn('bash', ['-c', `set -o pipefail; ${command}`, 'bash', staging, temporary], {
        stdio: 'inherit',
      });
      const [status] = await once(child, 'close');
      if (status !== 0) throw new UserError(`tar and xz could not make ${name}`);
      renameSync(temporary, cached);
    } finally {
      rmSync(staging, { recursive: true, force: true });
    }
    // What this replaces will not be asked for again.
    for (const other of readdirSync(CACHE)) {
      if (other.endsWith(`-${name}`) && join(CACHE, other) !== cached) rmSync(join(CACHE, other));
    }
  }
  return { name, cached, size: statSync(cached).size, contents, fresh };
}

function trackedFiles() {
  return sized(capture('git', ['ls-files', '-z']) ?? fail('This is no git checkout'));
}

function untrackedFiles() {
  return sized(capture('git', ['ls-files', '-z', '--others', '--exclude-standard']) ?? '');
}

function sized(list) {
  return list
    .split('\0')
    .filter((path) => path !== '' && existsSync(join(ROOT, path)) && lstatSync(join(ROOT, path)).isFile())
    .map((path) => ({ path, size: statSync(join(ROOT, path)).size }));
}

/** As scripts/gpu-check computes it, without git. */
function sourceDigest(tracked) {
  const hash = createHash('sha256');
  const paths = tracked.map(({ path }) => path).filter((path) => path.startsWith('src/'));
  for (const path of paths.sort()) hash.update(`${path}\0`).update(readFileSync(join(ROOT, path)));
  return hash.digest('hex');
}

function thinOut(files) {
  const changed = capture('git', ['status', '--porcelain', '-z', '--', ...files.map(({ path }) => path)]);
  if (changed === undefined || changed !== '')
    throw new UserError(
      'Large tracked files have changes that git does not hold; commit them before --thin:\n' +
        (changed ?? '').split('\0').join('\n'),
    );
  const paths = files.map(({ path }) => path);
  // Written first: from here on --restore knows what to do. The flag keeps `git commit -a` from taking the empty files.
  writeFileSync(THINNED, JSON.stringify(paths));
  run('git', ['update-index', '--skip-worktree', '--', ...paths]);
  for (const path of paths) truncateSync(join(ROOT, path), 0);
  console.log(
    `${paths.length} tracked files are empty now. After the last call on the device:\n` +
      '  node scripts/gpu-check-pack.mjs --restore',
  );
}

function restoreThinned() {
  if (!existsSync(THINNED)) {
    console.log('Nothing was thinned out');
    return;
  }
  const paths = JSON.parse(readFileSync(THINNED, 'utf8'));
  run('git', ['update-index', '--no-skip-worktree', '--', ...paths]);
  run('git', ['checkout', '--', ...paths]);
  rmSync(THINNED);
  console.log(`${paths.length} tracked files are back`);
}

function fail(message) {
  throw new UserError(message);
}
