import { describe, expect, it } from 'vitest';

import { resolveOptions } from '../../../src/sampler/index.js';
import {
  listText,
  microFlowText,
  readListText,
  readMicroFlowText,
  readScheduleText,
  scheduleText,
} from '../../../src/sampler/settings-text.js';
import type { MicroFlowOptions, ScheduleOptions } from '../../../src/types.js';
import { expectError } from '../../support/errors.js';

const INVALID = 'ERR_JITFLUX_INVALID_ARGUMENT';

describe('settings as text', () => {
  it.each<[string, ScheduleOptions]>([
    ['shift', { kind: 'shift' }],
    ['static:1.15', { kind: 'static', shift: 1.15 }],
    ['beta:1.4,0.425', { kind: 'beta', alpha: 1.4, beta: 0.425 }],
    ['sigmas:1,0.6666666666666666,0.1', { kind: 'sigmas', sigmas: [1, 2 / 3, 0.1] }],
  ])('%s', (text, schedule) => {
    expect(scheduleText(schedule)).toBe(text);
    expect(readScheduleText(text)).toEqual(schedule);
    expect(resolveOptions({ schedule: readScheduleText(text) }).schedule).toEqual(schedule);
  });

  it.each<[string, MicroFlowOptions]>([
    ['finite-time', { mode: 'finite-time' }],
    ['relax:3', { mode: 'relax', steps: 3 }],
  ])('%s', (text, microFlow) => {
    expect(microFlowText(microFlow)).toBe(text);
    expect(readMicroFlowText(text)).toEqual(microFlow);
  });

  it('keep every digit of a list', () => {
    const ratios = [0.1, 1 / 3, 1];
    expect(readListText(listText(ratios), 'ratios')).toEqual(ratios);
  });

  it.each([
    '',
    'shift:1',
    'static',
    'static:',
    'static:x',
    'beta:1',
    'beta:1,2,3',
    'sigmas:',
    'sigmas:1,,2',
    'karras',
    `sigmas:${'1,'.repeat(20_000)}1`,
  ])('refuse the schedule %j, and quote it whole', async (text) => {
    const error = await expectError(() => readScheduleText(text), INVALID, /for "schedule" but received/);
    if (text.length < 100) expect(error.details?.['received']).toBe(text);
  });

  it.each(['', 'relax', 'relax:', 'relax:1,2', 'finite-time:3'])('refuse the micro-flow %j', async (text) => {
    await expectError(() => readMicroFlowText(text, 'micro-flow'), INVALID, /finite-time or relax:<steps>/);
  });

  it.each(['', '1,', 'NaN', 'Infinity', '0x'])('refuse the list %j', async (text) => {
    await expectError(() => readListText(text, 'stage-ratios'), INVALID, /"stage-ratios"/);
  });
});
