import { describe, expect, it } from 'vitest';

import { psnr, ssim } from '../../../src/image/index.js';
import { JitFluxError } from '../../../src/errors.js';

const [WIDTH, HEIGHT] = [24, 19];

function picture(value: (x: number, y: number, c: number) => number) {
  const data = new Uint8Array(WIDTH * HEIGHT * 3);
  for (let i = 0; i < data.length; i++) {
    const pixel = Math.floor(i / 3);
    data[i] = value(pixel % WIDTH, Math.floor(pixel / WIDTH), i % 3);
  }
  return { width: WIDTH, height: HEIGHT, data };
}

const original = (x: number, y: number, c: number) => (37 * x + 91 * y + 53 * c + x * y) % 256;
const one = picture(original);
const other = picture((x, y, c) =>
  Math.min(255, Math.floor((original(x, y, c) * 3) / 4) + ((x * 7 + y * 3 + c) % 23)),
);

describe('psnr and ssim', () => {
  it('equal those of scikit-image', () => {
    // skimage.metrics 0.26, gaussian_weights=True, use_sample_covariance=False, data_range=255, of the BT.601 luma.
    expect(psnr(one, other)).toBeCloseTo(18.831903460302385, 10);
    expect(ssim(one, other)).toBeCloseTo(0.9330033910152241, 10);
    expect(ssim(other, one)).toBeCloseTo(ssim(one, other), 12);
  });

  it('of equal pictures are Infinity and 1', () => {
    expect(psnr(one, { ...one, data: one.data.slice() })).toBe(Infinity);
    expect(ssim(one, { ...one, data: one.data.slice() })).toBe(1);
    const black = picture(() => 0);
    expect(
      psnr(
        black,
        picture(() => 255),
      ),
    ).toBe(0);
    expect(
      ssim(
        black,
        picture(() => 255),
      ),
    ).toBeCloseTo(1e-4, 6);
  });

  it('refuse pictures of two sizes, and those that are smaller than a window', () => {
    const wide = { width: HEIGHT, height: WIDTH, data: one.data };
    for (const measure of [psnr, ssim]) {
      expect(() => measure(one, wide)).toThrow(/one size \(the first is 24 x 19\).*19 x 24/);
      expect(() => measure(one, { ...one, width: 5 })).toThrow(JitFluxError);
      expect(() => measure(null as never, one)).toThrow(JitFluxError);
    }
    const small = { width: 10, height: 20, data: new Uint8Array(600) };
    expect(psnr(small, small)).toBe(Infinity);
    expect(() => ssim(small, small)).toThrow(/at least 11 pixels.*10 x 20/);
  });
});
