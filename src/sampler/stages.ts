/**
 * Division of a run into stages of growing token density. Stages count down: the first stage of K has number K - 1,
 * the last has number 0 and works on all tokens (Omega_K c ... c Omega_0 in the paper).
 */

import { checkInteger, checkNumber, readOptions, readList } from '../arguments.js';
import { ERROR_CODES, invalidArgument } from '../errors.js';
import type { Grid } from '../types.js';

/** Largest accepted number of tokens: indices and their products stay far inside 32 bits and double precision. */
export const MAX_TOKENS = 1 << 24;

/** Steps and tokens of one stage. */
export interface Stage {
  /** Counts down to 0. */
  stage: number;
  firstStep: number;
  /** Number of steps, at least 1. */
  steps: number;
  tokenRatio: number;
  activeTokens: number;
}

/** Most stages of a run: one for every step. */
const MAX_STAGES = 1000;

/**
 * A checked copy of a grid.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function readGrid(grid: Grid, option = 'grid'): [rows: number, cols: number] {
  const expected = `[rows, columns], integers >= 1 with at most ${MAX_TOKENS} tokens`;
  const [rows, cols] = readList<unknown>(grid, option, expected, [2, 2]);
  const side = (n: unknown): n is number => Number.isSafeInteger(n) && (n as number) >= 1;
  if (side(rows) && side(cols) && rows * cols <= MAX_TOKENS) return [rows, cols];
  throw invalidArgument(option, expected, [rows, cols]);
}

/** @throws ERR_JITFLUX_INVALID_ARGUMENT */
export function checkTokenCount(option: string, tokens: unknown): number {
  return checkInteger(option, tokens, 1, MAX_TOKENS);
}

/**
 * Cumulative stage ratios in ascending order. As in the released code the list may be given in either direction.
 * Equal neighbours are allowed; the second of them is a stage without steps.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT unless all values lie in (0, 1], they are ordered, and the largest is 1
 */
export function normalizeStageRatios(ratios: readonly number[]): number[] {
  return normalizeRatios('stageRatios', ratios);
}

/**
 * Token ratios in ascending order. As in the released code the list may be given in either direction.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT unless all values lie in (0, 1], they are ordered, and the largest is 1
 */
export function normalizeTokenRatios(ratios: readonly number[]): number[] {
  return normalizeRatios('tokenRatios', ratios);
}

function normalizeRatios(option: string, ratios: readonly number[]): number[] {
  const expected = `an ordered list of numbers in (0, 1] that contains 1, at most ${MAX_STAGES} of them,`;
  const list = readList(ratios, option, expected, [1, MAX_STAGES]);
  const inRange = (r: unknown) => typeof r === 'number' && r > 0 && r <= 1;
  if (!list.every(inRange)) throw invalidArgument(option, expected, list);
  if (list[0]! > list[list.length - 1]!) list.reverse();
  const ordered = list.every((r, i) => i === 0 || r >= list[i - 1]!);
  if (!ordered || list[list.length - 1] !== 1) throw invalidArgument(option, expected, list);
  return list;
}

/**
 * Step at which each stage ends (exclusive): `int(steps * ratio)`, truncated in double precision as in Python.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function stageBorders(steps: number, stageRatios: readonly number[]): number[] {
  checkInteger('steps', steps, 1, MAX_STAGES);
  const expected = `at most ${MAX_STAGES} numbers in (0, 1]`;
  const ratios = readList(stageRatios, 'stageRatios', expected, [0, MAX_STAGES]);
  return ratios.map((ratio, i) => Math.trunc(steps * checkRatio(`stageRatios[${i}]`, ratio)));
}

/**
 * Active tokens of a stage: `int(tokens * ratio)`, truncated in double precision as in Python.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function stageTokens(tokens: number, ratio: number): number {
  return Math.trunc(checkTokenCount('tokens', tokens) * checkRatio('ratio', ratio));
}

/** @throws ERR_JITFLUX_INVALID_ARGUMENT */
export function checkRatio(option: string, ratio: unknown): number {
  return checkNumber(option, ratio, 'a number in (0, 1]', (r) => r > 0 && r <= 1);
}

/**
 * The stages of a run. A step belongs to the first stage whose border exceeds it. A stage whose border does not exceed
 * its predecessor's has no step; it is dropped, its tokens join together with the next stage's, and the remaining
 * stages are numbered without a gap (the released code fails there).
 * @param o.stageRatios ascending, see {@link normalizeStageRatios}
 * @param o.tokenRatios ascending, see {@link normalizeTokenRatios}, as many as stage ratios
 * @param o.initialCount number of tokens of the first stage, if anchors were given explicitly
 * @throws ERR_JITFLUX_INVALID_ARGUMENT if the lists differ in length, the last stage has no step or a stage would have no
 *   token,
 *   ERR_JITFLUX_INVALID_ANCHORS if `initialCount` exceeds the next stage's tokens
 */
export function divideStages(o: {
  steps: number;
  tokens: number;
  stageRatios: readonly number[];
  tokenRatios: readonly number[];
  initialCount?: number | undefined;
}): Stage[] {
  const names = {
    steps: true,
    tokens: true,
    stageRatios: true,
    tokenRatios: true,
    initialCount: true,
  } as const;
  const { steps, tokens, initialCount, ...ratios } = readOptions(o, names);
  const stageRatios = normalizeStageRatios(ratios.stageRatios);
  const tokenRatios = normalizeTokenRatios(ratios.tokenRatios);
  if (initialCount !== undefined) checkInteger('initialCount', initialCount, 0, MAX_TOKENS);
  if (stageRatios.length !== tokenRatios.length) {
    throw invalidArgument(
      'tokenRatios',
      `as many values as stageRatios (${stageRatios.length}: ${stageRatios.join(', ')})`,
      tokenRatios,
    );
  }
  const borders = stageBorders(steps, stageRatios);
  const stages: Stage[] = [];
  borders.forEach((border, i) => {
    const firstStep = i === 0 ? 0 : borders[i - 1]!;
    if (border <= firstStep) return;
    const tokenRatio = tokenRatios[i]!;
    stages.push({
      stage: 0,
      firstStep,
      steps: border - firstStep,
      tokenRatio,
      activeTokens: stageTokens(tokens, tokenRatio),
    });
  });
  stages.forEach((stage, i) => (stage.stage = stages.length - 1 - i));

  if (borders.length > 1 && borders.at(-2) === steps) {
    throw invalidArgument(
      'stageRatios',
      'ratios that leave a step for the last stage, of all tokens',
      stageRatios,
    );
  }

  const first = stages[0]!;
  if (initialCount !== undefined) {
    const limit = stages[1]?.activeTokens ?? tokens;
    // A run of one stage works on all tokens, so explicit anchors must name all of them.
    const least = stages.length === 1 ? tokens : 1;
    if (initialCount < least || initialCount > limit) {
      throw invalidArgument(
        'initialAnchors',
        least === limit ? `all ${tokens} tokens` : `${least} to ${limit} tokens`,
        initialCount,
        ERROR_CODES.INVALID_ANCHORS,
      );
    }
    first.activeTokens = initialCount;
    first.tokenRatio = initialCount / tokens;
  }
  for (const stage of stages) {
    if (stage.activeTokens < 1) {
      throw invalidArgument(
        'tokenRatios',
        `ratios that leave at least one of ${tokens} tokens active`,
        tokenRatios,
      );
    }
  }
  return stages;
}
