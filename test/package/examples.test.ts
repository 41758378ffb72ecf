/** Every program in examples/ runs. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), 'jit-flux-examples-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

it.each(readdirSync(join(root, 'examples')).filter((name) => name.endsWith('.mjs')))('%s', (name) => {
  const output = join(scratch, 'example.png');
  const result = spawnSync(process.execPath, [join(root, 'examples', name), output], { encoding: 'utf8' });
  expect(result.stderr).toBe('');
  expect(result.status).toBe(0);
  if (name === 'generate.mjs') expect(existsSync(output)).toBe(true);
  else expect(result.stdout).toMatch(/step 10: sigma 0\.091, 256 tokens, rms error 0\.000/);
});

it.each([
  ['import', "import('jit-flux').then((m) => console.log(typeof m.FluxPipeline, typeof m.createPlan))"],
  ['require', "const m = require('jit-flux'); console.log(typeof m.FluxPipeline, typeof m.createPlan)"],
  [
    'the sampler alone',
    "import('jit-flux/sampler').then((m) => console.log(typeof m.SamplerCore, typeof m.createPlan))",
  ],
])('loads by %s without touching native code', (_, program) => {
  const result = spawnSync(process.execPath, ['-e', program], {
    cwd: root,
    encoding: 'utf8',
    // No native library can be found here: loading one would fail.
    env: { ...process.env, JIT_FLUX_BUILD_DIR: scratch },
  });
  expect(result.stderr.replace(/\(node:.*ExperimentalWarning[^]*/, '')).toBe('');
  expect(result.stdout.trim()).toBe('function function');
});
