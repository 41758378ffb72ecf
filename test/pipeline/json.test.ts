/** `JSON.stringify` of everything that the package hands out: it never throws, and says what there is to say. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import {
  BUNDLED_MODEL,
  convertModel,
  createPlan,
  devices,
  encodeOnly,
  engineInfo,
  FluxPipeline,
  inspectWeights,
  JitFluxError,
  memoryReport,
  planMemory,
  readPngText,
  resolveModel,
  Tensor,
} from '../../src/index.js';
import { resolveOptions } from '../../src/sampler/index.js';
import { fixturePath } from '../support/safetensors.js';

const LARGEST = 2n ** 64n - 1n;
const DIGITS = '18446744073709551615';
const REQUEST = { prompt: 'a red circle', width: 64, height: 64, steps: 6, seed: LARGEST } as const;

let pipeline: FluxPipeline;
let folder: string;
beforeAll(async () => {
  pipeline = await FluxPipeline.load(BUNDLED_MODEL);
  folder = await mkdtemp(join(tmpdir(), 'jit-flux-json-'));
});
afterAll(async () => {
  await pipeline.dispose();
  await rm(folder, { recursive: true, force: true });
});

const throughJson = (value: unknown) => JSON.parse(JSON.stringify(value)) as unknown;

describe('a result of generate', () => {
  it('with a seed beyond 2^53 has it as a string of digits, and pictures without pixels', async () => {
    const result = await pipeline.generate(REQUEST);
    expect(result.seed).toBe(LARGEST);
    const { plan, warnings, batch, timings } = result;
    const { metadata } = result.images[0]!;
    const image = { width: 64, height: 64, prompt: 'a red circle', seed: DIGITS, metadata };
    expect(metadata).toMatchObject({ seed: DIGITS });
    expect(throughJson(result)).toEqual({
      images: [image],
      seed: DIGITS,
      seeds: [DIGITS],
      plan,
      warnings,
      batch,
      timings,
    });
    expect(JSON.stringify(result).length).toBeLessThan(10_000);
    expect(throughJson({ result, list: [result.images[0]] })).toMatchObject({
      result: { seed: DIGITS },
      list: [image],
    });
  });

  it('is plain all the same', async () => {
    const result = await pipeline.generate({ ...REQUEST, output: 'latent' });
    expect(Object.keys(result).sort()).toEqual([
      'batch',
      'images',
      'latents',
      'plan',
      'seed',
      'seeds',
      'timings',
      'warnings',
    ]);
    expect(Object.getPrototypeOf(result)).toBe(Object.prototype);
    const { latents, ...rest } = result;
    expect(structuredClone(rest)).toEqual(rest);
    expect(throughJson(result)).toMatchObject({
      images: [],
      seed: DIGITS,
      latents: { shape: [1, 64, 64], dtype: 'float32', device: 'cpu' },
    });
    latents!.dispose();
    // What it is does not depend on whether it is still there.
    expect(throughJson(latents)).toEqual({ shape: [1, 64, 64], dtype: 'float32', device: 'cpu' });
  });

  it.each([
    [7n, 7],
    [2n ** 53n - 1n, Number.MAX_SAFE_INTEGER],
    [2n ** 53n, '9007199254740992'],
    [9, 9],
  ])('with the seed %s says %s', async (seed, expected) => {
    const result = await pipeline.generate({ ...REQUEST, steps: 1, preset: 'dense', seed });
    expect(throughJson(result)).toMatchObject({ seed: expected, images: [{ seed: expected }] });
  });
});

it('an event of a step has lists of tokens', async () => {
  const events: { anchors: unknown; transition?: unknown }[] = [];
  const live: number[][] = [];
  await pipeline.generate({
    ...REQUEST,
    importanceInEvents: true,
    onStep: (event) => {
      events.push(throughJson(event) as (typeof events)[number]);
      live.push([...event.anchors]);
    },
  });
  expect(events.map(({ anchors }) => anchors)).toEqual(live);
  expect(events[0]).toMatchObject({ step: 0, latents: { shape: [1, 64, 64] } });
  const transitions = events.filter(({ transition }) => transition !== undefined);
  expect(transitions.length).toBe(2);
  for (const { transition } of transitions) {
    const { newTokens, importance } = transition as { newTokens: number[]; importance: number[] };
    expect([Array.isArray(newTokens), importance.length]).toEqual([true, 64]);
  }
});

it('events of a batch of requests, too', async () => {
  const together = await FluxPipeline.load(BUNDLED_MODEL, {
    dynamicBatching: { maxImages: 2, maxWaitMilliseconds: 1000 },
  });
  try {
    const events: unknown[] = [];
    const onStep = (event: object) => void events.push(throughJson(event));
    const results = await Promise.all([0, 1].map(() => together.generate({ ...REQUEST, onStep })));
    expect(results.map(throughJson)).toMatchObject([
      { seed: DIGITS, batch: { requests: 2 } },
      { seed: DIGITS },
    ]);
    expect(events.length).toBe(12);
    expect(events[0]).toMatchObject({ anchors: expect.any(Array) as unknown[] });
  } finally {
    await together.dispose();
  }
});

it('everything else', async () => {
  const { images } = await pipeline.generate({ ...REQUEST, steps: 1, preset: 'dense' });
  using encoded = await encodeOnly(BUNDLED_MODEL, 'a red circle');
  using tensor = Tensor.randn([2, 3], { seed: LARGEST });
  const nano = fixturePath('flux/flux-nano.safetensors');
  const spec = await resolveModel(BUNDLED_MODEL);
  const unknown = await inspectWeights(fixturePath('text-vae/t5.safetensors'));
  const cases: [value: unknown, expected: unknown][] = [
    [pipeline, { model: { name: 'flux-tiny' }, config: { heads: expect.any(Number) as number } }],
    [pipeline.stats(), { requests: { running: 0 }, images: expect.any(Number) as number }],
    [await pipeline.memory(), { plan: { fits: true } }],
    [encoded, { prompts: ['a red circle'], model: 'flux-tiny', prompt: { dtype: 'float32' } }],
    [tensor, { shape: [2, 3], dtype: 'float32', device: 'cpu' }],
    [createPlan({ grid: [8, 8], seed: LARGEST }), { grid: [8, 8], totalTokens: 64 }],
    [resolveOptions({ initialAnchors: Int32Array.of(1, 2) }), { preset: 'custom', initialAnchors: [1, 2] }],
    [await planMemory(BUNDLED_MODEL), { fits: true }],
    [spec, spec],
    [await inspectWeights(nano), { layout: 'diffusers' }],
    // An error among the fields.
    [
      unknown,
      {
        problem: {
          code: expect.stringMatching(/^ERR_JITFLUX_/) as string,
          message: unknown.problem!.message,
        },
      },
    ],
    [engineInfo(), { kernelCalls: {} }],
    [await memoryReport(), { process: { residentBytes: expect.any(Number) as number } }],
    [await devices(), expect.any(Array)],
    [await convertModel(nano, join(folder, 'nano.pt')), { files: [{ path: join(folder, 'nano.pt') }] }],
    [readPngText(images[0]!.toPNG()), { metadata: { seed: DIGITS } }],
    [
      new JitFluxError('ERR_JITFLUX_NATIVE', 'what went wrong', { seed: LARGEST, list: Int32Array.of(1) }),
      {
        name: 'JitFluxError',
        code: 'ERR_JITFLUX_NATIVE',
        message: 'what went wrong',
        details: { seed: DIGITS, list: [1] },
      },
    ],
  ];
  for (const [value, expected] of cases) {
    const json = throughJson(value);
    if (Array.isArray(json)) expect(json).toEqual(expected);
    else expect(json).toMatchObject(expected as object);
  }
  const refused: unknown = await pipeline
    .generate({ ...REQUEST, seed: -1n })
    .catch((error: unknown) => error);
  expect(throughJson(refused)).toMatchObject({
    code: 'ERR_JITFLUX_INVALID_ARGUMENT',
    message: expect.stringContaining('"seed"') as string,
    details: { option: 'seed', received: '-1' },
  });
});
