/** Test runners run their files in contexts of node:vm, which have other globals than the process. */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { PACKAGE_ROOT } from '../../src/files/package-files.js';
import { temporaryDirectory } from '../support/fake-libtorch.js';

/** Of a test of the inner run; vitest's own five seconds are too few where other work is going on. */
const TIMEOUT = 60_000;

const PROGRAM = `
import { BUNDLED_MODEL, FluxPipeline, JitFluxError, Tensor } from ${JSON.stringify(join(PACKAGE_ROOT, 'dist', 'index.js'))};

it('generates', async () => {
  const pipeline = await FluxPipeline.load(BUNDLED_MODEL);
  try {
    const request = { prompt: 'a red circle', width: 64, height: 64, steps: 2, seed: 1 };
    const { images } = await pipeline.generate({ ...request, signal: AbortSignal.timeout(60_000), onStep() {} });
    expect(Buffer.compare(await images[0].toPNGAsync(), images[0].toPNG())).toBe(0);
    await expect(pipeline.generate({ ...request, signal: AbortSignal.abort() })).rejects.toThrow(JitFluxError);
    const { latents } = await pipeline.generate({ ...request, output: 'latent' });
    latents[Symbol.dispose]();
    expect(latents.disposed).toBe(true);
  } finally {
    await pipeline[Symbol.asyncDispose]();
  }
});
`;

it.each(['vmThreads', 'vmForks'])(
  'jit-flux works in vitest with pool %s',
  (pool) => {
    const root = temporaryDirectory();
    const config = {
      test: {
        pool,
        globals: true,
        testTimeout: TIMEOUT,
        include: ['*.test.mjs'],
        server: { deps: { external: ['/dist/'] } },
      },
    };
    writeFileSync(join(root, 'vitest.config.mjs'), `export default ${JSON.stringify(config)};\n`);
    // Two contexts of one process after one another.
    for (const name of ['first.test.mjs', 'second.test.mjs']) writeFileSync(join(root, name), PROGRAM);
    const vitest = join(PACKAGE_ROOT, 'node_modules', 'vitest', 'vitest.mjs');
    const output = execFileSync(
      process.execPath,
      [vitest, 'run', '--root', root, '--reporter', 'json', '--no-file-parallelism'],
      { cwd: root, encoding: 'utf8', env: { ...process.env, VITEST: '', NODE_OPTIONS: '' } },
    );
    const { numPassedTests, success } = JSON.parse(output) as { numPassedTests: number; success: boolean };
    expect([numPassedTests, success]).toEqual([2, true]);
  },
  3 * TIMEOUT,
);
