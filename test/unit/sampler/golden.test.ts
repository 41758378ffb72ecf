/**
 * Whole runs of the reference implementation, replayed: the model answers with recorded velocities, the sampler with
 * the reference operators must reproduce the recorded trajectory.
 */

import { describe, expect, it } from 'vitest';
import { SamplerCore } from '../../../src/sampler/index.js';
import type { JitOptions, SampleOptions, StepEvent, VelocityModel } from '../../../src/types.js';
import { readManifest } from '../../support/manifest.js';
import {
  ArrayTensor,
  maxDifference,
  packLatents,
  referenceBackend,
} from '../../support/reference-operators.js';
import type { SafeTensors } from '../../support/safetensors.js';
import { NOT_HERE, hasTrajectory, openTrajectory } from '../../support/trajectory.js';

interface Run {
  grid: [number, number];
  batch: number;
  num_stages: number;
  params: {
    total_steps: number;
    stage_ratios: number[];
    sparsity_ratios: number[];
    use_adaptive: boolean;
    microflow_relax_steps: number;
    use_beta_sigmas: boolean;
    alpha: number;
    beta: number;
  };
  transition_steps: number[];
  active_counts: Record<string, number>;
}

const manifest = readManifest<{ runs: Record<string, Run> }>('e2e/e2e.manifest.json');
const sorted = (list: Int32Array) => Int32Array.from(list).sort();

/** Answers with the recorded transformer outputs, whose rows are in the order of the recorded active lists. */
class Replay implements VelocityModel<ArrayTensor> {
  /** What the model was given at each step, and for which tokens. */
  readonly inputs: { tokens: ArrayTensor; anchors: Int32Array }[] = [];

  constructor(
    readonly record: SafeTensors,
    readonly stageOfStep: number[],
    readonly nextSigma: number[],
  ) {}

  async velocity({
    tokens,
    anchors,
    step,
    sigma,
  }: Parameters<VelocityModel<ArrayTensor>['velocity']>[0]): Promise<ArrayTensor> {
    const [batch, count, channels] = tokens.shape as [number, number, number];
    const active = anchors ?? Int32Array.from({ length: count }, (_, i) => i);
    this.inputs.push({ tokens: tokens.clone(), anchors: active.slice() });
    const result = ArrayTensor.zeros(tokens.shape);
    const recorded = `step${step}.velocity_active`;
    if (this.record.has(recorded)) {
      const list = this.record.int32(`stage${this.stageOfStep[step]}.active`);
      const rowOf = new Map(Array.from(list, (token, row) => [token, row]));
      const values = this.record.float32(recorded);
      for (let b = 0; b < batch; b++) {
        active.forEach((token, m) => {
          const from = (b * count + rowOf.get(token)!) * channels;
          result.data.set(values.subarray(from, from + channels), (b * count + m) * channels);
        });
      }
      return result;
    }
    // Larger runs record the states only: the velocity that leads to the next recorded state. It pins the anchors,
    // while interpolation, selection and bridging are still the sampler's.
    const next = this.record.float32(`step${step}.latents`);
    const total = next.length / channels / batch;
    for (let b = 0; b < batch; b++) {
      active.forEach((token, m) => {
        for (let c = 0; c < channels; c++) {
          const i = (b * count + m) * channels + c;
          const to = next[(b * total + token) * channels + c]!;
          result.data[i] = (to - tokens.data[i]!) / (this.nextSigma[step]! - sigma);
        }
      });
    }
    return result;
  }
}

interface Replayed {
  record: SafeTensors;
  run: Run;
  model: Replay;
  sampler: SamplerCore<ArrayTensor>;
  events: StepEvent<ArrayTensor>[];
  /** Largest deviation of the state after each step. */
  errors: number[];
}

async function replay(name: string, override: JitOptions = {}): Promise<Replayed> {
  const run = manifest.runs[name]!;
  const record = openTrajectory(name);
  const { params } = run;
  const options: SampleOptions<ArrayTensor> = {
    grid: run.grid,
    steps: params.total_steps,
    stageRatios: params.stage_ratios,
    tokenRatios: params.sparsity_ratios,
    schedule: params.use_beta_sigmas
      ? { kind: 'beta', alpha: params.alpha, beta: params.beta }
      : { kind: 'shift' },
    microFlow: { mode: 'relax', steps: params.microflow_relax_steps },
    initialAnchors: record.int32(`stage${run.num_stages - 1}.active`),
    latents: packLatents(record.float32('input.latents'), record.shape('input.latents')),
    microFlowNoise: new ArrayTensor(record.float32('input.global_noise'), record.shape('input.global_noise')),
    ...override,
  };
  return follow(run, record, options);
}

async function follow(run: Run, record: SafeTensors, options: SampleOptions<ArrayTensor>): Promise<Replayed> {
  const stages: number[] = [];
  const next: number[] = [];
  const model = new Replay(record, stages, next);
  const sampler = new SamplerCore(model, options, referenceBackend);
  stages.push(...sampler.plan.stageOfStep);
  next.push(...sampler.plan.sigmasWithTerminal.slice(1));
  const events: StepEvent<ArrayTensor>[] = [];
  const errors: number[] = [];
  for await (const event of sampler) {
    events.push(event);
    errors.push(maxDifference(event.latents.data, record.float32(`step${event.step}.latents`)));
  }
  return { record, run, model, sampler, events, errors };
}

/** Same tokens in every stage; the part carried over from the previous stage in the same order. */
function expectSameSets({ record, run, events }: Replayed, nested: boolean): void {
  for (const event of events) {
    const expected = record.int32(`stage${event.stage}.active`);
    expect(sorted(event.anchors)).toEqual(sorted(expected));
    if (event.stage === run.num_stages - 1) expect(event.anchors).toEqual(expected);
    if (nested && event.transition !== undefined) {
      const old = expected.length - event.transition.newTokens.length;
      expect(sorted(event.anchors.subarray(0, old))).toEqual(
        sorted(record.int32(`stage${event.stage + 1}.active`)),
      );
    }
  }
}

/** Timesteps, transition steps, newcomers, importance and the newcomers' values after the micro-flow. */
function expectSameTransitions({ record, run, model, sampler, events }: Replayed): void {
  const timesteps = record.float64('timesteps');
  expect(
    maxDifference(
      sampler.plan.sigmas.map((s) => 1000 * s),
      timesteps,
    ),
  ).toBeLessThan(2e-4);
  const transitions = events.filter((event) => event.transition !== undefined);
  expect(transitions.map((event) => event.step)).toEqual(run.transition_steps);
  transitions.forEach((event, j) => {
    const fresh = record.int32(`transition${j}.new`);
    expect(sorted(event.transition!.newTokens)).toEqual(sorted(fresh));
    const { importance } = event.transition!;
    if (importance !== undefined) {
      const expected = record.float32(`transition${j}.importance`);
      expect(maxDifference(importance, expected)).toBeLessThan(1e-5 * Math.max(...expected));
    }
    const bridged = record.float32(`transition${j}.bridged`);
    const { tokens, anchors } = model.inputs[event.step]!;
    const [batch, count, channels] = tokens.shape as [number, number, number];
    const rowOf = new Map(Array.from(anchors, (token, row) => [token, row]));
    for (let b = 0; b < batch; b++) {
      fresh.forEach((token, k) => {
        const from = (b * count + rowOf.get(token)!) * channels;
        const to = (b * fresh.length + k) * channels;
        const values = tokens.data.subarray(from, from + channels);
        expect(maxDifference(values, bridged.subarray(to, to + channels))).toBeLessThan(1e-4);
      });
    }
  });
}

describe('replay of reference runs', () => {
  it.for(['jit4x_16x16', 'jit7x_16x16', 'jit4x_32x32', 'jit7x_32x32'])('%s', async (name, { skip }) => {
    skip(!hasTrajectory(name), NOT_HERE);
    const replayed = await replay(name);
    expect(Math.max(...replayed.errors)).toBeLessThan(2e-5);
    expectSameSets(replayed, true);
    expectSameTransitions(replayed);
    // Only the first transition leaves a choice.
    expect(replayed.events.map((e) => e.transition?.importance !== undefined).filter(Boolean)).toHaveLength(
      1,
    );
    expect(maxDifference(replayed.sampler.latents.data, replayed.record.float32('final'))).toBeLessThan(2e-5);
  });

  it('the presets alone describe those runs, but for the random draw', async () => {
    for (const [name, preset] of [
      ['jit4x_16x16', 'jit-4x'],
      ['jit7x_16x16', 'jit-7x'],
    ] as const) {
      const run = manifest.runs[name]!;
      const record = openTrajectory(name);
      const replayed = await follow(run, record, {
        preset,
        grid: run.grid,
        initialAnchors: record.int32('stage2.active'),
        latents: packLatents(record.float32('input.latents'), record.shape('input.latents')),
        microFlowNoise: new ArrayTensor(
          record.float32('input.global_noise'),
          record.shape('input.global_noise'),
        ),
      });
      expect(Math.max(...replayed.errors)).toBeLessThan(2e-5);
    }
  });

  it('shift_stride_12x10: FLUX schedule, strided pattern, immediate replacement', async () => {
    const replayed = await replay('shift_stride_12x10');
    expect(Math.max(...replayed.errors)).toBeLessThan(2e-5);
    expectSameSets(replayed, true);
    expectSameTransitions(replayed);
  });

  it('batch2_two_stages_8x12: a batch, replacement with zero steps', async () => {
    const replayed = await replay('batch2_two_stages_8x12');
    expect(Math.max(...replayed.errors)).toBeLessThan(2e-5);
    expectSameSets(replayed, true);
    expectSameTransitions(replayed);
  });

  it('fixed_grid_16x16: a policy of the caller that also drops tokens', async () => {
    const record = openTrajectory('fixed_grid_16x16');
    const seen: [number, number][] = [];
    const replayed = await replay('fixed_grid_16x16', {
      activation: ({ stage, targetCount }) => {
        seen.push([stage, targetCount]);
        return record.int32(`stage${stage}.active`);
      },
    });
    expect(seen).toEqual([
      [1, 158],
      [0, 256],
    ]);
    expect(Math.max(...replayed.errors)).toBeLessThan(2e-5);
    expectSameSets(replayed, false);
    expectSameTransitions(replayed);
  });

  it('dense_8x8: all tokens, in natural order, without an anchor list', async () => {
    const record = openTrajectory('dense_8x8');
    const run = manifest.runs['dense_8x8']!;
    const replayed = await follow(run, record, {
      preset: 'dense',
      steps: 6,
      grid: run.grid,
      latents: packLatents(record.float32('input.latents'), record.shape('input.latents')),
    });
    expect(maxDifference(replayed.sampler.plan.sigmasWithTerminal, record.float64('sigmas'))).toBeLessThan(
      1e-6,
    );
    expect(Math.max(...replayed.errors)).toBeLessThan(2e-5);
    expect(replayed.events).toHaveLength(6);
  });
});
