/** Whole native runs, flux-mini and all, against the released JiT pipeline (fixtures/e2e). */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FluxTransformer, JitSampler, latentOps, Tensor } from '../support/device.js';
import type { JitOptions } from '../../src/types.js';
import { readManifest } from '../support/manifest.js';
import { loadMini } from '../support/mini.js';
import { expectWithin, maxAbs, printParityTable } from '../support/parity.js';
import type { SafeTensors } from '../support/safetensors.js';
import { NOT_HERE, hasTrajectory, openTrajectory } from '../support/trajectory.js';

printParityTable('sampling trajectories, against the released pipeline');

interface Run {
  grid: [number, number];
  guidance: number;
  num_stages: number;
}
const manifest = readManifest<{ runs: Record<string, Run> }>('e2e/e2e.manifest.json');

let model: FluxTransformer;
beforeAll(async () => {
  model = await loadMini({}, FluxTransformer);
});
afterAll(() => model.dispose());

const load = (file: SafeTensors, name: string): Tensor => Tensor.from(file.float32(name), file.shape(name));
const sorted = (list: Int32Array): Int32Array => Int32Array.from(list).sort();

/** Runs `name` with `options` and checks the state after every step and the active set of every stage. */
async function follow(name: string, options: (record: SafeTensors) => JitOptions): Promise<void> {
  const run = manifest.runs[name]!;
  const record = openTrajectory(name);
  using unpacked = load(record, 'input.latents');
  using latents = await latentOps.pack(unpacked);
  using prompt = load(record, 'input.encoder_hidden_states');
  using pooled = load(record, 'input.pooled_projections');
  using microFlowNoise = record.has('input.global_noise')
    ? load(record, 'input.global_noise')
    : latents.clone();
  const sampleOptions = { ...options(record), grid: run.grid, latents, microFlowNoise };
  // The plan's sigmas are needed before the sampler can have a model.
  const planner = new JitSampler(
    { velocity: () => Promise.reject(new Error('it only plans')) },
    sampleOptions,
  );
  const { sigmas } = planner.plan;
  planner.dispose();
  using conditioning = await model.condition({ prompt, pooled, guidance: run.guidance, sigmas });
  const sampler = new JitSampler(model.bind(conditioning), sampleOptions);
  let worst = 0;
  for await (const event of sampler) {
    const expected = record.float32(`step${event.step}.latents`);
    worst = Math.max(worst, maxAbs(await event.latents.toFloat32Array(), expected));
    if (record.has(`stage${event.stage}.active`)) {
      expect(sorted(event.anchors)).toEqual(sorted(record.int32(`stage${event.stage}.active`)));
    }
  }
  expectWithin(name, 'worst step', worst, 1e-3);
  expectWithin(
    name,
    'final latents',
    maxAbs(await sampler.latents.toFloat32Array(), record.float32('final')),
    1e-3,
  );
  sampler.dispose();
}

describe('presets', () => {
  it.for([
    ['jit4x_16x16', 'jit-4x'],
    ['jit4x_32x32', 'jit-4x'],
    ['jit7x_16x16', 'jit-7x'],
    ['jit7x_32x32', 'jit-7x'],
  ] as const)('%s', async ([name, preset], { skip }) => {
    skip(!hasTrajectory(name), NOT_HERE);
    await follow(name, (record) => ({ preset, initialAnchors: record.int32('stage2.active') }));
  });

  it('dense_8x8', async () => {
    await follow('dense_8x8', () => ({ preset: 'dense', steps: 6 }));
  });
});

describe('other settings', () => {
  it('shift_stride_12x10: FLUX schedule, strided anchors', async () => {
    await follow('shift_stride_12x10', (record) => ({
      steps: 6,
      tokenRatios: [0.3, 0.6, 1],
      schedule: { kind: 'shift' },
      microFlow: { mode: 'relax', steps: 1 },
      initialAnchors: record.int32('stage2.active'),
    }));
  });

  it('batch2_two_stages_8x12: two images, two stages', async () => {
    await follow('batch2_two_stages_8x12', (record) => ({
      steps: 6,
      stageRatios: [0.5, 1],
      tokenRatios: [0.55, 1],
      schedule: { kind: 'beta', alpha: 1.4, beta: 0.42 },
      microFlow: { mode: 'relax', steps: 0 },
      initialAnchors: record.int32('stage1.active'),
    }));
  });

  it('fixed_grid_16x16: a policy that also drops tokens', async () => {
    await follow('fixed_grid_16x16', (record) => ({
      steps: 8,
      schedule: { kind: 'beta', alpha: 1.4, beta: 0.42 },
      initialAnchors: record.int32('stage2.active'),
      activation: ({ stage }) => record.int32(`stage${stage}.active`),
    }));
  });
});
