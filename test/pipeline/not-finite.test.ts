/**
 * NaN and infinite values are told, wherever in a model or a request they come from: they would make a black picture.
 */
import { cpSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  BUNDLED_MODEL,
  type ConversionProgress,
  convertModel,
  encodeOnly,
  ERROR_CODES,
  FluxPipeline,
  JitSampler,
  latentOps,
  loadEncodedPrompts,
  Tensor,
  type GenerateRequest,
} from '../../src/index.js';
import { run } from '../../src/cli/run.js';
import { expectError } from '../support/errors.js';
import { SafeTensors, writeSafeTensors } from '../support/safetensors.js';
import { writeTinySnapshot } from '../support/tiny-snapshot.js';

const { NOT_FINITE, INVALID_TENSOR, CORRUPT_FILE } = ERROR_CODES;
const scratch = mkdtempSync(join(tmpdir(), 'jit-flux-not-finite-'));
const whole = join(scratch, 'whole');
const small = { width: 64, height: 64, steps: 6, seed: 1 };
const request: GenerateRequest = { prompt: 'a fox', ...small };

beforeAll(() => writeTinySnapshot(whole));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** A copy of the snapshot in which the first element of a float32 tensor is another number. */
function damaged(component: string, tensor: string, value: number): string {
  const path = mkdtempSync(join(scratch, 'damaged-'));
  cpSync(whole, path, { recursive: true });
  for (const name of readdirSync(join(path, component))) {
    const file = join(path, component, name);
    if (!name.endsWith('.safetensors')) continue;
    const tensors = SafeTensors.open(file).all();
    const found = tensors.get(tensor);
    if (!found) continue;
    new DataView(found.data.buffer).setFloat32(0, value, true);
    writeSafeTensors(file, tensors);
    return path;
  }
  throw new Error(`no tensor ${tensor} in ${component}`);
}

describe('a damaged weight', () => {
  it.each([
    ['NaN', NaN, {}],
    ['infinite', Infinity, {}],
    ['NaN, sampled without the fused step', NaN, { output: 'latent' }],
    ['NaN, in bytes', NaN, { quantize: 'int8' }],
  ] as const)('of the transformer that is %s is told with stage and step', async (_, value, o) => {
    const model = damaged('transformer', 'proj_out.weight', value);
    const { output = 'image', ...load } = o as { output?: 'latent'; quantize?: 'int8' };
    await using pipeline = await FluxPipeline.load(model, load);
    const seen: number[] = [];
    const error = await expectError(
      () => pipeline.generate({ ...request, output, onStep: ({ step }) => void seen.push(step) }),
      NOT_FINITE,
      /^NaN or infinite values in the latents of image 1 of 1 \(.*\), after step 1 of 6 \(stage 2, sigma 1\)$/,
    );
    expect(error.details).toEqual({ what: 'latents', image: 0, step: 0, stage: 2, sigma: 1 });
    expect(error.statusCode).toBe(500);
    expect(seen).toEqual([]);
    expect(pipeline.stats().requests).toMatchObject({ completed: 0, failed: 1 });
  });

  it('of the transformer that only the autoencoder cannot bear is told instead of a picture', async () => {
    const model = damaged('transformer', 'proj_out.weight', 3e38);
    await using pipeline = await FluxPipeline.load(model);
    await expectError(
      () => pipeline.generate(request),
      NOT_FINITE,
      /in the (picture|latents) of image 1 of 1/,
    );
  });

  it('of a text encoder is told before anything is sampled', async () => {
    const model = damaged('text_encoder_2', 'encoder.final_layer_norm.weight', NaN);
    await using pipeline = await FluxPipeline.load(model);
    const error = await expectError(
      () => pipeline.generate(request),
      NOT_FINITE,
      /encoded prompt of image 1 /,
    );
    expect(error.details).toEqual({ what: 'encoded prompt', image: 0 });
    expect(pipeline.stats().steps).toBe(0);
    await expectError(() => pipeline.encodePrompt(['a fox', 'a hen']), NOT_FINITE, /prompt 1 of 2/);
    await expectError(() => encodeOnly(model, 'a fox'), NOT_FINITE, /text encoders/);
    const pooled = damaged('text_encoder', 'text_model.final_layer_norm.weight', Infinity);
    await using other = await FluxPipeline.load(pooled);
    await expectError(() => other.generate(request), NOT_FINITE, /pooled prompt of image 1 /);
  });

  it('of the autoencoder is told instead of a picture', async () => {
    const model = damaged('vae', 'decoder.conv_out.bias', NaN);
    await using pipeline = await FluxPipeline.load(model);
    const two = { ...request, numImages: 2 };
    await expectError(() => pipeline.generate(two), NOT_FINITE, /in the picture of image 1 of 2/);
    const { latents } = await pipeline.generate({ ...two, output: 'latent' });
    using kept = latents!;
    expect([...(await kept.notFinite())]).toEqual([]);
  });

  it('ends the command line with the message and no file', async () => {
    const model = damaged('transformer', 'proj_out.weight', NaN);
    const out = join(scratch, 'none.png');
    const lines: string[] = [];
    const code = await run(
      [
        'generate',
        'a fox',
        '--model',
        model,
        '--width',
        '64',
        '--height',
        '64',
        '--steps',
        '4',
        '--out',
        out,
      ],
      {
        stdout: { write: () => true, isTTY: false },
        stderr: { write: (text: string) => lines.push(text) > 0, isTTY: false },
        signal: new AbortController().signal,
      } as never,
    );
    expect(code).toBe(2);
    expect(lines.join('')).toContain('ERR_JITFLUX_NOT_FINITE');
    expect(readdirSync(scratch)).not.toContain('none.png');
  });
});

describe("a caller's values", () => {
  it('are refused with their name', async () => {
    await using pipeline = await FluxPipeline.load(BUNDLED_MODEL);
    using latents = Tensor.from(new Float32Array(2 * 64 * 64).fill(Infinity, 64 * 64), [2, 64, 64]);
    await expectError(
      () => pipeline.generate({ ...request, latents, numImages: 2 }),
      INVALID_TENSOR,
      /"latents" but received "NaN or infinite values in row 1"/,
    );
    using encoded = await pipeline.encodePrompt(['a red circle', 'a blue star']);
    const values = await encoded.pooled.toFloat32Array();
    values[0] = NaN;
    using pooled = Tensor.from(values, encoded.pooled.shape);
    const conditioning = Object.assign(Object.create(encoded) as typeof encoded, { pooled });
    await expectError(
      () => pipeline.steps({ ...small, conditioning }).next(),
      INVALID_TENSOR,
      /"conditioning.pooled"/,
    );
  });

  it('do not spoil the pictures of a batch', async () => {
    await using pipeline = await FluxPipeline.load(BUNDLED_MODEL, {
      dynamicBatching: { maxImages: 4, maxWaitMilliseconds: 2000 },
    });
    const rest = { ...small, preset: 'dense', steps: 3 } as const;
    using good = await pipeline.encodePrompt('a red circle');
    const values = await good.prompt.toFloat32Array();
    values[5] = NaN;
    using prompt = Tensor.from(values, good.prompt.shape);
    const bad = Object.assign(Object.create(good) as typeof good, { prompt });
    const outcomes = await Promise.allSettled(
      [good, bad, good, bad].map((conditioning) => pipeline.generate({ ...rest, conditioning })),
    );
    expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled', 'rejected']);
    expect(outcomes[0]).toMatchObject({ value: { batch: { requests: 2 } } });
    expect(pipeline.stats().requests).toMatchObject({ completed: 2, failed: 2, running: 0 });
    // None is left.
    const all = await Promise.allSettled(
      Array.from({ length: 4 }, () => pipeline.generate({ ...rest, conditioning: bad })),
    );
    expect(all.every(({ status }) => status === 'rejected')).toBe(true);
    expect((await pipeline.generate({ ...rest, conditioning: good })).images).toHaveLength(1);
  });

  it('are found in a file of encoded prompts', async () => {
    await using pipeline = await FluxPipeline.load(BUNDLED_MODEL);
    using encoded = await pipeline.encodePrompt('a red circle');
    const file = join(scratch, 'encoded.safetensors');
    const values = await encoded.prompt.toFloat32Array();
    values[7] = -Infinity;
    using prompt = Tensor.from(values, encoded.prompt.shape);
    await Object.assign(Object.create(encoded) as typeof encoded, { prompt }).save(file);
    await expectError(() => loadEncodedPrompts(file), CORRUPT_FILE, /NaN or infinite values in row 0/);
  });
});

describe('a sampler of its own', () => {
  it('tells the step after which the latents were no numbers', async () => {
    using latents = Tensor.randn([2, 16, 4], { seed: 1 });
    using sampler = new JitSampler(
      {
        velocity: async ({ tokens, step }) => {
          const values = await tokens.toFloat32Array();
          if (step === 2) values[values.length - 1] = NaN;
          return Tensor.from(values, tokens.shape);
        },
      },
      { latents, grid: [4, 4], steps: 5, stageRatios: [0.4, 1], tokenRatios: [0.5, 1] },
    );
    const steps: number[] = [];
    const error = await expectError(
      async () => {
        for await (const { step } of sampler) steps.push(step);
      },
      NOT_FINITE,
      /latents of image 2 of 2/,
    );
    expect(steps).toEqual([0, 1]);
    expect(error.details).toMatchObject({ step: 2, stage: 0, image: 1 });
  });
});

describe('Tensor.notFinite', () => {
  it.each(['float32', 'float64', 'bfloat16', 'float16'] as const)(
    'looks at every element: %s',
    async (dtype) => {
      for (const value of [NaN, Infinity, -Infinity]) {
        for (const place of [0, 6, 14]) {
          const values = Float32Array.from({ length: 15 }, (_, i) => (i % 2 === 0 ? 60000 : -0));
          values[place] = value;
          using tensor = Tensor.from(values, [3, 5], { dtype });
          expect([...(await tensor.notFinite())]).toEqual([Math.floor(place / 5)]);
        }
      }
      using finite = Tensor.from(Float32Array.of(65504, -65504, 1e-30, 0), [2, 2], { dtype });
      expect([...(await finite.notFinite())]).toEqual([]);
    },
  );

  it('finds none in integers, and images of their own in views', async () => {
    using integers = Tensor.from(Int32Array.of(0x7f800000, -1), [2]);
    expect([...(await integers.notFinite())]).toEqual([]);
    using all = Tensor.from(Float32Array.of(1, NaN, 3, NaN), [4, 1]);
    expect([...(await all.notFinite())]).toEqual([1, 3]);
    using middle = all.images(2, 2);
    expect([...(await middle.notFinite())]).toEqual([1]);
    using pictures = Tensor.from(new Float32Array(12).fill(NaN, 11), [1, 3, 2, 2]);
    await expectError(() => latentOps.toImage(pictures), NOT_FINITE);
  });
});

describe('convert', () => {
  /** A file with numbers that float16 cannot hold. */
  function fileOf(name: string, values: number[]): string {
    const path = join(scratch, `${name}.safetensors`);
    const data = new Uint8Array(Float32Array.from(values).buffer);
    const tensors = new Map([
      ['ok', { dtype: 'F32', shape: [2], data: new Uint8Array(Float32Array.of(1, 2).buffer) }],
      ['layers.0.weight', { dtype: 'F32', shape: [values.length], data }],
      ['layers.1.weight', { dtype: 'F32', shape: [values.length], data }],
    ]);
    writeSafeTensors(path, tensors);
    return path;
  }
  const VALUES = [1e5, -7e4, 65519, 1e-9, -1e-9, 0, -0, NaN, Infinity, 1, 6e-8];

  /** A conversion that is aborted as soon as it is where it should be. One that is done before is made again. */
  async function interrupted(
    input: string,
    output: string,
    isThere: (p: ConversionProgress) => boolean,
  ): Promise<void> {
    for (let attempt = 0; attempt < 20; attempt++) {
      const controller = new AbortController();
      try {
        await convertModel(input, output, {
          dtype: 'float16',
          signal: controller.signal,
          onProgress: (p) => {
            if (isThere(p)) controller.abort();
          },
        });
      } catch (error) {
        expect(error).toMatchObject({ code: ERROR_CODES.ABORTED });
        return;
      }
      rmSync(output, { recursive: true });
    }
    throw new Error('every conversion was done before it was aborted');
  }

  it('counts what became infinite or zero', async () => {
    const input = fileOf('large', VALUES);
    const { files } = await convertModel(input, join(scratch, 'half.safetensors'), { dtype: 'float16' });
    expect(files).toMatchObject([
      { becameInfinite: 4, becameZero: 4, infiniteTensors: ['layers.0.weight', 'layers.1.weight'] },
    ]);
    for (const dtype of ['bfloat16', 'float32', 'keep'] as const) {
      const { files: kept } = await convertModel(input, join(scratch, 'kept.safetensors'), { dtype });
      expect(kept).toMatchObject([{ becameInfinite: 0, becameZero: 0, infiniteTensors: [] }]);
    }
    const doubles = join(scratch, 'doubles.safetensors');
    const data = new Uint8Array(Float64Array.of(1e300, 1e-300, NaN, -Infinity, 0, 3).buffer);
    writeSafeTensors(doubles, new Map([['x', { dtype: 'F64', shape: [6], data }]]));
    const single = await convertModel(doubles, join(scratch, 'single.safetensors'), { dtype: 'float32' });
    expect(single.files).toMatchObject([{ becameInfinite: 1, becameZero: 1, infiniteTensors: ['x'] }]);
  });

  it('warns of it on the command line', async () => {
    const lines: string[] = [];
    const code = await run(
      [
        'convert',
        fileOf('warned', VALUES),
        join(scratch, 'warned-half.safetensors'),
        '--dtype',
        'float16',
        '-q',
      ],
      {
        stdout: { write: () => true, isTTY: false },
        stderr: { write: (text: string) => lines.push(text) > 0, isTTY: false },
        signal: new AbortController().signal,
      } as never,
    );
    expect(code).toBe(0);
    expect(lines.join('')).toMatch(
      /4 numbers became infinite in float16 \(layers.0.weight, layers.1.weight\)/,
    );
  });

  it('counts across an interruption, and of components that were done before', async () => {
    const input = join(scratch, 'long.safetensors');
    const values = new Float32Array(6 * 2 ** 20).fill(1e5, 0, 1000);
    const data = new Uint8Array(values.buffer);
    writeSafeTensors(
      input,
      new Map(['a', 'b'].map((name) => [name, { dtype: 'F32', shape: [values.length], data }])),
    );
    const output = join(scratch, 'long-half.safetensors');
    await interrupted(input, output, ({ tensor }) => tensor === 'b');
    const { files } = await convertModel(input, output, { dtype: 'float16' });
    expect(files[0]?.resumedBytes).toBeGreaterThan(0);
    expect(files).toMatchObject([{ becameInfinite: 2000, becameZero: 0, infiniteTensors: ['a', 'b'] }]);

    const model = damaged('transformer', 'proj_out.weight', 1e5);
    const folder = join(scratch, 'half-model');
    // Long enough to be interrupted.
    const vae = join(model, 'vae', 'diffusion_pytorch_model.safetensors');
    writeSafeTensors(
      vae,
      SafeTensors.open(vae)
        .all()
        .set('long', { dtype: 'F32', shape: [values.length], data }),
    );
    await interrupted(model, folder, ({ component }) => component === 'vae');
    const again = await convertModel(model, folder, { dtype: 'float16' });
    expect(again.files.find(({ component }) => component === 'transformer')).toMatchObject({
      reused: true,
      becameInfinite: 1,
      infiniteTensors: ['proj_out.weight'],
    });
  });
});
