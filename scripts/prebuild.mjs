#!/usr/bin/env node
// Fills prebuilds/ with what the npm package ships, by prebuildify and binding.gyp: linux-x64, and linux-x64-cuda with
// --cuda or where a CUDA build (build/Cuda) exists; --no-cuda leaves it out. Stripped, and checked by check-binary. What
// was in prebuilds/ before is gone.
//   node scripts/prebuild.mjs [--cuda | --no-cuda]
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { compiledModule } from './lib/steps.mjs';
import { ROOT, UserError, log, main, run, takeFlag, toolPath } from './lib/tools.mjs';

const PREBUILDS = join(ROOT, 'prebuilds');
const BUILD = join(ROOT, 'build');
const WORK = join(ROOT, '.cmake-build');
const PLATFORM = 'linux-x64';

await main(async () => {
  const args = process.argv.slice(2);
  const [wanted, unwanted] = [takeFlag(args, 'cuda'), takeFlag(args, 'no-cuda')];
  const cuda = !unwanted && (wanted || existsSync(join(BUILD, 'Cuda', 'libjit_flux_cuda.so')));
  const variants = cuda ? ['cpu', 'cuda'] : ['cpu'];
  if (args.length > 0) throw new UserError(`Unknown argument: ${args[0]}`);
  const { minorVersion, readManifest } = await compiledModule('libtorch/libtorch');
  const { defaultVariant, variants: pinned } = readManifest();
  mkdirSync(WORK, { recursive: true });
  const work = mkdtempSync(join(WORK, 'prebuild-'));
  const aside = join(work, 'build');
  // node-gyp deletes build/, where the libraries of the checkout are.
  if (existsSync(BUILD)) renameSync(BUILD, aside);
  rmSync(PREBUILDS, { recursive: true, force: true });
  mkdirSync(PREBUILDS);
  try {
    for (const variant of variants) {
      const isCuda = variant === 'cuda';
      prebuildify(work, isCuda);
      const built = readJson(join(BUILD, 'Release', 'jit_flux.build.json')).libtorch;
      const [, promised] =
        Object.entries(pinned).find(([name, { cuda = false }]) =>
          isCuda ? cuda : name === defaultVariant,
        ) ?? [];
      if (promised === undefined) throw new Error(`libtorch.json has no variant for ${variant}`);
      const { version } = promised;
      if (minorVersion(built) !== minorVersion(version))
        throw new UserError(
          `Built against LibTorch ${built}, but the package promises ${version}: unset JIT_FLUX_LIBTORCH and LIBTORCH`,
        );
      const target = join(PREBUILDS, isCuda ? `${PLATFORM}-cuda` : PLATFORM);
      renameSync(join(work, 'prebuilds', PLATFORM), target);
    }
  } finally {
    rmSync(BUILD, { recursive: true, force: true });
    if (existsSync(aside)) renameSync(aside, BUILD);
    rmSync(work, { recursive: true, force: true });
  }
  const built = variants.map((variant) =>
    join(PREBUILDS, variant === 'cuda' ? `${PLATFORM}-cuda` : PLATFORM),
  );
  run(process.execPath, [join(ROOT, 'scripts', 'check-binary.mjs'), ...built], { name: 'check-binary' });
  for (const directory of built)
    for (const name of readdirSync(directory)) {
      const file = join(directory, name);
      log(`${relative(ROOT, file)}: ${(statSync(file).size / 1e6).toFixed(2)} MB`);
    }
});

/**
 * Builds through binding.gyp and puts the stripped libraries into <out>/prebuilds/linux-x64.
 * @param {string} out
 * @param {boolean} cuda
 */
function prebuildify(out, cuda) {
  const tool = toolPath('prebuildify', 'bin.js');
  const options = ['--napi', '--strip', '--target', process.versions.node, '--arch', 'x64', '--out', out];
  /** @type {NodeJS.ProcessEnv} */
  const env = { ...process.env, ...(cuda && { GYP_DEFINES: 'jit_flux_cuda=1' }) };
  // node-gyp would download headers that nothing uses: CMake has its own.
  const prefix = dirname(dirname(process.execPath));
  if (existsSync(join(prefix, 'include', 'node', 'common.gypi'))) env.npm_config_nodedir = prefix;
  run(process.execPath, [tool, ...options], { name: 'prebuildify', env });
}

/** @param {string} path */
function readJson(path) {
  return JSON.parse(readFileSync(path, 'utf8'));
}
