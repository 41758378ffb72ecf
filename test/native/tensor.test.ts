/** Handles: creation, validation, ownership. */
import { describe, expect, it } from 'vitest';
import { jit, latentOps, Tensor } from '../../src/engine/index.js';
import { expectError } from '../support/errors.js';

describe('Tensor.from', () => {
  it('keeps shape, dtype and values', async () => {
    using floats = Tensor.from(Float32Array.of(1, 2, 3, 4.5, -5, 6), [2, 3]);
    expect(floats.shape).toEqual([2, 3]);
    expect(floats.dtype).toBe('float32');
    expect(floats.device).toBe('cpu');
    expect([...(await floats.toFloat32Array())]).toEqual([1, 2, 3, 4.5, -5, 6]);
    using ints = Tensor.from(BigInt64Array.of(7n, -8n), [2]);
    expect(ints.dtype).toBe('int64');
    expect([...(await ints.toFloat32Array())]).toEqual([7, -8]);
  });

  it('rounds to bfloat16 like PyTorch: to nearest, ties to even', async () => {
    using t = Tensor.from(Float32Array.of(1.00390625, 1.01171875, -3.1415927), [3], { dtype: 'bfloat16' });
    expect([...(await t.toFloat32Array())]).toEqual([1, 1.015625, -3.140625]);
  });

  it('reads a view of a larger buffer, and copies', async () => {
    const data = new Float32Array([0, 1, 2, 3, 4]);
    using t = Tensor.from(data.subarray(1, 4), [3]);
    data.fill(9);
    expect([...(await t.toFloat32Array())]).toEqual([1, 2, 3]);
  });

  it.each([
    [[2, 2], 'ERR_JITFLUX_INVALID_TENSOR'],
    [[0], 'ERR_JITFLUX_INVALID_ARGUMENT'],
    [[-3], 'ERR_JITFLUX_INVALID_ARGUMENT'],
    [[1.5, 2], 'ERR_JITFLUX_INVALID_ARGUMENT'],
    [[], 'ERR_JITFLUX_INVALID_ARGUMENT'],
    [[2 ** 40, 2 ** 40], 'ERR_JITFLUX_INVALID_ARGUMENT'],
    [[NaN], 'ERR_JITFLUX_INVALID_ARGUMENT'],
  ])('refuses shape %j for three values', async (shape, code) => {
    await expectError(() => Tensor.from(new Float32Array(3), shape), code);
  });

  it('copies shared memory; refuses a detached buffer', async () => {
    const shared = new Float32Array(new SharedArrayBuffer(16), 4, 3);
    shared.set([1, 2, 3]);
    using t = Tensor.from(shared, [3]);
    shared.fill(9);
    expect([...(await t.toFloat32Array())]).toEqual([1, 2, 3]);
    const gone = new Float32Array(3);
    structuredClone(gone, { transfer: [gone.buffer] });
    await expectError(() => Tensor.from(gone, [3]), 'ERR_JITFLUX_INVALID_TENSOR');
  });

  it('reads as much of a resizable buffer as there is', async () => {
    const buffer = new (ArrayBuffer as unknown as new (n: number, o: object) => ArrayBuffer)(16, {
      maxByteLength: 32,
    });
    const data = new Float32Array(buffer);
    using t = Tensor.from(data, [4]);
    expect([...(await t.toFloat32Array())]).toEqual([0, 0, 0, 0]);
    (buffer as unknown as { resize(n: number): void }).resize(4);
    await expectError(() => Tensor.from(data, [4]), 'ERR_JITFLUX_INVALID_TENSOR');
    using rest = Tensor.from(data, [1]);
    expect(rest.shape).toEqual([1]);
  });

  it('refuses other data, dtypes and devices', async () => {
    await expectError(() => Tensor.from(new Float64Array(3) as never, [3]), 'ERR_JITFLUX_INVALID_ARGUMENT');
    await expectError(() => Tensor.from([1] as never, [1]), 'ERR_JITFLUX_INVALID_ARGUMENT');
    await expectError(
      () => Tensor.from(new Float32Array(3), [3], { dtype: 'float8' as never }),
      'ERR_JITFLUX_INVALID_ARGUMENT',
      /float8/,
    );
    await expectError(
      () => Tensor.from(new Float32Array(3), [3], { device: 'cuda:99' }),
      'ERR_JITFLUX_DEVICE_UNAVAILABLE',
      /cuda:99/,
    );
  });
});

describe('randn', () => {
  it.each([-1, 1.5, NaN, 2 ** 53, -1n, 2n ** 64n])('refuses seed %s', async (seed) => {
    await expectError(() => Tensor.randn([4], { seed }), 'ERR_JITFLUX_INVALID_ARGUMENT', /seed/);
  });

  it('takes any 64-bit seed', async () => {
    using t = Tensor.randn([16], { seed: 2n ** 64n - 1n });
    expect((await t.toFloat32Array()).every(Number.isFinite)).toBe(true);
  });
});

describe('ownership', () => {
  it('clones deeply', async () => {
    using a = Tensor.from(Float32Array.of(1, 2), [1, 2, 1]);
    using b = a.clone();
    using target = Tensor.from(Float32Array.of(9), [1, 1, 1]);
    await jit.microFlow(a, { mode: 'relax', steps: 0, newTokens: Int32Array.of(1), target });
    expect([...(await a.toFloat32Array())]).toEqual([1, 9]);
    expect([...(await b.toFloat32Array())]).toEqual([1, 2]);
  });

  it('refuses a disposed tensor everywhere, and disposes twice quietly', async () => {
    const t = Tensor.from(new Float32Array(4), [1, 4, 1]);
    t.dispose();
    t.dispose();
    expect(t.disposed).toBe(true);
    await expectError(() => t.toFloat32Array(), 'ERR_JITFLUX_DISPOSED');
    await expectError(() => t.clone(), 'ERR_JITFLUX_DISPOSED');
    await expectError(() => jit.lift(t, Int32Array.of(0), [2, 2]), 'ERR_JITFLUX_DISPOSED');
    await expectError(() => latentOps.pack(t), 'ERR_JITFLUX_DISPOSED');
  });

  it('lets work in flight finish when its tensors are disposed', async () => {
    const v = Tensor.randn([1, 1024, 64], { seed: 1 });
    const pending = jit.importance(v, [32, 32]);
    v.dispose();
    expect(await pending).toHaveLength(1024);
  });

  it('frees memory on dispose: 200 tensors of 32 MB fit', () => {
    for (let i = 0; i < 200; i++) {
      using t = Tensor.from(new Float32Array(16), [16]);
      using big = Tensor.randn([2048, 4096], { seed: i % 2 === 0 ? 1 : 2, dtype: 'float32' });
      expect(big.shape[0]! + t.shape[0]!).toBe(2064);
      if (i === 20) break; // noise of this size is slow to draw; twenty would already show in RSS below
    }
    expect(process.memoryUsage().rss).toBeLessThan(2 ** 30);
  });
});

describe('operators check their arguments before any work', () => {
  const v = () => Tensor.randn([1, 3, 4], { seed: 0 });
  it.each([
    ['out of range', Int32Array.of(0, 1, 16)],
    ['negative', Int32Array.of(0, 1, -1)],
    ['duplicated', Int32Array.of(0, 5, 5)],
    ['too many', Int32Array.of(0, 1, 2, 3)],
    ['none', new Int32Array()],
    ['no Int32Array', [0, 1, 2] as never],
  ])('lift: anchors %s', async (_, anchors) => {
    using velocity = v();
    await expectError(() => jit.lift(velocity, anchors, [4, 4]), 'ERR_JITFLUX_INVALID_ANCHORS');
  });

  it('names the offending anchor', async () => {
    using velocity = v();
    const error = await expectError(
      () => jit.lift(velocity, Int32Array.of(0, 1, 99), [4, 4]),
      'ERR_JITFLUX_INVALID_ANCHORS',
      /99.*position 2.*0 to 15/,
    );
    expect(error.details).toEqual({ position: 2, token: 99 });
  });

  it.each([[[0, 4]], [[4, -1]], [[2.5, 4]], [[5000, 4]]] as [number, number][][])(
    'lift: grid %j',
    async (grid) => {
      using velocity = v();
      await expectError(
        () => jit.lift(velocity, Int32Array.of(0, 1, 2), grid),
        'ERR_JITFLUX_INVALID_ARGUMENT',
      );
    },
  );

  it('shapes', async () => {
    using velocity = v();
    using latents = Tensor.randn([1, 16, 8], { seed: 1 });
    await expectError(
      () => jit.step(latents, velocity, { anchors: Int32Array.of(0, 1, 2), grid: [4, 4], dSigma: 0.1 }),
      'ERR_JITFLUX_INVALID_TENSOR',
      /\[1, 3, 8\].*\[1, 3, 4\]/,
    );
    await expectError(() => jit.importance(velocity, [4, 4]), 'ERR_JITFLUX_INVALID_TENSOR');
    await expectError(() => jit.predictClean(latents, velocity, 0.5), 'ERR_JITFLUX_INVALID_TENSOR');
    using flat = Tensor.randn([16], { seed: 1 });
    await expectError(() => jit.importance(flat, [4, 4]), 'ERR_JITFLUX_INVALID_TENSOR');
    using half = Tensor.randn([1, 16, 8], { seed: 1, dtype: 'bfloat16' });
    await expectError(() => jit.importance(half, [4, 4]), 'ERR_JITFLUX_INVALID_TENSOR', /bfloat16/);
  });

  it('numbers', async () => {
    using latents = Tensor.randn([1, 16, 8], { seed: 1 });
    using velocity = Tensor.randn([1, 16, 8], { seed: 1 });
    await expectError(
      () => jit.predictClean(latents, velocity, NaN),
      'ERR_JITFLUX_INVALID_ARGUMENT',
      /sigma/,
    );
    await expectError(
      () => jit.step(latents, velocity, { grid: [4, 4], dSigma: Infinity }),
      'ERR_JITFLUX_INVALID_ARGUMENT',
      /dSigma/,
    );
  });
});

it('foreign objects are refused by the type tag, not read', async () => {
  const { native } = await import('../../src/engine/call.js');
  const binding = native();
  const flag = binding.createAbortFlag();
  for (const foreign of [{}, [], 7, null, undefined, 'x', flag, new Float32Array(2)]) {
    expect(() => binding.tensorInfo(foreign as never)).toThrow(/Expected a tensor handle/);
    expect(() => binding.release(foreign as never)).toThrow(/Expected a native handle/);
  }
});
