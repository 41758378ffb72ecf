/** Which of FLUX.1's models a transformer is, and what follows for its defaults. */
import { basename } from 'node:path';

import { z } from 'zod';

import { DEFAULT_GUIDANCE } from '../engine/flux-transformer.js';
import { ERROR_CODES, JitFluxError } from '../errors.js';
import { readJsonFile } from '../files/json.js';
import { PRESETS } from '../sampler/presets.js';
import type { ScheduleOptions } from '../types.js';
import type { Inference, ModelInfo } from './spec.js';

/** Most text tokens of FLUX.1: a hard limit of the original. */
export const MAX_TEXT_TOKENS = 512;
const SCHNELL_TEXT_TOKENS = 256;
const SCHNELL_STEPS = 4;
const SIDE = 1024;

/** What a `scheduler_config.json` says. */
export interface ScheduleFile {
  path: string;
  schedule: ScheduleOptions;
  /** Whether it says so itself, rather than leaving `use_dynamic_shifting` to diffusers' default (false). */
  stated: boolean;
  /** What it asks for and is not done. */
  unfollowed: Inference[];
}

/** The scheduler whose steps are taken. */
const EULER = 'FlowMatchEulerDiscreteScheduler';
/** Settings of that scheduler which change its steps. */
const UNFOLLOWED = [
  'use_karras_sigmas',
  'use_exponential_sigmas',
  'use_beta_sigmas',
  'invert_sigmas',
  'stochastic_sampling',
] as const;

const schedulerJson = z.looseObject({
  _class_name: z.string().optional(),
  use_dynamic_shifting: z.boolean().optional(),
  shift: z.number().positive().max(1000).default(1),
  base_image_seq_len: z.number().default(256),
  max_image_seq_len: z.number().default(4096),
  base_shift: z.number().default(0.5),
  max_shift: z.number().default(1.15),
  shift_terminal: z.number().nullish(),
});

/**
 * Reads diffusers' settings of the flow-matching Euler scheduler.
 * @throws ERR_JITFLUX_INVALID_MODEL naming file and field, if it is malformed or a schedule that is not FLUX.1's
 */
export async function readSchedule(path: string, signal?: AbortSignal): Promise<ScheduleFile> {
  const parsed = schedulerJson.safeParse(await readJsonFile(path, { signal }));
  const invalid = (field: string, problem: string) =>
    new JitFluxError(ERROR_CODES.INVALID_MODEL, `${path}: ${field}: ${problem}`, { path, field });
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw invalid(issue?.path.join('.') || '(root)', issue?.message ?? 'invalid');
  }
  const settings = parsed.data;
  const stated = settings.use_dynamic_shifting !== undefined;
  const unfollowed = unfollowedOf(settings, path);
  if (settings.use_dynamic_shifting !== true) {
    return { path, schedule: { kind: 'static', shift: settings.shift }, stated, unfollowed };
  }
  const flux = {
    base_image_seq_len: 256,
    max_image_seq_len: 4096,
    base_shift: 0.5,
    max_shift: 1.15,
  } as const;
  for (const field of Object.keys(flux) as (keyof typeof flux)[]) {
    if (settings[field] !== flux[field]) {
      throw invalid(field, `FLUX.1's ${flux[field]} expected, other dynamic shifts are not supported`);
    }
  }
  if (typeof settings.shift_terminal === 'number') throw invalid('shift_terminal', 'not supported');
  return { path, schedule: { kind: 'shift' }, stated, unfollowed };
}

/** A picture can be made all the same, and is another than the model's own program would make. */
function unfollowedOf(settings: z.infer<typeof schedulerJson>, path: string): Inference[] {
  const { _class_name: name = EULER } = settings;
  const asked = [
    ...(name === EULER ? [] : [`names a ${name}`]),
    ...UNFOLLOWED.filter((flag) => settings[flag] === true).map((flag) => `sets ${flag}`),
  ];
  return asked.map((what) => ({
    what: 'schedule',
    value: `the noise levels of ${EULER}`,
    why: `${path} ${what}, which is not followed`,
    doubtful: true as const,
  }));
}

/** The part of a model's defaults that depends on the family. */
export interface FamilyDefaults {
  text: ModelInfo['text'];
  defaults: ModelInfo['defaults'];
  inferred: Inference[];
}

const DEV: Omit<FamilyDefaults, 'inferred'> = {
  text: { length: MAX_TEXT_TOKENS },
  defaults: { width: SIDE, height: SIDE, guidance: DEFAULT_GUIDANCE },
};

/** FLUX.1-schnell: distilled to four dense steps, for which anchors would leave too little. */
export function schnellDefaults(
  schedule: ScheduleOptions = { kind: 'static', shift: 1 },
): Omit<FamilyDefaults, 'inferred'> {
  return {
    text: { length: MAX_TEXT_TOKENS, defaultLength: SCHNELL_TEXT_TOKENS },
    defaults: { ...DEV.defaults, preset: 'dense', dense: { steps: SCHNELL_STEPS, schedule } },
  };
}

/** FLUX.1-dev. */
export function devDefaults(): Omit<FamilyDefaults, 'inferred'> {
  return DEV;
}

/**
 * Tells FLUX.1-dev from FLUX.1-schnell. schnell's four steps and 256 text tokens spoil a model that is not distilled for
 * them, so two signs must agree on it: no guidance embedder, and a schedule without dynamic shift or, where there is
 * no schedule, a name with "schnell" in it. Everything else is sampled as dev.
 * @param o.guidance whether the transformer has a guidance embedder
 * @param o.schedule undefined for a checkpoint
 */
export function familyDefaults(o: {
  name: string;
  transformer: string;
  guidance: boolean;
  schedule: ScheduleFile | undefined;
}): FamilyDefaults {
  const { guidance: guided, schedule } = o;
  const dynamic = schedule && schedule.schedule.kind === 'shift';
  const embedder = guided
    ? `${basename(o.transformer)} has a guidance embedder`
    : `${basename(o.transformer)} has no guidance embedder`;
  const family = (value: string, why: string, doubtful: boolean): Inference => ({
    what: 'model',
    value,
    why,
    ...(doubtful && { doubtful: true as const }),
  });

  if (schedule === undefined) {
    if (guided) return { ...DEV, inferred: [family('FLUX.1-dev', embedder, false)] };
    const named = /schnell/i.test(`${o.name} ${basename(o.transformer)}`);
    if (named) {
      const why = `${embedder}, and its name says schnell`;
      return { ...schnellDefaults(), inferred: [family('FLUX.1-schnell', why, false)] };
    }
    const why =
      `${embedder}, but neither a schedule nor its name says schnell, so it is sampled like FLUX.1-dev; ` +
      `for four dense steps give preset 'dense', steps ${SCHNELL_STEPS} and a static schedule`;
    return { ...DEV, inferred: [family('a FLUX.1-dev without guidance', why, true)] };
  }

  if (dynamic) {
    const why = guided ? embedder : `${embedder}, but ${schedule.path} has a dynamic shift`;
    const value = guided ? 'FLUX.1-dev' : 'a FLUX.1-dev without guidance';
    return { ...DEV, inferred: [family(value, why, !guided)] };
  }
  if (!guided) {
    const why = `${embedder}, and ${schedule.path} has no dynamic shift`;
    return { ...schnellDefaults(schedule.schedule), inferred: [family('FLUX.1-schnell', why, false)] };
  }
  if (!schedule.stated) {
    const why = `${embedder}, and ${schedule.path} does not say use_dynamic_shifting; dev's dynamic shift is used`;
    return { ...DEV, inferred: [family('FLUX.1-dev', why, true)] };
  }
  const why = `${embedder}, but ${schedule.path} has no dynamic shift; its static shift is kept for dense steps`;
  return {
    ...DEV,
    defaults: { ...DEV.defaults, dense: { steps: PRESETS.dense.steps, schedule: schedule.schedule } },
    inferred: [family('FLUX.1-dev', why, true)],
  };
}
