/** The whole pipeline on the bundled model; needs the native build. */
import { getEventListeners } from 'node:events';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { encodePngAsync, readPngText } from '../../src/image/index.js';
import {
  Autoencoder,
  BUNDLED_MODEL,
  ClipTextEncoder,
  convertModel,
  createPlan,
  encodeOnly,
  FluxPipeline,
  FluxTransformer,
  type GenerateRequest,
  inspectWeights,
  loadEncodedPrompts,
  planMemory,
  resolveModel,
  setupLibTorch,
  T5Encoder,
  Tensor,
  TorchScriptModule,
} from '../../src/index.js';
import { VERSION } from '../../src/files/package-files.js';
import { deferred } from '../support/deferred.js';

const SMALL = {
  prompt: 'a red circle on a grey background',
  width: 64,
  height: 64,
  steps: 6,
  seed: 5,
} as const;

let pipeline: FluxPipeline;
beforeAll(async () => {
  pipeline = await FluxPipeline.load(BUNDLED_MODEL);
});
afterAll(() => pipeline.dispose());

describe('FluxPipeline.generate', () => {
  it('makes a picture of the right size that shows what was asked for', async () => {
    const prompt = 'a large red circle on a white background';
    const result = await pipeline.generate({ prompt, width: 128, height: 128, preset: 'jit-4x', seed: 1 });
    expect(result.images).toHaveLength(1);
    const [image] = result.images;
    expect([image?.width, image?.height, image?.data.length]).toEqual([128, 128, 128 * 128 * 3]);
    const pixel = (x: number, y: number) => [
      ...(image?.data.subarray((y * 128 + x) * 3, (y * 128 + x) * 3 + 3) ?? []),
    ];
    const [r = 0, g = 0, b = 0] = pixel(64, 64);
    expect(r).toBeGreaterThan(g + 80);
    expect(r).toBeGreaterThan(b + 80);
    for (const corner of [pixel(4, 4), pixel(123, 4), pixel(4, 123), pixel(123, 123)]) {
      expect(Math.min(...corner)).toBeGreaterThan(180);
    }
    expect(result.plan.tokensPerStep).toEqual([
      ...Array<number>(7).fill(89),
      ...Array<number>(4).fill(158),
      ...Array<number>(7).fill(256),
    ]);
    expect(result.warnings).toEqual([]);
    const { timings } = result;
    expect(timings.stages.map((stage) => [stage.stage, stage.steps, stage.activeTokens])).toEqual([
      [2, 7, 89],
      [1, 4, 158],
      [0, 7, 256],
    ]);
    expect(timings.stages.every((stage) => stage.milliseconds > 0)).toBe(true);
    const sampled = timings.stages.reduce((sum, stage) => sum + stage.milliseconds, 0);
    expect(timings.encode + timings.condition + sampled + timings.decode).toBeLessThanOrEqual(timings.total);
    const { metadata, text } = readPngText(image?.toPNG() ?? new Uint8Array());
    expect(metadata).toEqual({
      prompt,
      seed: 1,
      preset: 'jit-4x',
      steps: 18,
      guidance: 3.5,
      width: 128,
      height: 128,
      textTokens: 24,
      schedule: 'beta:1.4,0.425',
      stageRatios: '0.4,0.65,1',
      tokenRatios: '0.35,0.62,1',
      initialAnchors: 'checkerboard',
      activation: 'importance',
      microFlow: 'relax:3',
      device: 'cpu',
      dtype: 'float32',
      model: 'flux-tiny',
      modelFingerprint: expect.stringMatching(/^[0-9a-f]{16}$/) as string,
      version: VERSION,
      parameters: text['parameters'],
    });
    // As the web interfaces write and read it.
    expect(text['parameters']).toBe(
      `${prompt}\nSteps: 18, Sampler: JiT jit-4x, Schedule type: beta:1.4,0.425, CFG scale: 3.5, Seed: 1, ` +
        `Size: 128x128, Model hash: ${String(metadata?.['modelFingerprint'])}, Model: flux-tiny, ` +
        `Version: jit-flux ${VERSION}`,
    );
    expect(readPngText(image!.toPNG({ metadata: false }))).toEqual({ text: {} });
    expect(readPngText(await image!.toPNGAsync({ metadata: false }))).toEqual({ text: {} });
  });

  it("tells what was the program's own, and how many were sampled together", async () => {
    using latents = Tensor.randn([2, 64, 64], { seed: 1 });
    const { images } = await pipeline.generate({
      ...SMALL,
      numImages: 2,
      latents,
      initialAnchors: Int32Array.from({ length: 22 }, (_, token) => token),
      activation: ({ anchors, targetCount }) =>
        Int32Array.from({ length: targetCount }, (_, i) => anchors[i] ?? i),
    });
    expect(images[1]!.metadata).toMatchObject({
      ...{ batch: 2, preset: 'custom', initialAnchors: 'own', activation: 'own', latents: 'own' },
    });
  });

  it('gives the same bytes for the same seed, and others for another', async () => {
    const png = async (seed: number) => (await pipeline.generate({ ...SMALL, seed })).images[0]?.toPNG();
    const first = await png(5);
    expect(Buffer.compare(first as Uint8Array, (await png(5)) as Uint8Array)).toBe(0);
    expect(Buffer.compare(first as Uint8Array, (await png(6)) as Uint8Array)).not.toBe(0);
  });

  it('reports the seed that it drew', async () => {
    const { prompt, width, height, steps } = SMALL;
    const request = { prompt, width, height, steps };
    const result = await pipeline.generate(request);
    const again = await pipeline.generate({ ...request, seed: result.seed });
    expect(again.images[0]?.data).toEqual(result.images[0]?.data);
  });

  it('makes every picture of a batch as a single request with its seed would', async () => {
    const prompts = ['a red circle on a grey background', 'a blue square over the sea'];
    const { images } = await pipeline.generate({ ...SMALL, prompt: prompts, numImages: 2 });
    expect(images.map(({ prompt, seed }) => [prompt, seed])).toEqual([
      [prompts[0], 5],
      [prompts[0], 6],
      [prompts[1], 7],
      [prompts[1], 8],
    ]);
    for (const { prompt, seed, data } of images) {
      const single =
        (await pipeline.generate({ ...SMALL, prompt, seed })).images[0]?.data ?? new Uint8Array();
      // Other matrix shapes may round the last bit differently.
      const worst = data.reduce((most, value, i) => Math.max(most, Math.abs(value - (single[i] ?? 0))), 0);
      expect(worst).toBeLessThanOrEqual(2);
    }
  });

  it('starts from given latents and returns latents', async () => {
    using noise = Tensor.randn([1, 64, 64], { seed: 9 });
    const run = () => pipeline.generate({ ...SMALL, latents: noise, output: 'latent' });
    const [a, b] = [await run(), await run()];
    using first = a.latents as Tensor;
    using second = b.latents as Tensor;
    expect(a.images).toEqual([]);
    expect(first.shape).toEqual([1, 64, 64]);
    expect(await first.toFloat32Array()).toEqual(await second.toFloat32Array());
    expect(await first.toFloat32Array()).not.toEqual(await noise.toFloat32Array());
    expect(a.timings.decode).toBe(0);
  });

  it('warns of truncated prompts and unknown words', async () => {
    const { warnings } = await pipeline.generate({
      ...SMALL,
      prompt: ['a red dragon', 'red '.repeat(30)],
      steps: 1,
      preset: 'dense',
    });
    expect(warnings).toMatchObject([
      { code: 'UNKNOWN_WORDS', prompt: 0, words: ['dragon'] },
      { code: 'PROMPT_TRUNCATED', prompt: 1, truncated: 7 },
    ]);
  });

  it('runs concurrent requests one after another', async () => {
    const order: string[] = [];
    const named = (name: string) =>
      pipeline.generate({ ...SMALL, onStep: ({ step }) => void order.push(`${name}${step}`) });
    const results = await Promise.all([named('a'), named('b'), named('c')]);
    expect(order).toEqual(
      ['a', 'b', 'c'].flatMap((name) => [0, 1, 2, 3, 4, 5].map((step) => `${name}${step}`)),
    );
    expect(results[2]?.timings.queued).toBeGreaterThan(results[1]?.timings.queued ?? Infinity);
    expect(results[0]?.images[0]?.data).toEqual(results[2]?.images[0]?.data);
  });

  it('refuses bad requests without touching the queue', async () => {
    const bad: [Partial<GenerateRequest>, string][] = [
      [{ preset: 'jit-5x' as never }, 'ERR_JITFLUX_UNKNOWN_PRESET'],
      [{ width: 100 }, 'ERR_JITFLUX_INVALID_ARGUMENT'],
      [{ steps: -1 }, 'ERR_JITFLUX_INVALID_ARGUMENT'],
      [{ stageRatios: [0.4, 0.65, 0.9] }, 'ERR_JITFLUX_INVALID_ARGUMENT'],
      [{ tokenRatios: [0, 0.62, 1] }, 'ERR_JITFLUX_INVALID_ARGUMENT'],
      [{ guidance: NaN }, 'ERR_JITFLUX_INVALID_ARGUMENT'],
      [{ latents: undefined, seed: -1 }, 'ERR_JITFLUX_INVALID_ARGUMENT'],
    ];
    for (const [change, code] of bad) {
      await expect(pipeline.generate({ ...SMALL, ...change })).rejects.toMatchObject({ code });
    }
    await expect(FluxPipeline.load('/nowhere')).rejects.toMatchObject({ code: 'ERR_JITFLUX_FILE_NOT_FOUND' });
  });

  it('does not block the event loop', async () => {
    /** Turns of the event loop before the first step, between two steps, and after the last one. */
    const measure = async (): Promise<number[]> => {
      const turns = [0];
      let running = true;
      const turn = () => {
        turns[turns.length - 1]!++;
        if (running) setImmediate(turn);
      };
      setImmediate(turn);
      await pipeline.generate({
        ...SMALL,
        width: 256,
        height: 256,
        steps: 18,
        onStep: () => void turns.push(0),
      });
      running = false;
      return turns;
    };
    // A turn takes microseconds and each of these parts milliseconds. Code that blocks leaves one or two turns in every
    // measurement; other processes can only take some away: the best counts.
    let best: number[] = [];
    for (let attempt = 0; attempt < 5 && (attempt === 0 || Math.min(...best) < 100); attempt++) {
      const turns = await measure();
      if (attempt === 0 || Math.min(...turns) > Math.min(...best)) best = turns;
    }
    expect(best).toHaveLength(19);
    expect(Math.min(...best), String(best)).toBeGreaterThanOrEqual(100);
  });
});

describe('FluxPipeline, stopping', () => {
  it('aborts in the middle of a run and goes on with the next', async () => {
    const controller = new AbortController();
    const steps: number[] = [];
    const aborted = pipeline.generate({
      ...SMALL,
      signal: controller.signal,
      onStep({ step }) {
        steps.push(step);
        if (step === 1) controller.abort('enough');
      },
    });
    const next = pipeline.generate(SMALL);
    await expect(aborted).rejects.toMatchObject({ code: 'ERR_JITFLUX_ABORTED', cause: 'enough' });
    expect(steps).toEqual([0, 1]);
    expect((await next).images).toHaveLength(1);
    await expect(pipeline.generate({ ...SMALL, signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: 'ERR_JITFLUX_ABORTED',
    });
  });

  it('passes on what onStep throws', async () => {
    const onStep = () => {
      throw new RangeError('mine');
    };
    await expect(pipeline.generate({ ...SMALL, onStep })).rejects.toThrow(new RangeError('mine'));
    expect((await pipeline.generate(SMALL)).images).toHaveLength(1);
  });

  it('waits for an onStep that is asynchronous, and ends the request if it rejects', async () => {
    const order: string[] = [];
    await pipeline.generate({
      ...SMALL,
      onStep: async ({ step }) => {
        await new Promise((resolve) => setTimeout(resolve, 20));
        order.push(`after ${step}`);
      },
    });
    expect(order).toHaveLength(6);
    let steps = 0;
    const onStep = async ({ step }: { step: number }) => {
      steps++;
      await Promise.resolve();
      if (step === 1) throw new RangeError('mine');
    };
    await expect(pipeline.generate({ ...SMALL, onStep })).rejects.toThrow(new RangeError('mine'));
    expect(steps).toBe(2);
    expect((await pipeline.generate(SMALL)).images).toHaveLength(1);
  });

  it('is aborted while it waits for an onStep that never ends', async () => {
    const controller = new AbortController();
    const onStep = () => {
      setTimeout(() => controller.abort('enough'), 10);
      return new Promise<void>(() => undefined);
    };
    const { signal } = controller;
    await expect(pipeline.generate({ ...SMALL, signal, onStep })).rejects.toMatchObject({
      code: 'ERR_JITFLUX_ABORTED',
      cause: 'enough',
    });
  });

  it('lets a rejection end its own request of a batch only', async () => {
    await using together = await FluxPipeline.load(BUNDLED_MODEL, { dynamicBatching: { maxImages: 4 } });
    const failing = together.generate({ ...SMALL, onStep: () => Promise.reject(new RangeError('mine')) });
    const other = together.generate(SMALL);
    await expect(failing).rejects.toThrow(new RangeError('mine'));
    expect((await other).images).toHaveLength(1);
  });

  it('ends a load whose onProgress rejects, without an unhandled rejection', async () => {
    const unhandled: unknown[] = [];
    const note = (reason: unknown) => void unhandled.push(reason);
    process.on('unhandledRejection', note);
    try {
      // After the last report there is nothing left to end.
      const load = FluxPipeline.load(BUNDLED_MODEL, {
        // eslint-disable-next-line @typescript-eslint/no-misused-promises -- what happens is tested
        onProgress: () => Promise.reject(new RangeError('mine')),
      });
      const outcome = await load.then(
        (loaded) => loaded.dispose(),
        (error: unknown) => error,
      );
      if (outcome !== undefined) expect(outcome).toEqual(new RangeError('mine'));
      await new Promise((resolve) => setTimeout(resolve, 20));
      expect(unhandled).toEqual([]);
    } finally {
      process.off('unhandledRejection', note);
    }
  });

  it('steps yields every step and can be left', async () => {
    const seen: number[] = [];
    for await (const event of pipeline.steps(SMALL)) {
      expect(event.latents.shape).toEqual([1, 64, 64]);
      seen.push(event.step);
      if (event.step === 2) break;
    }
    expect(seen).toEqual([0, 1, 2]);
    const run = pipeline.steps(SMALL);
    let next = await run.next();
    while (!next.done) next = await run.next();
    expect(next.value.images[0]?.data).toEqual((await pipeline.generate(SMALL)).images[0]?.data);
    expect(() => pipeline.steps({ ...SMALL, width: 100 })).toThrow(/"width"/);
  });

  it('disposes itself with requests running, waiting and held', async () => {
    const other = await FluxPipeline.load(BUNDLED_MODEL);
    const begun = deferred();
    const running = other.generate({ ...SMALL, steps: 100, onStep: begun.resolve });
    const waiting = other.generate(SMALL);
    const outcomes = Promise.allSettled([running, waiting]);
    await begun.promise;
    await Promise.all([other.dispose(), other.dispose()]);
    for (const outcome of await outcomes) {
      expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'ERR_JITFLUX_ABORTED' } });
    }
    await expect(other.generate(SMALL)).rejects.toMatchObject({ code: 'ERR_JITFLUX_DISPOSED' });

    await using third = await FluxPipeline.load(BUNDLED_MODEL);
    const held = third.steps(SMALL);
    expect((await held.next()).done).toBe(false);
    await third.dispose();
    await expect(held.next()).rejects.toMatchObject({ code: 'ERR_JITFLUX_ABORTED' });
  });
});

describe('misspelt options', () => {
  it('are refused by every function, with the one that was meant', async () => {
    const misspelt = { maxqueue: 3 } as object;
    const code = 'ERR_JITFLUX_INVALID_ARGUMENT';
    for (const call of [
      () => FluxPipeline.load(BUNDLED_MODEL, misspelt),
      () => pipeline.encodePrompt('a red circle', misspelt),
      () => pipeline.warmUp(misspelt),
      () => encodeOnly(BUNDLED_MODEL, 'a red circle', misspelt),
      () => planMemory(BUNDLED_MODEL, misspelt),
      () => convertModel(BUNDLED_MODEL, '/nowhere/model.pt', misspelt),
      () => resolveModel(BUNDLED_MODEL, misspelt),
      () => FluxTransformer.load('/nowhere', misspelt),
      () => Autoencoder.load('/nowhere', misspelt),
      () => T5Encoder.load('/nowhere', misspelt),
      () => ClipTextEncoder.load('/nowhere', misspelt),
      () => TorchScriptModule.load('/nowhere', misspelt),
      () => setupLibTorch(misspelt),
      () => inspectWeights('/nowhere', misspelt),
      () => loadEncodedPrompts('/nowhere', misspelt),
      () => encodePngAsync({ width: 1, height: 1, data: new Uint8Array(3) }, {}, misspelt),
      () => Tensor.from(new Float32Array(1), [1], misspelt),
      () => createPlan({ grid: [4, 4], ...misspelt }),
    ]) {
      await expect(async () => call(), String(call)).rejects.toMatchObject({
        code,
        details: { option: 'maxqueue' },
        message: expect.stringMatching(/^Unknown option "maxqueue"; /) as string,
      });
    }
    await expect(FluxPipeline.load(BUNDLED_MODEL, misspelt)).rejects.toThrow(/did you mean "maxQueue"\?/);
  });
});

describe('one signal', () => {
  it('serves any number of requests without a warning', async () => {
    const warnings: string[] = [];
    const hear = ({ name }: Error) => warnings.push(name);
    process.on('warning', hear);
    const { signal } = new AbortController();
    const quick = { ...SMALL, preset: 'dense', steps: 1, output: 'latent', signal } as const;
    const work: Promise<unknown>[] = Array.from({ length: 12 }, (_, seed) =>
      pipeline.generate({ ...quick, seed }),
    );
    for (let i = 0; i < 12; i++) work.push(pipeline.encodePrompt('a red circle', { signal }));
    await Promise.all(work);
    await new Promise((resolve) => setImmediate(resolve));
    process.off('warning', hear);
    expect(warnings).toEqual([]);
    expect(getEventListeners(signal, 'abort')).toEqual([]);
  });
});

describe('FluxPipeline.encodePrompt', () => {
  it('returns one row per prompt', async () => {
    const { prompt, pooled, warnings } = await pipeline.encodePrompt(['a red circle', 'a blue unicorn']);
    expect(prompt.shape).toEqual([2, 24, 128]);
    expect(pooled.shape).toEqual([2, 64]);
    prompt.dispose();
    pooled.dispose();
    expect(warnings).toMatchObject([{ code: 'UNKNOWN_WORDS', prompt: 1, words: ['unicorn'] }]);
    await expect(pipeline.encodePrompt('a', { maxSequenceLength: 25 })).rejects.toMatchObject({
      code: 'ERR_JITFLUX_INVALID_ARGUMENT',
    });
  });
});

describe('FluxPipeline.warmUp', () => {
  it.each([true, false])(
    'prepares every block and changes no picture, text encoders %s',
    async (encoders) => {
      const { images } = await pipeline.generate(SMALL);
      const fresh = await FluxPipeline.load(BUNDLED_MODEL, encoders ? {} : { textEncoders: false });
      try {
        const { doubleBlocks, singleBlocks } = fresh.config;
        const blocks = doubleBlocks + singleBlocks;
        const seen: number[] = [];
        await fresh.warmUp({ onProgress: (p) => seen.push(p.block, p.blocks) });
        expect(seen.slice(-2)).toEqual([blocks, blocks]);
        expect(fresh.stats()).toMatchObject({ requests: { completed: 0, running: 0 }, runs: 0 });
        using conditioning = await pipeline.encodePrompt(SMALL.prompt);
        const { prompt, ...rest } = SMALL;
        const request = encoders ? SMALL : { ...rest, conditioning };
        const again = await fresh.generate(request);
        expect(Buffer.compare(again.images[0]!.data, images[0]!.data), prompt).toBe(0);
        await fresh.warmUp();
      } finally {
        await fresh.dispose();
      }
      await expect(fresh.warmUp()).rejects.toMatchObject({ code: 'ERR_JITFLUX_DISPOSED' });
    },
  );

  it('waits for its turn, and gives way to an abort and to disposal', async () => {
    const other = await FluxPipeline.load(BUNDLED_MODEL);
    const run = other.steps(SMALL);
    await run.next();
    const controller = new AbortController();
    const waiting = other.warmUp({ signal: controller.signal });
    controller.abort();
    await expect(waiting).rejects.toMatchObject({ code: 'ERR_JITFLUX_ABORTED' });
    const ended = expect(other.warmUp()).rejects.toMatchObject({
      code: 'ERR_JITFLUX_ABORTED',
      cause: { code: 'ERR_JITFLUX_DISPOSED' },
    });
    await other.dispose();
    await ended;
    await run.return(undefined as never);
    await expect(other.warmUp({ onProgress: 1 as never })).rejects.toMatchObject({
      code: 'ERR_JITFLUX_DISPOSED',
    });
    await expect(pipeline.warmUp({ onProgress: 1 as never })).rejects.toMatchObject({
      code: 'ERR_JITFLUX_INVALID_ARGUMENT',
    });
  });
});
