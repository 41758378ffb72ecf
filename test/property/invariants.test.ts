/** What holds of every plan, schedule, set of anchors, run and operator, whatever valid arguments they are asked with. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { jit, Tensor } from '../../src/engine/index.js';
import { planMemory } from '../../src/model/memory-plan.js';
import {
  activateAll,
  activateByImportance,
  activateOnGrid,
  createPlan,
  divideStages,
  fitAnchors,
  FLUX_1_DEV,
  fluxFlops,
  imageSeed,
  PRESET_NAMES,
  PRESETS,
  Random,
  resolveOptions,
  SamplerCore,
  scheduleSigmas,
  selectInitialAnchors,
  subSeed,
} from '../../src/sampler/index.js';
import type { JitOptions } from '../../src/types.js';
import { FIXED_SEED, runs } from '../support/hostile/process.js';
import { ArrayTensor, referenceBackend } from '../support/reference-operators.js';

/** Cases of a property. `JIT_FLUX_PROPERTY_RUNS` asks for more. */
const cases = (usual: number) => ({
  numRuns: Math.max(1, Math.round((usual * runs(1000)) / 1000)),
  seed: Number(process.env['JIT_FLUX_PROPERTY_SEED'] ?? FIXED_SEED),
});

const side = fc.integer({ min: 1, max: 24 });
const grid = fc.tuple(side, side);
const seed = fc.oneof(fc.nat(), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }));
const steps = fc.integer({ min: 1, max: 60 });
const share = fc.double({ min: 0.01, max: 1, noNaN: true });
/** Of the steps: below it, the last stage has one, whatever their number. */
const end = fc.double({ min: 0.01, max: 0.99, noNaN: true });

/** Ascending ratios that end with 1. */
const ratios = (length: number, of = share) =>
  fc
    .array(of, { minLength: length - 1, maxLength: length - 1 })
    .map((list) => [...list.sort((a, b) => a - b), 1]);

const schedule = fc.oneof(
  fc.record({
    kind: fc.constant('beta' as const),
    alpha: fc.double({ min: 0.5, max: 4, noNaN: true }),
    beta: fc.double({ min: 0.4, max: 4, noNaN: true }),
  }),
  fc.constant({ kind: 'shift' as const }),
  fc.record({ kind: fc.constant('static' as const), shift: fc.double({ min: 0.1, max: 20, noNaN: true }) }),
);

const options: fc.Arbitrary<JitOptions> = fc.integer({ min: 1, max: 4 }).chain((stages) =>
  fc.record(
    {
      preset: fc.constantFrom(...PRESET_NAMES),
      steps,
      schedule,
      initialAnchors: fc.constantFrom('checkerboard' as const, 'strided' as const),
      activation: fc.constantFrom('importance' as const, 'grid' as const),
      microFlow: fc.oneof(
        fc.constant({ mode: 'finite-time' as const }),
        fc.record({ mode: fc.constant('relax' as const), steps: fc.integer({ min: 0, max: 20 }) }),
      ),
      stageRatios: ratios(stages, end),
      tokenRatios: ratios(stages),
    },
    { requiredKeys: ['stageRatios', 'tokenRatios'] },
  ),
);

/** Plans that can be: on the smallest grids some ratios leave no token. */
function planOf(o: JitOptions & { grid: readonly [number, number] }) {
  fc.pre(o.grid[0] * o.grid[1] * Math.min(...(o.tokenRatios ?? [1])) >= 1);
  return createPlan(o);
}

const isAscending = (list: readonly number[]) => list.every((value, i) => i === 0 || value >= list[i - 1]!);
const isDescending = (list: readonly number[]) => list.every((value, i) => i === 0 || value < list[i - 1]!);
const ascending = (list: Int32Array) => [...list].sort((a, b) => a - b);

/** Distinct tokens of a grid. */
function expectTokens(list: Int32Array, tokens: number) {
  expect(new Set(list).size).toBe(list.length);
  for (const token of list) expect(token >= 0 && token < tokens).toBe(true);
}

/** A grid, some of its tokens in any order, and how many there shall be. */
const someAnchors = grid.chain(([rows, cols]) => {
  const tokens = rows * cols;
  return fc.record({
    grid: fc.constant([rows, cols] as const),
    tokens: fc.constant(tokens),
    anchors: fc
      .uniqueArray(fc.nat(tokens - 1), { maxLength: Math.min(tokens, 200) })
      .map((list) => Int32Array.from(list)),
    more: fc.nat(tokens),
    seed,
  });
});

describe('noise levels', () => {
  it('descend strictly from at most 1 to above 0', () => {
    fc.assert(
      fc.property(schedule, steps, fc.integer({ min: 1, max: 20_000 }), (kind, n, tokens) => {
        const sigmas = scheduleSigmas(kind, n, tokens);
        expect(sigmas).toHaveLength(n);
        expect(isDescending(sigmas)).toBe(true);
        expect(sigmas[0]).toBe(1);
        expect(sigmas.at(-1)! > 0).toBe(true);
        // Given as they are, they are the same schedule.
        expect(scheduleSigmas({ kind: 'sigmas', sigmas }, n, tokens)).toEqual(sigmas);
      }),
      cases(250),
    );
  });
});

describe('stages', () => {
  it('cover every step once and never lose a token', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 5 }).chain((n) => fc.tuple(ratios(n, end), ratios(n))),
        steps,
        fc.integer({ min: 200, max: 20_000 }),
        ([stageRatios, tokenRatios], n, tokens) => {
          const stages = divideStages({ steps: n, tokens, stageRatios, tokenRatios });
          expect(stages.map(({ stage }) => stage)).toEqual(stages.map((_, i) => stages.length - 1 - i));
          let next = 0;
          for (const { firstStep, steps: count } of stages) {
            expect(firstStep).toBe(next);
            expect(count).toBeGreaterThan(0);
            next += count;
          }
          expect(next).toBe(n);
          expect(isAscending(stages.map(({ activeTokens }) => activeTokens))).toBe(true);
          expect(stages.at(-1)!.activeTokens).toBe(tokens);
        },
      ),
      cases(250),
    );
  });

  it('of either direction are the same', () => {
    fc.assert(
      fc.property(options, grid, (o, where) => {
        const reversed = {
          ...o,
          stageRatios: o.stageRatios!.toReversed(),
          tokenRatios: o.tokenRatios!.toReversed(),
        };
        expect(planOf({ ...reversed, grid: where })).toEqual(planOf({ ...o, grid: where }));
      }),
      cases(100),
    );
  });
});

describe('plans', () => {
  it('are consistent, plain data, and the same again', () => {
    fc.assert(
      fc.property(options, grid, fc.nat(600), (o, where, textTokens) => {
        const model = { config: FLUX_1_DEV, textTokens };
        const plan = planOf({ ...o, grid: where });
        const priced = createPlan({ ...o, grid: where, model });
        expect(createPlan({ ...o, grid: where, seed: 7 })).toEqual(plan);
        expect(JSON.parse(JSON.stringify(priced))).toEqual(priced);
        expect(plan.totalTokens).toBe(where[0] * where[1]);
        for (const list of [plan.sigmas, plan.stageOfStep, plan.tokensPerStep]) {
          expect(list).toHaveLength(plan.steps);
        }
        expect(plan.sigmasWithTerminal).toEqual([...plan.sigmas, 0]);
        expect(plan.tokensPerStep.at(-1)).toBe(plan.totalTokens);
        expect(isAscending(plan.tokensPerStep)).toBe(true);
        for (const stage of plan.stages) {
          for (let step = stage.firstStep; step < stage.firstStep + stage.steps; step++) {
            expect(plan.stageOfStep[step]).toBe(stage.stage);
            expect(plan.tokensPerStep[step]).toBe(stage.activeTokens);
          }
        }
        const total = plan.tokensPerStep
          .map((tokens) => fluxFlops(FLUX_1_DEV, tokens, textTokens).total)
          .reduce((sum, flops) => sum + flops, 0);
        expect(priced.flops!.total).toBe(total);
        expect(priced.stages.reduce((sum, { flops }) => sum + flops, 0) / total).toBeCloseTo(1, 9);
      }),
      cases(150),
    );
  });

  it('of resolved options are those of the options', () => {
    fc.assert(
      fc.property(options, (o) => {
        const { preset, ...resolved } = resolveOptions(o);
        const again = resolveOptions(resolved);
        expect({ ...again, preset }).toEqual({ ...resolved, preset });
      }),
      cases(150),
    );
  });

  it('of a preset have its name and its numbers, for every size and number of steps', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...PRESET_NAMES),
        fc.tuple(fc.integer({ min: 4, max: 64 }), side),
        steps,
        (name, where, n) => {
          const preset = PRESETS[name];
          expect(preset.stageRatios).toHaveLength(preset.tokenRatios.length);
          for (const list of [preset.stageRatios, preset.tokenRatios]) {
            expect(isAscending(list)).toBe(true);
            expect(list.at(-1)).toBe(1);
          }
          const plan = createPlan({ preset: name, grid: where });
          expect(plan.preset).toBe(name);
          expect(plan.steps).toBe(preset.steps);
          expect(createPlan({ preset: name, grid: where, steps: n }).preset).toBe(name);
          expect(plan.tokensPerStep[0]).toBe(Math.trunc(plan.totalTokens * plan.stages[0]!.tokenRatio));
        },
      ),
      cases(100),
    );
  });

  it('of memory grow with what is asked for, and name their peak', async () => {
    const size = fc.integer({ min: 4, max: 64 }).map((units) => units * 16);
    await fc.assert(
      fc.asyncProperty(
        size,
        size,
        fc.integer({ min: 1, max: 8 }),
        fc.integer({ min: 1, max: 512 }),
        async (width, height, images, textTokens) => {
          const plan = (o: object) =>
            planMemory('flux.1-dev', { width, height, images, textTokens, steps: 4, ...o });
          const found = await plan({});
          expect(JSON.parse(JSON.stringify(found))).toEqual(found);
          expect(found.peakBytes).toBe(Math.max(...found.phases.map(({ bytes }) => bytes)));
          for (const more of [
            { width: width + 64 },
            { images: images + 1 },
            { textTokens: textTokens + 8 },
            { steps: 8 },
            { dtype: 'float32' as const },
          ]) {
            const larger = await plan(more);
            larger.phases.forEach(({ bytes }, i) =>
              expect(bytes).toBeGreaterThanOrEqual(found.phases[i]!.bytes),
            );
          }
        },
      ),
      cases(10),
    );
  });
});

describe('anchors', () => {
  it('of a pattern are distinct tokens, as many as wanted, the same for the same seed', () => {
    fc.assert(
      fc.property(
        someAnchors,
        fc.constantFrom('checkerboard' as const, 'strided' as const),
        share,
        (o, pattern, ratio) => {
          const select = () =>
            selectInitialAnchors({ pattern, grid: o.grid, count: o.more, ratio, random: new Random(o.seed) });
          const list = select();
          expect(list).toHaveLength(o.more);
          expectTokens(list, o.tokens);
          expect(select()).toEqual(list);
        },
      ),
      cases(150),
    );
  });

  it('that are fitted keep what there is', () => {
    fc.assert(
      fc.property(someAnchors, ({ anchors, more, tokens, seed: from }) => {
        const list = fitAnchors(anchors, more, tokens, new Random(from));
        expect(list).toHaveLength(more);
        expectTokens(list, tokens);
        const base = new Set(anchors);
        if (more >= anchors.length) expect([...list.subarray(0, anchors.length)]).toEqual([...anchors]);
        else expect([...list].every((token) => base.has(token))).toBe(true);
      }),
      cases(150),
    );
  });

  it('that are activated come after those that were there', () => {
    fc.assert(
      fc.property(someAnchors, ({ grid: where, anchors, more, tokens }) => {
        const count = Math.max(more, anchors.length);
        const importance = Float32Array.from({ length: tokens }, (_, i) => Math.sin(i * 12.9898) * 43758);
        for (const list of [
          activateOnGrid(anchors, count, where),
          activateByImportance(anchors, count, importance),
          activateAll(anchors, tokens),
        ]) {
          expectTokens(list, tokens);
          expect([...list.subarray(0, anchors.length)]).toEqual([...anchors]);
        }
        expect(activateOnGrid(anchors, count, where)).toHaveLength(count);
        // Nested: who joins a smaller set joins a larger one.
        const fewer = activateOnGrid(
          anchors,
          anchors.length + Math.floor((count - anchors.length) / 2),
          where,
        );
        expect([...activateOnGrid(anchors, count, where).subarray(0, fewer.length)]).toEqual([...fewer]);
        expect(ascending(activateAll(anchors, tokens))).toEqual(Array.from({ length: tokens }, (_, i) => i));
      }),
      cases(100),
    );
  });

  it('by importance are the most important, whatever the order of the list and the names of tokens', () => {
    fc.assert(
      fc.property(someAnchors, ({ anchors, more, tokens, seed: from }) => {
        const random = new Random(from);
        const values = random.permutation(tokens);
        const importance = Float32Array.from(values);
        const count = Math.max(more, anchors.length);
        const list = activateByImportance(anchors, count, importance);
        const joined = list.subarray(anchors.length);
        expect(isDescending([...joined].map((token) => importance[token]!))).toBe(true);
        const least = Math.min(...[...joined].map((token) => importance[token]!));
        const inside = new Set(list);
        importance.forEach((value, token) => {
          if (!inside.has(token)) expect(value).toBeLessThan(least);
        });
        const shuffled = Int32Array.from(random.choose(anchors, anchors.length));
        expect(activateByImportance(shuffled, count, importance).subarray(anchors.length)).toEqual(joined);
        // Token t is called names[t].
        const names = random.permutation(tokens);
        const renamed = new Float32Array(tokens);
        importance.forEach((value, token) => (renamed[names[token]!] = value));
        const of = (tokensOf: Int32Array) => tokensOf.map((token) => names[token]!);
        expect(activateByImportance(of(anchors), count, renamed)).toEqual(of(list));
      }),
      cases(100),
    );
  });
});

describe('random numbers', () => {
  it('follow from the seed, and permute', () => {
    fc.assert(
      fc.property(seed, fc.integer({ min: 1, max: 300 }), fc.string({ maxLength: 20 }), (from, n, name) => {
        const list = new Random(from).permutation(n);
        expect(ascending(Int32Array.from(list))).toEqual(Array.from({ length: n }, (_, i) => i));
        expect(new Random(from).permutation(n)).toEqual(list);
        const next = new Random(from).next();
        expect(next >= 0 && next < 1).toBe(true);
        expect(new Random(from).below(n)).toBeLessThan(n);
        expect(subSeed(from, name)).toBe(subSeed(from, name));
        expect(subSeed(from, `${name}.`)).not.toBe(subSeed(from, name));
        expect(BigInt(imageSeed(from, n))).toBe((BigInt(from) + BigInt(n)) % 2n ** 64n);
      }),
      cases(100),
    );
  });
});

/** A model whose velocity depends on the tokens, their places and the noise level. */
function model() {
  let evaluations = 0;
  return {
    count: () => evaluations,
    velocity: async ({ tokens, sigma }: { tokens: ArrayTensor; sigma: number }) => {
      evaluations++;
      const data = (await tokens.toFloat32Array()).map((value) => Math.fround(Math.sin(3 * value) + sigma));
      return new ArrayTensor(data, [...tokens.shape]);
    },
  };
}

describe('runs', () => {
  const small = fc.tuple(fc.integer({ min: 4, max: 6 }), fc.integer({ min: 4, max: 6 }));

  async function run(o: JitOptions, where: readonly [number, number], seeds: (number | bigint)[]) {
    const counted = model();
    const latents = ArrayTensor.randn([seeds.length, where[0] * where[1], 2], seeds.map(BigInt));
    const sampler = new SamplerCore<ArrayTensor>(
      counted,
      { ...o, grid: where, latents, seed: seeds },
      referenceBackend,
    );
    const events: { anchors: Int32Array; activeTokens: number; sigma: number }[] = [];
    for await (const { anchors, activeTokens, sigma } of sampler)
      events.push({ anchors, activeTokens, sigma });
    const values = await sampler.latents.toFloat32Array();
    sampler.dispose();
    return { events, values, evaluations: counted.count(), plan: sampler.plan };
  }

  it('do what the plan says, with nested anchors, and give the same for the same seed', async () => {
    await fc.assert(
      fc.asyncProperty(
        options,
        small,
        seed,
        fc.integer({ min: 1, max: 8 }),
        async (given, where, from, n) => {
          const o = { ...given, steps: n };
          planOf({ ...o, grid: where });
          const { events, values, evaluations, plan } = await run(o, where, [from]);
          expect(evaluations).toBe(plan.steps);
          expect(events.map(({ activeTokens }) => activeTokens)).toEqual(plan.tokensPerStep);
          expect(events.map(({ sigma }) => sigma)).toEqual(plan.sigmas);
          events.forEach(({ anchors, activeTokens }, i) => {
            expect(anchors).toHaveLength(activeTokens);
            expectTokens(anchors, plan.totalTokens);
            const set = new Set(anchors);
            for (const token of events[i - 1]?.anchors ?? []) expect(set.has(token)).toBe(true);
          });
          expect(values.every(Number.isFinite)).toBe(true);
          expect((await run(o, where, [from])).values).toEqual(values);
        },
      ),
      cases(20),
    );
  });

  it('of a batch give each picture as a run of its own does', async () => {
    await fc.assert(
      fc.asyncProperty(
        options,
        small,
        fc.tuple(seed, seed),
        fc.integer({ min: 1, max: 6 }),
        async (given, where, seeds, n) => {
          const o = { ...given, steps: n };
          planOf({ ...o, grid: where });
          const together = (await run(o, where, seeds)).values;
          const alone = [];
          for (const one of seeds) alone.push(...(await run(o, where, [one])).values);
          expect([...together]).toEqual(alone);
        },
      ),
      cases(10),
    );
  });
});

describe('operators', () => {
  const values = fc.double({ min: -4, max: 4, noNaN: true }).map(Math.fround);
  const close = (found: Float32Array, expected: number | Float32Array, tolerance = 1e-5) => {
    found.forEach((value, i) => {
      const wanted = typeof expected === 'number' ? expected : expected[i]!;
      expect(Math.abs(value - wanted)).toBeLessThanOrEqual(tolerance * Math.max(1, Math.abs(wanted)));
    });
  };
  const spread = fc
    .tuple(fc.integer({ min: 4, max: 12 }), fc.integer({ min: 4, max: 12 }))
    .chain(([rows, cols]) =>
      fc.record({
        grid: fc.constant([rows, cols] as const),
        anchors: fc
          .uniqueArray(fc.nat(rows * cols - 1), { minLength: 1, maxLength: rows * cols - 1 })
          .map((list) => Int32Array.from(list)),
        value: values,
        sigma: fc.double({ min: 0.01, max: 1, noNaN: true }),
        steps: fc.integer({ min: 1, max: 20 }),
        seed: fc.nat(),
      }),
    );

  it('interpolate with weights that sum to one, and leave anchors as they are', async () => {
    await fc.assert(
      fc.asyncProperty(spread, async ({ grid: where, anchors, value, seed: from }) => {
        using constant = Tensor.from(new Float32Array(anchors.length * 2).fill(value), [
          1,
          anchors.length,
          2,
        ]);
        using field = await jit.lift(constant, anchors, where);
        close(await field.toFloat32Array(), value);
        using noise = Tensor.randn([1, anchors.length, 2], { seed: from });
        using lifted = await jit.lift(noise, anchors, where);
        using kept = await jit.gather(lifted, anchors);
        expect(await kept.toFloat32Array()).toEqual(await noise.toFloat32Array());
      }),
      cases(15),
    );
  });

  it('bring newcomers to the noise level of the target', async () => {
    await fc.assert(
      fc.asyncProperty(spread, async ({ grid: where, anchors, sigma, seed: from, value }) => {
        const tokens = where[0] * where[1];
        const newTokens = activateAll(anchors, tokens).slice(anchors.length);
        // Of a constant clean picture, (1 - sigma) of it and sigma of the noise are left.
        using clean = Tensor.from(new Float32Array(tokens * 2).fill(value), [1, tokens, 2]);
        using noise = Tensor.randn([1, tokens, 2], { seed: from });
        using target = await jit.microFlowTarget({ clean, noise, anchors, newTokens, sigma, grid: where });
        using drawn = await jit.gather(noise, newTokens);
        const expected = (await drawn.toFloat32Array()).map((z) => (1 - sigma) * value + sigma * z);
        close(await target.toFloat32Array(), expected);
        // The finite-time flow ends there whatever it started from; the others stay.
        using latents = Tensor.randn([1, tokens, 2], { seed: from + 1 });
        using before = latents.clone();
        await jit.microFlow(latents, { mode: 'finite-time', newTokens, target });
        using arrived = await jit.gather(latents, newTokens);
        expect(await arrived.toFloat32Array()).toEqual(await target.toFloat32Array());
        using old = await jit.gather(before, anchors);
        using now = await jit.gather(latents, anchors);
        expect(await now.toFloat32Array()).toEqual(await old.toFloat32Array());
      }),
      cases(15),
    );
  });
});
