/**
 * Sampling settings as text: one grammar for flags of the command line and for what a picture says of itself.
 *
 * | setting | forms |
 * |---|---|
 * | schedule | `shift`, `static:<shift>`, `beta:<alpha>,<beta>`, `sigmas:<level>,<level>,...` |
 * | micro-flow | `finite-time`, `relax:<steps>` |
 * | ratios | `0.4,0.65,1` |
 */
import { invalidArgument } from '../errors.js';
import type { MicroFlowOptions, ScheduleOptions } from '../types.js';

/** What a setting may be, as users are told it. */
export const SCHEDULE_FORMS = [
  'shift',
  'static:<shift>',
  'beta:<alpha>,<beta>',
  'sigmas:<level>,<level>,...',
] as const;
export const MICRO_FLOW_FORMS = ['finite-time', 'relax:<steps>'] as const;

/** `a, b or c`. */
export function formsText(forms: readonly string[]): string {
  return `${forms.slice(0, -1).join(', ')} or ${forms.at(-1)}`;
}

/** Longest text that is read as a setting; a thousand noise levels in full precision. */
const MOST_CHARACTERS = 25_000;

export function scheduleText(schedule: Readonly<ScheduleOptions>): string {
  switch (schedule.kind) {
    case 'shift':
      return 'shift';
    case 'static':
      return `static:${schedule.shift}`;
    case 'beta':
      return `beta:${schedule.alpha},${schedule.beta}`;
    case 'sigmas':
      return `sigmas:${listText(schedule.sigmas)}`;
  }
}

/**
 * What {@link scheduleText} wrote. Ranges are checked where the schedule is used.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function readScheduleText(text: string, option = 'schedule'): ScheduleOptions {
  const expected = formsText(SCHEDULE_FORMS);
  const { kind, numbers } = split(text, option, expected);
  const [first, second] = numbers;
  if (kind === 'shift' && numbers.length === 0) return { kind };
  if (kind === 'static' && numbers.length === 1) return { kind, shift: first! };
  if (kind === 'beta' && numbers.length === 2) return { kind, alpha: first!, beta: second! };
  if (kind === 'sigmas' && numbers.length > 0) return { kind, sigmas: numbers };
  throw invalidArgument(option, expected, text);
}

export function microFlowText(o: Readonly<MicroFlowOptions>): string {
  return o.mode === 'relax' ? `relax:${o.steps}` : o.mode;
}

/**
 * What {@link microFlowText} wrote.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function readMicroFlowText(text: string, option = 'microFlow'): MicroFlowOptions {
  const expected = formsText(MICRO_FLOW_FORMS);
  const { kind, numbers } = split(text, option, expected);
  if (kind === 'finite-time' && numbers.length === 0) return { mode: kind };
  if (kind === 'relax' && numbers.length === 1) return { mode: kind, steps: numbers[0]! };
  throw invalidArgument(option, expected, text);
}

export function listText(numbers: readonly number[]): string {
  return numbers.join(',');
}

/**
 * Numbers separated by commas.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function readListText(
  text: string,
  option: string,
  expected = 'numbers separated by commas, such as 0.4,0.65,1',
): number[] {
  const numbers = numbersOf(text);
  if (numbers) return numbers;
  throw invalidArgument(option, expected, text);
}

/** Undefined if any is none. */
function numbersOf(text: string): number[] | undefined {
  if (text.length > MOST_CHARACTERS) return undefined;
  const numbers = text.split(',').map((part) => (part.trim() === '' ? NaN : Number(part)));
  return numbers.every(Number.isFinite) ? numbers : undefined;
}

function split(text: string, option: string, expected: string): { kind: string; numbers: number[] } {
  const colon = text.indexOf(':');
  if (colon < 0) return { kind: text, numbers: [] };
  const numbers = numbersOf(text.slice(colon + 1));
  if (!numbers) throw invalidArgument(option, expected, text);
  return { kind: text.slice(0, colon), numbers };
}
