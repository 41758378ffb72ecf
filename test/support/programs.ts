/** Where the programs and libraries for tests are, which are not beside the package's own libraries. */
import { join } from 'node:path';
import { PACKAGE_ROOT } from '../../src/files/package-files.js';

/** Of the ordinary build, or of the instrumented one that a script of scripts/ has made. */
export const PROGRAMS =
  process.env.JIT_FLUX_TEST_PROGRAMS ?? join(PACKAGE_ROOT, '.cmake-build', 'Release', 'out');
