/** The reference operators against the fixtures: they are the oracle for the native ones and for the sampler. */

import { describe, expect, it } from 'vitest';
import type { Grid } from '../../../src/types.js';
import { readManifest } from '../../support/manifest.js';
import {
  ArrayTensor,
  blurParameters,
  gaussianKernel,
  maxDifference,
  nearestPositions,
  packLatents,
  referenceOperators as operators,
  reflect,
} from '../../support/reference-operators.js';
import { SafeTensors } from '../../support/safetensors.js';

const manifest = readManifest<{
  interpolation: {
    list: { name: string; grid: [number, number]; ratio: number; kernel_size: number; sigma: number }[];
    blur_parameters: { ratio: number; kernel_size: number; sigma: number }[];
  };
}>('algorithm/algorithm.manifest.json').interpolation;
const interpolation = SafeTensors.open('algorithm/interpolation.safetensors');
const densify = SafeTensors.open('algorithm/densify.safetensors');
const microflow = SafeTensors.open('algorithm/microflow.safetensors');

const tensor = (file: SafeTensors, name: string) => new ArrayTensor(file.float32(name), file.shape(name));

describe('lift', () => {
  it('has the reference blur parameters', () => {
    for (const entry of [...manifest.blur_parameters, ...manifest.list]) {
      const { sigma, kernelSize } = blurParameters(entry.ratio);
      expect(kernelSize).toBe(entry.kernel_size);
      expect(sigma).toBeCloseTo(entry.sigma, 12);
    }
    const kernel = gaussianKernel(1, 7);
    expect([...kernel.subarray(0, 4)].map((w) => w.toFixed(5))).toEqual([
      '0.00443',
      '0.05401',
      '0.24204',
      '0.39905',
    ]);
  });

  it.each(manifest.list)('$name', async ({ name, grid }) => {
    const active = interpolation.int32(`${name}.active`);
    const values = tensor(interpolation, `${name}.values`);
    const nearest = nearestPositions(active, grid);
    expect(nearest).toEqual(interpolation.int32(`${name}.nearest_position`));
    const output = await operators.lift(values, active, grid);
    expect(maxDifference(output.data, interpolation.float32(`${name}.output`))).toBeLessThan(5e-6);
    const atAnchors = await operators.gather(output, active);
    expect(atAnchors.data).toEqual(values.data);
  });

  it('keeps constants, also on grids smaller than the kernel', async () => {
    for (const grid of [
      [1, 1],
      [2, 2],
      [1, 9],
      [3, 3],
    ] as Grid[]) {
      const tokens = grid[0] * grid[1];
      const anchors = Int32Array.of(tokens - 1);
      const output = await operators.lift(new ArrayTensor(Float32Array.of(2.5), [1, 1, 1]), anchors, grid);
      expect(maxDifference(output.data, new Float32Array(tokens).fill(2.5))).toBeLessThan(1e-6);
    }
    expect([-5, -1, 0, 2, 3, 4, 7].map((i) => reflect(i, 3))).toEqual([1, 1, 0, 2, 1, 0, 1]);
  });

  it('takes a list per image', async () => {
    const a = ArrayTensor.randn([1, 3, 2], [1n]);
    const b = ArrayTensor.randn([1, 3, 2], [2n]);
    const both = new ArrayTensor(Float32Array.of(...a.data, ...b.data), [2, 3, 2]);
    const listA = Int32Array.of(0, 5, 9);
    const listB = Int32Array.of(15, 1, 6);
    const lifted = await operators.lift(both, Int32Array.of(...listA, ...listB), [4, 4]);
    const single = [await operators.lift(a, listA, [4, 4]), await operators.lift(b, listB, [4, 4])];
    expect(lifted.data).toEqual(Float32Array.of(...single[0]!.data, ...single[1]!.data));
  });
});

describe('importance', () => {
  const cases = densify.names.filter((name) => name.endsWith('.velocity'));
  it.each(cases)('%s', async (name) => {
    const [rows, cols] = /(\d+)x(\d+)/.exec(name)!.slice(1).map(Number) as [number, number];
    const map = await operators.importance(tensor(densify, name), [rows, cols]);
    const expected = densify.float32(name.replace('velocity', 'importance'));
    expect(maxDifference(map, expected)).toBeLessThan(2e-6 * Math.max(...expected));
  });
});

describe('micro-flow', () => {
  it.each(['batch1', 'batch2'])('clean prediction and target, %s', async (batch) => {
    const name = (part: string) => `target.${batch}.${part}`;
    const velocity = tensor(microflow, name('velocity'));
    const clean = await operators.predictClean(tensor(microflow, name('last_y')), velocity, 0.87125);
    expect(maxDifference(clean.data, microflow.float32(name('x0')))).toBeLessThan(2e-6);
    const anchors = microflow.int32(name('current'));
    const lifted = await operators.lift(await operators.gather(clean, anchors), anchors, [8, 8]);
    expect(maxDifference(lifted.data, microflow.float32(name('x0_interpolated')))).toBeLessThan(5e-6);
    const target = await operators.microFlowTarget({
      clean,
      noise: tensor(microflow, name('noise')),
      anchors,
      newTokens: microflow.int32(name('fresh')),
      sigma: 0.8035,
      grid: [8, 8],
    });
    expect(maxDifference(target.data, microflow.float32(name('target')))).toBeLessThan(2e-6);
    // The sampler predicts from the state after the Euler step instead: the same, up to rounding.
    const after = tensor(microflow, name('last_y'));
    await operators.step(after, velocity, { grid: [8, 8], dSigma: 0.8035 - 0.87125 });
    const again = await operators.predictClean(after, velocity, 0.8035);
    expect(maxDifference(again.data, clean.data)).toBeLessThan(2e-6);
  });

  it.each([
    ['batch1', 0],
    ['batch1', 1],
    ['batch1', 3],
    ['batch2', 0],
    ['batch2', 1],
    ['batch2', 3],
  ] as const)('relaxation, %s, %d steps', async (batch, steps) => {
    const y = tensor(microflow, `bridge.${batch}.y`);
    const newTokens = microflow.int32(`bridge.${batch}.new_indices`);
    const target = tensor(microflow, `bridge.${batch}.target`);
    await operators.microFlow(y, { mode: 'relax', steps, newTokens, target });
    expect(maxDifference(y.data, microflow.float32(`bridge.${batch}.steps${steps}.output`))).toBeLessThan(
      2e-6,
    );
  });

  it('the finite-time flow lands exactly on the target', async () => {
    const y = tensor(microflow, 'bridge.batch2.y');
    const newTokens = microflow.int32('bridge.batch2.new_indices');
    const target = tensor(microflow, 'bridge.batch2.target');
    await operators.microFlow(y, { mode: 'finite-time', newTokens, target });
    const reached = await operators.gather(y, newTokens);
    expect(reached.data).toEqual(target.data);
    // One step of the flow, and the others untouched.
    expect(y.data).toEqual(microflow.float32('bridge.batch2.steps1.output'));
  });

  it('reads a full-size target at the new tokens only', async () => {
    const latents = ArrayTensor.zeros([2, 4, 1]);
    const target = new ArrayTensor(Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8), [2, 4, 1]);
    const o = { mode: 'relax', steps: 0, target } as const;
    await operators.microFlow(latents, { ...o, newTokens: Int32Array.of(1, 3) });
    expect([...latents.data]).toEqual([0, 2, 0, 4, 0, 6, 0, 8]);
    await operators.microFlow(latents, { ...o, newTokens: Int32Array.of(0, 2), perImage: true });
    expect([...latents.data]).toEqual([1, 2, 0, 4, 0, 6, 7, 8]);
  });
});

it('packing', () => {
  const packed = packLatents(microflow.float32('pack.latents'), microflow.shape('pack.latents'));
  expect(packed.shape).toEqual(microflow.shape('pack.packed'));
  expect(packed.data).toEqual(microflow.float32('pack.packed'));
});
