#!/usr/bin/env node
// The recipes of docs/install.md for bundlers, tracers and Yarn's Plug'n'Play, in small projects (test/package/bundlers)
// with pinned versions of the tools, which npm fetches into a temporary folder: some 300 MB. What cannot be fetched is
// skipped with the reason. Packs what is in prebuilds/, see `npm run prebuild`.
//   node scripts/test-bundlers.mjs [--only yarn|nft|esbuild|webpack|next|electron]... [--keep]
import { spawn } from 'node:child_process';
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
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
import { ensureLibTorch, ensureTypeScript } from './lib/steps.mjs';
import { ROOT, UserError, main, takeFlag, takeOption } from './lib/tools.mjs';

/** What was tested with these recipes; docs/install.md names them. */
const VERSIONS = {
  yarn: ['@yarnpkg/cli-dist@4.18.1'],
  nft: ['@vercel/nft@1.11.5'],
  esbuild: ['esbuild@0.28.2'],
  webpack: ['webpack@5.113.0', 'webpack-cli@7.3.1'],
  next: ['next@16.4.6', 'react@19.3.1', 'react-dom@19.3.1'],
  electron: ['@electron/asar@3.4.1', 'electron@45.5.0'],
};
const PROJECTS = join(ROOT, 'test', 'package', 'bundlers');
const BUNDLED = 'ERR_JITFLUX_BUNDLED';
const PREBUILT = ['jit-flux.node', 'libjit_flux_weights.so', 'libjit_flux_core.so'];

await main(async () => {
  const args = process.argv.slice(2);
  const keep = takeFlag(args, 'keep');
  /** @type {string[]} */
  const only = [];
  for (let name; (name = takeOption(args, 'only')) !== undefined;) only.push(name);
  const unknown = only.find((name) => !(name in VERSIONS));
  if (unknown !== undefined || args.length > 0)
    throw new UserError(`Unknown argument: ${unknown ?? args[0]}`);
  for (const name of PREBUILT)
    if (!existsSync(join(ROOT, 'prebuilds', 'linux-x64', name)))
      throw new UserError(`prebuilds/linux-x64/${name} is missing: run \`npm run prebuild\``);

  await inScratch('bundlers', keep, (scratch) => testBundlers(scratch, only));
});

/**
 * @param {string} scratch an empty folder
 * @param {string[]} only names of tools; none: all
 */
async function testBundlers(scratch, only) {
  ensureTypeScript();
  const { path: libtorch } = await ensureLibTorch();
  const env = { ...userEnvironment(), JIT_FLUX_LIBTORCH: libtorch, NEXT_TELEMETRY_DISABLED: '1' };
  const pack = ['pack', '--json', '--ignore-scripts', '--pack-destination', scratch];
  const [{ filename }] = JSON.parse(check('npm', pack, { env }));
  const tarball = join(scratch, filename);

  /** @type {Record<keyof VERSIONS, () => void | Promise<void>>} */
  const parts = { yarn, nft, esbuild, webpack, next, electron };
  for (const [name, part] of Object.entries(parts))
    if (only.length === 0 || only.includes(name)) await step(name, part);
  report();

  /**
   * A project with tools and, from the tarball, jit-flux.
   * @param {keyof VERSIONS} name
   * @param {string[]} [tools]
   * @param {string[]} [options] of npm
   */
  function project(name, tools = VERSIONS[name], options = ['--ignore-scripts']) {
    const directory = join(scratch, name);
    newProject(directory);
    const all = ['install', ...tools, tarball, ...options, '--prefer-offline', '--no-audit', '--no-fund'];
    const { status, stderr } = start('npm', all, { cwd: directory, env });
    if (status !== 0) throw new Skip(`${tools.join(', ')} cannot be fetched: ${lastLine(stderr)}`);
    say(tools.join(', '));
    for (const file of ['app.mjs', 'app.cjs']) copyFileSync(join(PROJECTS, file), join(directory, file));
    return directory;
  }

  /**
   * Runs a program that is as app.mjs.
   * @param {string} cwd
   * @param {string[]} args of Node
   */
  function generates(cwd, ...args) {
    const { png, prompts } = JSON.parse(check(process.execPath, args, { cwd, env }));
    if (!(png > 1000) || prompts !== 1)
      throw new Error(`${args.join(' ')}: ${png} bytes, ${prompts} prompts`);
    say(`node ${args.at(-1)}: ${png} bytes`);
  }

  /**
   * Runs a program that a bundler has taken away from the package's files, in a folder that has no node_modules.
   * @param {string} file
   */
  function saysThatItIsBundled(file) {
    const moved = join(mkdtempSync(join(scratch, 'moved-')), 'a', 'b');
    mkdirSync(moved, { recursive: true });
    const name = `bundle${file.slice(file.lastIndexOf('.'))}`;
    copyFileSync(file, join(moved, name));
    const program = `import('./${name}').catch(({ name, code }) => console.log(name, code))`;
    equal(check(process.execPath, ['--eval', program], { cwd: moved, env }), `JitFluxError ${BUNDLED}\n`);
    say(`${name}, with jit-flux in it: ${BUNDLED}`);
  }

  function yarn() {
    const tool = join(scratch, 'yarn-itself');
    newProject(tool);
    const fetched = start('npm', ['install', ...VERSIONS.yarn, '--ignore-scripts'], { cwd: tool, env });
    if (fetched.status !== 0) throw new Skip(`yarn cannot be fetched: ${lastLine(fetched.stderr)}`);
    const bin = join(tool, 'node_modules', '@yarnpkg', 'cli-dist', 'bin', 'yarn.js');
    const directory = join(scratch, 'yarn');
    newProject(directory);
    cpSync(join(PROJECTS, 'yarn'), directory, { recursive: true });
    copyFileSync(join(PROJECTS, 'app.mjs'), join(directory, 'app.mjs'));
    // Ends the search for a project in the folders above.
    writeFileSync(join(directory, 'yarn.lock'), '');
    check(process.execPath, [bin, 'add', tarball], { cwd: directory, env });
    if (existsSync(join(directory, 'node_modules'))) throw new Error('there is a node_modules');
    generates(directory, bin, 'node', 'app.mjs');
    generates(directory, '--require', './.pnp.cjs', '--loader', './.pnp.loader.mjs', 'app.mjs');
    const size = ['--width', '64', '--height', '64', '--steps', '2'];
    const command = [bin, 'jit-flux', 'generate', 'a red circle', ...size, '-o', 'picture.png', '--json'];
    check(process.execPath, command, { cwd: directory, env });
    equal(readFileSync(join(directory, 'picture.png')).toString('latin1', 1, 4), 'PNG');
    const doctor = JSON.parse(
      check(process.execPath, [bin, 'jit-flux', 'doctor', '--json'], { cwd: directory, env }),
    );
    equal(doctor.ok, true);
    say('yarn jit-flux generate, yarn jit-flux doctor');
  }

  function nft() {
    const directory = project('nft');
    const program = `
      import { nodeFileTrace } from '@vercel/nft';
      const { fileList } = await nodeFileTrace(['app.mjs', 'app.cjs']);
      console.log(JSON.stringify([...fileList]));`;
    const options = ['--input-type=module', '--eval', program];
    /** @type {string[]} */
    const files = JSON.parse(check(process.execPath, options, { cwd: directory, env }));
    const deployed = join(scratch, 'deployed');
    for (const file of files) cpSync(join(directory, file), join(deployed, file), { recursive: true });
    say(`${files.length} files`);
    generates(deployed, 'app.mjs');
    generates(deployed, 'app.cjs');
  }

  function esbuild() {
    const directory = project('esbuild', VERSIONS.esbuild, []);
    const bin = join(directory, 'node_modules', 'esbuild', 'bin', 'esbuild');
    for (const [file, format] of [
      ['app.mjs', 'esm'],
      ['app.cjs', 'cjs'],
    ]) {
      const options = [file, '--bundle', '--platform=node', `--format=${format}`, '--log-level=error'];
      const out = join('out', file);
      check(bin, [...options, '--external:jit-flux', `--outfile=${out}`], { cwd: directory, env });
      generates(directory, out);
      check(bin, [...options, `--outfile=bundled/${file}`], { cwd: directory, env });
      saysThatItIsBundled(join(directory, 'bundled', file));
    }
  }

  function webpack() {
    const directory = project('webpack');
    copyFileSync(join(PROJECTS, 'webpack.config.mjs'), join(directory, 'webpack.config.mjs'));
    const bin = join(directory, 'node_modules', 'webpack', 'bin', 'webpack.js');
    check(process.execPath, [bin], { cwd: directory, env });
    generates(directory, join('dist', 'app.mjs'));
    const config = `module.exports = { mode: 'production', target: 'node', entry: './app.cjs',
      output: { path: __dirname + '/bundled', filename: 'app.cjs' } };`;
    writeFileSync(join(directory, 'all.config.cjs'), config);
    check(process.execPath, [bin, '--config', 'all.config.cjs'], { cwd: directory, env });
    saysThatItIsBundled(join(directory, 'bundled', 'app.cjs'));
  }

  async function next() {
    // sharp and swc, which Next.js fetches, are packages without scripts.
    const directory = project('next');
    cpSync(join(PROJECTS, 'next'), directory, { recursive: true });
    const bin = join(directory, 'node_modules', 'next', 'dist', 'bin', 'next');
    for (const bundler of ['--turbopack', '--webpack']) {
      rmSync(join(directory, '.next'), { recursive: true, force: true });
      check(process.execPath, [bin, 'build', bundler], { cwd: directory, env });
      const served = join(scratch, `standalone${bundler}`);
      cpSync(join(directory, '.next', 'standalone'), served, { recursive: true, verbatimSymlinks: true });
      say(`next build ${bundler}: ${await fetchPicture(served)} bytes from the standalone server`);
      rmSync(served, { recursive: true });
    }
    writeFileSync(join(directory, 'next.config.mjs'), "export default { output: 'standalone' };\n");
    const { status, stdout, stderr } = start(process.execPath, [bin, 'build'], { cwd: directory, env });
    if (status === 0 || !`${stdout}${stderr}`.includes(BUNDLED))
      throw new Error(`next build without serverExternalPackages ended with ${status}`);
    say(`next build without serverExternalPackages: ${BUNDLED}`);
  }

  /**
   * Bytes of the PNG that the standalone server in a folder answers.
   * @param {string} directory
   */
  async function fetchPicture(directory) {
    const port = await freePort();
    const server = spawn(process.execPath, ['server.js'], {
      cwd: directory,
      env: { ...env, PORT: String(port), HOSTNAME: '127.0.0.1' },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let errors = '';
    server.stderr.setEncoding('utf8').on('data', (text) => (errors += text));
    const ended = new Promise((resolve) => server.once('exit', resolve));
    try {
      const url = `http://127.0.0.1:${port}/api/picture`;
      let response;
      while (response === undefined && server.exitCode === null) {
        response = await fetch(url).catch(() => undefined);
        if (response === undefined) await sleep(200);
      }
      const bytes = Buffer.from((await response?.arrayBuffer()) ?? new ArrayBuffer(0));
      if (response?.status !== 200 || bytes.toString('latin1', 1, 4) !== 'PNG')
        throw new Error(`the server answered ${response?.status}: ${errors.slice(0, 2000)}`);
      return bytes.length;
    } finally {
      server.kill();
      await ended;
    }
  }

  function electron() {
    const [asar, binary] = VERSIONS.electron;
    const directory = project('electron', [asar]);
    const app = join(scratch, 'electron-app');
    mkdirSync(app);
    for (const name of ['app.mjs', 'package.json']) copyFileSync(join(directory, name), join(app, name));
    const modules = join(app, 'node_modules');
    mkdirSync(modules);
    for (const name of readdirSync(join(directory, 'node_modules')))
      if (!/^\.|^@electron$/.test(name))
        cpSync(join(directory, 'node_modules', name), join(modules, name), { recursive: true });
    const archive = join(scratch, 'resources', 'app.asar');
    const bin = join(directory, 'node_modules', '@electron', 'asar', 'bin', 'asar.js');
    check(process.execPath, [bin, 'pack', app, archive, '--unpack-dir', '**/node_modules'], { env });
    // Threads start outside the archive, and find their packages there.
    const unpacked = `${archive}.unpacked`;
    copyFileSync(join(PROJECTS, 'app.mjs'), join(unpacked, 'app.mjs'));
    generates(unpacked, 'app.mjs');
    rmSync(join(unpacked, 'app.mjs'));

    const runtime = join(scratch, 'electron-itself');
    newProject(runtime);
    const fetched = start('npm', ['install', binary, '--ignore-scripts'], { cwd: runtime, env });
    const path = join(runtime, 'node_modules', 'electron');
    const installed =
      fetched.status === 0
        ? start(process.execPath, [join(path, 'install.js')], { cwd: path, env })
        : fetched;
    if (installed.status !== 0)
      throw new Skip(
        `the archive is as it should be, but Electron cannot be fetched: ${lastLine(installed.stderr)}`,
      );
    const program = join(path, 'dist', readFileSync(join(path, 'path.txt'), 'utf8').trim());
    const output = check(program, [join(archive, 'app.mjs')], {
      cwd: scratch,
      env: { ...env, ELECTRON_RUN_AS_NODE: '1' },
    });
    say(`Electron: ${output.trim()}`);
  }
}

/** @returns {Promise<number>} */
function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer().once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0));
    });
  });
}
