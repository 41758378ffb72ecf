/**
 * Choice of the active tokens (anchors). A list's order matters: among equally near anchors the interpolation takes
 * the one that comes first.
 */

import { checkInteger, copyOf, readOptions } from '../arguments.js';
import { ERROR_CODES, invalidArgument } from '../errors.js';
import type { Grid } from '../types.js';
import { Random } from './random.js';
import { checkRatio, checkTokenCount, readGrid } from './stages.js';

/**
 * Checkerboard-and-border set: the border, and all tokens whose row and column are both even. Ascending.
 * Upstream: the `use_checkerboard_init` branch.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function checkerboardBase(given: Grid): Int32Array {
  const grid = readGrid(given);
  const [rows, cols] = grid;
  return collect(
    grid,
    (r, c) => (r % 2 === 0 && c % 2 === 0) || r === 0 || c === 0 || r === rows - 1 || c === cols - 1,
  );
}

/**
 * Every s-th row and column, s = max(1, floor(sqrt(1/ratio))), and the last row and column. Ascending.
 * @param ratio share of tokens that shall be active, in (0, 1]
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function stridedBase(given: Grid, ratio: number): Int32Array {
  const grid = readGrid(given);
  checkRatio('ratio', ratio);
  const [rows, cols] = grid;
  const stride = Math.max(1, Math.floor(Math.sqrt(1 / ratio)));
  return collect(
    grid,
    (r, c) => (r % stride === 0 || r === rows - 1) && (c % stride === 0 || c === cols - 1),
  );
}

function collect([rows, cols]: Grid, includes: (row: number, col: number) => boolean): Int32Array {
  const tokens: number[] = [];
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < cols; c++) if (includes(r, c)) tokens.push(r * cols + c);
  }
  return Int32Array.from(tokens);
}

/**
 * Brings a base set to `count` tokens. Too large: the first `count` entries of a random permutation of it, left in
 * permuted order. Too small: random further tokens are appended. Equal: unchanged, and nothing is drawn.
 * @param tokens number of tokens of the grid
 * @throws ERR_JITFLUX_INVALID_ARGUMENT, ERR_JITFLUX_INVALID_ANCHORS
 */
export function fitAnchors(given: Int32Array, count: number, tokens: number, random: Random): Int32Array {
  const base = readAnchors(given, checkTokenCount('tokens', tokens), 'base', { least: 0 });
  checkInteger('count', count, 0, tokens);
  if (!Random.is(random)) throw invalidArgument('random', 'a Random', random);
  if (base.length === count) return base;
  if (base.length > count) return random.choose(base, count);
  return concat(base, random.choose(complement(base, tokens), count - base.length));
}

/**
 * First stage's anchors from a pattern. A first stage with all tokens gets them in natural order.
 * @param o.count number of anchors wanted
 * @param o.ratio the stage's token ratio, which sets the stride of the strided pattern
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function selectInitialAnchors(o: {
  pattern: 'checkerboard' | 'strided';
  grid: Grid;
  count: number;
  ratio: number;
  random: Random;
}): Int32Array {
  const names = { pattern: true, grid: true, count: true, ratio: true, random: true } as const;
  const { pattern, count, ratio, random, ...rest } = readOptions(o, names);
  const grid = readGrid(rest.grid);
  const tokens = grid[0] * grid[1];
  if (pattern !== 'checkerboard' && pattern !== 'strided') {
    throw invalidArgument('pattern', "'checkerboard' or 'strided'", pattern);
  }
  checkInteger('count', count, 0, tokens);
  checkRatio('ratio', ratio);
  if (count === tokens) return complement(new Int32Array(0), tokens);
  const base = pattern === 'checkerboard' ? checkerboardBase(grid) : stridedBase(grid, ratio);
  return fitAnchors(base, count, tokens, random);
}

/** Tokens that are not in the list, ascending. */
export function complement(anchors: Int32Array, tokens: number): Int32Array {
  const active = membership(anchors, tokens);
  const rest = new Int32Array(tokens - anchors.length);
  for (let token = 0, n = 0; token < tokens; token++) if (active[token] === 0) rest[n++] = token;
  return rest;
}

/** Tokens of `next` that are not in `previous`, in the order of `next`. */
export function newcomers(previous: Int32Array, next: Int32Array, tokens: number): Int32Array {
  const active = membership(previous, tokens);
  return next.filter((token) => active[token] === 0);
}

/**
 * All tokens: the list, then the others in ascending order. What the built-in policies do for the last stage.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT, ERR_JITFLUX_INVALID_ANCHORS
 */
export function activateAll(given: Int32Array, tokens: number): Int32Array {
  const anchors = readAnchors(given, checkTokenCount('tokens', tokens), 'anchors', { least: 0 });
  return concat(anchors, complement(anchors, tokens));
}

/**
 * ITA, the importance-guided activation: appends the inactive tokens of highest importance, in descending order of
 * importance; of equals the lower index comes first. NaN counts as the lowest importance.
 * @param map importance: one value per token, see `JitOperators.importance`
 * @param targetCount size of the result, from `anchors.length` to the number of tokens
 * @throws ERR_JITFLUX_INVALID_ARGUMENT, ERR_JITFLUX_INVALID_ANCHORS
 */
export function activateByImportance(given: Int32Array, targetCount: number, map: Float32Array): Int32Array {
  const importance = copyOf('Float32Array', map);
  if (importance === undefined) throw invalidArgument('importance', 'a Float32Array', map);
  checkTokenCount('importance.length', importance.length);
  const anchors = readAnchors(given, importance.length, 'anchors', { least: 0 });
  checkInteger('targetCount', targetCount, anchors.length, importance.length);
  const value = (token: number) => {
    const v = importance[token]!;
    return Number.isNaN(v) ? -Infinity : v;
  };
  const candidates = complement(anchors, importance.length).sort((a, b) => {
    const va = value(a);
    const vb = value(b);
    return va === vb ? a - b : vb - va;
  });
  return concat(anchors, candidates.subarray(0, targetCount - anchors.length));
}

/**
 * Content-independent activation: spreads the newcomers evenly over the gaps between the anchors, nested and without
 * randomness.
 *
 * Greedy farthest-point insertion in city-block distance, farthest first: for d = largest gap down to 1, every token
 * at distance >= d from all anchors, newcomers included, joins. Tokens of one distance are visited in Bayer order
 * (that of an ordered-dithering matrix), every prefix of which is spread over the whole grid. A newcomer only shortens
 * distances within its gap, so each level costs O(tokens).
 * @param targetCount size of the result, from `anchors.length` to the number of tokens
 * @throws ERR_JITFLUX_INVALID_ARGUMENT, ERR_JITFLUX_INVALID_ANCHORS
 */
export function activateOnGrid(given: Int32Array, targetCount: number, where: Grid): Int32Array {
  const grid = readGrid(where);
  const tokens = grid[0] * grid[1];
  const anchors = readAnchors(given, tokens, 'anchors', { least: 0 });
  checkInteger('targetCount', targetCount, anchors.length, tokens);
  const result = new Int32Array(targetCount);
  result.set(anchors);
  let count = anchors.length;
  const gaps = new GapMap(grid);
  for (const anchor of anchors) gaps.insert(anchor);
  let remaining = bayerOrder(grid).filter((token) => gaps.distance[token] !== 0);
  // Without any anchor all distances are infinite; the first newcomer makes them finite.
  while (count < targetCount && remaining.length > 0) {
    let level = 0;
    for (const token of remaining) level = Math.max(level, gaps.distance[token]!);
    for (const token of remaining) {
      if (count === targetCount) break;
      if (gaps.distance[token]! < level) continue;
      result[count++] = token;
      gaps.insert(token);
    }
    remaining = remaining.filter((token) => gaps.distance[token] !== 0);
  }
  return result;
}

/** City-block distance of every token to the nearest anchor, kept up to date as anchors are inserted. */
export class GapMap {
  readonly distance: Int32Array;
  readonly #grid: Grid;
  readonly #queue: Int32Array;

  constructor(grid: Grid) {
    this.#grid = grid;
    this.distance = new Int32Array(grid[0] * grid[1]).fill(0x7fffffff);
    this.#queue = new Int32Array(grid[0] * grid[1]);
  }

  /**
   * Breadth first from the token, through the tokens whose distance becomes smaller.
   * @returns how many distances it has written
   */
  insert(token: number): number {
    const [rows, cols] = this.#grid;
    const { distance } = this;
    const queue = this.#queue;
    distance[token] = 0;
    queue[0] = token;
    let tail = 1;
    for (let head = 0; head < tail; head++) {
      const at = queue[head]!;
      const next = distance[at]! + 1;
      const row = Math.trunc(at / cols);
      const col = at % cols;
      if (row > 0 && distance[at - cols]! > next) distance[(queue[tail++] = at - cols)] = next;
      if (row < rows - 1 && distance[at + cols]! > next) distance[(queue[tail++] = at + cols)] = next;
      if (col > 0 && distance[at - 1]! > next) distance[(queue[tail++] = at - 1)] = next;
      if (col < cols - 1 && distance[at + 1]! > next) distance[(queue[tail++] = at + 1)] = next;
    }
    return tail;
  }
}

/**
 * All tokens in the order in which an ordered-dithering (Bayer) matrix over the grid fills up: the bits of
 * (row xor column) and row, interleaved and read backwards.
 */
export function bayerOrder([rows, cols]: Grid): Int32Array {
  const tokens = rows * cols;
  const bits = Math.ceil(Math.log2(Math.max(rows, cols, 2)));
  const keys = new Float64Array(tokens);
  for (let token = 0; token < tokens; token++) {
    const row = Math.trunc(token / cols);
    const diagonal = row ^ (token % cols);
    let rank = 0;
    for (let bit = 0; bit < bits; bit++) {
      rank = rank * 4 + ((diagonal >> bit) & 1) * 2 + ((row >> bit) & 1);
    }
    keys[token] = rank;
  }
  return Int32Array.from({ length: tokens }, (_, i) => i).sort((a, b) => keys[a]! - keys[b]!);
}

/**
 * A checked copy of a list of token indices: an Int32Array of distinct values in [0, tokens).
 * @param option name of the option for the message
 * @param o.count how many there must be; else at least `o.least`, which is 1
 * @throws ERR_JITFLUX_INVALID_ANCHORS
 */
export function readAnchors(
  given: Int32Array,
  tokens: number,
  option: string,
  o: { count?: number; least?: number } = {},
): Int32Array {
  const { count, least = 1 } = o;
  const fail = (expected: string, received: unknown) =>
    invalidArgument(option, expected, received, ERROR_CODES.INVALID_ANCHORS);
  const anchors = copyOf('Int32Array', given);
  if (anchors === undefined) throw fail('an Int32Array of token indices', given);
  if (count !== undefined && anchors.length !== count) throw fail(`${count} token indices`, anchors);
  if (anchors.length < least) throw fail('at least one token index', anchors);
  const seen = new Uint8Array(tokens);
  anchors.forEach((token, i) => {
    if (token < 0 || token >= tokens) throw fail(`token indices from 0 to ${tokens - 1} at [${i}]`, token);
    if (seen[token] === 1) throw fail(`distinct token indices at [${i}]`, token);
    seen[token] = 1;
  });
  return anchors;
}

function membership(anchors: Int32Array, tokens: number): Uint8Array {
  const active = new Uint8Array(tokens);
  for (const token of anchors) active[token] = 1;
  return active;
}

/** The tokens of both lists, `a`'s first. */
export function concat(a: Int32Array, b: Int32Array): Int32Array {
  const result = new Int32Array(a.length + b.length);
  result.set(a);
  result.set(b, a.length);
  return result;
}
