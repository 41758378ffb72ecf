import { describe, expect, it } from 'vitest';
import {
  ERROR_CODES,
  betaQuantile,
  regularizedBeta,
  scheduleSigmas,
  shiftMu,
  shiftSigmas,
} from '../../../src/sampler/index.js';
import { logGamma } from '../../../src/sampler/beta.js';
import type { ScheduleOptions } from '../../../src/types.js';
import { maxDifference } from '../../support/reference-operators.js';
import { SafeTensors } from '../../support/safetensors.js';
import { expectError } from './helpers.js';

const golden = SafeTensors.open('algorithm/schedule.safetensors');

describe('beta distribution', () => {
  it('has the known values of ln Gamma', () => {
    expect(logGamma(1)).toBeCloseTo(0, 14);
    expect(logGamma(0.5)).toBeCloseTo(0.5 * Math.log(Math.PI), 14);
    expect(logGamma(0.25)).toBeCloseTo(Math.log(3.625609908221908), 13);
    expect(logGamma(11)).toBeCloseTo(Math.log(3628800), 12);
  });

  it('agrees with closed forms of the distribution function', () => {
    for (const x of [0, 1e-6, 0.1, 0.37, 0.5, 0.8, 0.999, 1]) {
      expect(regularizedBeta(x, 1, 1)).toBeCloseTo(x, 14);
      expect(regularizedBeta(x, 3, 1)).toBeCloseTo(x ** 3, 14);
      expect(regularizedBeta(x, 1, 0.4)).toBeCloseTo(1 - (1 - x) ** 0.4, 13);
      expect(regularizedBeta(x, 0.5, 0.5)).toBeCloseTo((2 / Math.PI) * Math.asin(Math.sqrt(x)), 13);
    }
  });

  it('inverts the distribution function', () => {
    for (const [a, b] of [
      [1.4, 0.425],
      [0.6, 0.6],
      [0.05, 3],
      [2, 40],
      [300, 500],
      [1000, 1000],
    ] as const) {
      for (const p of [1e-12, 1e-3, 0.02, 0.3, 0.5, 0.77, 0.98, 1 - 1e-9]) {
        const x = betaQuantile(p, a, b);
        if (x < 1) expect(Math.abs(regularizedBeta(x, a, b) - p)).toBeLessThan(2e-11);
      }
      expect(betaQuantile(0, a, b)).toBe(0);
      expect(betaQuantile(1, a, b)).toBe(1);
    }
  });

  it('refuses arguments outside the domain', () => {
    for (const bad of [NaN, -0.1, 1.1]) {
      expectError(() => betaQuantile(bad, 1, 1), ERROR_CODES.INVALID_ARGUMENT, /"p"/);
      expectError(() => regularizedBeta(bad, 1, 1), ERROR_CODES.INVALID_ARGUMENT, /"x"/);
    }
    for (const bad of [0, -1, NaN, Infinity]) {
      expectError(() => betaQuantile(0.5, bad, 1), ERROR_CODES.INVALID_ARGUMENT, /"a"/);
      expectError(() => betaQuantile(0.5, 1, bad), ERROR_CODES.INVALID_ARGUMENT, /"b"/);
    }
  });
});

describe('schedules', () => {
  const beta = golden.names.filter((name) => name.endsWith('.sigmas_float64'));
  it.each(beta)('%s agrees with scipy to 1e-12', (name) => {
    const match = /steps(\d+)\.alpha([\d.]+)\.beta([\d.]+)\.sigmas/.exec(name)!;
    const [steps, alpha, shape] = match.slice(1).map(Number) as [number, number, number];
    const sigmas = scheduleSigmas({ kind: 'beta', alpha, beta: shape }, steps, 4096);
    expect(maxDifference(sigmas, golden.float64(name))).toBeLessThan(1e-12);
    const timesteps = golden.float64(name.replace('sigmas_float64', 'timesteps'));
    expect(
      maxDifference(
        sigmas.map((s) => s * 1000),
        timesteps,
      ),
    ).toBeLessThan(2e-4);
  });

  const shift = golden.names.filter((name) => /^shift.*with_final_zero$/.test(name));
  it.each(shift)('%s agrees with the scheduler to 1e-6', (name) => {
    const match = /steps(\d+)\.tokens(\d+)/.exec(name)!;
    const [steps, tokens] = match.slice(1).map(Number) as [number, number];
    const sigmas = scheduleSigmas({ kind: 'shift' }, steps, tokens);
    expect(maxDifference([...sigmas, 0], golden.float64(name))).toBeLessThan(1e-6);
  });

  it('shifts linearly in the token count and extrapolates', () => {
    expect(shiftMu(256)).toBeCloseTo(0.5, 14);
    expect(shiftMu(1024)).toBeCloseTo(0.63, 14);
    expect(shiftMu(4096)).toBeCloseTo(1.15, 14);
    expect(shiftMu(16384)).toBeCloseTo(3.23, 12);
    expect(shiftMu(64)).toBeLessThan(0.5);
  });

  it('shifts by a constant, as schnell does', () => {
    const linear = scheduleSigmas({ kind: 'static', shift: 1 }, 4, 4096);
    expect(linear).toEqual([1, 0.75, 0.5, 0.25]);
    expect(scheduleSigmas({ kind: 'static', shift: 1 }, 4, 64)).toEqual(linear);
    const shifted = scheduleSigmas({ kind: 'static', shift: 3 }, 4, 4096);
    shifted.forEach((sigma, i) => {
      const s = linear[i]!;
      expect(sigma).toBeCloseTo((3 * s) / (1 + 2 * s), 14);
    });
  });

  it('has the single level 1 for one step', () => {
    expect(scheduleSigmas({ kind: 'beta', alpha: 1.4, beta: 0.425 }, 1, 256)).toEqual([1]);
    expect(shiftSigmas(1, 4096)).toEqual([1]);
  });

  it('descends strictly from 1 and stays positive for all step counts', () => {
    for (const schedule of [
      { kind: 'shift' },
      { kind: 'static', shift: 1 },
      { kind: 'static', shift: 3 },
      { kind: 'static', shift: 0.2 },
      { kind: 'beta', alpha: 1.4, beta: 0.425 },
    ] satisfies ScheduleOptions[]) {
      for (const steps of [1, 2, 3, 7, 28, 199, 1000]) {
        const sigmas = scheduleSigmas(schedule, steps, 1024);
        expect(sigmas).toHaveLength(steps);
        expect(sigmas[0]).toBe(1);
        expect(sigmas.at(-1)).toBeGreaterThan(0);
        expect(sigmas.every((s, i) => i === 0 || s < sigmas[i - 1]!)).toBe(true);
      }
    }
  });

  it('takes explicit noise levels as they are', () => {
    const sigmas = [0.9, 0.5, 0.25];
    const result = scheduleSigmas({ kind: 'sigmas', sigmas }, 3, 64);
    expect(result).toEqual(sigmas);
    expect(result).not.toBe(sigmas);
  });

  it.each<[unknown, number, RegExp]>([
    [{ kind: 'beta', alpha: 0, beta: 1 }, 4, /schedule\.alpha/],
    [{ kind: 'beta', alpha: 1.4, beta: NaN }, 4, /schedule\.beta/],
    [{ kind: 'beta', alpha: 1e9, beta: 1 }, 4, /schedule\.alpha/],
    [{ kind: 'beta' }, 4, /schedule\.alpha.*undefined/],
    [{ kind: 'static' }, 4, /schedule\.shift.*undefined/],
    [{ kind: 'static', shift: 0 }, 4, /schedule\.shift/],
    [{ kind: 'static', shift: NaN }, 4, /schedule\.shift/],
    [{ kind: 'static', shift: 1e9 }, 4, /schedule\.shift/],
    [{ kind: 'karras' }, 4, /schedule\.kind.*"karras"/],
    [null, 4, /"schedule".*null/],
    [{ kind: 'sigmas', sigmas: [1, 0.5] }, 3, /as many values as steps \(3\)/],
    [{ kind: 'sigmas', sigmas: [1, 0.5, 0] }, 3, /terminal 0.*schedule\.sigmas\[2\]/],
    [{ kind: 'sigmas', sigmas: [1, 0.5, 0.5] }, 3, /below its predecessor 0\.5.*schedule\.sigmas\[2\]/],
    [{ kind: 'sigmas', sigmas: [1.1, 0.5, 0.2] }, 3, /schedule\.sigmas\[0\]/],
    [{ kind: 'sigmas', sigmas: [1, NaN, 0.2] }, 3, /schedule\.sigmas\[1\]/],
    [{ kind: 'sigmas', sigmas: [] }, 3, /schedule\.sigmas/],
    [{ kind: 'sigmas', sigmas: 'abc' }, 3, /schedule\.sigmas/],
    [{ kind: 'shift' }, 0, /"steps"/],
    [{ kind: 'shift' }, 1001, /"steps"/],
    [{ kind: 'shift' }, 2.5, /"steps"/],
  ])('refuses %j with %d steps', (schedule, steps, message) => {
    expectError(
      () => scheduleSigmas(schedule as ScheduleOptions, steps, 64),
      ERROR_CODES.INVALID_ARGUMENT,
      message,
    );
  });
});
