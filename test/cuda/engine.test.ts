/**
 * The engine on a GPU: what the golden suites (golden.test.ts) do not see. Runs on the first GPU, or through the
 * emulated kernels where there is none; what only a GPU can show says so when it is skipped.
 */
import { mkdtempSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ERROR_CODES } from '../../src/errors.js';
import { BUNDLED_MODEL, FluxPipeline, planMemory } from '../../src/pipeline/index.js';
import { engineInfo } from '../../src/engine/engine.js';
import {
  type Conditioning,
  ClipTextEncoder,
  devices,
  FluxTransformer,
  jit,
  JitSampler,
  resetPeakMemory,
  T5Encoder,
  Tensor,
} from '../../src/engine/index.js';
import { selectInitialAnchors, Random } from '../../src/sampler/index.js';
import type { LoadOptions } from '../../src/types.js';
import { cudaUnderTest } from '../support/cuda.js';
import { expectError } from '../support/errors.js';
import { loadMini } from '../support/mini.js';
import { maxAbs, relativeRms } from '../support/parity.js';
import { fixturePath } from '../support/safetensors.js';
import { writeTinySnapshot } from '../support/tiny-snapshot.js';

const found = cudaUnderTest();
const where = found.kind === 'none' ? `skipped: ${found.reason}` : found.kind;
const isGpu = found.kind === 'gpu';

const GRID: [rows: number, cols: number] = [8, 8];

const load = (o: LoadOptions): Promise<FluxTransformer> => loadMini(o);
const onCuda = (o: LoadOptions = {}) => load({ device: 'cuda', dtype: 'float32', ...o });

/** A prompt for `model`, on its device; everything is drawn from the seed. */
async function conditioned(
  model: FluxTransformer,
  o: { device?: 'cuda' | 'cpu'; images?: number; seed?: number } = {},
): Promise<Conditioning> {
  const { device = 'cuda', images = 1, seed = 1 } = o;
  using prompt = Tensor.randn([images, 12, model.config.textDim], { seed, device });
  using pooled = Tensor.randn([images, model.config.pooledDim], { seed: seed + 1, device });
  return model.condition({ prompt, pooled, guidance: 3.5, sigmas: [1, 0.75, 0.5, 0.25] });
}

const anchorsOf = (count: number, seed = 3): Int32Array =>
  selectInitialAnchors({
    pattern: 'checkerboard',
    grid: GRID,
    count,
    ratio: count / 64,
    random: new Random(BigInt(seed)),
  });

async function velocity(
  model: FluxTransformer,
  conditioning: Conditioning,
  o: {
    anchors?: Int32Array;
    step?: number;
    seed?: number;
    device?: 'cuda' | 'cpu';
    signal?: AbortSignal;
    onProgress?: () => void;
  } = {},
): Promise<Float32Array> {
  const { step = 1, seed = 9, device = 'cuda', anchors, signal, onProgress } = o;
  using latents = Tensor.randn([conditioning.images, 64, model.config.inChannels], { seed, device });
  using result = await model.forward({
    latents,
    grid: GRID,
    conditioning,
    step,
    ...(anchors && { anchors }),
    ...(signal && { signal }),
    ...(onProgress && { onProgress }),
  });
  return result.toFloat32Array();
}

describe.skipIf(found.kind === 'none')(`engine on CUDA (${where})`, () => {
  const scratch = mkdtempSync(join(tmpdir(), 'jit-flux-cuda-'));
  let resident: FluxTransformer;
  let conditioning: Conditioning;
  beforeAll(async () => {
    resident = await onCuda();
    conditioning = await conditioned(resident);
  });
  afterAll(() => {
    conditioning.dispose();
    resident.dispose();
    rmSync(scratch, { recursive: true, force: true });
  });

  it('lists its devices', async () => {
    const [first] = await devices();
    expect(first).toMatchObject({ index: 0 });
    expect(first!.name).not.toBe('');
    expect(first!.totalBytes).toBeGreaterThan(2 ** 30);
    expect(first!.freeBytes).toBeLessThanOrEqual(first!.totalBytes);
    resetPeakMemory('cuda');
  });

  it('takes every fused path once, and no other', async () => {
    const before = engineInfo().kernelCalls;
    await velocity(resident, conditioning, { anchors: anchorsOf(23) });
    const after = engineInfo().kernelCalls;
    const { doubleBlocks: D, singleBlocks: S } = resident.config;
    const calls = Object.fromEntries(
      Object.entries(after)
        .map(([name, count]) => [name, count - before[name as keyof typeof before]] as const)
        // The arena keeps the CPU's memory, in which the emulation computes.
        .filter(([name, count]) => count > 0 && !name.startsWith('arena')),
    );
    expect(calls).toEqual({
      gatherEmbed: 1,
      // Before the first block; then every norm goes with the residual before it. The last one leaves the text out.
      layerNormModulate: 2,
      gatedResidualLayerNormModulate: 4 * D + 2 * S - 1,
      gatedResidual: 1,
      qkNormRope: 2 * (D + S),
      deviceAttention: D + S,
      gelu: S,
      linearDevice: 8 * D + 2 * S + 1,
    });
  });

  it('gives the same bytes every time', async () => {
    const anchors = anchorsOf(23);
    const first = await velocity(resident, conditioning, { anchors });
    for (let i = 0; i < 3; i++) expect(await velocity(resident, conditioning, { anchors })).toEqual(first);
    using again = await onCuda();
    using other = await conditioned(again);
    expect(await velocity(again, other, { anchors })).toEqual(first);
  });

  it.each([
    ['float32', 2e-5],
    ['bfloat16', 2e-2],
    ['float16', 5e-3],
  ] as const)('agrees with the CPU in %s', async (dtype, bound) => {
    if (dtype === 'float16' && !isGpu) {
      console.log('float16 on the engine: skipped, LibTorch multiplies it on a GPU only');
      return;
    }
    // Rounding the time to 16 bits would outweigh everything else.
    const exact = { timeEmbedding: 'exact' } as const;
    using cpu = await load(exact);
    using there = await conditioned(cpu, { device: 'cpu' });
    using model = await onCuda({ ...exact, dtype });
    using here = await conditioned(model);
    for (const anchors of [undefined, anchorsOf(23)]) {
      const o = { ...(anchors && { anchors }) };
      const expected = await velocity(cpu, there, { ...o, device: 'cpu' });
      expect(relativeRms(await velocity(model, here, o), expected)).toBeLessThan(bound);
    }
  });

  it('gives every image of a batch what it gets alone, anchors of its own included', async () => {
    using batch = await conditioned(resident, { images: 2 });
    using latents = Tensor.randn([2, 64, resident.config.inChannels], { seed: [4, 5], device: 'cuda' });
    const lists = [anchorsOf(20, 1), anchorsOf(20, 2)];
    const anchors = Int32Array.from([...lists[0]!, ...lists[1]!]);
    using together = await resident.forward({
      latents,
      perImage: true,
      anchors,
      grid: GRID,
      conditioning: batch,
      step: [0, 2],
    });
    const values = await together.toFloat32Array();
    const size = values.length / 2;
    const swapped = await resident.forward({
      latents,
      perImage: true,
      anchors,
      grid: GRID,
      conditioning: batch,
      step: [2, 0],
    });
    expect(await swapped.toFloat32Array()).not.toEqual(values);
    swapped.dispose();
    const all = await latents.toFloat32Array();
    const prompt = Tensor.randn([2, 12, resident.config.textDim], { seed: 1 });
    const pooled = Tensor.randn([2, resident.config.pooledDim], { seed: 2 });
    const [texts, vectors] = [await prompt.toFloat32Array(), await pooled.toFloat32Array()];
    for (const b of [0, 1]) {
      const slice = (from: Float32Array) => from.slice((b * from.length) / 2, ((b + 1) * from.length) / 2);
      // Inputs on the CPU: condition() takes them to the model's device.
      using own = await resident.condition({
        prompt: Tensor.from(slice(texts), [1, 12, resident.config.textDim]),
        pooled: Tensor.from(slice(vectors), [1, resident.config.pooledDim]),
        guidance: 3.5,
        sigmas: [1, 0.75, 0.5, 0.25],
      });
      using alone = await resident.forward({
        latents: Tensor.from(slice(all), [1, 64, resident.config.inChannels], { device: 'cuda' }),
        anchors: lists[b]!,
        grid: GRID,
        conditioning: own,
        step: b * 2,
      });
      expect(maxAbs(await alone.toFloat32Array(), values.slice(b * size, (b + 1) * size))).toBeLessThan(2e-5);
    }
  });

  describe('streamed weights', () => {
    it('give the bytes of resident ones, pass after pass, also after one that was aborted', async () => {
      const progress: number[] = [];
      using streamed = await onCuda({
        weightStreaming: true,
        onProgress: ({ loadedBytes, totalBytes }) => progress.push(loadedBytes / totalBytes),
      });
      expect(progress.at(-1)).toBe(1);
      using own = await conditioned(streamed);
      await streamed.transferStatistics();
      for (const anchors of [anchorsOf(23), undefined, anchorsOf(40)]) {
        const o = { ...(anchors && { anchors }) };
        expect(await velocity(streamed, own, o)).toEqual(await velocity(resident, conditioning, o));
      }
      const statistics = await streamed.transferStatistics();
      expect(statistics!.bytes).toBeGreaterThan(0);
      expect(statistics!.overlap).toBeGreaterThanOrEqual(0);
      expect(statistics!.overlap).toBeLessThanOrEqual(1);

      const controller = new AbortController();
      let blocks = 0;
      await expectError(
        () =>
          velocity(streamed, own, {
            signal: controller.signal,
            onProgress: () => {
              if (++blocks === 1) controller.abort();
            },
          }),
        ERROR_CODES.ABORTED,
      ).catch(() => undefined); // a small model may be through before the abort arrives
      expect(await velocity(streamed, own)).toEqual(await velocity(resident, conditioning));
      expect(engineInfo().kernelCalls.linearStreamed).toBeGreaterThan(0);
    });

    it('are asked for nothing where the weights are resident', async () => {
      expect(await resident.transferStatistics()).toBeUndefined();
    });
  });

  it('CUDA graphs give the bytes of separate launches, for every stage, step, prompt and list of anchors', async () => {
    using recorded = await onCuda({ cudaGraphs: true });
    using one = await conditioned(recorded);
    using two = await conditioned(recorded, { seed: 50 });
    using other = await conditioned(resident, { seed: 50 });
    const launches = () => engineInfo().kernelCalls.graphLaunch;
    const before = launches();
    // Growing passes move the buffers, which the records must notice.
    for (const round of [1, 2, 3]) {
      for (const count of [20, 40, 64]) {
        for (const step of [0, 2]) {
          const anchors = count === 64 ? {} : { anchors: anchorsOf(count, round) };
          const o = { step, seed: round, ...anchors };
          const what = `round ${round}, ${count} tokens, step ${step}`;
          expect(await velocity(recorded, one, o), what).toEqual(await velocity(resident, conditioning, o));
          expect(await velocity(recorded, two, o), what).toEqual(await velocity(resident, other, o));
        }
      }
    }
    expect(launches() - before).toBeGreaterThan(20);
  });

  it('reads the modulation anew where it is not kept', async () => {
    using model = await onCuda({ keepModulation: false });
    for (let i = 0; i < 2; i++) {
      using own = await conditioned(model);
      expect(await velocity(model, own)).toEqual(await velocity(resident, conditioning));
    }
  });

  describe('tensors', () => {
    it('come and go unchanged', async () => {
      const values = Float32Array.from({ length: 24 }, (_, i) => i - 7.25);
      using there = Tensor.from(values, [2, 3, 4], { device: 'cuda' });
      expect(await there.toFloat32Array()).toEqual(values);
      using copy = there.clone();
      using back = await copy.to('cpu');
      expect(back.device).toBe('cpu');
      expect(await back.toFloat32Array()).toEqual(values);
      using again = await back.to('cuda');
      expect(again.device).toBe(there.device);
      expect(await again.toFloat32Array()).toEqual(values);
    });

    it('are whole when they are copied at once', async () => {
      const values = Float32Array.from({ length: 4096 }, (_, i) => i - 7.25);
      using noise = Tensor.randn([1, 64, 64], { seed: 5 });
      const expected = await noise.toFloat32Array();
      for (let round = 0; round < 50; round++) {
        using copied = Tensor.from(values, [1, 64, 64], { device: 'cuda' }).clone();
        using drawn = Tensor.randn([1, 64, 64], { seed: 5, device: 'cuda' }).clone();
        expect(await copied.toFloat32Array()).toEqual(values);
        expect(await drawn.toFloat32Array()).toEqual(expected);
      }
    });

    it('draw the noise of the CPU', async () => {
      using here = Tensor.randn([2, 8, 4], { seed: [3, 4] });
      using there = Tensor.randn([2, 8, 4], { seed: [3, 4], device: 'cuda' });
      expect(await there.toFloat32Array()).toEqual(await here.toFloat32Array());
    });

    it('keep the order of what is asked of them', async () => {
      using latents = Tensor.randn([1, 64, 16], { seed: 1, device: 'cuda' });
      using v = Tensor.from(new Float32Array(64 * 16).fill(1), [1, 64, 16], { device: 'cuda' });
      const start = await latents.toFloat32Array();
      // Neither the clone nor the reading waits for the step that was asked for before.
      const stepped = jit.step(latents, v, { grid: GRID, dSigma: 0.5 });
      using copy = latents.clone();
      const read = copy.toFloat32Array();
      const again = jit.step(latents, v, { grid: GRID, dSigma: 0.5 });
      if (isGpu)
        expect(
          maxAbs(
            await read,
            start.map((x) => x + 0.5),
          ),
        ).toBeLessThan(1e-6);
      for (const step of [stepped, again]) (await step).dispose();
      expect(
        maxAbs(
          await latents.toFloat32Array(),
          start.map((x) => x + 1),
        ),
      ).toBeLessThan(1e-6);
      await read;
    });
  });

  it('runs the presets, and in the same way every time', async () => {
    using latents = Tensor.randn([1, 64, resident.config.inChannels], { seed: 11, device: 'cuda' });
    const run = async (preset: 'dense' | 'jit-4x' | 'jit-7x'): Promise<Float32Array> => {
      const options = { preset, grid: GRID, latents, seed: 5 };
      const planner = new JitSampler({ velocity: () => Promise.reject(new Error('it only plans')) }, options);
      const { sigmas } = planner.plan;
      planner.dispose();
      using prompt = Tensor.randn([1, 12, resident.config.textDim], { seed: 1, device: 'cuda' });
      using pooled = Tensor.randn([1, resident.config.pooledDim], { seed: 2, device: 'cuda' });
      using own = await resident.condition({ prompt, pooled, guidance: 3.5, sigmas });
      using sampler = new JitSampler(resident.bind(own), options);
      for await (const event of sampler) expect(event.milliseconds).toBeGreaterThan(0);
      return sampler.latents.toFloat32Array();
    };
    for (const preset of ['jit-4x', 'jit-7x'] as const) {
      const first = await run(preset);
      expect(first.every(Number.isFinite)).toBe(true);
      expect(await run(preset)).toEqual(first);
    }
  });

  describe('errors', () => {
    const { INVALID_ARGUMENT, INVALID_TENSOR, DEVICE_UNAVAILABLE, OUT_OF_MEMORY, ABORTED } = ERROR_CODES;

    it('of options', async () => {
      await expectError(() => load({ device: 'cuda:99' }), DEVICE_UNAVAILABLE, /cuda:99.*cuda:0/);
      await expectError(() => load({ device: 'gpu' as never }), INVALID_ARGUMENT, /cuda:<index>/);
      await expectError(() => onCuda({ quantize: 'int8' }), INVALID_ARGUMENT, /quantize/);
      await expectError(() => load({ weightStreaming: true }), INVALID_ARGUMENT, /weightStreaming/);
      await expectError(() => load({ cudaGraphs: true }), INVALID_ARGUMENT, /cudaGraphs/);
      await expectError(() => load({ dtype: 'float16' }), INVALID_ARGUMENT, /dtype/);
      await expectError(
        () => T5Encoder.load(fixturePath('text-vae/t5.safetensors'), { device: 'cuda', dtype: 'float16' }),
        INVALID_ARGUMENT,
        /float16/,
      );
      await expectError(() => onCuda({ signal: AbortSignal.abort() }), ABORTED);
    });

    it.skipIf(!isGpu)(
      'of tensors on another device (a GPU only: emulated tensors are on the CPU)',
      async () => {
        using latents = Tensor.randn([1, 64, resident.config.inChannels], { seed: 1 });
        await expectError(
          () => resident.forward({ latents, grid: GRID, conditioning, step: 0 }),
          INVALID_TENSOR,
          /cuda:0.*cpu/,
        );
        using there = await latents.to('cuda');
        await expectError(
          () => jit.step(latents, there, { grid: GRID, dSigma: 1 }),
          INVALID_TENSOR,
          /one device/,
        );
        using encoder = await ClipTextEncoder.load(fixturePath('text-vae/clip.safetensors'), {
          device: 'cuda',
        });
        using ids = Tensor.from(BigInt64Array.of(0n, 1n), [1, 2], { device: 'cuda' });
        await expectError(() => encoder.encode(ids), INVALID_TENSOR, /on the CPU/);
      },
    );

    it('of memory: how much was asked for and how much there is; the engine goes on', async () => {
      using v = Tensor.randn([8, 1, 512], { seed: 1, device: 'cuda' });
      const error = await expectError(
        () => jit.lift(v, Int32Array.of(0), [4096, 4096]),
        OUT_OF_MEMORY,
        /cuda:0 .* free/,
      );
      expect(error.details).toMatchObject({ device: 'cuda:0' });
      expect(error.details!.totalBytes).toBeGreaterThan(0);
      if (isGpu) expect(error.details!.requestedBytes).toBeGreaterThan(2e11);
      await velocity(resident, conditioning);
    });
  });

  describe('pipeline', () => {
    const snapshot = join(scratch, 'snapshot');
    const request = { prompt: 'a red circle', width: 64, height: 64, seed: 3, steps: 8 };
    beforeAll(() => writeTinySnapshot(snapshot));
    const picture = async (o: LoadOptions, model = snapshot): Promise<Uint8Array> => {
      await using pipeline = await FluxPipeline.load(model, { dtype: 'float32', ...o });
      const { images } = await pipeline.generate({
        ...request,
        ...(model === BUNDLED_MODEL && { steps: 6 }),
      });
      return images[0]!.data;
    };
    let expected: Uint8Array;
    beforeAll(async () => {
      expected = await picture({ device: 'cuda' });
    });

    it('makes the picture of the CPU, up to rounding', async () => {
      const cpu = await picture({});
      // Random weights amplify rounding; the golden suites hold the exact bounds.
      expect(relativeRms(expected, cpu)).toBeLessThan(0.05);
    });

    it.each([
      ['weights streamed', { weightStreaming: true }],
      ['CUDA graphs', { cudaGraphs: true }],
      ['text encoders and autoencoder loaded when needed', { keepTextEncoders: false, keepDecoder: false }],
      ['modulation read anew', { keepModulation: false }],
    ] as const)('makes the same picture with %s', async (_, o) => {
      expect(await picture({ device: 'cuda', ...o })).toEqual(expected);
    });

    it('loads the autoencoder for every decode where it is not kept', async () => {
      const vae = join(snapshot, 'vae');
      for (const keepDecoder of [true, false]) {
        await using pipeline = await FluxPipeline.load(snapshot, {
          device: 'cuda',
          dtype: 'float32',
          keepDecoder,
        });
        renameSync(vae, `${vae}.away`);
        try {
          if (keepDecoder) await pipeline.generate(request);
          else await expectError(() => pipeline.generate(request), ERROR_CODES.FILE_NOT_FOUND);
        } finally {
          renameSync(`${vae}.away`, vae);
        }
      }
    });

    it('makes it with text encoders and autoencoder on the CPU', async () => {
      const mixed = await picture({ device: 'cuda', textEncoderDevice: 'cpu', decoderDevice: 'cpu' });
      expect(relativeRms(mixed, expected)).toBeLessThan(0.05);
    });

    it('runs the bundled model, whose TorchScript parts stay on the CPU', async () => {
      const there = await picture({ device: 'cuda' }, BUNDLED_MODEL);
      expect(relativeRms(there, await picture({}, BUNDLED_MODEL))).toBeLessThan(0.05);
    });

    it('takes noise from any device and several pictures of a prompt', async () => {
      await using pipeline = await FluxPipeline.load(snapshot, { device: 'cuda', dtype: 'float32' });
      using latents = Tensor.randn([2, 16, pipeline.config.inChannels], { seed: 1 });
      const run = async (noise: Tensor): Promise<Uint8Array[]> => {
        const { images } = await pipeline.generate({ ...request, numImages: 2, latents: noise });
        return images.map(({ data }) => data);
      };
      using there = await latents.to('cuda');
      expect(await run(latents)).toEqual(await run(there));
    });

    it('plans the memory of both', async () => {
      const plan = await planMemory(snapshot, { device: 'cuda' });
      expect(plan.dtype).toBe('bfloat16');
      expect(plan.blockWeights).toBe('resident');
      expect(plan.accelerator).toMatchObject({ device: 'cuda' });
      expect(plan.accelerator!.peakBytes).toBeGreaterThan(0);
      expect(plan.phases.every(({ deviceBytes }) => deviceBytes! > 0)).toBe(true);
      expect(plan.fits).toBe(true);
    });
  });
});
