import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** The package's directory; src/files/ and dist/files/ are equally deep. */
export const PACKAGE_ROOT = packageRoot(fileURLToPath(new URL('../..', import.meta.url)));

/**
 * Electron shows what is unpacked from app.asar below app.asar as well, but there only its own functions can read it, and
 * not the dynamic linker.
 * @internal exported for tests
 */
export function packageRoot(directory: string): string {
  const unpacked = directory.replace(/\.asar(?=\/)/, '.asar.unpacked');
  return existsSync(unpacked) ? unpacked : directory;
}
