/** Noise levels of the sampling steps. sigma runs from 1 (pure noise) to 0 (clean latent). */

import { checkInteger, checkNumber, readFields, readList } from '../arguments.js';
import { invalidArgument } from '../errors.js';
import type { ScheduleOptions } from '../types.js';
import { betaQuantile } from './beta.js';
import { MAX_TOKENS } from './stages.js';

/** Largest number of steps that any schedule accepts. */
export const MAX_STEPS = 1000;

/** Largest factor of a static shift; beyond it all steps crowd at pure noise. */
export const MAX_SHIFT = 1000;

/** Largest shape parameter of a beta schedule; beyond it all steps crowd at one noise level. */
export const MAX_BETA_SHAPE = 1000;

/**
 * The noise levels at which the model is evaluated.
 * @param schedule kind and parameters
 * @param steps number of noise levels, 1 to 1000
 * @param tokens image tokens (rows * columns of the packed grid); only the shift schedule depends on it
 * @returns `steps` values in (0, 1], descending. The terminal 0 to which the last step leads is not included.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT for parameters out of range, or if explicit sigmas are not `steps` in number
 */
export function scheduleSigmas(schedule: ScheduleOptions, steps: number, tokens: number): number[] {
  checkSteps(steps);
  const checked = readSchedule(schedule, steps);
  switch (checked.kind) {
    case 'beta':
      return betaSigmas(steps, checked.alpha, checked.beta);
    case 'shift':
      return shiftSigmas(steps, tokens);
    case 'static':
      return staticSigmas(steps, checked.shift);
    case 'sigmas':
      return checked.sigmas;
  }
}

/**
 * JiT's schedule: `sigma_i = 1/n + (1 - 1/n) F^-1(1 - i/(n-1); alpha, beta)` with F the Beta distribution function.
 * It starts at 1, ends at 1/n and, with alpha = 1.4 and beta about .42, spends most steps at high noise. Independent
 * of the resolution. Upstream: `_convert_to_beta` of diffusers' FlowMatchEulerDiscreteScheduler.
 *
 * Extreme parameters may give neighbouring levels that are equal in double precision.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function betaSigmas(steps: number, alpha: number, beta: number): number[] {
  checkSteps(steps);
  checkShape('alpha', alpha);
  checkShape('beta', beta);
  const last = 1 / steps;
  return Array.from({ length: steps }, (_, i) =>
    i === 0 ? 1 : last + (1 - last) * betaQuantile(1 - i / (steps - 1), alpha, beta),
  );
}

/**
 * FLUX's own schedule: `linspace(1, 1/n, n)` moved towards high noise, the more the larger the picture:
 * `sigma' = e^mu / (e^mu + 1/sigma - 1)` with {@link shiftMu}. Upstream: FlowMatchEulerDiscreteScheduler with
 * `use_dynamic_shifting`.
 *
 * Beyond some hundred thousand tokens the first levels are all 1 in double precision.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function shiftSigmas(steps: number, tokens: number): number[] {
  checkSteps(steps);
  checkInteger('tokens', tokens, 1, MAX_TOKENS);
  // Not infinite, of which a quotient would be no number.
  const scale = Math.min(Math.exp(shiftMu(tokens)), Number.MAX_VALUE);
  // The i-th of n evenly spaced values from 1 down to 1/n is 1 - i/n, so that 1/sigma - 1 = i / (n - i).
  return Array.from({ length: steps }, (_, i) => scale / (scale + i / (steps - i)));
}

/**
 * FLUX.1-schnell's schedule: `linspace(1, 1/n, n)` moved by a constant, `sigma' = a sigma / (1 + (a - 1) sigma)`,
 * whatever the picture's size; a = 1 leaves it evenly spaced. Upstream: FlowMatchEulerDiscreteScheduler with `shift`
 * and without `use_dynamic_shifting`.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function staticSigmas(steps: number, shift: number): number[] {
  checkSteps(steps);
  checkShift('shift', shift);
  // With sigma = (n - i) / n: a (n - i) / (n + (a - 1) (n - i)) = a (n - i) / (a (n - i) + i).
  // At least the smallest number: 0 is the terminal level alone.
  return Array.from({ length: steps }, (_, i) =>
    Math.max((shift * (steps - i)) / (shift * (steps - i) + i), Number.MIN_VALUE),
  );
}

/**
 * Shift exponent: linear in the token count, 0.5 at 256 tokens and 1.15 at 4096, extrapolated beyond both.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT unless it is a finite number >= 0
 */
export function shiftMu(tokens: number): number {
  checkNumber('tokens', tokens, 'a finite number >= 0', (n) => n >= 0 && Number.isFinite(n));
  return 0.5 + ((1.15 - 0.5) / (4096 - 256)) * (tokens - 256);
}

/** @throws ERR_JITFLUX_INVALID_ARGUMENT */
export function checkSteps(steps: unknown): number {
  return checkInteger('steps', steps, 1, MAX_STEPS);
}

function checkShape(option: string, value: unknown): void {
  checkNumber(option, value, `a number in (0, ${MAX_BETA_SHAPE}]`, (n) => n > 0 && n <= MAX_BETA_SHAPE);
}

function checkShift(option: string, value: unknown): void {
  checkNumber(option, value, `a number in (0, ${MAX_SHIFT}]`, (n) => n > 0 && n <= MAX_SHIFT);
}

/**
 * A checked copy of a schedule.
 * @param steps if given, explicit sigmas must be as many
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function readSchedule(schedule: Readonly<ScheduleOptions>, steps?: number): ScheduleOptions {
  const names = { kind: true, alpha: true, beta: true, shift: true, sigmas: true } as const;
  const expected = "{ kind: 'beta' | 'shift' | 'static' | 'sigmas', ... }";
  const given = readFields(schedule, 'schedule', names, expected);
  switch (given.kind) {
    case 'beta': {
      const { kind, alpha, beta } = given;
      checkShape('schedule.alpha', alpha);
      checkShape('schedule.beta', beta);
      return { kind, alpha, beta };
    }
    case 'shift':
      return { kind: 'shift' };
    case 'static': {
      const { kind, shift } = given;
      checkShift('schedule.shift', shift);
      return { kind, shift };
    }
    case 'sigmas': {
      const sigmas = readSigmas(given.sigmas);
      if (steps !== undefined && sigmas.length !== steps) {
        throw invalidArgument('schedule.sigmas', `as many values as steps (${steps})`, sigmas);
      }
      return { kind: 'sigmas', sigmas };
    }
    default:
      throw invalidArgument(
        'schedule.kind',
        "'beta', 'shift', 'static' or 'sigmas'",
        (given as { kind?: unknown }).kind,
      );
  }
}

function readSigmas(given: number[]): number[] {
  const sigmas = readList(given, 'schedule.sigmas', `an array of 1 to ${MAX_STEPS} numbers`, [1, MAX_STEPS]);
  sigmas.forEach((sigma, i) => {
    const name = `schedule.sigmas[${i}]`;
    checkNumber(name, sigma, 'a number in (0, 1] (the terminal 0 is implied)', (n) => n > 0 && n <= 1);
    const previous = sigmas[i - 1];
    if (previous !== undefined && !(sigma < previous)) {
      throw invalidArgument(name, `a value below its predecessor ${previous}`, sigma);
    }
  });
  return sigmas;
}
