/** Models that are disposed, or forgotten, while they work. */
import { getEventListeners } from 'node:events';

import { describe, expect, it } from 'vitest';

import { BUNDLED_MODEL, FluxPipeline } from '../../src/pipeline/index.js';
import { type Conditioning, FluxTransformer, Tensor } from '../../src/engine/index.js';
import { deferred, nextTurn } from '../support/deferred.js';
import { runSource } from '../support/program.js';
import { MINI, MINI_AXES, loadMini } from '../support/mini.js';

const GRID = [64, 64] as const;
const RUNTIME = new URL('../../dist/engine/index.js', import.meta.url).href;
const PIPELINE = new URL('../../dist/index.js', import.meta.url).href;

async function atWork(): Promise<{ model: FluxTransformer; conditioning: Conditioning; tokens: Tensor }> {
  const model = await loadMini();
  const [prompt, pooled] = [Tensor.randn([1, 16, 96], { seed: 1 }), Tensor.randn([1, 48], { seed: 1 })];
  const conditioning = await model.condition({ prompt, pooled, sigmas: [1] });
  return { model, conditioning, tokens: Tensor.randn([1, 4096, 64], { seed: 1 }) };
}

const DISPOSED = { code: 'ERR_JITFLUX_ABORTED', cause: { code: 'ERR_JITFLUX_DISPOSED' } };

describe('dispose of a model', () => {
  it('aborts what runs and what waits; asyncDispose waits until it has stopped', async () => {
    const { model, conditioning, tokens } = await atWork();
    const outcomes: Promise<unknown>[] = [];
    let settled = 0;
    const run = () => model.forward({ tokens, grid: GRID, conditioning, step: 0 }).finally(() => settled++);
    const blocks: number[] = [];
    const running = new Promise<void>((resolve) => {
      const first = model.forward({
        tokens,
        grid: GRID,
        conditioning,
        step: 0,
        onProgress: ({ block }) => {
          blocks.push(block);
          resolve();
        },
      });
      outcomes.push(first.finally(() => settled++));
    });
    outcomes.push(...Array.from({ length: 20 }, run));
    const ends = Promise.allSettled(outcomes);
    await running;
    await model[Symbol.asyncDispose]();
    expect(settled).toBe(21);
    for (const end of await ends) expect(end).toMatchObject({ status: 'rejected', reason: DISPOSED });
    expect(model.disposed).toBe(true);
    await expect(run()).rejects.toMatchObject({ code: 'ERR_JITFLUX_DISPOSED' });
    // Again, and by the other way.
    model.dispose();
    await model[Symbol.asyncDispose]();
    // What it worked with is still whole.
    expect((await tokens.toFloat32Array()).length).toBe(4096 * 64);
  });

  it('does not touch other models', async () => {
    const [one, other] = [await atWork(), await atWork()];
    const { tokens, conditioning } = other;
    const kept = other.model.forward({ tokens, grid: GRID, conditioning, step: 0 });
    const lost = one.model.forward({ ...one, grid: GRID, step: 0 });
    one.model.dispose();
    await expect(lost).rejects.toMatchObject(DISPOSED);
    expect((await kept).shape).toEqual([1, 4096, 64]);
    other.model.dispose();
  });

  it('ends a pipeline in the middle of a step', async () => {
    const pipeline = await FluxPipeline.load(BUNDLED_MODEL);
    const begun = deferred();
    const run = pipeline.generate({
      prompt: 'a red circle',
      width: 512,
      height: 512,
      steps: 100,
      onStep: begun.resolve,
    });
    const outcome = run.catch((error: unknown) => error);
    await begun.promise;
    await nextTurn();
    await pipeline.dispose();
    expect(await outcome).toMatchObject(DISPOSED);
  });
});

it('no call leaves a listener on its signal', async () => {
  const { signal } = new AbortController();
  const { model, conditioning, tokens } = await atWork();
  await model.forward({ tokens, grid: GRID, conditioning, step: 0, signal });
  await using pipeline = await FluxPipeline.load(BUNDLED_MODEL, { signal });
  const request = { prompt: 'a red circle', width: 64, height: 64, steps: 2, signal };
  await pipeline.generate(request);
  await Promise.all([pipeline.generate(request), pipeline.generate(request)]);
  (await pipeline.encodePrompt('a red circle', { signal })).dispose();
  for await (const event of pipeline.steps(request)) if (event.step === 0) break;
  expect(getEventListeners(signal, 'abort')).toHaveLength(0);
  model.dispose();
});

describe('a model that is garbage-collected', () => {
  it('is freed, with one warning for all of them', () => {
    const { status, stderr, stdout } = runSource(
      `
      const { readdirSync, readlinkSync } = await import('node:fs');
      const { FluxTransformer } = await import(${JSON.stringify(RUNTIME)});
      const load = () => FluxTransformer.load(${JSON.stringify(MINI)}, { ropeAxes: ${JSON.stringify(MINI_AXES)} });
      // A loaded model holds its file.
      const target = (fd) => { try { return readlinkSync('/proc/self/fd/' + fd); } catch { return ''; } };
      const held = () => readdirSync('/proc/self/fd').filter((fd) => target(fd) === ${JSON.stringify(MINI)}).length;
      for (let i = 0; i < 5; i++) await load();
      const before = held();
      while (held() > 0) {
        globalThis.gc();
        await new Promise((resolve) => setImmediate(resolve));
      }
      console.log(before > 0, held());
      `,
      { flags: ['--expose-gc'] },
    );
    expect({ status, stdout }).toEqual({ status: 0, stdout: 'true 0\n' });
    expect(stderr.match(/JITFLUX_UNDISPOSED/g)).toHaveLength(1);
    expect(stderr).toMatch(/transformer was garbage-collected/);
  });

  it('does not warn of what was disposed', () => {
    const { status, stderr } = runSource(
      `
      const { FluxPipeline, BUNDLED_MODEL } = await import(${JSON.stringify(PIPELINE)});
      for (let i = 0; i < 3; i++) await (await FluxPipeline.load(BUNDLED_MODEL)).dispose();
      // When this one's finalizer has run, those of older garbage have.
      let finalized = false;
      const registry = new FinalizationRegistry(() => { finalized = true; });
      registry.register({});
      while (!finalized) {
        globalThis.gc();
        await new Promise((resolve) => setImmediate(resolve));
      }
      `,
      { flags: ['--expose-gc'] },
    );
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  });
});
