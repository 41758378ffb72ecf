/** From what the caller wrote to complete, checked settings. */

import { checkBoolean, checkInteger, copyOf, type Names, readFields, readOptions } from '../arguments.js';
import { ERROR_CODES, invalidArgument } from '../errors.js';
import { withJson } from '../json.js';
import type {
  ActivationPolicy,
  JitOptions,
  Lifter,
  MicroFlowOptions,
  PresetName,
  ScheduleOptions,
} from '../types.js';
import { DEFAULT_PRESET, getPreset, type Preset } from './presets.js';
import { checkSteps, readSchedule } from './schedule.js';
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
  /** No preset sets it. */
  lifter: 'gaussian' | 'nearest' | Lifter;
  /** See {@link JitOptions}; no preset sets it. */
  importanceInEvents: boolean;
}

/** Values of settings that are one of a few words, where they are no function or list of the caller's. */
export const ANCHOR_PATTERNS = ['checkerboard', 'strided'] as const;
export const ACTIVATIONS = ['importance', 'grid'] as const;
export const LIFTERS = ['gaussian', 'nearest'] as const;

/** Names of the sampling options. */
export const JIT_OPTIONS: Names<JitOptions> = {
  preset: true,
  steps: true,
  stageRatios: true,
  tokenRatios: true,
  schedule: true,
  initialAnchors: true,
  activation: true,
  microFlow: true,
  lifter: true,
  importanceInEvents: true,
};

/** Largest accepted `steps` of the micro-flow. */
export const MAX_MICRO_FLOW_STEPS = 1000;

/**
 * Fills in the preset's values and checks every option that can be checked without a grid.
 *
 * An option that is absent or `undefined` takes the preset's value. Stage ratios are shares of the steps, so that they
 * scale when `steps` overrides the preset's. Explicit sigmas without `steps` set the number of steps.
 * @throws ERR_JITFLUX_UNKNOWN_PRESET; ERR_JITFLUX_INVALID_ARGUMENT, naming option, value and what is accepted;
 *   ERR_JITFLUX_INVALID_ANCHORS if `initialAnchors` is neither a pattern nor an Int32Array
 */
export function resolveOptions(given: JitOptions = {}): ResolvedOptions {
  const o = readOptions(given, JIT_OPTIONS);
  const name = o.preset ?? DEFAULT_PRESET;
  const preset = getPreset(name);

  const asked = readSchedule(o.schedule ?? preset.schedule);
  const steps = checkSteps(o.steps ?? (asked.kind === 'sigmas' ? asked.sigmas.length : preset.steps));
  const schedule = readSchedule(asked, steps);

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
    schedule,
    initialAnchors: checkInitialAnchors(o.initialAnchors ?? preset.initialAnchors),
    activation: checkActivation(o.activation ?? preset.activation),
    microFlow: checkMicroFlow(o.microFlow ?? preset.microFlow),
    lifter: checkLifter(o.lifter ?? 'gaussian'),
    importanceInEvents: checkBoolean('importanceInEvents', o.importanceInEvents ?? false),
  };
  if (!matches(resolved, preset)) resolved.preset = 'custom';
  return withJson(resolved);
}

function isOneOf<Word extends string>(value: unknown, words: readonly Word[]): value is Word {
  return words.includes(value as Word);
}

function checkInitialAnchors(value: 'checkerboard' | 'strided' | Int32Array) {
  if (isOneOf(value, ANCHOR_PATTERNS)) return value;
  // Copied, so that later changes by the caller cannot invalidate what has been checked.
  const copy = copyOf('Int32Array', value);
  if (copy !== undefined) return copy;
  throw invalidArgument(
    'initialAnchors',
    "'checkerboard', 'strided' or an Int32Array of token indices",
    value,
    ERROR_CODES.INVALID_ANCHORS,
  );
}

function checkActivation(value: 'importance' | 'grid' | ActivationPolicy) {
  if (isOneOf(value, ACTIVATIONS) || typeof value === 'function') return value;
  throw invalidArgument('activation', "'importance', 'grid' or a function", value);
}

function checkLifter(value: 'gaussian' | 'nearest' | Lifter) {
  if (isOneOf(value, LIFTERS) || typeof value === 'function') return value;
  throw invalidArgument('lifter', "'gaussian', 'nearest' or a function", value);
}

/** @throws ERR_JITFLUX_INVALID_ARGUMENT */
export function checkMicroFlow(value: {
  mode: MicroFlowOptions['mode'];
  steps?: number | undefined;
}): MicroFlowOptions {
  const expected = "{ mode: 'finite-time' } or { mode: 'relax', steps }";
  const { mode, steps } = readFields(value, 'microFlow', { mode: true, steps: true }, expected);
  switch (mode) {
    case 'finite-time':
      if (steps === undefined) return { mode };
      throw invalidArgument('microFlow.steps', "nothing with 'finite-time', which ends at the target", steps);
    case 'relax':
      return { mode, steps: checkInteger('microFlow.steps', steps, 0, MAX_MICRO_FLOW_STEPS) };
    default:
      throw invalidArgument('microFlow.mode', "'finite-time' or 'relax'", mode);
  }
}

function matches(o: ResolvedOptions, preset: Preset): boolean {
  const key = (p: Preset | ResolvedOptions) => {
    const s = p.schedule;
    return JSON.stringify([
      p.stageRatios,
      p.tokenRatios,
      s.kind === 'beta' ? [s.kind, s.alpha, s.beta] : s.kind === 'static' ? [s.kind, s.shift] : s,
      [p.microFlow.mode, 'steps' in p.microFlow && p.microFlow.steps],
    ]);
  };
  return (
    o.initialAnchors === preset.initialAnchors &&
    o.activation === preset.activation &&
    o.lifter === 'gaussian' &&
    key(o) === key(preset)
  );
}
