/** FluxTransformer: validation, cancellation, disposal, instruction sets. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Conditioning, FluxTransformer, jit, JitSampler, Tensor } from '../../src/engine/index.js';
import { createPlan } from '../../src/sampler/index.js';
import type { LoadOptions, VelocityModel } from '../../src/types.js';
import { native } from '../../src/engine/call.js';
import { expectError } from '../support/errors.js';
import { MINI, MINI_AXES, archiveMini, loadMini } from '../support/mini.js';
import { maxAbs, relativeRms } from '../support/parity.js';

let model: FluxTransformer;
let conditioning: Conditioning;
beforeAll(async () => {
  model = await loadMini();
  using prompt = Tensor.randn([1, 12, 96], { seed: 1 });
  using pooled = Tensor.randn([1, 48], { seed: 2 });
  conditioning = await model.condition({ prompt, pooled, guidance: 3.5, sigmas: [1, 0.5] });
});
afterAll(() => {
  conditioning.dispose();
  model.dispose();
});

describe('forward refuses', () => {
  const grid = [8, 8] as const;
  it.each([
    ['out of range', Int32Array.of(0, 64)],
    ['negative', Int32Array.of(-1, 3)],
    ['duplicated', Int32Array.of(3, 3)],
    ['the wrong count', Int32Array.of(1, 2, 3)],
  ])('anchors: %s', async (_, anchors) => {
    using tokens = Tensor.randn([1, 2, 64], { seed: 3 });
    await expectError(
      () => model.forward({ tokens, anchors, grid, conditioning, step: 0 }),
      'ERR_JITFLUX_INVALID_ANCHORS',
    );
  });

  it('tokens of another shape', async () => {
    using narrow = Tensor.randn([1, 64, 32], { seed: 3 });
    await expectError(
      () => model.forward({ tokens: narrow, grid, conditioning, step: 0 }),
      'ERR_JITFLUX_INVALID_TENSOR',
    );
    using few = Tensor.randn([1, 60, 64], { seed: 3 });
    await expectError(
      () => model.forward({ tokens: few, grid, conditioning, step: 0 }),
      'ERR_JITFLUX_INVALID_TENSOR',
    );
    using batch = Tensor.randn([2, 64, 64], { seed: 3 });
    await expectError(
      () => model.forward({ tokens: batch, grid, conditioning, step: 0 }),
      'ERR_JITFLUX_INVALID_TENSOR',
    );
  });

  it.each([-1, 2, 0.5, NaN])('step %s', async (step) => {
    using tokens = Tensor.randn([1, 64, 64], { seed: 3 });
    await expectError(
      () => model.forward({ tokens, grid, conditioning, step }),
      'ERR_JITFLUX_INVALID_ARGUMENT',
      /step/,
    );
  });

  it('a conditioning of another model', async () => {
    using other = await loadMini();
    using tokens = Tensor.randn([1, 64, 64], { seed: 3 });
    await expectError(
      () => other.forward({ tokens, grid, conditioning, step: 0 }),
      'ERR_JITFLUX_INVALID_ARGUMENT',
      /another transformer/,
    );
  });
});

it('prepare() does what the first pass would do: once, and block by block', async () => {
  using fresh = await loadMini();
  const { doubleBlocks, singleBlocks, hiddenSize, mlpRatio } = fresh.config;
  const held = () => native().memoryUse().tensorBytes;
  const before = held();
  const seen: number[] = [];
  await fresh.prepare({ onProgress: ({ block }) => seen.push(block) });
  expect(seen.at(-1)).toBe(doubleBlocks + singleBlocks);
  // Two streams' q, k, v, out and MLP; q, k, v, MLP and out of both.
  const weights =
    (2 * doubleBlocks * (4 + 2 * mlpRatio) + singleBlocks * (4 + 2 * mlpRatio)) * hiddenSize ** 2;
  expect(held() - before).toBeGreaterThanOrEqual(weights * Float32Array.BYTES_PER_ELEMENT);
  const prepared = held();
  await fresh.prepare();
  expect(held()).toBe(prepared);
});

describe('condition refuses', () => {
  it.each([
    ['guidance NaN', { guidance: NaN }, /guidance/],
    ['guidance < 0', { guidance: -1 }, /guidance/],
    ['guidance of another batch', { guidance: [1, 2] }, /guidance/],
    ['no sigmas', { sigmas: [] }, /sigmas/],
    ['sigma > 1', { sigmas: [1.5] }, /sigmas/],
    ['sigma NaN', { sigmas: [NaN] }, /sigmas/],
  ])('%s', async (_, bad, message) => {
    using prompt = Tensor.randn([1, 12, 96], { seed: 1 });
    using pooled = Tensor.randn([1, 48], { seed: 2 });
    await expectError(
      () => model.condition({ prompt, pooled, guidance: 3.5, sigmas: [1], ...bad }),
      'ERR_JITFLUX_INVALID_ARGUMENT',
      message,
    );
  });

  it('text of another width', async () => {
    using prompt = Tensor.randn([1, 12, 95], { seed: 1 });
    using pooled = Tensor.randn([1, 48], { seed: 2 });
    await expectError(
      () => model.condition({ prompt, pooled, sigmas: [1] }),
      'ERR_JITFLUX_INVALID_TENSOR',
      /prompt/,
    );
  });
});

it.each([
  ['dtype', { dtype: 'float16' as const }],
  ['threads', { threads: 0 }],
  ['quantize', { quantize: 'int4' as 'int8' }],
])('load refuses %s that it cannot honour', async (name, options) => {
  await expectError(
    () => FluxTransformer.load(MINI, options),
    'ERR_JITFLUX_INVALID_ARGUMENT',
    new RegExp(name),
  );
});

describe('cancellation and disposal', () => {
  it('stops between blocks', async () => {
    using tokens = Tensor.randn([1, 4096, 64], { seed: 3 });
    const controller = new AbortController();
    const blocks: number[] = [];
    await expectError(
      () =>
        model.forward({
          tokens,
          grid: [64, 64],
          conditioning,
          step: 0,
          signal: controller.signal,
          onProgress: ({ block }) => {
            blocks.push(block);
            controller.abort(new Error('enough'));
          },
        }),
      'ERR_JITFLUX_ABORTED',
    ).then((error) => expect(error.cause).toMatchObject({ message: 'enough' }));
    expect(blocks.at(-1)).toBeLessThan(5);
  });

  it('rejects with what a progress callback throws', async () => {
    using tokens = Tensor.randn([1, 1024, 64], { seed: 3 });
    await expect(
      model.forward({
        tokens,
        grid: [32, 32],
        conditioning,
        step: 0,
        onProgress: () => {
          throw new TypeError('mine');
        },
      }),
    ).rejects.toThrow(new TypeError('mine'));
  });

  it('ends work in flight when the model is disposed, then refuses', async () => {
    const other = await loadMini();
    using prompt = Tensor.randn([1, 12, 96], { seed: 1 });
    using pooled = Tensor.randn([1, 48], { seed: 2 });
    using own = await other.condition({ prompt, pooled, sigmas: [1] });
    using tokens = Tensor.randn([1, 64, 64], { seed: 3 });
    const pending = other.forward({ tokens, grid: [8, 8], conditioning: own, step: 0 });
    other.dispose();
    // Aborted, unless it was past its last checkpoint.
    const end = await pending.catch((error: unknown) => error);
    if (end instanceof Tensor) end.dispose();
    else expect(end).toMatchObject({ code: 'ERR_JITFLUX_ABORTED', cause: { code: 'ERR_JITFLUX_DISPOSED' } });
    await expectError(
      () => other.forward({ tokens, grid: [8, 8], conditioning: own, step: 0 }),
      'ERR_JITFLUX_DISPOSED',
    );
  });
});

it('gives the same bytes every time, whatever ran in between', async () => {
  using tokens = Tensor.randn([1, 23, 64], { seed: 3 });
  const anchors = Int32Array.from({ length: 23 }, (_, i) => (i * 7) % 64);
  const run = async (): Promise<Float32Array> => {
    using velocity = await model.forward({ tokens, anchors, grid: [8, 8], conditioning, step: 1 });
    return velocity.toFloat32Array();
  };
  const first = await run();
  using other = Tensor.randn([1, 256, 64], { seed: 9 });
  (await model.forward({ tokens: other, grid: [16, 16], conditioning, step: 0 })).dispose();
  expect(await run()).toEqual(first);
});

/** Kernel calls of one forward pass of the mini model: 2 double and 3 single blocks, heads of 32. */
async function kernelCalls(m: FluxTransformer, own: Conditioning): Promise<Record<string, number>> {
  using tokens = Tensor.randn([1, 64, 64], { seed: 3 });
  const before = native().info().kernelCalls;
  (await m.forward({ tokens, grid: [8, 8], conditioning: own, step: 0 })).dispose();
  const after = native().info().kernelCalls;
  return Object.fromEntries(
    Object.entries(after)
      .map(([name, count]) => [name, count - before[name as keyof typeof before]] as const)
      .filter(([name, count]) => count > 0 && !name.startsWith('arena')),
  );
}

async function load(options: LoadOptions): Promise<[FluxTransformer, Conditioning]> {
  const loaded = await loadMini(options);
  using prompt = Tensor.randn([1, 12, 96], { seed: 1 });
  using pooled = Tensor.randn([1, 48], { seed: 2 });
  return [loaded, await loaded.condition({ prompt, pooled, guidance: 3.5, sigmas: [1, 0.5] })];
}

/** Without AVX-512 oneDNN has no products of bfloat16: the layers compute in float32. */
const WIDENS = !readFileSync('/proc/cpuinfo', 'utf8').includes(' avx512bw ');

describe('fast paths', () => {
  const shared = {
    gatherEmbed: 1,
    layerNormModulate: 2, // before the first block: text, image
    qkNormRope: 2 * 5,
    attention: 5,
    // Per double block two streams, twice; per single block the two ranges of rows; not the text's last one.
    gatedResidualLayerNormModulate: 2 * 2 * 2 + 2 * 3 - 1,
    gatedResidual: 1,
    linearPlain: 1, // final layer
  };

  it.each([
    ['float32', { linearPacked: 2 * 8 + 3 * 2, gelu: 3 }],
    ['bfloat16', { linearPacked: 2 * 8 + 3 * 2, gelu: 3 }],
  ] as const)('run and nothing falls back: %s', async (dtype, more) => {
    const [m, own] = await load({ dtype });
    expect(await kernelCalls(m, own)).toEqual({
      ...shared,
      ...more,
      ...(WIDENS && dtype === 'bfloat16' && { linearWidened: shared.linearPlain + more.linearPacked }),
    });
    own.dispose();
    m.dispose();
  });

  it.each(['float32', 'bfloat16'] as const)('run and nothing falls back: int8 with %s', async (dtype) => {
    const [m, own] = await load({ dtype, quantize: 'int8' });
    expect(await kernelCalls(m, own)).toEqual({
      ...shared,
      linearInt8: 2 * 8 + 3 * 2,
      gelu: 2 * 2 + 3,
      quantizeRows: 2, // attention's result in double blocks; elsewhere other kernels do it
      ...(WIDENS && dtype === 'bfloat16' && { linearWidened: shared.linearPlain }),
    });
    own.dispose();
    m.dispose();
  });
});

it.each([
  ['float32', {}],
  ['bfloat16', { dtype: 'bfloat16' }],
  ['int8', { quantize: 'int8' }],
] as const)('a warm pass allocates nothing large: %s', async (_, options) => {
  const [m, own] = await load(options);
  using tokens = Tensor.randn([1, 1024, 64], { seed: 3 });
  let before = native().info().kernelCalls;
  for (let pass = 0; pass < 3; pass++) {
    before = native().info().kernelCalls;
    (await m.forward({ tokens, grid: [32, 32], conditioning: own, step: 0 })).dispose();
  }
  const after = native().info().kernelCalls;
  expect(after.arenaAllocated - before.arenaAllocated).toBe(0);
  expect(after.arenaReused - before.arenaReused).toBeGreaterThan(0);
  own.dispose();
  m.dispose();
});

/** Velocity of the mini model at 23 of 64 tokens. */
async function sparseVelocity(m: FluxTransformer, own: Conditioning): Promise<Float32Array> {
  using latents = Tensor.randn([1, 64, 64], { seed: 3 });
  const anchors = Int32Array.from({ length: 23 }, (_, i) => (i * 7) % 64);
  using velocity = await m.forward({ latents, anchors, grid: [8, 8], conditioning: own, step: 1 });
  return velocity.toFloat32Array();
}

it.each([
  // Measured: 0.010 and 0.013; bfloat16 alone is 0.009 away.
  ['float32', 0.02],
  ['bfloat16', 0.02],
] as const)('int8 with %s stays near the float32 velocity', async (dtype, bound) => {
  const expected = await sparseVelocity(model, conditioning);
  const [m, own] = await load({ dtype, quantize: 'int8', timeEmbedding: 'exact' });
  const actual = await sparseVelocity(m, own);
  expect(relativeRms(actual, expected)).toBeLessThan(bound);
  expect(relativeRms(actual, expected)).toBeGreaterThan(0);
  expect(await sparseVelocity(m, own)).toEqual(actual);
  own.dispose();
  m.dispose();
});

it.each(['float32', 'bfloat16'] as const)('packed and mapped weights agree: %s', async (dtype) => {
  const [packed, packedOwn] = await load({ dtype });
  const [mapped, mappedOwn] = await load({ dtype, packWeights: false });
  const expected = await sparseVelocity(mapped, mappedOwn);
  expect(relativeRms(await sparseVelocity(packed, packedOwn), expected)).toBeLessThan(
    dtype === 'float32' ? 1e-6 : 1e-2,
  );
  for (const resource of [packedOwn, mappedOwn, packed, mapped]) resource.dispose();
});

describe('latents of the whole grid', () => {
  const grid = [8, 8] as const;

  it('give what gathered tokens give, with shared and with own anchors', async () => {
    using latents = Tensor.randn([2, 64, 64], { seed: 5 });
    using prompt = Tensor.randn([2, 12, 96], { seed: 1 });
    using pooled = Tensor.randn([2, 48], { seed: 2 });
    using own = await model.condition({ prompt, pooled, sigmas: [0.7] });
    for (const perImage of [false, true]) {
      const anchors = Int32Array.from({ length: perImage ? 34 : 17 }, (_, i) => (i * 3 + 1) % 64);
      using tokens = await jit.gather(latents, anchors, { perImage });
      using expected = await model.forward({ tokens, anchors, grid, conditioning: own, step: 0 });
      using actual = await model.forward({
        latents,
        anchors,
        perImage,
        grid,
        conditioning: own,
        step: 0,
      });
      expect(actual.shape).toEqual([2, 17, 64]);
      expect(await actual.toFloat32Array()).toEqual(await expected.toFloat32Array());
    }
  });

  it('must be the whole grid', async () => {
    using latents = Tensor.randn([1, 60, 64], { seed: 5 });
    await expectError(
      () => model.forward({ latents, anchors: Int32Array.of(1), grid, conditioning, step: 0 }),
      'ERR_JITFLUX_INVALID_TENSOR',
      /latents/,
    );
  });
});

const runWithIsa = (isa: string) =>
  spawnSync(process.execPath, ['--input-type=module', '-e', fileRunner()], {
    env: { ...process.env, JIT_FLUX_ISA: isa },
    encoding: 'utf8',
  });

it('takes an empty JIT_FLUX_ISA as not set', () => {
  const result = runWithIsa('');
  expect(result.stderr).toBe('');
  expect(result.status).toBe(0);
});

it('refuses an instruction set that the CPU lacks', () => {
  const result = runWithIsa('avx1024');
  expect(result.status).not.toBe(0);
  expect(result.stderr).toMatch(/JIT_FLUX_ISA.*default.*avx1024/s);
});

it.each([
  ['safetensors', MINI],
  ['TorchScript', await archiveMini()],
])('gives the same velocity with and without resident modulation weights: %s', async (_, path) => {
  using lean = await loadMini({ keepModulation: false }, FluxTransformer, path);
  using tokens = Tensor.randn([1, 64, 64], { seed: 3 });
  const velocity = async (m: FluxTransformer): Promise<Float32Array> => {
    using prompt = Tensor.randn([1, 12, 96], { seed: 1 });
    using pooled = Tensor.randn([1, 48], { seed: 2 });
    using own = await m.condition({ prompt, pooled, guidance: 3.5, sigmas: [1, 0.5] });
    using result = await m.forward({ tokens, grid: [8, 8], conditioning: own, step: 1 });
    return result.toFloat32Array();
  };
  const expected = await velocity(model);
  // Twice: the weights come back from the file.
  expect(await velocity(lean)).toEqual(expected);
  expect(await velocity(lean)).toEqual(expected);
});

it('gives the same velocity with every instruction set', () => {
  // The kernel table is chosen once per process.
  const outputs = native()
    .info()
    .supportedIsas.map((isa) => {
      const { stdout, stderr } = runWithIsa(isa);
      expect(stderr).toBe('');
      const result = JSON.parse(stdout) as { isa: string; values: number[] };
      expect(result.isa).toBe(isa);
      return result.values;
    });
  for (const values of outputs) expect(maxAbs(values, outputs[0]!)).toBeLessThan(1e-5);
});

it('works in worker threads, and a worker may end with work in flight', async () => {
  const results = await Promise.all(
    [false, true].map(
      (leave) =>
        new Promise<unknown>((resolve, reject) => {
          const worker = new Worker(fileRunner(leave), { eval: true, execArgv: [] });
          let message: unknown;
          worker.on('message', (value: unknown) => (message = value));
          worker.on('error', reject);
          worker.on('exit', (code) => resolve({ code, message }));
        }),
    ),
  );
  expect(results[0]).toMatchObject({ code: 0, message: { count: 64 * 64 } });
  expect(results[1]).toMatchObject({ code: 0, message: 'leaving' });
});

it('samples with a model of your own', async () => {
  // Velocity = latents: x' = x (1 + dSigma); eleven steps of it are a known product.
  using latents = Tensor.randn([1, 64, 4], { seed: 4 });
  const sampler = new JitSampler(
    { velocity: async ({ tokens }) => tokens.clone() },
    { preset: 'dense', steps: 11, grid: [8, 8], latents },
  );
  let factor = 1;
  for await (const { sigma, nextSigma } of sampler) factor *= 1 + nextSigma - sigma;
  const before = await latents.toFloat32Array();
  expect(
    maxAbs(
      await sampler.latents.toFloat32Array(),
      before.map((x) => x * factor),
    ),
  ).toBeLessThan(1e-5);
  sampler.dispose();
});

/** A program on the compiled package: one dense forward pass; or one that is left behind unfinished. */
function fileRunner(leave = false): string {
  const runtime = JSON.stringify(new URL('../../dist/engine/index.js', import.meta.url).href);
  const call = JSON.stringify(new URL('../../dist/engine/call.js', import.meta.url).href);
  return `(async () => {
    const { FluxTransformer, Tensor } = await import(${runtime});
    const { native } = await import(${call});
    const model = await FluxTransformer.load(${JSON.stringify(MINI)}, { ropeAxes: ${JSON.stringify(MINI_AXES)} });
    const prompt = Tensor.randn([1, 12, 96], { seed: 1 });
    const pooled = Tensor.randn([1, 48], { seed: 2 });
    const conditioning = await model.condition({ prompt, pooled, sigmas: [0.5] });
    const side = ${leave ? 64 : 8};
    const tokens = Tensor.randn([1, side * side, 64], { seed: 3 });
    const pending = model.forward({ tokens, grid: [side, side], conditioning, step: 0 });
    const thread = await import('node:worker_threads');
    if (${leave}) {
      thread.parentPort.postMessage('leaving');
      process.exit(0);
    }
    const values = await (await pending).toFloat32Array();
    // Else the garbage collector may come before the end, and warn.
    model.dispose();
    if (thread.parentPort) thread.parentPort.postMessage({ count: values.length });
    else process.stdout.write(JSON.stringify({ isa: native().info().isa, values: [...values] }));
  })();`;
}

describe('a whole step in one call', () => {
  const grid = [8, 8] as [number, number];
  const sample = async (m: VelocityModel<Tensor>): Promise<Float32Array> => {
    using latents = Tensor.randn([2, 64, 64], { seed: 8 });
    const sampler = new JitSampler(m, { preset: 'jit-7x', grid, latents, seed: 1 });
    for await (const event of sampler) void event;
    const result = await sampler.latents.toFloat32Array();
    sampler.dispose();
    return result;
  };
  const pair = async (): Promise<Conditioning> => {
    using prompt = Tensor.randn([2, 12, 96], { seed: 1 });
    using pooled = Tensor.randn([2, 48], { seed: 2 });
    return model.condition({ prompt, pooled, sigmas: createPlan({ preset: 'jit-7x', grid }).sigmas });
  };

  it('gives the bytes of gather, forward and step', async () => {
    using own = await pair();
    const bound = model.bind(own);
    const before = native().info().kernelCalls;
    const expected = await sample({ velocity: (i) => bound.velocity(i) });
    const between = native().info().kernelCalls;
    expect(await sample(bound)).toEqual(expected);
    const after = native().info().kernelCalls;
    // Sparse steps lift in either case.
    expect(after.liftStep - between.liftStep).toBe(between.liftStep - before.liftStep);
    expect(after.liftStep).toBeGreaterThan(between.liftStep);
  });

  it("does not pass by a researcher's own velocity", async () => {
    using own = await pair();
    let calls = 0;
    const bound = model.bind(own);
    await sample({
      ...bound,
      velocity: (i) => {
        calls++;
        return bound.velocity(i);
      },
    });
    expect(calls).toBe(11);
  });

  it("refuses an advance that hands the sampler's latents back", async () => {
    using own = await pair();
    using latents = Tensor.randn([2, 64, 64], { seed: 8 });
    const sampler = new JitSampler(
      { velocity: (i) => model.bind(own).velocity(i), advance: (i) => Promise.resolve(i.latents) },
      { preset: 'jit-7x', grid, latents },
    );
    await expectError(() => sampler[Symbol.asyncIterator]().next(), 'ERR_JITFLUX_INVALID_TENSOR', /advance/);
    expect(sampler.latents.disposed).toBe(false);
    sampler.dispose();
  });

  it('cannot be passed by unnoticed', async () => {
    using own = await pair();
    const bound = model.bind(own) as { velocity: unknown };
    expect(() => (bound.velocity = () => undefined)).toThrow(TypeError);
    const { velocity } = model.bind(own) as { velocity: (i: object) => Promise<Tensor> };
    using tokens = Tensor.randn([2, 64, 64], { seed: 8 });
    (await velocity({ tokens, grid, step: 0, sigma: 1 })).dispose();
  });

  it('is refused for tokens that are not the whole grid', async () => {
    using own = await pair();
    using latents = Tensor.randn([2, 60, 64], { seed: 8 });
    await expectError(
      () => model.bind(own).advance!({ latents, perImage: false, grid, step: 0, sigma: 1, dSigma: -0.1 }),
      'ERR_JITFLUX_INVALID_TENSOR',
      /latents/,
    );
  });
});
