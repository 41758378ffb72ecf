/** From what the caller wrote to complete, checked settings. */

import { ERROR_CODES, invalidArgument } from '../errors.js';
import type {
  ActivationPolicy,
  JitOptions,
  MicroFlowOptions,
  PresetName,
  ScheduleOptions,
} from '../types.js';
import { DEFAULT_PRESET, getPreset, type Preset } from './presets.js';
import { checkSchedule } from './schedule.js';
import { normalizeStageRatios, normalizeTokenRatios } from './stages.js';

/** Complete settings of a run: nothing optional, ratios ascending, everything in range. */
export interface ResolvedOptions {
  /**
   * The preset these settings are, or `'custom'` if any of them but the number of steps differs from the preset that
   * they started from.
   */
  preset: PresetName | 'custom';
  steps: number;
  stageRatios: number[];
  tokenRatios: number[];
  schedule: ScheduleOptions;
  initialAnchors: 'checkerboard' | 'strided' | Int32Array;
  activation: 'importance' | 'grid' | ActivationPolicy;
  microFlow: MicroFlowOptions;
  /** See {@link JitOptions}; no preset sets it. */
  importanceInEvents: boolean;
}

/** Largest accepted number of micro-flow sub-steps. */
export const MAX_MICRO_FLOW_STEPS = 1000;

/**
 * Fills in the preset's values and checks every option that can be checked without a grid.
 *
 * An option that is absent or `undefined` takes the preset's value. Stage ratios are shares of the steps, so that they
 * scale when `steps` overrides the preset's. Explicit sigmas without `steps` set the number of steps.
 * @throws ERR_JITFLUX_UNKNOWN_PRESET; ERR_JITFLUX_INVALID_ARGUMENT, naming option, value and what is accepted;
 *   ERR_JITFLUX_INVALID_ANCHORS if `initialAnchors` is neither a pattern nor an Int32Array
 */
export function resolveOptions(o: JitOptions = {}): ResolvedOptions {
  if (typeof o !== 'object' || o === null) throw invalidArgument('options', 'an object', o);
  const name = o.preset ?? DEFAULT_PRESET;
  const preset = getPreset(name);

  const schedule = o.schedule ?? preset.schedule;
  checkSchedule(schedule);
  const steps = o.steps ?? (schedule.kind === 'sigmas' ? schedule.sigmas.length : preset.steps);
  checkSchedule(schedule, steps);

  const stageRatios = normalizeStageRatios(o.stageRatios ?? preset.stageRatios);
  const tokenRatios = normalizeTokenRatios(o.tokenRatios ?? preset.tokenRatios);
  if (stageRatios.length !== tokenRatios.length) {
    throw invalidArgument(
      o.tokenRatios === undefined ? 'stageRatios' : 'tokenRatios',
      'stageRatios and tokenRatios of equal length; when you change the number of stages give both',
      o.tokenRatios ?? o.stageRatios,
    );
  }

  const resolved: ResolvedOptions = {
    preset: name,
    steps,
    stageRatios,
    tokenRatios,
    schedule: copySchedule(schedule),
    initialAnchors: checkInitialAnchors(o.initialAnchors ?? preset.initialAnchors),
    activation: checkActivation(o.activation ?? preset.activation),
    microFlow: checkMicroFlow(o.microFlow ?? preset.microFlow),
    importanceInEvents: checkBoolean('importanceInEvents', o.importanceInEvents ?? false),
  };
  if (!matches(resolved, preset)) resolved.preset = 'custom';
  return resolved;
}

function checkBoolean(option: string, value: boolean): boolean {
  if (typeof value === 'boolean') return value;
  throw invalidArgument(option, 'true or false', value);
}

function checkInitialAnchors(value: 'checkerboard' | 'strided' | Int32Array) {
  if (value === 'checkerboard' || value === 'strided') return value;
  // Copied, so that later changes by the caller cannot invalidate what has been checked.
  if (value instanceof Int32Array) return value.slice();
  throw invalidArgument(
    'initialAnchors',
    "'checkerboard', 'strided' or an Int32Array of token indices",
    value,
    ERROR_CODES.INVALID_ANCHORS,
  );
}

function checkActivation(value: 'importance' | 'grid' | ActivationPolicy) {
  if (value === 'importance' || value === 'grid' || typeof value === 'function') return value;
  throw invalidArgument('activation', "'importance', 'grid' or a function", value);
}

function checkMicroFlow(value: Readonly<MicroFlowOptions>): MicroFlowOptions {
  if (typeof value !== 'object' || value === null) {
    throw invalidArgument('microFlow', "{ mode: 'finite-time' | 'relax', steps }", value);
  }
  const { mode, steps } = value;
  if (mode !== 'finite-time' && mode !== 'relax') {
    throw invalidArgument('microFlow.mode', "'finite-time' or 'relax'", mode);
  }
  const least = mode === 'relax' ? 0 : 1;
  if (!Number.isInteger(steps) || steps < least || steps > MAX_MICRO_FLOW_STEPS) {
    throw invalidArgument('microFlow.steps', `an integer from ${least} to ${MAX_MICRO_FLOW_STEPS}`, steps);
  }
  return { mode, steps };
}

function copySchedule(schedule: Readonly<ScheduleOptions>): ScheduleOptions {
  return schedule.kind === 'sigmas' ? { kind: 'sigmas', sigmas: [...schedule.sigmas] } : { ...schedule };
}

function matches(o: ResolvedOptions, preset: Preset): boolean {
  const key = (p: Preset | ResolvedOptions) => {
    const s = p.schedule;
    return JSON.stringify([
      p.stageRatios,
      p.tokenRatios,
      s.kind === 'beta' ? [s.kind, s.alpha, s.beta] : s.kind === 'static' ? [s.kind, s.shift] : s,
      [p.microFlow.mode, p.microFlow.steps],
    ]);
  };
  return (
    o.initialAnchors === preset.initialAnchors && o.activation === preset.activation && key(o) === key(preset)
  );
}
