import { describe, expect, it } from 'vitest';
import {
  ERROR_CODES,
  divideStages,
  normalizeStageRatios,
  normalizeTokenRatios,
  stageBorders,
  stageTokens,
} from '../../../src/sampler/index.js';
import { readGrid } from '../../../src/sampler/stages.js';
import type { Grid } from '../../../src/types.js';
import { expectError } from './helpers.js';

describe('stage borders and counts', () => {
  it('truncates as Python does, in double precision', () => {
    expect(stageBorders(18, [0.4, 0.65, 1])).toEqual([7, 11, 18]);
    expect(stageBorders(11, [0.4, 0.65, 1])).toEqual([4, 7, 11]);
    expect(stageBorders(100, [0.29, 0.57, 1])).toEqual([28, 56, 100]); // int(100 * .29) == 28, int(100 * .57) == 56
    expect([0.35, 0.62, 0.32, 0.6].map((r) => stageTokens(4096, r))).toEqual([1433, 2539, 1310, 2457]);
    expect(stageTokens(1024, 0.35)).toBe(358);
    expect(stageTokens(1024, 0.32)).toBe(327);
  });

  it('accepts ratios in either order', () => {
    expect(normalizeTokenRatios([1, 0.62, 0.35])).toEqual([0.35, 0.62, 1]);
    expect(normalizeTokenRatios([0.35, 0.62, 1])).toEqual([0.35, 0.62, 1]);
    expect(normalizeStageRatios([1, 0.65, 0.4])).toEqual([0.4, 0.65, 1]);
    const given = [1, 0.5];
    normalizeTokenRatios(given);
    expect(given).toEqual([1, 0.5]);
  });

  it.each([[[]], [[0.5]], [[0.5, 0.3, 1]], [[0, 1]], [[-0.1, 1]], [[0.5, 1.1]], [[NaN, 1]], ['x'], [null]])(
    'refuses the ratios %j',
    (ratios) => {
      const list = ratios as unknown as number[];
      expectError(() => normalizeStageRatios(list), ERROR_CODES.INVALID_ARGUMENT, /"stageRatios"/);
      expectError(() => normalizeTokenRatios(list), ERROR_CODES.INVALID_ARGUMENT, /"tokenRatios"/);
    },
  );

  it('numbers stages down to 0', () => {
    const stages = divideStages({
      steps: 18,
      tokens: 4096,
      stageRatios: [0.4, 0.65, 1],
      tokenRatios: [0.35, 0.62, 1],
    });
    expect(stages).toEqual([
      { stage: 2, firstStep: 0, steps: 7, tokenRatio: 0.35, activeTokens: 1433 },
      { stage: 1, firstStep: 7, steps: 4, tokenRatio: 0.62, activeTokens: 2539 },
      { stage: 0, firstStep: 11, steps: 7, tokenRatio: 1, activeTokens: 4096 },
    ]);
  });

  it('drops stages without steps', () => {
    const o = { tokens: 256, stageRatios: [0.4, 0.65, 1], tokenRatios: [0.35, 0.62, 1] };
    expect(divideStages({ ...o, steps: 2 })).toEqual([
      { stage: 1, firstStep: 0, steps: 1, tokenRatio: 0.62, activeTokens: 158 },
      { stage: 0, firstStep: 1, steps: 1, tokenRatio: 1, activeTokens: 256 },
    ]);
    expect(divideStages({ ...o, steps: 1 })).toEqual([
      { stage: 0, firstStep: 0, steps: 1, tokenRatio: 1, activeTokens: 256 },
    ]);
    // The other side: a repeated border.
    const repeated = divideStages({ ...o, stageRatios: [0.5, 0.5, 1], steps: 10 });
    expect(repeated.map((s) => [s.stage, s.firstStep, s.steps, s.activeTokens])).toEqual([
      [1, 0, 5, 89],
      [0, 5, 5, 256],
    ]);
  });

  it('covers every step exactly once whatever the count', () => {
    for (let steps = 1; steps <= 60; steps++) {
      const stages = divideStages({
        steps,
        tokens: 64,
        stageRatios: [0.1, 0.3, 0.33, 0.9, 1],
        tokenRatios: [0.1, 0.3, 0.3, 0.9, 1],
      });
      let next = 0;
      for (const stage of stages) {
        expect(stage.firstStep).toBe(next);
        expect(stage.steps).toBeGreaterThan(0);
        next += stage.steps;
      }
      expect(next).toBe(steps);
      expect(stages.at(-1)).toMatchObject({ stage: 0, activeTokens: 64 });
    }
  });

  it('lets explicit anchors define the first stage', () => {
    const o = { steps: 10, tokens: 100, stageRatios: [0.5, 1], tokenRatios: [0.5, 1] };
    expect(divideStages({ ...o, initialCount: 7 })[0]).toMatchObject({ activeTokens: 7, tokenRatio: 0.07 });
    const three = { steps: 9, tokens: 100, stageRatios: [0.3, 0.6, 1], tokenRatios: [0.2, 0.5, 1] };
    expect(divideStages({ ...three, initialCount: 50 })[0]!.activeTokens).toBe(50);
    expectError(
      () => divideStages({ ...three, initialCount: 51 }),
      ERROR_CODES.INVALID_ANCHORS,
      /1 to 50 tokens.*51/,
    );
    const dense = { steps: 4, tokens: 100, stageRatios: [1], tokenRatios: [1] };
    expectError(() => divideStages({ ...dense, initialCount: 99 }), ERROR_CODES.INVALID_ANCHORS, /all 100/);
    expect(divideStages({ ...dense, initialCount: 100 })).toHaveLength(1);
  });

  it('refuses lists of different length and stages without tokens', () => {
    expectError(
      () => divideStages({ steps: 4, tokens: 64, stageRatios: [0.5, 1], tokenRatios: [1] }),
      ERROR_CODES.INVALID_ARGUMENT,
      /tokenRatios/,
    );
    expectError(
      () => divideStages({ steps: 4, tokens: 9, stageRatios: [0.5, 1], tokenRatios: [0.1, 1] }),
      ERROR_CODES.INVALID_ARGUMENT,
      /at least one of 9 tokens/,
    );
  });

  it('checks grids', () => {
    expect(readGrid([3, 5])).toEqual([3, 5]);
    for (const grid of [
      [0, 4],
      [4],
      [2, 2, 2],
      [1.5, 2],
      [NaN, 2],
      [1 << 13, 1 << 12],
      ['2', 2],
      undefined,
      7,
    ]) {
      expectError(() => readGrid(grid as unknown as Grid), ERROR_CODES.INVALID_ARGUMENT, /"grid"/);
    }
  });
});
