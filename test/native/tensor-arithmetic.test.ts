/** Arithmetic on tensors, for samplers written in JavaScript. */
import { describe, expect, it } from 'vitest';
import { Tensor } from '../support/device.js';
import type { DType } from '../../src/types.js';
import { expectError } from '../support/errors.js';

const of = (values: number[], shape: number[], dtype: DType = 'float32') =>
  Tensor.from(Float32Array.from(values), shape, { dtype });
const read = async (tensor: Tensor) => {
  using own = tensor;
  return [...(await own.toFloat32Array())];
};

describe('add, scale and mix', () => {
  it('give a new tensor and leave theirs', async () => {
    using a = of([1, 2, 3, -4], [2, 2]);
    using b = of([10, 20, 30, 40], [2, 2]);
    expect(await read(await a.add(b))).toEqual([11, 22, 33, 36]);
    expect(await read(await a.add(b, { scale: -0.5 }))).toEqual([-4, -8, -12, -24]);
    expect(await read(await a.add(a))).toEqual([2, 4, 6, -8]);
    expect(await read(await a.scale(-2))).toEqual([-2, -4, -6, 8]);
    expect(await read(await a.mix(b, 0.25))).toEqual([3.25, 6.5, 9.75, 7]);
    expect(await read(await a.mix(b, 0))).toEqual([1, 2, 3, -4]);
    expect(await read(await a.mix(b, 1))).toEqual([10, 20, 30, 40]);
    expect([...(await a.toFloat32Array())]).toEqual([1, 2, 3, -4]);
    expect([...(await b.toFloat32Array())]).toEqual([10, 20, 30, 40]);
  });

  it.each(['bfloat16', 'float16', 'float64'] as const)('keep %s and round once', async (dtype) => {
    // 1/3 of a sum that neither half type holds: rounded at every operation it would be another number.
    using a = of([1, 257], [1, 2], dtype);
    using b = of([2, 3], [1, 2]);
    using sum = await a.mix(b, 1 / 3);
    expect(sum.dtype).toBe(dtype);
    const exact = [1 + 1 / 3, 257 + (3 - 257) / 3];
    const bits = { bfloat16: 8, float16: 11, float64: 24 }[dtype];
    const got = [...(await sum.toFloat32Array())];
    got.forEach((value, i) => {
      expect(Math.abs(value - exact[i]!) / exact[i]!).toBeLessThanOrEqual(2 ** -bits);
    });
  });

  it('refuse what does not fit', async () => {
    using a = of([1, 2], [1, 2]);
    using b = of([1, 2], [2, 1]);
    using integers = Tensor.from(Int32Array.of(1, 2), [1, 2]);
    const code = 'ERR_JITFLUX_INVALID_TENSOR';
    await expectError(() => a.add(b), code, /one shape.*\[1, 2\].*\[2, 1\]/);
    await expectError(() => a.mix(integers, 0.5), code, /"other".*int32/);
    await expectError(() => integers.scale(2), code, /floating/);
    await expectError(() => a.add(1 as never), 'ERR_JITFLUX_INVALID_ARGUMENT', /other/);
    for (const factor of [NaN, Infinity, 1e39, '2']) {
      await expectError(() => a.scale(factor as number), 'ERR_JITFLUX_INVALID_ARGUMENT', /factor/);
      await expectError(() => a.mix(a, factor as number), 'ERR_JITFLUX_INVALID_ARGUMENT', /weight/);
    }
    await expectError(() => a.add(a, { sclae: 2 } as never), 'ERR_JITFLUX_INVALID_ARGUMENT', /sclae/);
    const gone = of([1], [1]);
    gone.dispose();
    await expectError(() => gone.scale(2), 'ERR_JITFLUX_DISPOSED');
    await expectError(() => gone.norm(), 'ERR_JITFLUX_DISPOSED');
  });
});

describe('norm, sum, mean, min and max', () => {
  it('are of all elements, or of every image', async () => {
    using t = of([3, 4, 0, 0, -5, 12], [3, 2]);
    expect([await t.norm(), await t.sum(), await t.mean(), await t.min(), await t.max()]).toEqual([
      Math.sqrt(9 + 16 + 25 + 144),
      14,
      14 / 6,
      -5,
      12,
    ]);
    const perImage = { perImage: true } as const;
    expect(await t.norm(perImage)).toEqual(Float64Array.of(5, 0, 13));
    expect(await t.sum(perImage)).toEqual(Float64Array.of(7, 0, 7));
    expect(await t.mean(perImage)).toEqual(Float64Array.of(3.5, 0, 3.5));
    expect(await t.min(perImage)).toEqual(Float64Array.of(3, 0, -5));
    expect(await t.max(perImage)).toEqual(Float64Array.of(4, 0, 12));
    using flat = of([3, -4], [2]);
    expect(await flat.norm(perImage)).toEqual(Float64Array.of(3, 4));
    expect(await flat.mean()).toBe(-0.5);
  });

  it('sum in float64, whatever the type', async () => {
    // Neither the sum nor the squares are to be had in the type itself.
    using small = of(new Array<number>(100_000).fill(0.1), [1, 100_000]);
    expect(await small.sum()).toBeCloseTo(100_000 * Math.fround(0.1), 6);
    using large = of([300, 400], [1, 2], 'float16');
    expect(await large.norm()).toBe(500);
    using huge = of([3e38, 3e38], [1, 2]);
    expect(await huge.sum()).toBeCloseTo(6e38, -32);
  });

  it('do not hide NaN', async () => {
    using t = of([1, NaN, 2, 3], [2, 2]);
    for (const value of [await t.norm(), await t.sum(), await t.mean(), await t.min(), await t.max()]) {
      expect(value).toBeNaN();
    }
    expect(await t.max({ perImage: true })).toEqual(Float64Array.of(NaN, 3));
    await expectError(() => t.norm({ perImage: 1 as never }), 'ERR_JITFLUX_INVALID_ARGUMENT', /perImage/);
  });
});
