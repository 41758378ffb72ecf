/** A pipeline as a service uses it: many requests at once, limits, batches, statistics, traces. */
import { channel, tracingChannel } from 'node:diagnostics_channel';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { GenerateTrace, StepTrace } from '../../src/diagnostics.js';
import { ERROR_CODES } from '../../src/errors.js';
import {
  BUNDLED_MODEL,
  FluxPipeline,
  type GenerateRequest,
  type GenerateResult,
  type PipelineOptions,
} from '../../src/pipeline/index.js';
import type { StepEvent } from '../../src/types.js';
import type { Tensor } from '../../src/engine/index.js';
import { deferred } from '../support/deferred.js';

const SMALL = { width: 64, height: 64, steps: 6, preset: 'jit-4x' } as const;
const PROMPTS = [
  'a red circle on a grey background',
  'a blue square over the sea',
  'a small white heart on a black background',
  'two green stars in the night sky',
];

const load = (o?: PipelineOptions) => FluxPipeline.load(BUNDLED_MODEL, o);
const request = (i: number, more: Partial<GenerateRequest> = {}): GenerateRequest => ({
  ...SMALL,
  prompt: PROMPTS[i % PROMPTS.length],
  seed: 10 + i,
  ...more,
});
const pixels = ({ images }: GenerateResult) => images.map(({ data }) => data);

/** Largest difference of two pictures' bytes. */
function worst(a: Uint8Array | undefined, b: Uint8Array | undefined): number {
  if (!a || a.length !== b?.length) return Infinity;
  return a.reduce((most, value, i) => Math.max(most, Math.abs(value - (b[i] as number))), 0);
}

let reference: FluxPipeline;
/** What requests 0 to 7 give, each on its own. */
const alone: GenerateResult[] = [];
beforeAll(async () => {
  reference = await load();
  for (let i = 0; i < 8; i++) alone.push(await reference.generate(request(i)));
});
afterAll(() => reference.dispose());

describe('concurrency', () => {
  it('lets the steps of several requests take turns, with the same pictures', async () => {
    await using pipeline = await load({ concurrency: 8 });
    const order: number[] = [];
    const results = await Promise.all(
      Array.from({ length: 8 }, (_, i) =>
        pipeline.generate(request(i, { onStep: () => void order.push(i) })),
      ),
    );
    expect(results.map(pixels)).toEqual(alone.map(pixels));
    // The first has not finished before the last has begun.
    expect(order.lastIndexOf(0)).toBeGreaterThan(order.indexOf(7));
  });

  it('is one by default: requests are served one after another, in order', async () => {
    const order: number[] = [];
    const results = await Promise.all(
      Array.from({ length: 8 }, (_, i) =>
        reference.generate(request(i, { onStep: () => void order.push(i) })),
      ),
    );
    expect(results.map(pixels)).toEqual(alone.map(pixels));
    expect(order).toEqual([...order].sort((a, b) => a - b));
  });
});

describe('maxQueue', () => {
  it('rejects what does not fit, at once, and serves the rest', async () => {
    await using pipeline = await load({ maxQueue: 1 });
    const first = pipeline.generate(request(0));
    const second = pipeline.generate(request(1));
    await expect(pipeline.generate(request(2))).rejects.toMatchObject({
      code: ERROR_CODES.QUEUE_FULL,
      details: { maxQueue: 1, waiting: 1 },
    });
    expect(() => pipeline.steps(request(2))).toThrow(
      expect.objectContaining({ code: ERROR_CODES.QUEUE_FULL, statusCode: 503 }) as Error,
    );
    await expect(pipeline.encodePrompt('a star')).rejects.toMatchObject({ code: ERROR_CODES.QUEUE_FULL });
    expect([pixels(await first), pixels(await second)]).toEqual(alone.slice(0, 2).map(pixels));
    expect(pipeline.stats().requests).toMatchObject({ completed: 2, rejected: 2, running: 0, waiting: 0 });
    expect((await pipeline.generate(request(2))).images).toHaveLength(1);
  });
});

describe('dynamicBatching', () => {
  it('samples waiting requests together, with the pictures of requests alone', async () => {
    await using pipeline = await load({ dynamicBatching: { maxImages: 4 } });
    const results = await Promise.all(Array.from({ length: 8 }, (_, i) => pipeline.generate(request(i))));
    // The first finds nobody waiting.
    expect(results.map(({ batch }) => batch.requests)).toEqual([1, 4, 4, 4, 4, 3, 3, 3]);
    results.forEach((result, i) => {
      expect(result.seed).toBe(10 + i);
      expect(result.images[0]).toMatchObject({ prompt: PROMPTS[i % 4], seed: 10 + i });
      // Other matrix shapes may round the last bit differently.
      expect(worst(result.images[0]?.data, alone[i]?.images[0]?.data)).toBeLessThanOrEqual(2);
    });
    expect(pipeline.stats()).toMatchObject({ runs: 3, steps: 18, images: 8, requests: { completed: 8 } });
  });

  it('keeps several pictures, guidance and outputs of each request apart', async () => {
    await using pipeline = await load({ dynamicBatching: { maxImages: 16, maxWaitMilliseconds: 1000 } });
    const requests = [
      request(0, { numImages: 3 }),
      request(1, { guidance: 1 }),
      { ...request(2), prompt: PROMPTS.slice(0, 2), numImages: 2 },
      // An own latent, another size and another output keep to themselves.
      request(3, { width: 128 }),
      request(4, { output: 'latent' }),
    ] as const;
    const results = await Promise.all(requests.map((one) => pipeline.generate(one)));
    expect(results.map(({ batch }) => batch)).toEqual([
      ...Array<object>(3).fill({ requests: 3, images: 8 }),
      { requests: 1, images: 1 },
      { requests: 1, images: 1 },
    ]);
    for (const [i, one] of requests.entries()) {
      const expected = await reference.generate(one);
      const result = results[i] as GenerateResult;
      expect(result.images.map(({ seed, prompt }) => [seed, prompt])).toEqual(
        expected.images.map(({ seed, prompt }) => [seed, prompt]),
      );
      result.images.forEach((image, j) => {
        expect(worst(image.data, expected.images[j]?.data)).toBeLessThanOrEqual(2);
      });
      expect(result.latents?.shape).toEqual(expected.latents?.shape);
      result.latents?.dispose();
      expected.latents?.dispose();
    }
  });

  it('tells every request of its own images, and lets some go while others stay', async () => {
    await using pipeline = await load({ dynamicBatching: { maxImages: 8, maxWaitMilliseconds: 1000 } });
    const withMap = (i: number, more?: Partial<GenerateRequest>) =>
      request(i, { importanceInEvents: true, ...more });
    const controller = new AbortController();
    const seen: StepEvent<Tensor>[] = [];
    const expected: StepEvent<Tensor>[] = [];
    await reference.generate(withMap(1, { numImages: 2, onStep: (event) => void expected.push(event) }));
    const results = await Promise.allSettled([
      pipeline.generate(
        withMap(0, {
          signal: controller.signal,
          onStep: ({ step }) => {
            if (step === 1) controller.abort('gone');
          },
        }),
      ),
      pipeline.generate(
        withMap(1, {
          numImages: 2,
          onStep: (event) => {
            expect(event.latents.shape).toEqual([2, 64, 64]);
            seen.push(event);
          },
        }),
      ),
      pipeline.generate(
        withMap(2, {
          onStep: () => {
            throw new RangeError('mine');
          },
        }),
      ),
      pipeline.generate(withMap(3)),
      pipeline.generate(withMap(5)),
      pipeline.generate(withMap(6)),
      pipeline.generate(withMap(7)),
    ]);
    expect(results.map(({ status }) => status)).toEqual([
      'rejected',
      'fulfilled',
      'rejected',
      ...Array<string>(4).fill('fulfilled'),
    ]);
    expect(results[0]).toMatchObject({ reason: { code: ERROR_CODES.ABORTED, cause: 'gone' } });
    expect(results[2]).toMatchObject({ reason: new RangeError('mine') });
    const last = (results[6] as PromiseFulfilledResult<GenerateResult>).value;
    expect(last.batch).toEqual({ requests: 7, images: 8 });
    expect(worst(last.images[0]?.data, alone[7]?.images[0]?.data)).toBeLessThanOrEqual(2);

    expect(seen.map(({ step }) => step)).toEqual([0, 1, 2, 3, 4, 5]);
    // Lists are per image there, and may be shared here.
    const perImage = (list: Int32Array, size: number) =>
      list.length === size ? [...list, ...list] : [...list];
    seen.forEach((event, i) => {
      const wanted = expected[i] as StepEvent<Tensor>;
      const { activeTokens } = wanted;
      expect(perImage(event.anchors, activeTokens)).toEqual(perImage(wanted.anchors, activeTokens));
      expect(event.transition?.importance?.length).toEqual(wanted.transition && 2 * wanted.totalTokens);
      expect(event.transition?.newTokens.length).toEqual(wanted.transition?.newTokens.length);
    });
    expect(pipeline.stats().requests).toMatchObject({ completed: 5, aborted: 1, failed: 1 });
  });

  it('does not keep who has left until the others are served', async () => {
    await using pipeline = await load({ dynamicBatching: { maxImages: 2, maxWaitMilliseconds: 1000 } });
    const controller = new AbortController();
    const order: string[] = [];
    await Promise.all([
      pipeline.generate(request(0, { signal: controller.signal })).catch(() => order.push('gone')),
      pipeline
        .generate(request(1, { onStep: ({ step }) => void (step === 0 && controller.abort()) }))
        .then(() => order.push('served')),
    ]);
    expect(order).toEqual(['gone', 'served']);
  });

  it('ends a batch that everybody has left, and goes on with the next', async () => {
    await using pipeline = await load({ dynamicBatching: { maxImages: 2, maxWaitMilliseconds: 1000 } });
    const controller = new AbortController();
    const { signal } = controller;
    const onStep = () => controller.abort();
    const gone = Promise.allSettled([
      pipeline.generate(request(0, { signal, steps: 200, onStep })),
      pipeline.generate(request(1, { signal, steps: 200 })),
    ]);
    const next = Promise.all([pipeline.generate(request(2)), pipeline.generate(request(3))]);
    for (const outcome of await gone)
      expect(outcome).toMatchObject({ reason: { code: ERROR_CODES.ABORTED } });
    expect((await next)[0].batch.requests).toBe(2);
    expect(pipeline.stats().steps).toBeLessThan(20);
  });

  it('is disposed with a batch at work', async () => {
    const pipeline = await load({ dynamicBatching: { maxImages: 4 } });
    const begun = deferred();
    const onStep = begun.resolve;
    const outcomes = Promise.allSettled(
      Array.from({ length: 6 }, (_, i) => pipeline.generate(request(i, { steps: 200, onStep }))),
    );
    await begun.promise;
    await pipeline.dispose();
    for (const outcome of await outcomes) {
      expect(outcome).toMatchObject({
        reason: { code: ERROR_CODES.ABORTED, cause: { code: ERROR_CODES.DISPOSED } },
      });
    }
  });
});

describe('observability', () => {
  it('counts and times what happened', async () => {
    await using pipeline = await load();
    expect(pipeline.stats()).toMatchObject({
      limits: { concurrency: 1, maxQueue: 100, maxBatchImages: 1 },
      requests: { running: 0, waiting: 0, completed: 0, aborted: 0, failed: 0, rejected: 0 },
      milliseconds: { total: { count: 0, p99: 0 } },
    });
    const pending = [pipeline.generate(request(0, { numImages: 2 })), pipeline.generate(request(1))];
    await new Promise((resolve) => setImmediate(resolve));
    expect(pipeline.stats().requests).toMatchObject({ running: 1, waiting: 1 });
    const results = await Promise.all(pending);
    const left = pipeline.steps(request(2));
    await left.next();
    await left.return({} as GenerateResult);
    const onStep = () => {
      throw new Error('mine');
    };
    await expect(pipeline.generate(request(3, { onStep }))).rejects.toThrow('mine');
    const stats = pipeline.stats();
    expect(stats).toMatchObject({
      requests: { running: 0, waiting: 0, completed: 2, aborted: 1, failed: 1, rejected: 0 },
      images: 3,
      runs: 4,
      steps: 14,
    });
    expect(JSON.parse(JSON.stringify(stats))).toEqual(stats);
    const { total, queued } = stats.milliseconds;
    const times = results.map(({ timings }) => timings.total);
    expect(total.count).toBe(2);
    // Histograms are exact to one percent.
    expect(total.max / Math.max(...times)).toBeCloseTo(1, 1);
    expect(total.mean / ((times[0]! + times[1]!) / 2)).toBeCloseTo(1, 1);
    expect(queued.max).toBeGreaterThan(0);
  });

  it('reports memory', async () => {
    await using pipeline = await load();
    await pipeline.generate(request(0));
    const report = await pipeline.memory();
    const { engine } = report;
    expect(engine.peakTensorBytes).toBeGreaterThanOrEqual(engine.tensorBytes);
    expect(engine.tensorBytes).toBeGreaterThanOrEqual(engine.idleBytes);
    // flux-tiny's weights.
    expect(engine.tensorBytes).toBeGreaterThan(5e6);
    expect(report.process.residentBytes).toBeGreaterThan(report.process.anonymousBytes);
    expect(report.plan?.model).toBe('flux-tiny');
    expect(report.devices).toEqual([]);
  });

  it('publishes requests and steps through diagnostics_channel', async () => {
    const events: string[] = [];
    const traces = new Set<GenerateTrace>();
    const steps: StepTrace[] = [];
    const on = (name: string) => (message: unknown) => {
      events.push(name);
      traces.add(message as GenerateTrace);
    };
    const subscribers = {
      start: on('start'),
      end: on('end'),
      asyncStart: on('asyncStart'),
      asyncEnd: on('asyncEnd'),
      error: on('error'),
    };
    const onStep = (message: unknown) => void steps.push(message as StepTrace);
    const generations = tracingChannel('jit-flux.generate');
    generations.subscribe(subscribers);
    channel('jit-flux.step').subscribe(onStep);
    try {
      const result = await reference.generate(request(0));
      await new Promise((resolve) => setImmediate(resolve));
      expect(events).toEqual(['start', 'end', 'asyncStart', 'asyncEnd']);
      expect([...traces]).toMatchObject([
        { model: 'flux-tiny', preset: 'jit-4x', width: 64, height: 64, images: 1, steps: 6, result },
      ]);
      expect(steps.map(({ step }) => step)).toEqual([0, 1, 2, 3, 4, 5]);
      expect(steps.every(({ requests }) => traces.has(requests[0] as GenerateTrace))).toBe(true);

      events.length = 0;
      const signal = AbortSignal.timeout(1);
      await expect(reference.generate(request(0, { signal, steps: 500 }))).rejects.toMatchObject({
        code: ERROR_CODES.ABORTED,
      });
      await new Promise((resolve) => setImmediate(resolve));
      expect(events).toEqual(['start', 'end', 'error', 'asyncStart', 'asyncEnd']);
    } finally {
      generations.unsubscribe(subscribers);
      channel('jit-flux.step').unsubscribe(onStep);
    }
  });
});
