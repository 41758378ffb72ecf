/** Named settings: the dense baseline and the two that the JiT authors released. */

import { describeValue, ERROR_CODES, JitFluxError } from '../errors.js';
import { deepFreeze } from './freeze.js';
import type { MicroFlowOptions, PresetName, ScheduleOptions } from '../types.js';

/** Everything that a preset decides. */
export interface Preset {
  readonly steps: number;
  /** Cumulative, ascending. */
  readonly stageRatios: readonly number[];
  readonly tokenRatios: readonly number[];
  readonly schedule: Readonly<ScheduleOptions>;
  readonly initialAnchors: 'checkerboard' | 'strided';
  readonly activation: 'importance' | 'grid';
  readonly microFlow: Readonly<MicroFlowOptions>;
}

/** The released code's settings common to both of its presets: one relaxation by a third. */
const RELEASED = {
  stageRatios: [0.4, 0.65, 1],
  schedule: { kind: 'beta', alpha: 1.4, beta: 0.425 },
  initialAnchors: 'checkerboard',
  activation: 'importance',
  microFlow: { mode: 'relax', steps: 3 },
} as const;

/**
 * The presets.
 *
 * - `dense`: every token in every one of 50 steps, on FLUX's own resolution-dependent schedule.
 * - `jit-4x`: 18 steps, 7 with 35 %, 4 with 62 % and 7 with all tokens. Upstream `default_4x`.
 * - `jit-7x`: 11 steps, 4 with 32 %, 3 with 60 % and 4 with all tokens. Upstream `default_7x`.
 */
export const PRESETS: Readonly<Record<PresetName, Preset>> = deepFreeze({
  dense: {
    ...RELEASED,
    steps: 50,
    stageRatios: [1],
    tokenRatios: [1],
    schedule: { kind: 'shift' },
  },
  'jit-4x': { ...RELEASED, steps: 18, tokenRatios: [0.35, 0.62, 1] },
  'jit-7x': { ...RELEASED, steps: 11, tokenRatios: [0.32, 0.6, 1] },
});

/** Used when no preset is named. */
export const DEFAULT_PRESET: PresetName = 'jit-4x';

/** Names of all presets. */
export const PRESET_NAMES: readonly PresetName[] = Object.freeze(Object.keys(PRESETS) as PresetName[]);

/**
 * Looks up a preset.
 * @throws ERR_JITFLUX_UNKNOWN_PRESET, listing the known names
 */
export function getPreset(name: PresetName): Preset {
  if (typeof name === 'string' && Object.hasOwn(PRESETS, name)) return PRESETS[name];
  const received = describeValue(name);
  throw new JitFluxError(
    ERROR_CODES.UNKNOWN_PRESET,
    `Unknown preset ${received}; known presets are ${PRESET_NAMES.join(', ')}`,
    { option: 'preset', received, known: [...PRESET_NAMES] },
  );
}
