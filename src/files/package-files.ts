/**
 * Where this package is, and those of its files that no import names. The one place that says so: tracers (@vercel/nft, and
 * Next.js with it) follow paths that are joined from constants of one module, and nothing else.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ERROR_CODES, JitFluxError } from '../errors.js';

/** Bundles in the CommonJS format have no `import.meta.dirname`. */
const HERE = import.meta.dirname as string | undefined;

/** src/files/ and dist/files/ are equally deep. `||`, as @vercel/nft does not follow `??`. */
const ROOT = join(HERE || '', '..', '..');

/** Version of this package. Read first: without it this module is not where it belongs. */
export const VERSION: string = versionIn(HERE && ROOT);

/** The package's directory. */
export const PACKAGE_ROOT: string = unpacked(ROOT);

/** The threads' programs are built ones, also when this is run from its source. */
export const PACKAGE_FILES = {
  libtorch: unpacked(join(ROOT, 'libtorch.json')),
  models: unpacked(join(ROOT, 'models')),
  prebuilds: unpacked(join(ROOT, 'prebuilds')),
  pngWorker: unpacked(join(ROOT, 'dist', 'image', 'png-worker.js')),
  tokenizerWorker: unpacked(join(ROOT, 'dist', 'text', 'tokenizer-worker.js')),
};

/**
 * Electron shows what is unpacked from app.asar below app.asar as well, but there only its own functions can read it, and
 * not the dynamic linker.
 * @internal exported for tests
 */
export function unpacked(path: string): string {
  const outside = path.replace(/\.asar(?=\/)/, '.asar.unpacked');
  return existsSync(outside) ? outside : path;
}

/**
 * The version that the package.json of this package's directory says.
 * @throws ERR_JITFLUX_BUNDLED if there is none, or it is another package's
 * @internal exported for tests
 */
export function versionIn(root: string | undefined): string {
  if (root === undefined) throw bundledError();
  const path = join(root, 'package.json');
  let manifest: { name?: unknown; version?: unknown } | null;
  try {
    manifest = JSON.parse(readFileSync(path, 'utf8')) as typeof manifest;
  } catch (cause) {
    throw bundledError(path, cause);
  }
  if (manifest?.name !== 'jit-flux' || typeof manifest.version !== 'string') throw bundledError(path);
  return manifest.version;
}

/**
 * A file of {@link PACKAGE_FILES}, which is there.
 * @throws ERR_JITFLUX_BUNDLED
 */
export function shippedFile(path: string): string {
  if (!existsSync(path)) throw bundledError(path);
  return path;
}

/** @param path the file that is missing, where it is known */
function bundledError(path?: string, cause?: unknown): JitFluxError {
  const what = path === undefined ? '' : `: ${path} is missing, or another package's`;
  return new JitFluxError(
    ERROR_CODES.BUNDLED,
    `The code of jit-flux is apart from its files${what}. A bundler has taken it in, or its folder was copied in part. ` +
      'Leave jit-flux external, whole in node_modules: esbuild --external:jit-flux, webpack externals, Next.js ' +
      "serverExternalPackages: ['jit-flux'], Electron asarUnpack; its docs/install.md has the settings of each",
    path === undefined ? undefined : { path },
    cause === undefined ? undefined : { cause },
  );
}
