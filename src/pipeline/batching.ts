/** Which requests may share a sampling run. */
import type { JitOptions, JitPlan } from '../types.js';
import type { ResolvedRequest } from './request.js';

/** A request whose field has this value shares a run with none. */
const ALONE = Symbol('shares a run with none');

/**
 * For every field of `T` how it bears on batching: `null` if the pictures of a batch may differ in it (or another field
 * says the same), else what must be equal. The compiler asks for an entry when a field is added.
 */
type Rules<T> = { readonly [Field in keyof Required<T>]: ((value: T[Field]) => unknown) | null };

const same = <V>(value: V): V => value;

const PLAN: Rules<JitPlan> = {
  // A name for what the others say.
  preset: null,
  grid: same,
  sigmas: same,
  stages: same,
  microFlow: same,
  // Follow from these.
  totalTokens: null,
  steps: null,
  sigmasWithTerminal: null,
  stageOfStep: null,
  tokensPerStep: null,
  flops: null,
};

const SAMPLING: Rules<JitOptions> = {
  initialAnchors: (anchors) => (typeof anchors === 'object' ? [...anchors] : anchors),
  // Two functions may do the same, but nobody can tell.
  activation: (policy) => (typeof policy === 'function' ? ALONE : policy),
  lifter: (lifter = 'gaussian') => (typeof lifter === 'function' ? ALONE : lifter),
  // A run has maps in all of its events, or in none.
  importanceInEvents: (wanted = false) => wanted,
  // In the plan.
  preset: null,
  steps: null,
  stageRatios: null,
  tokenRatios: null,
  schedule: null,
  microFlow: null,
};

const REQUEST: Rules<ResolvedRequest> = {
  textTokens: same,
  output: same,
  plan: (plan) => partsThatMustEqual(plan, PLAN),
  sampling: (sampling) => partsThatMustEqual(sampling, SAMPLING),
  latents: (latents) => (latents === undefined ? undefined : ALONE),
  // The grid of the plan says the same.
  width: null,
  height: null,
  grid: null,
  // Every picture has its own.
  images: null,
  numImages: null,
  prompts: null,
  conditioning: null,
  guidance: null,
  guidanceGiven: null,
  seed: null,
  seeds: null,
  // Every request has its own.
  onStep: null,
  signal: null,
};

/**
 * Requests with equal keys may share a run. Undefined for a request that shares with none: whose noise, activation
 * policy or lifter is its own.
 */
export function batchKey(request: ResolvedRequest): string | undefined {
  const parts = partsThatMustEqual(request, REQUEST);
  return parts === ALONE ? undefined : JSON.stringify(parts);
}

function partsThatMustEqual<T>(value: T, rules: Rules<T>): unknown[] | typeof ALONE {
  const parts: unknown[] = [];
  for (const [field, part] of Object.entries(rules) as [keyof T, Rules<T>[keyof T]][]) {
    if (part === null) continue;
    const found = part(value[field]);
    if (found === ALONE) return ALONE;
    // `undefined` in a list is written as null: distinct from every value of these fields.
    parts.push(found);
  }
  return parts;
}
