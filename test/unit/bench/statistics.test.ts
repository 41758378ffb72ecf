import { describe, expect, it } from 'vitest';
import { interleave } from '../../../bench/lib/interleave.mjs';
import {
  largestDifference,
  median,
  quantile,
  ratio,
  relativeDifference,
} from '../../../bench/lib/statistics.mjs';

describe('quantile', () => {
  it('interpolates between samples, in any order', () => {
    expect(quantile([3, 1, 2], 0.5)).toBe(2);
    expect(quantile([4, 1, 3, 2], 0.5)).toBe(2.5);
    expect(quantile([10, 0], 0.1)).toBeCloseTo(1);
    expect(quantile([7], 0.9)).toBe(7);
    expect(() => median([])).toThrow('at least one sample');
  });
});

describe('ratio', () => {
  it('is taken pair by pair, so that a slow phase of the machine cancels', () => {
    // Both sides three times slower in the last round.
    expect(ratio([2, 2, 6], [1, 1, 3])).toEqual({ median: 2, low: 2, high: 2, samples: 3 });
  });

  it('gives the 10th and 90th percentile', () => {
    const reference = Array.from({ length: 11 }, (_, i) => i + 1);
    const ones = reference.map(() => 1);
    expect(ratio(reference, ones)).toEqual({ median: 6, low: 2, high: 10, samples: 11 });
  });

  it('refuses series of different length', () => {
    expect(() => ratio([1, 2], [1])).toThrow('2 and 1 samples');
  });
});

it('relativeDifference is the L2 norm of the difference over that of the reference', () => {
  expect(relativeDifference(Float32Array.of(3, 4), Float32Array.of(3, 0))).toBeCloseTo(4 / 3);
  expect(relativeDifference(Float32Array.of(1, 2), Float32Array.of(1, 2))).toBe(0);
});

it('largestDifference is that of the elements', () => {
  expect(largestDifference(Float32Array.of(1, -2), Float32Array.of(1.5, 2))).toBe(4);
  expect(() => largestDifference(Float32Array.of(1), Float32Array.of(1, 2))).toThrow('Expected 2 elements');
});

describe('interleave', () => {
  it('runs every subject once per round, every other round backwards', async () => {
    const order: string[] = [];
    const subject = (name: string) => () => {
      order.push(name);
      return order.length;
    };
    const samples = await interleave({ a: subject('a'), b: subject('b') }, { rounds: 3, warmups: 1 });
    expect(order.join('')).toBe('ab' + 'ab' + 'ba' + 'ab');
    expect(samples).toEqual({ a: [3, 6, 7], b: [4, 5, 8] });
  });

  it('stops early on its budget, but not before the least number of rounds', async () => {
    const slow = () => new Promise<number>((resolve) => setTimeout(() => resolve(1), 5));
    const samples = await interleave({ slow }, { rounds: 50, atLeast: 2, seconds: 0.001, warmups: 0 });
    expect(samples.slow).toHaveLength(2);
  });
});
