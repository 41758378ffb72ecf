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

/** What every program must print; the server has a test file of its own. */
const PROGRAMS: Record<string, (stdout: string) => void> = {
  'activation-policy.mjs': (stdout) => {
    expect(stdout).toMatch(/^stage 1: 81 -> 153 of 256 tokens\nstage 0: 153 -> 256 of 256 tokens\n/);
    const distances = [...stdout.matchAll(/^(own policy|importance|grid): (\d+\.\d) from dense$/gm)];
    expect(distances.map(([, name]) => name)).toEqual(['own policy', 'importance', 'grid']);
    for (const [, , distance] of distances) {
      expect(Number(distance)).toBeGreaterThan(0);
      expect(Number(distance)).toBeLessThan(60);
    }
  },
  'custom-sampler.mjs': (stdout) =>
    expect(stdout).toMatch(/step 10: sigma 0\.091, 256 tokens, rms error 0\.000/),
  'generate.mjs': (stdout) => expect(stdout).toMatch(/^step 18\/18, stage 0: 256 of 256 tokens$/m),
  'heun-sampler.mjs': (stdout) => {
    const lines = [...stdout.matchAll(/: (\d+) tokens evaluated, .* (\d+\.\d+)$/gm)];
    const results = lines.map(([, tokens, rms]) => ({ tokens: Number(tokens), rms: Number(rms) }));
    expect(results.map(({ tokens }) => tokens)).toEqual([8 * 256, 15 * 256, 15 * 256, 2664]);
    const [euler, , heun, sparse] = results.map(({ rms }) => rms) as [number, number, number, number];
    expect(euler).toBeGreaterThan(0);
    expect(heun).toBeLessThan(0.8 * euler);
    // Another picture, but one of the same latents' size.
    expect(sparse).toBeLessThan(1);
  },
  // Its argument is the prompt.
  'preview.mjs': (stdout) => {
    const likeness = [...stdout.matchAll(/^step \d+: (\S+) dB from the picture$/gm)].map(([, dB]) =>
      Number(dB),
    );
    expect(likeness).toHaveLength(11);
    expect(likeness.at(-1)).toBe(Infinity);
    expect(likeness[9]).toBeGreaterThan(likeness[0]!);
  },
  'other-backbone.mjs': (stdout) => {
    const found = [
      ...stdout.matchAll(/^seed \d: (\w+), rms error 0\.000, (\d+) of 4608 tokens evaluated$/gm),
    ];
    expect(found).toHaveLength(6);
    expect(new Set(found.map(([, name]) => name)).size).toBeGreaterThan(1);
    for (const [, , evaluated] of found) expect(Number(evaluated)).toBeLessThan(0.7 * 4608);
  },
};

it.each(readdirSync(join(root, 'examples')).filter((name) => name !== 'server.mjs'))('%s', (name) => {
  const output = join(scratch, `${name}.png`);
  const result = spawnSync(process.execPath, [join(root, 'examples', name), output], { encoding: 'utf8' });
  expect(result.stderr).toBe('');
  expect(result.status).toBe(0);
  expect(PROGRAMS).toHaveProperty([name]);
  PROGRAMS[name]?.(result.stdout);
  if (name === 'generate.mjs' || name === 'activation-policy.mjs') expect(existsSync(output)).toBe(true);
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
