import { describe, expect, it } from 'vitest';
import { ERROR_CODES, Random, imageSeed, normalizeSeed, subSeed } from '../../../src/sampler/index.js';
import { expectError } from './helpers.js';

describe('seeds', () => {
  it('accepts safe integers and 64-bit bigints', () => {
    expect(normalizeSeed(0)).toBe(0n);
    expect(normalizeSeed(Number.MAX_SAFE_INTEGER)).toBe(9007199254740991n);
    expect(normalizeSeed(2n ** 64n - 1n)).toBe(2n ** 64n - 1n);
  });

  it.each([-1, 1.5, NaN, Infinity, 2 ** 53, -1n, 2n ** 64n, '7', null, undefined])('refuses %s', (seed) => {
    const error = expectError(
      () => normalizeSeed(seed as unknown as number),
      ERROR_CODES.INVALID_ARGUMENT,
      /"seed"/,
    );
    expect(() => JSON.stringify(error.details)).not.toThrow();
  });

  it('gives every image its own seed', () => {
    expect(imageSeed(5, 0)).toBe(5n);
    expect(imageSeed(5, 3)).toBe(8n);
    expect(imageSeed(2n ** 64n - 1n, 1)).toBe(0n);
    expectError(() => imageSeed(5, -1), ERROR_CODES.INVALID_ARGUMENT, /"image"/);
  });

  it('names sub-streams', () => {
    expect(subSeed(42, 'latents')).toBe(42n);
    expect(subSeed(42, 'anchors')).toBe(subSeed(42n, 'anchors'));
    const seeds = new Set<bigint>();
    for (let seed = 0; seed < 500; seed++) {
      for (const name of ['anchors', 'micro-flow', 'activation.0', 'activation.1']) {
        const value = subSeed(seed, name);
        expect(value >= 0n && value < 2n ** 64n).toBe(true);
        seeds.add(value);
      }
    }
    expect(seeds.size).toBe(2000);
    // Pinned: a change would change everybody's pictures.
    expect(subSeed(0, 'micro-flow')).toBe(PINNED.microFlow);
    expect(subSeed(0, 'anchors')).toBe(PINNED.anchors);
  });

  it('mixes well: neighbouring seeds differ in about half of the bits', () => {
    let bits = 0;
    for (let seed = 0; seed < 200; seed++) {
      let difference = subSeed(seed, 'anchors') ^ subSeed(seed + 1, 'anchors');
      for (; difference > 0n; difference >>= 1n) bits += Number(difference & 1n);
    }
    expect(bits / 200).toBeGreaterThan(30);
    expect(bits / 200).toBeLessThan(34);
  });
});

describe('Random', () => {
  it('is pinned', () => {
    const random = new Random(1234);
    expect([random.uint32(), random.uint32(), random.uint32()]).toEqual(PINNED.uint32);
  });

  it('is uniform', () => {
    const random = new Random(9);
    const bins = new Float64Array(16);
    for (let i = 0; i < 64_000; i++) {
      const value = random.next();
      expect(value >= 0 && value < 1).toBe(true);
      bins[Math.floor(value * 16)]!++;
    }
    const chiSquare = bins.reduce((sum, n) => sum + (n - 4000) ** 2 / 4000, 0);
    expect(chiSquare).toBeLessThan(40); // 15 degrees of freedom: p < 0.0005 above 40
  });

  it('chooses below n without favourites', () => {
    const random = new Random(10);
    const counts = [0, 0, 0];
    for (let i = 0; i < 30_000; i++) counts[random.below(3)]!++;
    for (const n of counts) expect(Math.abs(n - 10_000)).toBeLessThan(400);
    expect(random.below(1)).toBe(0);
  });

  it('permutes uniformly', () => {
    const random = new Random(11);
    const counts = new Map<string, number>();
    for (let i = 0; i < 24_000; i++) {
      const key = random.permutation(4).join('');
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    expect(counts.size).toBe(24);
    for (const n of counts.values()) expect(Math.abs(n - 1000)).toBeLessThan(200);
  });

  it('chooses without replacement and leaves its input alone', () => {
    const values = Int32Array.of(5, 6, 7, 8);
    const chosen = new Random(3).choose(values, 3);
    expect(new Set(chosen).size).toBe(3);
    for (const value of chosen) expect(values).toContain(value);
    expect(values).toEqual(Int32Array.of(5, 6, 7, 8));
    expect(new Random(3).choose(values, 0)).toHaveLength(0);
  });
});

/** Computed with independent implementations of FNV-1a, SplitMix64 and xoshiro128**. */
const PINNED = {
  microFlow: 12468608143639789590n,
  anchors: 18344813044316635498n,
  uint32: [2745262699, 2527431456, 130831659],
};
