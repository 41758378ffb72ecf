/** Worker threads, each with an engine of its own in one process, and how they end. */
import { describe, expect, it } from 'vitest';

import { runSource } from '../support/program.js';
import { SLOWNESS } from '../support/slowness.js';
import { MINI, MINI_AXES } from '../support/mini.js';
import { fixturePath } from '../support/safetensors.js';

const PACKAGE = new URL('../../dist/index.js', import.meta.url).href;
const RUNTIME = new URL('../../dist/engine/index.js', import.meta.url).href;

/** `worker(source)`: a worker thread that runs an ES module given as text. `next(worker)`: its next message. */
const PRELUDE = `
  import { Worker, isMainThread, parentPort } from 'node:worker_threads';
  const worker = (source) => new Worker(new URL('data:text/javascript,' + encodeURIComponent(source)));
  const next = (worker) => new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
  const ended = (worker) => new Promise((resolve) => worker.once('exit', resolve));
`;

/** Digests of what it makes, one per seed. */
const GENERATE = `
  import { createHash } from 'node:crypto';
  import { parentPort } from 'node:worker_threads';
  import { BUNDLED_MODEL, FluxPipeline } from ${JSON.stringify(PACKAGE)};
  const generate = async () => {
    const pipeline = await FluxPipeline.load(BUNDLED_MODEL);
    const digests = [];
    for (const seed of [1, 2, 3]) {
      const { images } = await pipeline.generate({ prompt: 'a red circle', width: 64, height: 64, steps: 3, seed });
      digests.push(createHash('sha256').update(images[0].data).digest('hex'));
    }
    await pipeline.dispose();
    return digests.join();
  };
`;

/** Loads a model and asks for minutes of work; then calls \`begun()\`. */
const LONG_WORK = `
  const { FluxTransformer, Tensor } = await import(${JSON.stringify(RUNTIME)});
  const load = () => FluxTransformer.load(${JSON.stringify(MINI)}, {
    ropeAxes: ${JSON.stringify(MINI_AXES)},
  });
  const model = await load();
  const [prompt, pooled] = [Tensor.randn([1, 16, 96], { seed: 1 }), Tensor.randn([1, 48], { seed: 1 })];
  const tokens = Tensor.randn([1, 4096, 64], { seed: 1 });
  const conditioning = await model.condition({ prompt, pooled, sigmas: [1] });
  const forward = (onProgress) => model.forward({ tokens, grid: [64, 64], conditioning, step: 0, onProgress });
  for (let i = 0; i < 300; i++) forward(i === 0 ? () => begun() : undefined).catch(() => {});
`;

const MESSAGE = `import { parentPort } from 'node:worker_threads';`;
const SOON = `const begun = () => parentPort.postMessage('begun');`;

function expectEnd(
  source: string,
  end: { status: number; stdout?: string },
  seconds = 60,
  o: { flags?: string[]; env?: Record<string, string> } = {},
): string {
  const { status, signal, stdout, stderr } = runSource(source, { ...o, seconds });
  expect({ status, signal, ...(end.stdout !== undefined && { stdout }) }, stderr).toEqual({
    signal: null,
    ...end,
  });
  return stderr;
}

describe('worker threads', () => {
  it('generate at once what the main thread does', () => {
    expectEnd(
      `${PRELUDE}${GENERATE.replace(/^.*worker_threads.*$/m, '')}
      const source = ${JSON.stringify(`${GENERATE}\nparentPort.postMessage(await generate());`)};
      const others = Array.from({ length: 3 }, () => next(worker(source)));
      const own = await generate();
      console.log((await Promise.all(others)).every((theirs) => theirs === own));`,
      { status: 0, stdout: 'true\n' },
      120,
    );
  });

  it.each([
    ['terminate() in the middle of a step', `${MESSAGE}${SOON}${LONG_WORK}`, 'await one.terminate();'],
    [
      'process.exit() in the middle of a step',
      `const begun = () => process.exit(5);${LONG_WORK}`,
      'if ((await ended(one)) !== 5) process.exit(8);',
    ],
    [
      'an error in the middle of a step',
      `const begun = () => setImmediate(() => { throw new Error("mine") });${LONG_WORK}`,
      "one.on('error', () => {}); await ended(one);",
    ],
    [
      'terminate() in the middle of a load',
      `${MESSAGE}const begun = () => {};${LONG_WORK}
      for (let i = 0; i < 300; i++) load().catch(() => {});
      parentPort.postMessage('begun');`,
      'await one.terminate();',
    ],
  ])('%s leaves the others at work', (_, source, end) => {
    const waits = source.includes('postMessage') ? 'await next(one);' : '';
    expectEnd(
      `${PRELUDE}${GENERATE.replace(/^.*worker_threads.*$/m, '')}
      const before = await generate();
      for (let i = 0; i < 3; i++) {
        const one = worker(${JSON.stringify(source)});
        ${waits}
        ${end}
      }
      console.log((await generate()) === before);`,
      { status: 0, stdout: 'true\n' },
      120,
    );
  });

  it('leave no thread behind, 30 of them one after another', { timeout: 180_000 * SLOWNESS }, () => {
    const source = `
      const { Tensor } = await import(${JSON.stringify(RUNTIME)});
      const big = Tensor.randn([1, 512, 512], { seed: 1 });
      await big.toFloat32Array();
    `;
    const { stdout, status, stderr } = runSource(
      `${PRELUDE}
      import { readdirSync } from 'node:fs';
      const counts = [];
      const count = () => readdirSync('/proc/self/task').length;
      for (let i = 0; i < 30; i++) {
        await ended(worker(${JSON.stringify(source)}));
        // The system may not have removed a thread that has ended yet: two seconds for that.
        for (let k = 0; k < 40 && count() > (counts[0] ?? Infinity); k++) await new Promise((r) => setTimeout(r, 50));
        counts.push(count());
      }
      console.log(JSON.stringify(counts));`,
      { seconds: 170 },
    );
    expect(status, stderr).toBe(0);
    const counts = JSON.parse(stdout) as number[];
    expect(counts).toHaveLength(30);
    expect(Math.max(...counts.slice(20)), String(counts)).toBeLessThanOrEqual(
      Math.max(...counts.slice(0, 5)),
    );
  });

  it('may be terminated between any two native calls', { timeout: 180_000 * SLOWNESS }, () => {
    // Nearly all its time goes into making handles, so that several of 60 ends fall into the middle of one.
    const source = `${MESSAGE}
      const { Tensor } = await import(${JSON.stringify(RUNTIME)});
      const data = new Float32Array(2);
      Tensor.from(data, [2]);
      parentPort.postMessage('begun');
      for (;;) Tensor.from(data, [2]);`;
    expectEnd(
      `${PRELUDE}
      for (let i = 0; i < 60; i++) {
        const one = worker(${JSON.stringify(source)});
        await next(one);
        await new Promise((resolve) => setTimeout(resolve, i % 6));
        await one.terminate();
      }
      console.log('all');`,
      { status: 0, stdout: 'all\n' },
      170,
    );
  });

  it('may collect garbage while they end', { timeout: 180_000 * SLOWNESS }, () => {
    // Much garbage, collected often. Freed memory is overwritten, so that whoever still uses it fails.
    const source = `${MESSAGE}
      const { Tensor, TorchScriptModule } = await import(${JSON.stringify(RUNTIME)});
      const module = await TorchScriptModule.load(
        ${JSON.stringify(fixturePath('native/warns.pt'))}, { allowTorchScriptCode: true });
      const run = () => module.run([Tensor.from(new Float32Array(2), [2])]);
      for (let i = 0; i < 500; i++) run().then(() => parentPort.postMessage('begun'));`;
    expectEnd(
      `${PRELUDE}
      for (let i = 0; i < 10; i++) {
        const one = worker(${JSON.stringify(source)});
        await next(one);
        await one.terminate();
      }
      console.log('all');`,
      { status: 0, stdout: 'all\n' },
      170,
      {
        flags: ['--gc-interval=200'],
        env: { JIT_FLUX_LOG_LEVEL: 'error', GLIBC_TUNABLES: 'glibc.malloc.perturb=165' },
      },
    );
  });

  it('that nobody waits for end with the process', () => {
    const source = `${MESSAGE}${SOON}${LONG_WORK}`;
    const workers = `const two = [0, 1].map(() => worker(${JSON.stringify(source)}));`;
    expectEnd(`${PRELUDE}${workers} await Promise.all(two.map(next)); process.exit(6);`, { status: 6 });
  });
});

describe('the main thread', () => {
  it.each([
    ['an unhandled rejection', 'void Promise.reject(new Error("mine"))'],
    ['an uncaught error', 'setImmediate(() => { throw new Error("mine") })'],
  ])('%s in the middle of a step ends the process with code 1', (_, failure) => {
    const stderr = expectEnd(`const begun = () => ${failure};${LONG_WORK}`, { status: 1 });
    expect(stderr).toContain('mine');
  });
});
