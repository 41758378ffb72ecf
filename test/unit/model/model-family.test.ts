/** FLUX.1-dev or FLUX.1-schnell: two signs must agree on the model that is sampled in four steps. */
import { describe, expect, it } from 'vitest';

import { familyDefaults } from '../../../src/model/model-family.js';
import type { ScheduleOptions } from '../../../src/types.js';

const file = (schedule: ScheduleOptions, stated = true) => ({
  path: 'scheduler_config.json',
  schedule,
  stated,
  unfollowed: [],
});
const SHIFT = file({ kind: 'shift' });
const STATIC = file({ kind: 'static', shift: 1 });
const SILENT = file({ kind: 'static', shift: 1 }, false);
const family = (guidance: boolean, schedule?: ReturnType<typeof file>, name = 'a-checkpoint') =>
  familyDefaults({ name, transformer: `/models/${name}.safetensors`, guidance, schedule });

const SCHNELL = { preset: 'dense', dense: { steps: 4, schedule: { kind: 'static', shift: 1 } } };

describe('familyDefaults', () => {
  it.each([
    ['a snapshot of dev', family(true, SHIFT)],
    ['a checkpoint with a guidance embedder', family(true)],
  ])('%s is dev, without doubt', (_name, { text, defaults, inferred }) => {
    expect(text).toEqual({ length: 512 });
    expect(defaults).toEqual({ width: 1024, height: 1024, guidance: 3.5 });
    expect(inferred).toMatchObject([{ value: 'FLUX.1-dev' }]);
    expect(inferred[0]).not.toHaveProperty('doubtful');
  });

  it.each([
    ['a snapshot without guidance and without dynamic shift', family(false, STATIC)],
    ['the same if its scheduler leaves the shift to the default', family(false, SILENT)],
    ['a checkpoint without guidance that is called so', family(false, undefined, 'flux1-schnell')],
  ])('%s is schnell', (_name, { text, defaults, inferred }) => {
    expect(text).toEqual({ length: 512, defaultLength: 256 });
    expect(defaults).toMatchObject(SCHNELL);
    expect(inferred[0]).not.toHaveProperty('doubtful');
  });

  it.each([
    [
      'guidance, and a scheduler that does not say',
      family(true, SILENT),
      /does not say use_dynamic_shifting/,
    ],
    ['guidance, and a scheduler without dynamic shift', family(true, STATIC), /static shift is kept/],
    ['no guidance, and a dynamic shift', family(false, SHIFT), /has a dynamic shift/],
    ['no guidance, and nothing else', family(false), /neither a schedule nor its name says schnell/],
  ])('%s: sampled as dev, and the user is told', (_name, { text, defaults, inferred }, why) => {
    expect(text).toEqual({ length: 512 });
    expect(defaults.preset).toBeUndefined();
    expect(inferred).toMatchObject([{ what: 'model', doubtful: true }]);
    expect(inferred[0]?.why).toMatch(why);
  });

  it('keeps a static shift that dev states for dense steps, of which it takes fifty', () => {
    const schedule = { kind: 'static', shift: 3 } as const;
    expect(family(true, file(schedule)).defaults.dense).toEqual({ steps: 50, schedule });
    expect(family(true, SILENT).defaults.dense).toBeUndefined();
  });
});
