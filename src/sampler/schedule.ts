/** Noise levels of the sampling steps. sigma runs from 1 (pure noise) to 0 (clean latent). */

import { invalidArgument } from '../errors.js';
import type { ScheduleOptions } from '../types.js';
import { betaQuantile } from './beta.js';

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
  checkSchedule(schedule, steps);
  switch (schedule.kind) {
    case 'beta':
      return betaSigmas(steps, schedule.alpha, schedule.beta);
    case 'shift':
      return shiftSigmas(steps, tokens);
    case 'static':
      return staticSigmas(steps, schedule.shift);
    case 'sigmas':
      return Array.from(schedule.sigmas);
  }
}

/**
 * JiT's schedule: `sigma_i = 1/n + (1 - 1/n) F^-1(1 - i/(n-1); alpha, beta)` with F the Beta distribution function.
 * It starts at 1, ends at 1/n and, with alpha = 1.4 and beta about .42, spends most steps at high noise. Independent
 * of the resolution. Upstream: `_convert_to_beta` of diffusers' FlowMatchEulerDiscreteScheduler.
 *
 * Extreme parameters may give neighbouring levels that are equal in double precision.
 */
export function betaSigmas(steps: number, alpha: number, beta: number): number[] {
  const last = 1 / steps;
  return Array.from({ length: steps }, (_, i) =>
    i === 0 ? 1 : last + (1 - last) * betaQuantile(1 - i / (steps - 1), alpha, beta),
  );
}

/**
 * FLUX's own schedule: `linspace(1, 1/n, n)` moved towards high noise, the more the larger the picture:
 * `sigma' = e^mu / (e^mu + 1/sigma - 1)` with {@link shiftMu}. Upstream: FlowMatchEulerDiscreteScheduler with
 * `use_dynamic_shifting`.
 */
export function shiftSigmas(steps: number, tokens: number): number[] {
  const scale = Math.exp(shiftMu(tokens));
  // The i-th of n evenly spaced values from 1 down to 1/n is 1 - i/n, so that 1/sigma - 1 = i / (n - i).
  return Array.from({ length: steps }, (_, i) => scale / (scale + i / (steps - i)));
}

/**
 * FLUX.1-schnell's schedule: `linspace(1, 1/n, n)` moved by a constant, `sigma' = a sigma / (1 + (a - 1) sigma)`,
 * whatever the picture's size; a = 1 leaves it evenly spaced. Upstream: FlowMatchEulerDiscreteScheduler with `shift`
 * and without `use_dynamic_shifting`.
 */
export function staticSigmas(steps: number, shift: number): number[] {
  // With sigma = (n - i) / n: a (n - i) / (n + (a - 1) (n - i)) = a (n - i) / (a (n - i) + i).
  return Array.from({ length: steps }, (_, i) => (shift * (steps - i)) / (shift * (steps - i) + i));
}

/** Shift exponent: linear in the token count, 0.5 at 256 tokens and 1.15 at 4096, extrapolated beyond both. */
export function shiftMu(tokens: number): number {
  return 0.5 + ((1.15 - 0.5) / (4096 - 256)) * (tokens - 256);
}

/**
 * Checks a schedule and, if it is given, the number of steps.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function checkSchedule(schedule: Readonly<ScheduleOptions>, steps?: number): void {
  if (steps !== undefined && !(Number.isInteger(steps) && steps >= 1 && steps <= MAX_STEPS)) {
    throw invalidArgument('steps', `an integer from 1 to ${MAX_STEPS}`, steps);
  }
  if (typeof schedule !== 'object' || schedule === null) {
    throw invalidArgument('schedule', "{ kind: 'beta' | 'shift' | 'static' | 'sigmas', ... }", schedule);
  }
  const { kind } = schedule;
  switch (kind) {
    case 'beta':
      for (const name of ['alpha', 'beta'] as const) {
        const value: unknown = schedule[name];
        if (!(typeof value === 'number' && value > 0 && value <= MAX_BETA_SHAPE)) {
          throw invalidArgument(`schedule.${name}`, `a number in (0, ${MAX_BETA_SHAPE}]`, value);
        }
      }
      return;
    case 'shift':
      return;
    case 'static': {
      const value: unknown = schedule.shift;
      if (!(typeof value === 'number' && value > 0 && value <= MAX_SHIFT)) {
        throw invalidArgument('schedule.shift', `a number in (0, ${MAX_SHIFT}]`, value);
      }
      return;
    }
    case 'sigmas':
      checkSigmas(schedule.sigmas);
      if (steps !== undefined && schedule.sigmas.length !== steps) {
        throw invalidArgument('schedule.sigmas', `as many values as steps (${steps})`, schedule.sigmas);
      }
      return;
    default:
      throw invalidArgument('schedule.kind', "'beta', 'shift', 'static' or 'sigmas'", kind);
  }
}

function checkSigmas(sigmas: number[]): void {
  if (!Array.isArray(sigmas) || sigmas.length < 1 || sigmas.length > MAX_STEPS) {
    throw invalidArgument('schedule.sigmas', `an array of 1 to ${MAX_STEPS} numbers`, sigmas);
  }
  sigmas.forEach((sigma, i) => {
    const name = `schedule.sigmas[${i}]`;
    if (!(typeof sigma === 'number' && sigma > 0 && sigma <= 1)) {
      throw invalidArgument(name, 'a number in (0, 1] (the terminal 0 is implied)', sigma);
    }
    const previous = sigmas[i - 1];
    if (previous !== undefined && !(sigma < previous)) {
      throw invalidArgument(name, `a value below its predecessor ${previous}`, sigma);
    }
  });
}
