import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import type { Api, Main, Sampler } from './family.js';

/** What a process of its own calls: the built package, in an empty folder that is the working directory and goes with it. */
export async function openApi(): Promise<Api> {
  const root = process.env['JIT_FLUX_PROPERTY_ROOT']!;
  const scratch = mkdtempSync(join(tmpdir(), 'jit-flux-property-'));
  process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));
  process.chdir(scratch);
  return {
    main: (await import(`${root}/dist/index.js`)) as Main,
    sampler: (await import(`${root}/dist/sampler/index.js`)) as Sampler,
    root,
    scratch,
  };
}
