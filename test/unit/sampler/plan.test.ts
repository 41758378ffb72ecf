import { describe, expect, it } from 'vitest';
import {
  DEFAULT_PRESET,
  ERROR_CODES,
  FLUX_1_DEV,
  FLUX_TINY,
  PRESETS,
  PRESET_NAMES,
  createPlan,
  fluxFlops,
  getPreset,
  resolveOptions,
} from '../../../src/sampler/index.js';
import type { FluxConfig, JitOptions, PresetName } from '../../../src/types.js';
import { expectError } from './helpers.js';

const dev = { config: FLUX_1_DEV, textTokens: 512 };
const TERA = 1e12;

describe('presets', () => {
  it('are the released settings', () => {
    expect(PRESET_NAMES).toEqual(['dense', 'jit-4x', 'jit-7x']);
    expect(DEFAULT_PRESET).toBe('jit-4x');
    expect(PRESETS['jit-4x']).toEqual({
      steps: 18,
      stageRatios: [0.4, 0.65, 1],
      tokenRatios: [0.35, 0.62, 1],
      schedule: { kind: 'beta', alpha: 1.4, beta: 0.425 },
      initialAnchors: 'checkerboard',
      activation: 'importance',
      microFlow: { mode: 'relax', steps: 3 },
    });
    expect(PRESETS['jit-7x']).toMatchObject({ steps: 11, tokenRatios: [0.32, 0.6, 1] });
    expect(PRESETS.dense).toMatchObject({ steps: 50, tokenRatios: [1], schedule: { kind: 'shift' } });
  });

  it('cannot be modified', () => {
    expect(Object.isFrozen(PRESETS)).toBe(true);
    expect(Object.isFrozen(PRESETS['jit-4x'].tokenRatios)).toBe(true);
    const resolved = resolveOptions({ preset: 'jit-4x' });
    resolved.tokenRatios[0] = 0.9;
    Object.assign(resolved.microFlow, { steps: 9 });
    expect(PRESETS['jit-4x'].tokenRatios[0]).toBe(0.35);
    expect(PRESETS['jit-4x'].microFlow).toEqual({ mode: 'relax', steps: 3 });
  });

  it.each(['jit-9x', 'toString', '', 4, null])('refuses the unknown preset %j', (name) => {
    const error = expectError(
      () => getPreset(name as PresetName),
      ERROR_CODES.UNKNOWN_PRESET,
      /dense, jit-4x, jit-7x/,
    );
    expect(error.details).toMatchObject({ known: ['dense', 'jit-4x', 'jit-7x'] });
  });
});

describe('options', () => {
  it('default to jit-4x', () => {
    expect(resolveOptions()).toEqual({
      preset: 'jit-4x',
      ...PRESETS['jit-4x'],
      lifter: 'gaussian',
      importanceInEvents: false,
    });
    expect(resolveOptions({ preset: undefined }).preset).toBe('jit-4x');
  });

  it('name the preset unless more than the steps differs', () => {
    expect(resolveOptions({ preset: 'dense', steps: 28 })).toMatchObject({ preset: 'dense', steps: 28 });
    expect(resolveOptions({ preset: 'jit-7x', tokenRatios: [1, 0.6, 0.32] }).preset).toBe('jit-7x');
    expect(resolveOptions({ schedule: { kind: 'beta', beta: 0.425, alpha: 1.4 } }).preset).toBe('jit-4x');
    expect(resolveOptions({ tokenRatios: [0.3, 0.62, 1] }).preset).toBe('custom');
    expect(resolveOptions({ microFlow: { mode: 'finite-time' } }).preset).toBe('custom');
    expect(resolveOptions({ activation: 'grid' }).preset).toBe('custom');
    expect(resolveOptions({ initialAnchors: 'strided' }).preset).toBe('custom');
    expect(resolveOptions({ schedule: { kind: 'shift' } }).preset).toBe('custom');
  });

  it('take the number of steps from explicit noise levels', () => {
    const schedule = { kind: 'sigmas' as const, sigmas: [1, 0.8, 0.4] };
    expect(resolveOptions({ schedule }).steps).toBe(3);
    expect(resolveOptions({ schedule, steps: 3 }).steps).toBe(3);
    expectError(() => resolveOptions({ schedule, steps: 4 }), ERROR_CODES.INVALID_ARGUMENT, /steps \(4\)/);
  });

  it('copy what the caller might change later', () => {
    const anchors = Int32Array.of(1, 2);
    const sigmas = [1, 0.5];
    const resolved = resolveOptions({ initialAnchors: anchors, schedule: { kind: 'sigmas', sigmas } });
    anchors[0] = 99;
    sigmas[0] = 99;
    expect(resolved.initialAnchors).toEqual(Int32Array.of(1, 2));
    expect(resolved.schedule).toEqual({ kind: 'sigmas', sigmas: [1, 0.5] });
  });

  const invalid: [options: object, message: RegExp | undefined][] = [
    [{ steps: 0 }, /"steps"/],
    [{ steps: -3 }, /"steps" but received -3/],
    [{ steps: 2.5 }, /"steps" but received 2\.5/],
    [{ steps: NaN }, /integer from 1 to 1000.*NaN/],
    [{ steps: 1001 }, /1001/],
    [{ steps: '18' }, /"18" \(string\)/],
    [{ steps: null }, undefined],
    [{ stageRatios: [0.5, 0.4, 1] }, /"stageRatios"/],
    [{ stageRatios: [0.5, 0.9] }, /"stageRatios"/],
    [{ stageRatios: [0.5, 1] }, /equal length/],
    [{ tokenRatios: [0.5, 1] }, /equal length/],
    [{ tokenRatios: [0.5, NaN, 1] }, /"tokenRatios"/],
    [{ tokenRatios: [0, 0.5, 1] }, /"tokenRatios"/],
    [{ tokenRatios: 0.5 }, /"tokenRatios"/],
    [{ schedule: 'beta' }, /"schedule"/],
    [{ schedule: { kind: 'beta', alpha: -1, beta: 1 } }, /schedule\.alpha/],
    [{ activation: 'random' }, /"activation"/],
    [{ activation: 3 }, /"activation"/],
    [{ microFlow: { mode: 'exact', steps: 1 } }, /microFlow\.mode/],
    [{ microFlow: { mode: 'finite-time', steps: 3 } }, /nothing with 'finite-time'.*"microFlow\.steps".*3/],
    [{ microFlow: { mode: 'relax', steps: -1 } }, /microFlow\.steps/],
    [{ microFlow: { mode: 'relax', steps: 1.5 } }, /microFlow\.steps/],
    [{ microFlow: { mode: 'relax' } }, /microFlow\.steps.*undefined/],
    [{ microFlow: 3 }, /"microFlow"/],
  ];
  it.each(invalid)('refuse %j', (options, message) => {
    if (message === undefined) {
      expect(resolveOptions(options as JitOptions).steps).toBe(18);
    } else {
      expectError(() => resolveOptions(options), ERROR_CODES.INVALID_ARGUMENT, message);
    }
  });

  it('refuse anchors that are not tokens', () => {
    const anchors = (initialAnchors: unknown) => () => resolveOptions({ initialAnchors } as JitOptions);
    expectError(anchors('hexagonal'), ERROR_CODES.INVALID_ANCHORS, /initialAnchors/);
    expectError(anchors([1, 2]), ERROR_CODES.INVALID_ANCHORS, /Int32Array/);
    expectError(() => resolveOptions(3 as JitOptions), ERROR_CODES.INVALID_ARGUMENT, /"options"/);
  });
});

describe('FLOPs', () => {
  it.each([
    [4096, 59.49, 14.87, 74.38],
    [2539, 39.39, 6.52, 45.93],
    [2457, 38.33, 6.17, 44.53],
    [1433, 25.11, 2.65, 27.78],
    [1310, 23.52, 2.33, 25.87],
  ])('of FLUX.1-dev at %d image tokens', (tokens, linear, attention, total) => {
    const flops = fluxFlops(FLUX_1_DEV, tokens, 512);
    expect(flops.linear / TERA).toBeCloseTo(linear, 2);
    expect(flops.attention / TERA).toBeCloseTo(attention, 2);
    expect(flops.total / TERA).toBeCloseTo(total, 2);
    expect(flops.total).toBe(flops.linear + flops.attention + flops.embedding + flops.modulation);
  });

  it('count the modulation apart, by its parameters', () => {
    // 3.247 billion weights in block and final modulations, plus the three embedders.
    const modulation = 2 * (19 * 12 + 38 * 3 + 2) * 3072 * 3072;
    const embedders = 2 * 3072 * (2 * (256 + 3072) + 768 + 3072);
    expect(fluxFlops(FLUX_1_DEV, 1, 0).modulation).toBe(modulation + embedders);
    expect(fluxFlops({ ...FLUX_1_DEV, guidance: false }, 1, 0).modulation).toBe(
      modulation + embedders - 2 * 3072 * (256 + 3072),
    );
  });
});

describe('createPlan', () => {
  const grid: [number, number] = [64, 64];

  it.each([
    ['jit-4x', 898.9, 4.14, 2.32],
    ['jit-7x', 534.6, 6.96, 3.9],
  ] as const)('%s at 1024 x 1024', (preset, total, dense50, dense28) => {
    const plan = createPlan({ preset, grid, model: dev });
    expect(plan.flops!.total / TERA).toBeCloseTo(total, 1);
    expect(plan.flops!.speedup.dense50).toBeCloseTo(dense50, 2);
    expect(plan.flops!.speedup.dense28).toBeCloseTo(dense28, 2);
    expect(plan.flops!.perStep).toHaveLength(plan.steps);
    expect(plan.stages.reduce((sum, s) => sum + s.flops, 0)).toBeCloseTo(plan.flops!.total, -3);
  });

  it('of the dense baseline', () => {
    const plan = createPlan({ preset: 'dense', grid, model: dev });
    expect(plan.flops!.total / TERA).toBeCloseTo(3719, 0);
    expect(plan.flops!.speedup).toEqual({ dense50: 1, dense28: 0.56 });
    expect(createPlan({ preset: 'dense', steps: 28, grid, model: dev }).flops!.total / TERA).toBeCloseTo(
      2083,
      0,
    );
    expect(plan.stages).toHaveLength(1);
    expect(plan.sigmas[25]).toBeCloseTo(Math.exp(1.15) / (Math.exp(1.15) + 1), 12);
  });

  it('describes the default run completely', () => {
    const plan = createPlan({ grid });
    expect(plan).toMatchObject({ preset: 'jit-4x', grid, totalTokens: 4096, steps: 18 });
    expect(plan.flops).toBeUndefined();
    expect(plan.sigmasWithTerminal).toEqual([...plan.sigmas, 0]);
    expect(plan.stageOfStep).toEqual([
      ...Array<number>(7).fill(2),
      ...Array<number>(4).fill(1),
      ...Array<number>(7).fill(0),
    ]);
    expect(plan.tokensPerStep.slice(6, 12)).toEqual([1433, 2539, 2539, 2539, 2539, 4096]);
    expect(plan.stages.map((s) => s.flops)).toEqual([0, 0, 0]);
    expect(plan.microFlow).toEqual({ mode: 'relax', steps: 3 });
    expect(JSON.parse(JSON.stringify(plan))).toEqual(plan);
  });

  it('scales the stages with the steps', () => {
    const plan = createPlan({ preset: 'jit-4x', steps: 40, grid: [16, 16] });
    expect(plan.stages.map((s) => s.steps)).toEqual([16, 10, 14]);
    expect(plan.preset).toBe('jit-4x');
    expect(createPlan({ steps: 1, grid: [16, 16] }).stages).toHaveLength(1);
  });

  it('takes the first stage from explicit anchors', () => {
    const plan = createPlan({ grid: [4, 4], initialAnchors: Int32Array.of(15, 0, 3) });
    expect(plan.tokensPerStep.slice(0, 8)).toEqual([3, 3, 3, 3, 3, 3, 3, 9]);
    expect(plan.preset).toBe('custom');
    for (const anchors of [Int32Array.of(16), Int32Array.of(1, 1), new Int32Array(0)]) {
      expectError(() => createPlan({ grid: [4, 4], initialAnchors: anchors }), ERROR_CODES.INVALID_ANCHORS);
    }
    const tooMany = Int32Array.from({ length: 10 }, (_, i) => i);
    expectError(
      () => createPlan({ grid: [4, 4], initialAnchors: tooMany }),
      ERROR_CODES.INVALID_ANCHORS,
      /1 to 9/,
    );
  });

  it('counts the bundled model', () => {
    const plan = createPlan({ grid: [16, 16], model: { config: FLUX_TINY, textTokens: 32 } });
    expect(plan.flops!.speedup.dense50).toBeGreaterThan(4);
  });

  it.each<[object, RegExp]>([
    [{ grid: [0, 8] }, /"grid"/],
    [{}, /"grid".*undefined/],
    [{ grid, seed: -1 }, /"seed"/],
    [{ grid, model: { config: FLUX_1_DEV, textTokens: 0.5 } }, /model\.textTokens/],
    [{ grid, model: { textTokens: 5 } }, /model\.config/],
    [{ grid: [1, 2] }, /at least one of 2 tokens/],
  ])('refuses %j', (options, message) => {
    expectError(
      () => createPlan(options as { grid: [number, number] }),
      ERROR_CODES.INVALID_ARGUMENT,
      message,
    );
  });

  it('takes as much work on a large grid as on a small one', () => {
    const lookUps = (grid: [number, number]) => {
      let count = 0;
      const config = new Proxy(FLUX_1_DEV, {
        get: (target, name) => (count++, target[name as keyof FluxConfig]),
      });
      createPlan({ grid, preset: 'jit-7x', model: { config, textTokens: 512 } });
      return count;
    };
    expect(lookUps([16, 16])).toBeGreaterThan(0);
    expect(lookUps([256, 256])).toBe(lookUps([16, 16]));
  });
});
