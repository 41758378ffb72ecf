/** What researchers build samplers and previews from: decoding, clean estimates, noise, lifters, seeds, encoded prompts. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import {
  BUNDLED_MODEL,
  DecodedImage,
  EncodedPrompts,
  FluxPipeline,
  initialNoise,
  jit,
  psnr,
  type StepEvent,
  Tensor,
} from '../../src/index.js';
import { expectError } from '../support/errors.js';

const SMALL = { prompt: 'a red circle on a grey background', width: 64, height: 64, seed: 5 } as const;
const [SIDE_TOKENS, CHANNELS] = [8, 64];

let pipeline: FluxPipeline;
beforeAll(async () => {
  pipeline = await FluxPipeline.load(BUNDLED_MODEL);
});
afterAll(() => pipeline.dispose());

const pixels = (images: readonly { data: Uint8Array }[]) => images.map(({ data }) => Buffer.from(data));

describe('FluxPipeline.decode', () => {
  it('of the final latents is the picture', async () => {
    const o = { ...SMALL, prompt: ['a red circle', 'a blue square'], width: 96 };
    const { images } = await pipeline.generate(o);
    const { latents } = await pipeline.generate({ ...o, output: 'latent' });
    using final = latents!;
    const decoded = await pipeline.decode(final, { width: 96, height: 64 });
    expect(pixels(decoded)).toEqual(pixels(images));
    expect(decoded[0]).toBeInstanceOf(DecodedImage);
    expect(decoded.map(({ width, height }) => [width, height])).toEqual([
      [96, 64],
      [96, 64],
    ]);
    expect(Buffer.from(await decoded[0]!.toPNGAsync())).toEqual(decoded[0]!.toPNG());
    // Without a size: the model's own.
    const { width, height } = pipeline.model.defaults;
    const noise = await initialNoise(pipeline.model, { seed: 1 });
    const [own] = await pipeline.decode(noise);
    noise.dispose();
    expect([own?.width, own?.height]).toEqual([width, height]);
  });

  it('of an event is the picture that the run is heading for, while a step is at work on nothing else', async () => {
    const previews: DecodedImage[] = [];
    const { images } = await pipeline.generate({
      ...SMALL,
      preset: 'jit-7x',
      onStep: async (event) => void previews.push(...(await pipeline.decode(event))),
    });
    expect(previews).toHaveLength(11);
    const likeness = previews.map((preview) => psnr(preview, images[0]!));
    expect(likeness.at(-1)).toBe(Infinity);
    // The later ones are nearer to the picture than the noise is, and nearer the later they are.
    const noise = await initialNoise(pipeline.model, SMALL_SIZE);
    const [grain] = await pipeline.decode(noise, { width: 64, height: 64 });
    noise.dispose();
    const late = likeness.slice(7);
    expect(Math.min(...late)).toBeGreaterThan(psnr(grain!, images[0]!));
    expect([...late].sort((a, b) => a - b)).toEqual(late);
  });

  it('looks into steps() and into a batch of requests', async () => {
    const run = pipeline.steps({ ...SMALL, steps: 3, preset: 'dense' });
    let last: DecodedImage[] = [];
    for await (const event of run) last = await pipeline.decode(event);
    expect(last).toHaveLength(1);

    const batching = await FluxPipeline.load(BUNDLED_MODEL, {
      dynamicBatching: { maxImages: 4, maxWaitMilliseconds: 200 },
    });
    try {
      const views: Buffer[][] = [[], []];
      const results = await Promise.all(
        [3, 8].map((seed, i) =>
          batching.generate({
            ...SMALL,
            seed,
            onStep: async (event) => {
              if (event.nextSigma === 0) views[i] = pixels(await batching.decode(event));
            },
          }),
        ),
      );
      expect(results.map(({ batch }) => batch.requests)).toEqual([2, 2]);
      expect(views).toEqual(results.map(({ images }) => pixels(images)));
    } finally {
      await batching.dispose();
    }
  });

  it('refuses other latents, sizes and events', async () => {
    const code = 'ERR_JITFLUX_INVALID_TENSOR';
    using noise = await initialNoise(pipeline.model, SMALL_SIZE);
    await expectError(
      () => pipeline.decode(noise),
      code,
      /float32 tensor \[1 to 64, 1024, 64\].*\[1, 64, 64\]/,
    );
    await expectError(
      () => pipeline.decode(noise, { width: 60 }),
      'ERR_JITFLUX_INVALID_ARGUMENT',
      /multiple of 8/,
    );
    using bad = Tensor.from(new Float32Array(64 * CHANNELS).fill(NaN), [1, 64, CHANNELS]);
    await expectError(
      () => pipeline.decode(bad, { width: 64, height: 64 }),
      'ERR_JITFLUX_NOT_FINITE',
      /picture of image 1/,
    );
    for (const from of [undefined, {}, { clean: 1, grid: [8, 8] }, { shape: [1, 64, 64] }]) {
      await expectError(() => pipeline.decode(from as never), 'ERR_JITFLUX_INVALID_ARGUMENT', /from/);
    }
    let over: StepEvent<Tensor> | undefined;
    const { images } = await pipeline.generate({ ...SMALL, onStep: (event) => void (over = event) });
    expect(images).toHaveLength(1);
    await expectError(() => pipeline.decode(over!), 'ERR_JITFLUX_DISPOSED');
    await expectError(
      () => pipeline.decode(over!, { width: 64 }),
      'ERR_JITFLUX_INVALID_ARGUMENT',
      /which has its own/,
    );
    const controller = new AbortController();
    controller.abort();
    await expectError(
      () => pipeline.decode(noise, { width: 64, height: 64, signal: controller.signal }),
      'ERR_JITFLUX_ABORTED',
    );
  });

  it('ends with the pipeline', async () => {
    const other = await FluxPipeline.load(BUNDLED_MODEL);
    using noise = await initialNoise(other.model, SMALL_SIZE);
    const decoding = other.decode(noise, { width: 64, height: 64 }).then(
      () => 'decoded',
      (error: { code: string }) => error.code,
    );
    await other.dispose();
    expect(['decoded', 'ERR_JITFLUX_ABORTED']).toContain(await decoding);
    await expectError(() => other.decode(noise), 'ERR_JITFLUX_DISPOSED');
  });
});

const SMALL_SIZE = { width: 64, height: 64, seed: SMALL.seed } as const;

describe('initialNoise', () => {
  it('is what a request starts from', async () => {
    const expected = pixels((await pipeline.generate({ ...SMALL, numImages: 2 })).images);
    using noise = await initialNoise(pipeline.model, { ...SMALL_SIZE, images: 2 });
    expect(noise.shape).toEqual([2, SIDE_TOKENS ** 2, CHANNELS]);
    const own = await pipeline.generate({ ...SMALL, numImages: 2, latents: noise });
    expect(pixels(own.images)).toEqual(expected);
    // In its packed shape it is drawn in another order.
    using packed = Tensor.randn([2, SIDE_TOKENS ** 2, CHANNELS], { seed: [5n, 6n] });
    expect(await packed.toFloat32Array()).not.toEqual(await noise.toFloat32Array());
  });

  it('takes a list of seeds, and refuses what no request takes', async () => {
    using list = await initialNoise(pipeline.model, { ...SMALL_SIZE, seed: [9, 2n ** 64n - 1n] });
    using last = await initialNoise(pipeline.model, { ...SMALL_SIZE, seed: 2n ** 64n - 1n });
    using second = list.images(1);
    expect(await second.toFloat32Array()).toEqual(await last.toFloat32Array());
    const code = 'ERR_JITFLUX_INVALID_ARGUMENT';
    for (const [o, message] of [
      [{ seed: -1 }, /seed/],
      [{ seed: [] }, /1 to 64 seeds/],
      [{ seed: [1, 2], images: 3 }, /seed/],
      [{ seed: 1, images: 65 }, /64 for "images"/],
      [{ seed: 1, width: 63 }, /width/],
      [{ seed: 1, sede: 1 }, /sede/],
    ] as const) {
      await expectError(() => initialNoise(pipeline.model, o as never), code, message);
    }
    await expectError(() => initialNoise({} as never, { seed: 1 }), code, /model/);
  });
});

describe('a list of seeds', () => {
  it('gives every picture its own', async () => {
    const { images, seed, seeds } = await pipeline.generate({ ...SMALL, seed: [7, 3, 2n ** 60n] });
    expect([seed, seeds]).toEqual([7, [7, 3, 2n ** 60n]]);
    expect(images.map((image) => image.seed)).toEqual(seeds);
    const alone = await pipeline.generate({ ...SMALL, seed: 3 });
    expect(psnr(images[1]!, alone.images[0]!)).toBeGreaterThan(45);
    expect([alone.seed, alone.seeds]).toEqual([3, [3]]);
  });

  it('of several prompts has one per picture', async () => {
    const prompt = ['a red circle', 'a blue square'];
    const result = await pipeline.generate({ ...SMALL, prompt, steps: 2, seed: [1, 2, 3, 4] });
    expect(result.images.map((image) => [image.prompt, image.seed])).toEqual([
      [prompt[0], 1],
      [prompt[0], 2],
      [prompt[1], 3],
      [prompt[1], 4],
    ]);
    const code = 'ERR_JITFLUX_INVALID_ARGUMENT';
    for (const [o, message] of [
      [{ prompt, seed: [1, 2, 3] }, /one per picture \(2 x 1\).*3 seeds/],
      [{ prompt, seed: [1] }, /one per picture/],
      [{ seed: [1, 2], numImages: 3 }, /one per picture \(1 x 3\).*2 seeds/],
      [{ seed: [] }, /1 to 64 seeds/],
      [{ seed: [1, -1] }, /seed\[1\]/],
      [{ seed: '1' }, /seed/],
    ] as const) {
      await expectError(() => pipeline.generate({ ...SMALL, ...(o as object) }), code, message);
    }
  });
});

describe('the lifter', () => {
  it('as a function gives what the fused one gives', async () => {
    const fused = await pipeline.generate({ ...SMALL, preset: 'jit-4x' });
    const own = await pipeline.generate({
      ...SMALL,
      preset: 'jit-4x',
      lifter: (v, anchors, grid) => jit.lift(v as Tensor, anchors, grid),
    });
    expect(pixels(own.images)).toEqual(pixels(fused.images));
    expect(own.images[0]!.metadata).toMatchObject({ lifter: 'own', preset: 'custom' });
    expect(fused.images[0]!.metadata['lifter']).toBeUndefined();
  });

  it("'nearest' is another picture, and says so", async () => {
    const o = { ...SMALL, numImages: 2 };
    const gaussian = await pipeline.generate(o);
    const nearest = await pipeline.generate({ ...o, lifter: 'nearest' });
    expect(pixels(nearest.images)).not.toEqual(pixels(gaussian.images));
    expect(nearest.images[0]!.metadata['lifter']).toBe('nearest');
    expect(nearest.plan.preset).toBe('custom');
  });
});

describe('EncodedPrompts.from', () => {
  it("takes a program's own tensors, which a picture says", async () => {
    const { name } = pipeline.model;
    using encoded = await pipeline.encodePrompt(['a red circle', 'a blue square']);
    const { prompt, pooled } = encoded;
    using same = await EncodedPrompts.from({ prompt, pooled, prompts: encoded.prompts, model: name });
    const o = { width: 64, height: 64, seed: 5, steps: 4 };
    const [expected, got] = [
      await pipeline.generate({ ...o, conditioning: encoded }),
      await pipeline.generate({ ...o, conditioning: same }),
    ];
    expect(pixels(got.images)).toEqual(pixels(expected.images));
    expect(got.images[0]!.metadata['conditioning']).toBeUndefined();

    // Half-way between two prompts.
    const between = async (rows: Tensor) => {
      using one = rows.images(0);
      using other = rows.images(1);
      return one.mix(other, 0.5);
    };
    using text = await between(prompt);
    using summary = await between(pooled);
    using mixed = await EncodedPrompts.from({ prompt: text, pooled: summary });
    expect([mixed.prompts, mixed.warnings]).toEqual([['(encoded prompt 1)'], []]);
    const { images } = await pipeline.generate({ ...o, conditioning: mixed });
    expect(images[0]!.metadata).toMatchObject({ conditioning: 'own', prompt: '(encoded prompt 1)' });
  });

  it('refuses other shapes, types and numbers', async () => {
    using prompt = Tensor.randn([1, 4, 8], { seed: 1 });
    using pooled = Tensor.randn([1, 6], { seed: 1 });
    using two = Tensor.randn([2, 6], { seed: 1 });
    using half = Tensor.randn([1, 6], { seed: 1, dtype: 'bfloat16' });
    using nan = Tensor.from(Float32Array.of(1, NaN), [1, 2]);
    const tensor = 'ERR_JITFLUX_INVALID_TENSOR';
    await expectError(() => EncodedPrompts.from({ prompt: pooled, pooled }), tensor, /"prompt".*\[1, 6\]/);
    await expectError(() => EncodedPrompts.from({ prompt, pooled: two }), tensor, /"pooled".*\[2, 6\]/);
    await expectError(() => EncodedPrompts.from({ prompt, pooled: half }), tensor, /bfloat16/);
    await expectError(() => EncodedPrompts.from({ prompt, pooled: nan }), tensor, /NaN.*row 0/);
    const argument = 'ERR_JITFLUX_INVALID_ARGUMENT';
    await expectError(() => EncodedPrompts.from({ prompt, pooled, prompts: [] }), argument, /prompts/);
    await expectError(
      () => EncodedPrompts.from({ prompt, pooled, prompts: [1 as never] }),
      argument,
      /prompts/,
    );
    await expectError(() => EncodedPrompts.from({ prompt, pooled, model: 1 as never }), argument, /model/);
    await expectError(() => EncodedPrompts.from({ prompt: 1 as never, pooled }), argument, /"prompt"/);
  });
});
