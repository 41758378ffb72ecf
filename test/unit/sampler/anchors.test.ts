import { describe, expect, it } from 'vitest';
import {
  ERROR_CODES,
  Random,
  activateAll,
  activateByImportance,
  activateOnGrid,
  checkerboardBase,
  fitAnchors,
  selectInitialAnchors,
  stridedBase,
} from '../../../src/sampler/index.js';
import { GapMap, bayerOrder, complement, newcomers, readAnchors } from '../../../src/sampler/anchors.js';
import type { Grid } from '../../../src/types.js';
import { nearestPositions } from '../../support/reference-operators.js';
import { SafeTensors } from '../../support/safetensors.js';
import { readManifest } from '../../support/manifest.js';
import { expectError } from './helpers.js';

const golden = SafeTensors.open('algorithm/anchors.safetensors');
const densify = SafeTensors.open('algorithm/densify.safetensors');
const manifest = readManifest<{
  anchors: {
    list: { name: string; grid?: Grid; rows?: number; cols?: number; stride?: number; base_count: number }[];
  };
}>('algorithm/algorithm.manifest.json');

const sorted = (list: Int32Array) => Int32Array.from(list).sort();
const range = (n: number) => Int32Array.from({ length: n }, (_, i) => i);

describe('base sets', () => {
  it.each(golden.names)('checkerboard %s', (name) => {
    const [rows, cols] = name.slice('base.'.length).split('x').map(Number) as [number, number];
    expect(checkerboardBase([rows, cols])).toEqual(golden.int32(name));
  });

  it('counts of the checkerboard at common sizes', () => {
    expect(checkerboardBase([64, 64])).toHaveLength(1213);
    expect(checkerboardBase([96, 96])).toHaveLength(2589);
    expect(checkerboardBase([128, 128])).toHaveLength(4477);
    expect(checkerboardBase([1, 1])).toEqual(range(1));
  });

  it.each(manifest.anchors.list.filter((entry) => entry.stride !== undefined))('$name', (entry) => {
    const match = /^stride\.(\d+)x(\d+)\.r([\d.]+)$/.exec(entry.name)!;
    const [rows, cols, ratio] = match.slice(1).map(Number) as [number, number, number];
    const base = stridedBase([rows, cols], ratio);
    expect(base).toHaveLength(entry.base_count);
    expect(new Set([...base].map((t) => Math.trunc(t / cols))).size).toBe(entry.rows);
    expect(new Set([...base].map((t) => t % cols)).size).toBe(entry.cols);
    expect(base).toContain(rows * cols - 1);
    expect(sorted(base)).toEqual(base);
  });
});

describe('fitting to a count', () => {
  const base = checkerboardBase([8, 8]);

  it('trims by a permutation that stays permuted', () => {
    const result = fitAnchors(base, 22, 64, new Random(1));
    expect(result).toHaveLength(22);
    expect(new Set(result).size).toBe(22);
    for (const token of result) expect(base).toContain(token);
    expect(sorted(result)).not.toEqual(result);
  });

  it('supplements by appending non-members', () => {
    const result = fitAnchors(base, 50, 64, new Random(1));
    expect(result.subarray(0, base.length)).toEqual(base);
    expect(new Set(result).size).toBe(50);
  });

  it('draws nothing if the count is right', () => {
    const random = new Random(1);
    expect(fitAnchors(base, base.length, 64, random)).toEqual(base);
    expect(random.uint32()).toBe(new Random(1).uint32());
  });

  it.each(['checkerboard', 'strided'] as const)('%s: same seed same anchors, for every count', (pattern) => {
    const grid: Grid = [9, 13];
    for (let count = 1; count <= 117; count++) {
      const select = (seed: number) =>
        selectInitialAnchors({ pattern, grid, count, ratio: count / 117, random: new Random(seed) });
      const anchors = select(7);
      expect(() => readAnchors(anchors, 117, 'anchors', { count })).not.toThrow();
      expect(select(7)).toEqual(anchors);
    }
    const other = (seed: number) =>
      selectInitialAnchors({ pattern, grid, count: 30, ratio: 0.25, random: new Random(seed) });
    expect(other(1)).not.toEqual(other(2));
  });

  it('takes all tokens in natural order', () => {
    const o = { grid: [4, 4] as const, count: 16, ratio: 1, random: new Random(0) };
    expect(selectInitialAnchors({ pattern: 'checkerboard', ...o })).toEqual(range(16));
    expect(selectInitialAnchors({ pattern: 'strided', ...o })).toEqual(range(16));
  });
});

describe('activation by importance', () => {
  const cases = densify.names
    .map((name) => /^(densify\.(?:batch3\.)?(\d+)x(\d+))\.target(\d+)\.indices$/.exec(name))
    .filter((match) => match !== null);

  it.each(cases.map((m) => m[0]))('%s', (name) => {
    const [, prefix, rows, cols, target] = cases.find((m) => m[0] === name)!;
    const tokens = Number(rows) * Number(cols);
    const active = densify.int32(`${prefix}.active`);
    const expected = densify.int32(name);
    // With several images the reference uses only the first one's map.
    const importance = densify.float32(`${prefix}.importance`).slice(0, tokens);
    const count = Math.min(Number(target), tokens);
    const result =
      count === tokens ? activateAll(active, tokens) : activateByImportance(active, count, importance);
    expect(result.subarray(0, active.length)).toEqual(active);
    expect(sorted(result)).toEqual(sorted(expected));
    // The recorded maps are exact enough to give the order as well.
    const gaps = [...result].filter((token, i) => token !== expected[i]).length;
    expect(gaps).toBeLessThanOrEqual(count === tokens ? 0 : 4);
  });

  it('breaks ties by the lower index and ranks NaN last', () => {
    const map = Float32Array.of(1, 3, 3, NaN, 0, 3);
    expect(activateByImportance(Int32Array.of(2), 4, map)).toEqual(Int32Array.of(2, 1, 5, 0));
    expect(activateByImportance(Int32Array.of(2), 6, map)).toEqual(Int32Array.of(2, 1, 5, 0, 4, 3));
  });
});

describe('activation on the grid', () => {
  it('is nested, deterministic and a set for every target', () => {
    const grid: Grid = [10, 7];
    const anchors = fitAnchors(checkerboardBase(grid), 9, 70, new Random(3));
    let previous = anchors;
    for (let target = 9; target <= 70; target++) {
      const next = activateOnGrid(anchors, target, grid);
      expect(() => readAnchors(next, 70, 'anchors', { count: target })).not.toThrow();
      expect(next.subarray(0, previous.length)).toEqual(previous);
      previous = next;
    }
  });

  it('fills the largest gaps first', () => {
    const worst = (anchors: Int32Array, [rows, cols]: Grid) => {
      const nearest = nearestPositions(anchors, [rows, cols]);
      return Math.max(
        ...Array.from(nearest, (p, token) => {
          const anchor = anchors[p]!;
          return (
            Math.abs(Math.trunc(anchor / cols) - Math.trunc(token / cols)) +
            Math.abs((anchor % cols) - (token % cols))
          );
        }),
      );
    };
    const grid: Grid = [16, 16];
    const corner = Int32Array.of(0, 1, 2, 16, 17, 18);
    expect(worst(corner, grid)).toBe(27);
    expect(worst(activateOnGrid(corner, 7, grid), grid)).toBeLessThanOrEqual(15);
    expect(worst(activateOnGrid(corner, 24, grid), grid)).toBeLessThanOrEqual(6);
    // One token in two is enough for every token to have a neighbour.
    expect(worst(activateOnGrid(corner, 128, grid), grid)).toBe(1);
  });

  it('spreads evenly: quadrants of the released first stage receive equally many newcomers', () => {
    const grid: Grid = [32, 32];
    const anchors = checkerboardBase(grid);
    const joined = newcomers(anchors, activateOnGrid(anchors, 634, grid), 1024);
    const counts = [0, 0, 0, 0];
    for (const token of joined) counts[(token >> 9) * 2 + ((token & 31) >> 4)]!++;
    expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(12);
  });

  it('works from nothing and on degenerate grids', () => {
    expect(sorted(activateOnGrid(new Int32Array(0), 12, [3, 4]))).toEqual(range(12));
    expect(sorted(activateOnGrid(Int32Array.of(3), 5, [1, 5]))).toEqual(range(5));
    expect(activateOnGrid(range(4), 4, [2, 2])).toEqual(range(4));
  });

  it.each([32, 64, 256])('takes work of order n log n on a grid of %i rows and columns', (side) => {
    const tokens = side * side;
    const gaps = new GapMap([side, side]);
    // Distances that are written while the grid fills up from one corner.
    let written = 0;
    const order = activateOnGrid(Int32Array.of(0), tokens, [side, side]);
    expect(sorted(order)).toEqual(range(tokens));
    for (const token of order) written += gaps.insert(token);
    // A part of the grid takes the first of them.
    expect(activateOnGrid(Int32Array.of(0), tokens / 2, [side, side])).toEqual(order.slice(0, tokens / 2));
    expect(written).toBeLessThan(tokens * Math.log2(tokens));
  });

  it('orders a power of two like a dithering matrix', () => {
    expect(bayerOrder([2, 2])).toEqual(Int32Array.of(0, 3, 1, 2));
    const first = bayerOrder([8, 8]).subarray(0, 16);
    // 16 of 64: one in every 2 x 2 cell.
    expect(new Set([...first].map((t) => (t >> 4) * 4 + ((t & 7) >> 1))).size).toBe(16);
  });
});

describe('lists', () => {
  it('complement and newcomers', () => {
    expect(complement(Int32Array.of(3, 0), 5)).toEqual(Int32Array.of(1, 2, 4));
    expect(newcomers(Int32Array.of(3, 0), Int32Array.of(4, 0, 1), 5)).toEqual(Int32Array.of(4, 1));
    expect(activateAll(Int32Array.of(3, 0), 5)).toEqual(Int32Array.of(3, 0, 1, 2, 4));
  });

  it('checks user-given anchors', () => {
    const check = (list: unknown, count?: number) => () =>
      readAnchors(list as Int32Array, 10, 'list', { ...(count !== undefined && { count }) });
    expect(check(Int32Array.of(9, 0), 2)).not.toThrow();
    expectError(check([1, 2]), ERROR_CODES.INVALID_ANCHORS, /Int32Array/);
    expectError(check(Int32Array.of(1, 2), 3), ERROR_CODES.INVALID_ANCHORS, /3 token indices/);
    expectError(check(Int32Array.of()), ERROR_CODES.INVALID_ANCHORS, /at least one/);
    expectError(check(Int32Array.of(1, 10)), ERROR_CODES.INVALID_ANCHORS, /0 to 9 at \[1\].*10/);
    expectError(check(Int32Array.of(-1)), ERROR_CODES.INVALID_ANCHORS, /0 to 9/);
    expectError(check(Int32Array.of(4, 5, 4)), ERROR_CODES.INVALID_ANCHORS, /distinct.*\[2\]/);
  });
});
