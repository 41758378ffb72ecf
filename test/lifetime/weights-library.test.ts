/** libjit_flux_weights.so in processes without LibTorch, in worker threads, and beside the core. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { NODE } from '../support/program.js';
import { SLOWNESS } from '../support/slowness.js';
import { fixturePath } from '../support/safetensors.js';

const dist = (path: string): string => new URL(`../../dist/${path}`, import.meta.url).href;
const CLI = new URL('../../dist/cli/main.js', import.meta.url).pathname;
const NANO = fixturePath('flux/flux-nano.safetensors');
const directory = mkdtempSync(join(tmpdir(), 'jit-flux-'));

/** No LibTorch anywhere: neither named, nor in a cache, nor in a Python. */
const HIDDEN = {
  ...process.env,
  HOME: directory,
  XDG_CACHE_HOME: directory,
  JIT_FLUX_CACHE: directory,
  JIT_FLUX_LIBTORCH: join(directory, 'nowhere'),
  JIT_FLUX_PYTHON: join(directory, 'no-python'),
};

function run(args: string[], env: NodeJS.ProcessEnv = HIDDEN) {
  return spawnSync(NODE, args, { encoding: 'utf8', timeout: 60_000 * SLOWNESS, env });
}
const source = (text: string): string[] => ['--input-type=module', '--eval', text];
const IMPORT = `
  const { describeWeights } = await import(${JSON.stringify(dist('engine/describe.js'))});
  const nano = ${JSON.stringify(NANO)};
`;

describe('without LibTorch', () => {
  it('the core is not to be had', () => {
    const result = run(
      source(`
        const { engineInfo } = await import(${JSON.stringify(dist('engine/engine.js'))});
        try { engineInfo(); } catch (error) { console.log(error.code); }`),
    );
    expect(result.stdout).toBe('ERR_JITFLUX_LIBTORCH_NOT_FOUND\n');
  });

  it('inspect and convert work', () => {
    const inspected = run([CLI, 'inspect', NANO, '--json']);
    expect(inspected.stderr).toBe('');
    expect(JSON.parse(inspected.stdout)).toMatchObject({ layout: 'diffusers', config: { heads: 2 } });
    const output = join(directory, 'nano.pt');
    expect(run([CLI, 'convert', NANO, output])).toMatchObject({ status: 0 });
    expect(run([CLI, 'inspect', output]).stdout).toContain('torchscript');
  });

  it('describeWeights and componentMemory work, and LibTorch is not loaded', () => {
    const result = run(
      source(`${IMPORT}
        const { part, parameters } = await describeWeights(nano);
        const maps = (await import('node:fs')).readFileSync('/proc/self/maps', 'utf8');
        console.log(JSON.stringify({ part, parameters, torch: /torch|libc10|gomp/.test(maps) }));`),
    );
    expect(JSON.parse(result.stdout)).toEqual({ part: 'transformer', parameters: 80_768, torch: false });
  });

  it('conversions can be aborted, also by a callback that throws', () => {
    const result = run(
      source(`
        const { convertModel } = await import(${JSON.stringify(dist('convert/index.js'))});
        const mini = ${JSON.stringify(fixturePath('flux/flux-mini.safetensors'))};
        const output = ${JSON.stringify(join(directory, 'aborted.pt'))};
        const controller = new AbortController();
        const attempts = [
          { signal: controller.signal, onProgress: () => controller.abort() },
          { onProgress: () => { throw new RangeError('mine'); } },
        ];
        for (const options of attempts)
          await convertModel(mini, output, options).catch((error) => console.log(error.code ?? error.name));`),
    );
    expect(result.stdout).toBe('ERR_JITFLUX_ABORTED\nRangeError\n');
  });
});

describe('the end', () => {
  it('of a process with work in flight is in order', () => {
    const work = `${IMPORT} for (let i = 0; i < 200; i++) describeWeights(nano).catch(() => {});`;
    expect(run(source(`${work} process.exit(7);`))).toMatchObject({ status: 7, signal: null, stderr: '' });
    expect(run(source(`${work} await describeWeights(nano);`))).toMatchObject({ status: 0, signal: null });
  });

  it.each(['terminate', 'process.exit', 'return'])('of worker threads by %s', (end) => {
    const worker = `${IMPORT}
      const { parentPort } = await import('node:worker_threads');
      const { part } = await describeWeights(nano);
      parentPort.postMessage(part);
      ${end === 'return' ? '' : 'for (let i = 0; i < 200; i++) describeWeights(nano).catch(() => {});'}
      ${end === 'process.exit' ? 'process.exit(0);' : ''}`;
    const result = run(
      source(`
        const { Worker } = await import('node:worker_threads');
        const url = new URL('data:text/javascript,' + encodeURIComponent(${JSON.stringify(worker)}));
        for (let round = 0; round < 3; round++) {
          await Promise.all([1, 2, 3, 4].map(() => new Promise((resolve, reject) => {
            const worker = new Worker(url).on('error', reject).on('exit', resolve);
            worker.once('message', () => { if (${JSON.stringify(end)} === 'terminate') worker.terminate(); });
          })));
        }
        console.log('ended');`),
    );
    expect(result).toMatchObject({ status: 0, signal: null, stdout: 'ended\n', stderr: '' });
  });

  // What it leaves behind only scripts/test-asan.mjs sees.
  it('of a worker thread with conversions that report their progress', () => {
    const worker = `
      const { parentPort } = await import('node:worker_threads');
      const { convertModel } = await import(${JSON.stringify(dist('convert/index.js'))});
      const mini = ${JSON.stringify(fixturePath('flux/flux-mini.safetensors'))};
      const onProgress = () => parentPort.postMessage('begun');
      for (let i = 0; i < 20; i++)
        convertModel(mini, ${JSON.stringify(join(directory, 'ended'))} + i + '.pt', { onProgress }).catch(() => {});`;
    const result = run(
      source(`
        const { Worker } = await import('node:worker_threads');
        const url = new URL('data:text/javascript,' + encodeURIComponent(${JSON.stringify(worker)}));
        await new Promise((resolve, reject) => {
          const worker = new Worker(url).on('error', reject).on('exit', resolve);
          worker.once('message', () => worker.terminate());
        });
        console.log('ended');`),
    );
    expect(result).toMatchObject({ status: 0, signal: null, stdout: 'ended\n', stderr: '' });
  });
});

describe('beside the core', () => {
  it.each(['core first', 'weights library first'])('in one thread, %s', (order) => {
    const describeIt = `console.log((await describeWeights(nano)).part);`;
    const load = `
      const { FluxTransformer } = await import(${JSON.stringify(dist('engine/index.js'))});
      const model = await FluxTransformer.load(nano);
      console.log(model.config.heads);`;
    const both = order === 'core first' ? load + describeIt : describeIt + load;
    const again = `
      const [second] = await Promise.all([FluxTransformer.load(nano), describeWeights(nano)]);
      await Promise.all([model.dispose(), second.dispose()]);`;
    const body = `${IMPORT} ${both} ${again}`;
    const expected = order === 'core first' ? '2\ntransformer\n' : 'transformer\n2\n';
    expect(run(source(body), process.env)).toMatchObject({ status: 0, stdout: expected, stderr: '' });
    const inWorker = `
      const { Worker } = await import('node:worker_threads');
      const url = new URL('data:text/javascript,' + encodeURIComponent(${JSON.stringify(body)}));
      await new Promise((resolve, reject) => new Worker(url).on('error', reject).on('exit', resolve));`;
    expect(run(source(inWorker), process.env)).toMatchObject({ status: 0, stdout: expected, stderr: '' });
  });
});
