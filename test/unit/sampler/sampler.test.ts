import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ERROR_CODES, SamplerCore, imageSeed, type SamplerBackend } from '../../../src/sampler/index.js';
import { activateByImportance } from '../../../src/sampler/anchors.js';
import type {
  ActivationContext,
  JitOperators,
  SampleOptions,
  StepEvent,
  VelocityModel,
} from '../../../src/types.js';
import {
  ArrayTensor,
  maxDifference,
  nearestPositions,
  referenceBackend,
  referenceOperators,
} from '../../support/reference-operators.js';
import { WaveModel, expectError, expectRejection, imageOf, toArray } from './helpers.js';

const GRID: [number, number] = [8, 6];
const N = 48;
const C = 3;

/** Initial noise of a batch whose image b is that of seed + b. */
const noise = (seed: number | bigint, batch = 1) =>
  ArrayTensor.randn(
    [batch, N, C],
    Array.from({ length: batch }, (_, b) => imageSeed(seed, b)),
  );

function create(
  options: Partial<SampleOptions<ArrayTensor>> = {},
  model: VelocityModel<ArrayTensor> = new WaveModel(),
  backend: SamplerBackend<ArrayTensor> = referenceBackend,
) {
  const { seed = 0 } = options;
  const latents = options.latents ?? noise(typeof seed === 'object' ? seed[0]! : seed);
  return new SamplerCore(model, { grid: GRID, ...options, latents }, backend);
}

async function finish(options: Partial<SampleOptions<ArrayTensor>> = {}) {
  const sampler = create(options);
  const events = await toArray(sampler);
  return { events, final: sampler.latents.data.slice(), sampler };
}

/** Reference operators of which some are replaced. */
const withOperators = (replaced: Partial<JitOperators<ArrayTensor>>): SamplerBackend<ArrayTensor> => ({
  ...referenceBackend,
  operators: { ...referenceOperators, ...replaced },
});

describe('a run', () => {
  it('yields one event per step that agrees with the plan', async () => {
    const model = new WaveModel();
    const sampler = create({ preset: 'jit-7x', seed: 3 }, model);
    const { plan } = sampler;
    const events = await toArray(sampler);
    expect(events).toHaveLength(11);
    events.forEach((event, step) => {
      expect(event).toMatchObject({
        step,
        steps: 11,
        sigma: plan.sigmas[step],
        nextSigma: plan.sigmasWithTerminal[step + 1],
        stage: plan.stageOfStep[step],
        activeTokens: plan.tokensPerStep[step],
        totalTokens: N,
      });
      expect(event.anchors).toHaveLength(plan.tokensPerStep[step]!);
      expect(event.latents).toBe(sampler.latents);
      expect(event.milliseconds).toBeGreaterThanOrEqual(0);
      expect(event.transition !== undefined).toBe(step === 4 || step === 7);
    });
    // Sparse steps see their anchors, dense ones everything in natural order.
    model.calls.forEach((call, step) => {
      expect(call.shape).toEqual([1, plan.tokensPerStep[step], C]);
      expect(call.sigma).toBe(plan.sigmas[step]);
      if (step < 7) expect(call.anchors).toEqual(events[step]!.anchors);
      else expect(call.anchors).toBeUndefined();
    });
    // Nested sets.
    expect(events[4]!.anchors.subarray(0, 15)).toEqual(events[0]!.anchors);
    expect(events[7]!.anchors.subarray(0, 28)).toEqual(events[4]!.anchors);
    expect(events[4]!.transition!.newTokens).toEqual(events[4]!.anchors.subarray(15));
    expect(events[4]!.transition!.importance).toHaveLength(N);
    expect(events[7]!.transition!.importance).toBeUndefined();
    expect(new Set(events[10]!.anchors).size).toBe(N);
  });

  it('is plain Euler integration in a dense run', async () => {
    const latents = noise(1);
    const { final, sampler } = await finish({ preset: 'dense', steps: 5, latents });
    const y = latents.clone();
    const model = new WaveModel();
    for (let step = 0; step < 5; step++) {
      const sigma = sampler.plan.sigmas[step]!;
      const v = await model.velocity({ tokens: y, grid: GRID, step, sigma });
      const dSigma = sampler.plan.sigmasWithTerminal[step + 1]! - sigma;
      for (let i = 0; i < y.data.length; i++) y.data[i]! += dSigma * v.data[i]!;
    }
    expect(final).toEqual(y.data);
  });

  it('solves dx/dsigma = v: with v = x - x0 over sigma it arrives at x0', async () => {
    // The velocity of a single known picture; the sampler must end on it at every token.
    const picture = noise(99);
    const model: VelocityModel<ArrayTensor> = {
      async velocity({ tokens, anchors, sigma }) {
        const known =
          anchors === undefined ? picture.clone() : await referenceOperators.gather(picture, anchors);
        return new ArrayTensor(
          tokens.data.map((x, i) => (x - known.data[i]!) / sigma),
          tokens.shape,
        );
      },
    };
    for (const preset of ['dense', 'jit-4x', 'jit-7x'] as const) {
      const sampler = create({ preset }, model);
      await toArray(sampler);
      expect(maxDifference(sampler.latents.data, picture.data)).toBeLessThan(1e-5);
    }
  });

  it('reproduces itself from the seed, and not from another', async () => {
    const latents = noise(5);
    const a = await finish({ seed: 5, latents });
    const b = await finish({ seed: 5n, latents });
    const c = await finish({ seed: 6, latents });
    expect(b.final).toEqual(a.final);
    expect(b.events.map((e) => e.anchors)).toEqual(a.events.map((e) => e.anchors));
    expect(c.final).not.toEqual(a.final);
    expect(c.events[0]!.anchors).not.toEqual(a.events[0]!.anchors);
  });

  it('leaves the tensors of the caller alone', async () => {
    const latents = noise(2);
    const microFlowNoise = noise(3);
    const [before, noiseBefore] = [latents.data.slice(), microFlowNoise.data.slice()];
    const { sampler } = await finish({ latents, microFlowNoise });
    sampler.dispose();
    expect(latents.data).toEqual(before);
    expect(microFlowNoise.data).toEqual(noiseBefore);
  });

  it('draws the micro-flow noise from its own stream, or takes it', async () => {
    const latents = noise(2);
    const drawn: bigint[][] = [];
    let kept: Float32Array | undefined;
    const backend: SamplerBackend<ArrayTensor> = {
      ...referenceBackend,
      randn: (shape, seeds) => {
        drawn.push([...seeds]);
        const result = ArrayTensor.randn(shape, seeds);
        kept = result.data.slice();
        return result;
      },
    };
    const first = create({ latents, seed: 2 }, new WaveModel(), backend);
    await toArray(first);
    expect(drawn).toHaveLength(1);
    expect(drawn[0]).not.toEqual([2n]);
    const given = create(
      { latents, seed: 2, microFlowNoise: new ArrayTensor(kept!, [1, N, C]) },
      new WaveModel(),
      backend,
    );
    await toArray(given);
    expect(drawn).toHaveLength(1);
    expect(given.latents.data).toEqual(first.latents.data);
    await toArray(create({ latents, preset: 'dense', steps: 3 }, new WaveModel(), backend));
    expect(drawn).toHaveLength(1);
  });

  it('starts from given anchors in their order', async () => {
    const initialAnchors = Int32Array.of(47, 3, 20, 11, 30);
    const { events, sampler } = await finish({ initialAnchors });
    expect(events[0]!.anchors).toEqual(initialAnchors);
    expect(sampler.plan.stages[0]).toMatchObject({ activeTokens: 5, tokenRatio: 5 / 48 });
  });

  it('runs without a sparse stage when there are too few steps', async () => {
    const { events } = await finish({ preset: 'jit-4x', steps: 1 });
    expect(events).toHaveLength(1);
    expect(events[0]).toMatchObject({ stage: 0, activeTokens: N, nextSigma: 0 });
    expect(events[0]!.transition).toBeUndefined();
  });

  it('reports no transition where no token joins', async () => {
    const { events } = await finish({ steps: 9, stageRatios: [0.34, 0.67, 1], tokenRatios: [0.5, 0.5, 1] });
    expect(events.map((e) => [e.stage, e.transition !== undefined])).toEqual(
      [2, 2, 2, 1, 1, 1, 0, 0, 0].map((stage, step) => [stage, step === 6]),
    );
    // Two stages with all tokens are one dense run.
    const dense = await finish({ steps: 4, stageRatios: [0.5, 1], tokenRatios: [1, 1] });
    expect(dense.events.some((e) => e.transition !== undefined)).toBe(false);
    const schedule = { kind: 'beta', alpha: 1.4, beta: 0.425 } as const;
    expect(dense.final).toEqual((await finish({ preset: 'dense', steps: 4, schedule })).final);
  });
});

describe('the micro-flow', () => {
  /** Zero velocity: the state changes by the micro-flow alone, and the clean prediction is the state. */
  const still: VelocityModel<ArrayTensor> = {
    velocity: async ({ tokens }) => ArrayTensor.zeros(tokens.shape),
  };

  it('in finite time lands exactly on the target', async () => {
    const latents = noise(4);
    const microFlowNoise = noise(44);
    const sampler = create(
      { latents, microFlowNoise, preset: 'jit-7x', microFlow: { mode: 'finite-time' } },
      still,
    );
    let before = latents.data.slice();
    let anchors = new Int32Array(0);
    let transitions = 0;
    for await (const event of sampler) {
      if (event.transition !== undefined) {
        const { newTokens } = event.transition;
        const target = await referenceOperators.microFlowTarget({
          clean: new ArrayTensor(before, [1, N, C]),
          noise: microFlowNoise,
          anchors,
          newTokens,
          sigma: event.sigma,
          grid: GRID,
        });
        expect((await referenceOperators.gather(event.latents, newTokens)).data).toEqual(target.data);
        transitions++;
      }
      before = event.latents.data.slice();
      anchors = event.anchors.slice();
    }
    expect(transitions).toBe(2);
  });

  it('touches the newcomers only', async () => {
    const latents = noise(4);
    const sampler = create({ latents, preset: 'jit-7x' }, still);
    const initial = latents.data.slice();
    for await (const event of sampler) {
      if (event.step !== 5) continue;
      const changed = Array.from({ length: N }, (_, t) => t).filter(
        (t) => event.latents.data[t * C] !== initial[t * C],
      );
      expect(changed).toHaveLength(28 - 15);
      expect(changed.every((t) => event.anchors.indexOf(t) >= 15)).toBe(true);
      break;
    }
  });
});

describe('batches', () => {
  it.each(['checkerboard', 'strided'] as const)(
    'image b equals a single run with seed + b (%s)',
    async (initialAnchors) => {
      const batch = 3;
      const latents = noise(70, batch);
      const all = await finish({ latents, seed: 70, initialAnchors });
      for (let b = 0; b < batch; b++) {
        const single = await finish({ latents: imageOf(latents, b), seed: 70 + b, initialAnchors });
        const size = N * C;
        expect(all.final.subarray(b * size, (b + 1) * size)).toEqual(single.final);
        all.events.forEach((event, step) => {
          const m = event.activeTokens;
          expect(event.anchors.subarray(b * m, (b + 1) * m)).toEqual(single.events[step]!.anchors);
          const joined = event.transition?.newTokens;
          if (joined !== undefined) {
            const k = joined.length / batch;
            expect(joined.subarray(b * k, (b + 1) * k)).toEqual(single.events[step]!.transition!.newTokens);
          }
        });
      }
      expect(all.events[0]!.anchors).toHaveLength(batch * all.events[0]!.activeTokens);
    },
  );

  it('shares the list as long as all images agree', async () => {
    const latents = noise(70, 2);
    const initialAnchors = Int32Array.from({ length: 16 }, (_, i) => 3 * i);
    const model = new WaveModel();
    const sampler = create({ latents, initialAnchors }, model);
    const events = await toArray(sampler);
    expect(events[0]!.anchors).toHaveLength(16);
    expect(model.calls[0]!.anchors).toHaveLength(16);
    // Importance differs between the images.
    expect(events[8]!.anchors).toHaveLength(2 * 29);
    expect(events[7]!.transition!.newTokens).toHaveLength(2 * 13);
    expect(events[7]!.transition!.importance).toHaveLength(2 * N);
    for (let b = 0; b < 2; b++) {
      const single = await finish({ latents: imageOf(latents, b), initialAnchors, seed: b });
      expect(sampler.latents.data.subarray(b * N * C, (b + 1) * N * C)).toEqual(single.final);
    }
  });
});

describe("a backend's own choice of tokens", () => {
  /** As the sampler itself chooses, image by image. */
  const selectTokens: NonNullable<JitOperators<ArrayTensor>['selectTokens']> = async (velocity, o) => {
    const { anchors, count, grid, perImage = false } = o;
    const map = await referenceOperators.importance(velocity, grid);
    const images = velocity.shape[0]!;
    const size = perImage ? anchors.length / images : anchors.length;
    const chosen = Array.from({ length: images }, (_, b) => {
      const own = perImage ? anchors.slice(b * size, (b + 1) * size) : anchors;
      const next = activateByImportance(own, size + count, map.slice(b * N, (b + 1) * N));
      return [...next.subarray(size)];
    });
    return Int32Array.from(chosen.flat());
  };

  it.each([
    ['anchors of every image', undefined],
    ['anchors that the images share', Int32Array.from({ length: 16 }, (_, i) => 3 * i)],
  ])('is asked for, and not the importance map: %s', async (_, initialAnchors) => {
    const own: SampleOptions<ArrayTensor> = {
      preset: 'jit-7x',
      grid: GRID,
      latents: noise(70, 2),
      seed: 70,
      ...(initialAnchors && { initialAnchors }),
    };
    const asked: { anchors: number; count: number; perImage: boolean | undefined }[] = [];
    let maps = 0;
    const backend = withOperators({
      importance: (...args) => {
        maps++;
        return referenceOperators.importance(...args);
      },
      selectTokens: (velocity, o) => {
        asked.push({ anchors: o.anchors.length, count: o.count, perImage: o.perImage });
        return selectTokens(velocity, o);
      },
    });
    const sampler = create(own, new WaveModel(), backend);
    const events = await toArray(sampler);
    const expected = await finish(own);
    expect(events.map((event) => event.anchors)).toEqual(expected.events.map((event) => event.anchors));
    expect(sampler.latents.data).toEqual(expected.final);
    const perImage = initialAnchors === undefined;
    const size = initialAnchors?.length ?? 15;
    // Once for the whole batch; into the last stage go all.
    expect(asked).toEqual([{ anchors: perImage ? 2 * size : size, count: 28 - size, perImage }]);
    expect(maps).toBe(0);
    expect(events.some((event) => event.transition?.importance !== undefined)).toBe(false);
  });

  it('comes with the importance map in the events on request, whatever the policy', async () => {
    const latents = noise(4);
    const backend = withOperators({ selectTokens });
    const plain = await toArray(create({ preset: 'jit-7x', latents }, new WaveModel(), backend));
    for (const activation of ['importance', 'grid'] as const) {
      const own = { preset: 'jit-7x', latents, activation, importanceInEvents: true } as const;
      const events = await toArray(create(own, new WaveModel(), backend));
      for (const step of [4, 7]) expect(events[step]!.transition!.importance).toHaveLength(N);
      if (activation === 'importance') {
        expect(events.map((event) => event.anchors)).toEqual(plain.map((event) => event.anchors));
      }
    }
    const expected = (await finish({ preset: 'jit-7x', latents })).events[4]!.transition!.importance;
    const wanted = { preset: 'jit-7x', latents, importanceInEvents: true } as const;
    const events = await toArray(create(wanted, new WaveModel(), backend));
    expect(events[4]!.transition!.importance).toEqual(expected);
    expectError(
      () => create({ importanceInEvents: 'yes' as unknown as boolean }),
      ERROR_CODES.INVALID_ARGUMENT,
      /importanceInEvents/,
    );
  });

  it.each([
    ['too few', new Int32Array(3)],
    ['no Int32Array', [1, 2, 3] as unknown as Int32Array],
    ['a token twice', new Int32Array(13)],
    ['a token out of range', Int32Array.from({ length: 13 }, (_, i) => N + i)],
  ])('is checked: %s', async (_, chosen) => {
    const before = ArrayTensor.live;
    const initialAnchors = Int32Array.from({ length: 16 }, (_, i) => 3 * i);
    const latents = noise(1);
    const backend = withOperators({ selectTokens: async () => chosen });
    const sampler = create({ latents, initialAnchors }, new WaveModel(), backend);
    await expectRejection(toArray(sampler), ERROR_CODES.INVALID_ANCHORS, /operators\.selectTokens/);
    sampler.dispose();
    latents.dispose();
    expect(ArrayTensor.live).toBe(before);
  });

  it('releases everything when it fails, or when the run is aborted meanwhile', async () => {
    const latents = noise(1);
    const before = ArrayTensor.live;
    const failure = new Error('failed on purpose');
    const failing = create(
      { latents },
      new WaveModel(),
      withOperators({ selectTokens: () => Promise.reject(failure) }),
    );
    await expect(toArray(failing)).rejects.toBe(failure);
    failing.dispose();
    const controller = new AbortController();
    let later = 0;
    const aborting = create(
      { latents, signal: controller.signal },
      new WaveModel(),
      withOperators({
        selectTokens: (velocity, o) => {
          controller.abort();
          return selectTokens(velocity, o);
        },
        predictClean: (...args) => {
          later++;
          return referenceOperators.predictClean(...args);
        },
      }),
    );
    await expectRejection(toArray(aborting), ERROR_CODES.ABORTED);
    aborting.dispose();
    expect(later).toBe(0);
    expect(ArrayTensor.live).toBe(before);
  });
});

describe('activation policies', () => {
  it('grid: does not depend on the content', async () => {
    const initialAnchors = Int32Array.of(0, 7, 40, 21, 33);
    const a = await finish({ activation: 'grid', initialAnchors, latents: noise(1) });
    const b = await finish({ activation: 'grid', initialAnchors, latents: noise(2) });
    expect(a.events.map((e) => e.anchors)).toEqual(b.events.map((e) => e.anchors));
    expect(a.events.every((e) => e.transition?.importance === undefined)).toBe(true);
  });

  it('custom: called for every image of every transition with all it needs', async () => {
    const seen: (Omit<ActivationContext, 'importance' | 'random'> & {
      draws: number[];
      map: Float32Array;
    })[] = [];
    const activation = async (ctx: ActivationContext) => {
      const map = await ctx.importance();
      expect(await ctx.importance()).toEqual(map);
      const { stage, step, sigma, grid, image, anchors, targetCount } = ctx;
      const draws = [ctx.random(), ctx.random()];
      seen.push({ stage, step, sigma, grid, image, anchors, targetCount, map, draws });
      const rest = Array.from({ length: N }, (_, t) => t).filter((t) => !ctx.anchors.includes(t));
      ctx.anchors.fill(0); // a copy: the sampler's own list is not affected
      const before = seen.at(-1)!.stage === 1 ? first : second[ctx.image]!;
      return Int32Array.of(...before, ...rest.reverse()).slice(0, ctx.targetCount);
    };
    const first = Int32Array.of(1, 2, 3, 4, 5, 6);
    const second = [0, 1].map(() => {
      const rest = Array.from({ length: N }, (_, t) => t).filter((t) => !first.includes(t));
      return Int32Array.of(...first, ...rest.reverse()).slice(0, 29);
    });
    const options = { latents: noise(8, 2), seed: 8, initialAnchors: first };
    const { events } = await finish({ ...options, activation });
    expect(seen.map((s) => [s.stage, s.image, s.step, s.targetCount])).toEqual([
      [1, 0, 7, 29],
      [1, 1, 7, 29],
      [0, 0, 11, 48],
      [0, 1, 11, 48],
    ]);
    for (const s of seen) {
      expect(s.grid).toEqual(GRID);
      expect(s.sigma).toBe(events[s.step]!.sigma);
      expect(s.map).toHaveLength(N);
      expect(s.draws.every((d) => d >= 0 && d < 1)).toBe(true);
    }
    expect(new Set(seen.flatMap((s) => s.draws)).size).toBe(8);
    expect(events[7]!.transition!.importance).toEqual(Float32Array.of(...seen[0]!.map, ...seen[1]!.map));
    expect(events[7]!.anchors).toEqual(second[0]);
    // The same draws again, and the second image's are those of a run of its own.
    const draws = seen.map((s) => s.draws);
    seen.length = 0;
    await finish({ ...options, activation });
    expect(seen.map((s) => s.draws)).toEqual(draws);
    seen.length = 0;
    await finish({ ...options, latents: noise(9), seed: 9, activation });
    expect(seen.map((s) => s.draws)).toEqual([draws[1], draws[3]]);
  });

  it.each<[string, (ctx: ActivationContext) => unknown, RegExp]>([
    ['too few', ({ anchors }) => anchors, /29 token indices/],
    ['too many', () => Int32Array.from({ length: N }, (_, i) => i), /29 token indices/],
    ['no Int32Array', () => [1, 2, 3], /Int32Array/],
    ['nothing', () => undefined, /Int32Array/],
    ['duplicates', ({ targetCount }) => new Int32Array(targetCount), /distinct/],
    ['outside', ({ targetCount }) => Int32Array.from({ length: targetCount }, (_, i) => i + 40), /0 to 47/],
  ])('custom: %s is refused', async (_, activation, message) => {
    const run = toArray(create({ activation: activation as () => Int32Array }));
    await expectRejection(run, ERROR_CODES.INVALID_ANCHORS, message);
  });

  it('custom: may drop tokens, but as many for each image', async () => {
    const take = (offset: number, count: number) =>
      Int32Array.from({ length: count }, (_, i) => (i + offset) % N);
    const initialAnchors = take(0, 10);
    const same = await finish({ initialAnchors, activation: ({ targetCount }) => take(20, targetCount) });
    expect(same.events[7]!.transition!.newTokens).toEqual(take(20, 28)); // all but token 0 of the 29
    const run = toArray(
      create({
        latents: noise(1, 2),
        initialAnchors,
        activation: ({ targetCount, image }) => take(image === 0 ? 0 : 20, targetCount),
      }),
    );
    await expectRejection(run, ERROR_CODES.INVALID_ANCHORS, /same number of new tokens/);
  });
});

describe('validation', () => {
  const latents = noise(0);
  const wrong = {
    flat: new ArrayTensor(new Float32Array(N * C), [N, C]),
    short: ArrayTensor.zeros([1, N - 1, C]),
    empty: ArrayTensor.zeros([0, N, C]),
    half: Object.assign(ArrayTensor.zeros([1, N, C]), { dtype: 'float16' as const }),
    other: ArrayTensor.zeros([2, N, C]),
  };

  it.each<[string, object, string, RegExp?]>([
    ['no latents', { latents: undefined }, ERROR_CODES.INVALID_TENSOR, /"latents".*undefined/],
    ['an array', { latents: [1, 2] }, ERROR_CODES.INVALID_TENSOR, /"latents"/],
    ['rank 2', { latents: wrong.flat }, ERROR_CODES.INVALID_TENSOR, /\[B, 48, C\].*\[48, 3\]/],
    ['too few tokens', { latents: wrong.short }, ERROR_CODES.INVALID_TENSOR, /\[1, 47, 3\]/],
    ['an empty batch', { latents: wrong.empty }, ERROR_CODES.INVALID_TENSOR, /\[0, 48, 3\]/],
    ['half precision', { latents: wrong.half }, ERROR_CODES.INVALID_TENSOR, /float16/],
    ['noise of another batch', { microFlowNoise: wrong.other }, ERROR_CODES.INVALID_TENSOR, /microFlowNoise/],
    ['noise of another grid', { microFlowNoise: wrong.short }, ERROR_CODES.INVALID_TENSOR, /microFlowNoise/],
    ['a bad grid', { grid: [8, -6] }, ERROR_CODES.INVALID_ARGUMENT, /"grid"/],
    ['no grid', { grid: undefined }, ERROR_CODES.INVALID_ARGUMENT, /"grid"/],
    ['a bad seed', { seed: 0.5 }, ERROR_CODES.INVALID_ARGUMENT, /"seed"/],
    ['a bad signal', { signal: {} }, ERROR_CODES.INVALID_ARGUMENT, /"signal"/],
    ['an unknown preset', { preset: 'fast' }, ERROR_CODES.UNKNOWN_PRESET],
    ['bad steps', { steps: Infinity }, ERROR_CODES.INVALID_ARGUMENT, /"steps"/],
    ['bad anchors', { initialAnchors: Int32Array.of(48) }, ERROR_CODES.INVALID_ANCHORS, /0 to 47/],
  ])('refuses %s before any work starts', (_, options, code, message) => {
    const live = ArrayTensor.live;
    const model = new WaveModel();
    expectError(
      () => new SamplerCore(model, { grid: GRID, latents, ...options }, referenceBackend),
      code as (typeof ERROR_CODES)[keyof typeof ERROR_CODES],
      message,
    );
    expect(ArrayTensor.live).toBe(live);
    expect(model.calls).toHaveLength(0);
  });

  it('refuses a bad model and disposed latents', () => {
    const options = { grid: GRID, latents };
    for (const model of [undefined, null, {}, () => 0]) {
      expectError(
        () => new SamplerCore(model as WaveModel, options, referenceBackend),
        ERROR_CODES.INVALID_ARGUMENT,
        /"model"/,
      );
    }
    const gone = noise(0);
    gone.dispose();
    expectError(() => create({ latents: gone }), ERROR_CODES.DISPOSED, /latents/);
    expectError(
      () => new SamplerCore(new WaveModel(), undefined as never, referenceBackend),
      ERROR_CODES.INVALID_ARGUMENT,
      /"options"/,
    );
  });

  it.each<[string, unknown]>([
    ['another shape', () => ArrayTensor.zeros([1, 2, C])],
    ['nothing', () => undefined],
    ['something else', () => 'velocity'],
  ])('refuses a model that returns %s', async (_, make) => {
    const model = { velocity: async () => (make as () => ArrayTensor)() };
    await expectRejection(toArray(create({}, model)), ERROR_CODES.INVALID_TENSOR, /"velocity"/);
  });
});

describe('resources', () => {
  let before = 0;
  let latents: ArrayTensor;
  beforeEach(() => {
    latents = noise(12, 2);
    before = ArrayTensor.live;
  });
  afterEach(() => latents.dispose());

  it('holds only the state after a run, and nothing after dispose', async () => {
    const sampler = create({ latents });
    await toArray(sampler);
    expect(ArrayTensor.live).toBe(before + 1);
    sampler.dispose();
    sampler.dispose();
    expect(ArrayTensor.live).toBe(before);
    expect(sampler.latents.disposed).toBe(true);
  });

  it('holds little between steps: the state, the last velocity and at most the noise', async () => {
    using sampler = create({ latents });
    for await (const event of sampler) {
      const noiseIsNeeded = event.stage === 1;
      // For the clean estimate.
      const velocity = 1;
      expect(ArrayTensor.live - before).toBe(1 + velocity + Number(noiseIsNeeded));
    }
  });

  it('cleans up after break and leaves the state to the caller', async () => {
    for (let stop = 0; stop < 18; stop++) {
      const sampler = create({ latents });
      for await (const event of sampler) if (event.step === stop) break;
      expect(ArrayTensor.live).toBe(before + 1);
      expect(sampler.latents.disposed).toBe(false);
      sampler[Symbol.dispose]();
      expect(ArrayTensor.live).toBe(before);
    }
  });

  it('cleans up when any operator, the model, the policy or the noise fails', async () => {
    const failure = new Error('failed on purpose');
    const fail = () => Promise.reject(failure);
    const names = ['gather', 'importance', 'predictClean', 'microFlow', 'microFlowTarget', 'step'] as const;
    const attempts = names.map((name) =>
      create({ latents }, new WaveModel(), withOperators({ [name]: fail })),
    );
    attempts.push(create({ latents }, { velocity: fail }));
    attempts.push(create({ latents, activation: fail }));
    attempts.push(create({ latents }, new WaveModel(), { ...referenceBackend, randn: fail }));
    for (const sampler of attempts) {
      await expect(toArray(sampler)).rejects.toBe(failure);
      sampler.dispose();
    }
    expect(ArrayTensor.live).toBe(before);
  });

  it('does not dispose the velocity while an unawaited importance is computed from it', async () => {
    let intact: boolean | undefined;
    const backend = withOperators({
      importance: async (velocity) => {
        await new Promise((resolve) => setImmediate(resolve));
        intact = !velocity.disposed;
        throw new Error('nobody listens');
      },
    });
    const activation = (ctx: ActivationContext): Int32Array => {
      ctx.importance().catch(() => undefined);
      throw new Error('policy failed');
    };
    const sampler = create({ latents, activation }, new WaveModel(), backend);
    await expect(toArray(sampler)).rejects.toThrow('policy failed');
    expect(intact).toBe(true);
    sampler.dispose();
    expect(ArrayTensor.live).toBe(before);
  });

  it('survives a model that returns its input', async () => {
    const echo: VelocityModel<ArrayTensor> = { velocity: async ({ tokens }) => tokens };
    const sampler = create({ latents }, echo);
    await toArray(sampler);
    expect(sampler.latents.disposed).toBe(false);
    sampler.dispose();
    expect(ArrayTensor.live).toBe(before);
  });

  it('cannot be iterated twice, nor after dispose', async () => {
    const sampler = create({ latents });
    await toArray(sampler);
    await expectRejection(toArray(sampler), ERROR_CODES.INVALID_ARGUMENT, /only once/);
    sampler.dispose();
    await expectRejection(toArray(sampler), ERROR_CODES.DISPOSED);
  });

  it('fails with a typed error when disposed between or during steps', async () => {
    const between = create({ latents });
    await expectRejection(
      (async () => {
        for await (const event of between) if (event.step === 8) between.dispose();
      })(),
      ERROR_CODES.DISPOSED,
    );
    expect(ArrayTensor.live).toBe(before);

    const wave = new WaveModel();
    const during: SamplerCore<ArrayTensor> = create(
      { latents },
      {
        velocity: async (i) => {
          if (i.step === 8) during.dispose();
          await new Promise((resolve) => setImmediate(resolve));
          expect(i.tokens.disposed).toBe(false);
          return wave.velocity(i);
        },
      },
    );
    await expectRejection(toArray(during), ERROR_CODES.DISPOSED);
    expect(ArrayTensor.live).toBe(before);
  });
});

describe('abort', () => {
  it('before the start: nothing runs', async () => {
    const model = new WaveModel();
    const sampler = create({ signal: AbortSignal.abort('enough') }, model);
    const error = await expectRejection(toArray(sampler), ERROR_CODES.ABORTED);
    expect(error.cause).toBe('enough');
    expect(model.calls).toHaveLength(0);
  });

  it('between steps: the next step does not begin', async () => {
    const controller = new AbortController();
    const model = new WaveModel();
    const sampler = create({ signal: controller.signal }, model);
    const run = (async () => {
      for await (const event of sampler) if (event.step === 2) controller.abort();
    })();
    await expectRejection(run, ERROR_CODES.ABORTED);
    expect(model.calls).toHaveLength(3);
  });

  it('during any operation: no further operation begins, and everything is released', async () => {
    const names = ['gather', 'importance', 'predictClean', 'microFlow', 'microFlowTarget', 'step'] as const;
    for (const name of names) {
      const latents = noise(1);
      const before = ArrayTensor.live;
      const controller = new AbortController();
      let later = 0;
      const operators = Object.fromEntries(
        Object.entries(referenceOperators).map(([key, run]) => [
          key,
          async (...args: never[]) => {
            if (controller.signal.aborted) later++;
            const result: unknown = await (run as (...a: never[]) => Promise<unknown>)(...args);
            if (key === name) controller.abort();
            return result;
          },
        ]),
      ) as unknown as JitOperators<ArrayTensor>;
      const sampler = create(
        { latents, signal: controller.signal },
        new WaveModel(),
        withOperators(operators),
      );
      await expectRejection(toArray(sampler), ERROR_CODES.ABORTED);
      expect(later).toBe(0);
      sampler.dispose();
      expect(ArrayTensor.live).toBe(before);
    }
  });

  it('is passed to the model, whose AbortError becomes the documented one', async () => {
    const controller = new AbortController();
    const model: VelocityModel<ArrayTensor> = {
      velocity: ({ signal }) =>
        new Promise((_, reject) => {
          signal!.addEventListener('abort', () => reject(signal!.reason as Error));
          controller.abort();
        }),
    };
    const error = await expectRejection(
      toArray(create({ signal: controller.signal }, model)),
      ERROR_CODES.ABORTED,
    );
    expect((error.cause as Error).name).toBe('AbortError');
  });

  it('does not hide other failures', async () => {
    const controller = new AbortController();
    const failure = new Error('broken');
    const model = {
      velocity: () => {
        controller.abort();
        return Promise.reject(failure);
      },
    };
    await expect(toArray(create({ signal: controller.signal }, model))).rejects.toBe(failure);
  });
});

describe('the lifter', () => {
  it('as a function does what the fused one does, where it computes the same', async () => {
    for (const preset of ['jit-4x', 'jit-7x'] as const) {
      for (const batch of [1, 2]) {
        const options = { preset, seed: 4, latents: noise(4, batch) };
        const fused = await finish(options);
        const seen: number[] = [];
        const own = await finish({
          ...options,
          lifter: (v, anchors, grid) => {
            seen.push(v.shape[1]!);
            expect(grid).toEqual(GRID);
            expect([v.shape[1], batch * v.shape[1]!]).toContain(anchors.length);
            return referenceOperators.lift(v as ArrayTensor, anchors, grid);
          },
        });
        expect(own.final).toEqual(fused.final);
        // The steps of the sparse stages, and the clean latents of each transition.
        const { plan } = own.sampler;
        const sparse = plan.tokensPerStep.filter((tokens) => tokens < N);
        expect(seen).toHaveLength(sparse.length + plan.stages.length - 1);
      }
    }
  });

  it("'nearest' spreads the nearest anchor's value", async () => {
    const [nearest, own] = await Promise.all([
      finish({ lifter: 'nearest', seed: 2 }),
      finish({
        seed: 2,
        lifter: async (v, anchors, grid) => {
          const places = nearestPositions(anchors, grid);
          return referenceOperators.gather(v as ArrayTensor, places, {});
        },
      }),
    ]);
    expect(nearest.final).toEqual(own.final);
    expect(nearest.final).not.toEqual((await finish({ seed: 2 })).final);
    expect(nearest.sampler.plan.preset).toBe('custom');
  });

  it('is checked, and so is what it gives', async () => {
    expectError(() => create({ lifter: 'cubic' as never }), ERROR_CODES.INVALID_ARGUMENT, /gaussian.*cubic/);
    const others = { ...referenceOperators };
    delete others.liftNearest;
    expectError(
      () => create({ lifter: 'nearest' }, new WaveModel(), { ...referenceBackend, operators: others }),
      ERROR_CODES.INVALID_ARGUMENT,
      /liftNearest/,
    );
    const before = ArrayTensor.live;
    const failure = new Error('broken');
    for (const [lifter, code] of [
      [(v: ArrayTensor) => v, ERROR_CODES.INVALID_TENSOR],
      [() => ArrayTensor.zeros([1, N, C + 1]), ERROR_CODES.INVALID_TENSOR],
      [() => Promise.resolve(undefined as never), ERROR_CODES.INVALID_TENSOR],
      [() => Promise.reject(failure), undefined],
    ] as const) {
      const sampler = create({ lifter });
      const run = toArray(sampler);
      if (code) await expectRejection(run, code, /lifter/);
      else await expect(run).rejects.toBe(failure);
      sampler.dispose();
    }
    // The initial noise of every run, which nobody disposes.
    expect(ArrayTensor.live).toBe(before + 4);
  });

  it('leaves the model its whole step where all tokens are active', async () => {
    const model = new WaveModel();
    let steps = 0;
    const advance: NonNullable<VelocityModel<ArrayTensor>['advance']> = async ({ latents, dSigma, ...i }) => {
      steps++;
      expect(i.anchors).toBeUndefined();
      const velocity = await model.velocity({ tokens: latents, ...i });
      return referenceOperators.step(latents, velocity, { grid: GRID, dSigma });
    };
    const sampler = create({ lifter: 'nearest' }, { velocity: (i) => model.velocity(i), advance });
    await toArray(sampler);
    expect(steps).toBe(sampler.plan.stages.at(-1)!.steps);
  });
});

describe('the clean estimate of an event', () => {
  it('is x - sigma v of the state after the step; of the last step the state', async () => {
    const model = new WaveModel();
    const velocities: Float32Array[] = [];
    const sampler = create({ seed: 3 }, model, {
      ...withOperators({
        step: async (latents, velocity, o) => {
          const full = await referenceOperators.step(latents, velocity, o);
          velocities.push(full.data.slice());
          return full;
        },
      }),
    });
    const before = ArrayTensor.live;
    for await (const event of sampler) {
      expect(event.grid).toEqual(GRID);
      using clean = disposable(await event.clean());
      const expected = event.latents.data.map((x, i) => x - event.nextSigma * velocities[event.step]![i]!);
      expect(maxDifference(clean.tensor.data, expected)).toBeLessThan(1e-6);
      if (event.nextSigma === 0) expect(clean.tensor.data).toEqual(event.latents.data);
    }
    expect(ArrayTensor.live).toBe(before);
  });

  it('is to be had until the next step begins', async () => {
    const sampler = create();
    let last: StepEvent<ArrayTensor> | undefined;
    for await (const event of sampler) {
      if (last) await expectRejection(last.clean(), ERROR_CODES.DISPOSED, /step 1 is over/);
      if (event.step === 1) break;
      last = event;
    }
    await expectRejection(last!.clean(), ERROR_CODES.DISPOSED);
    sampler.dispose();
    await expectRejection(last!.clean(), ERROR_CODES.DISPOSED, /disposed/);
  });

  it('that nobody waits for is computed before its tensors change', async () => {
    const order: string[] = [];
    let asked: Promise<ArrayTensor> | undefined;
    const sampler = create({}, new WaveModel(), {
      ...withOperators({
        predictClean: async (latents, velocity, sigma) => {
          await new Promise((resolve) => setTimeout(resolve, 5));
          order.push(velocity.disposed ? 'disposed' : 'computed');
          return referenceOperators.predictClean(latents, velocity, sigma);
        },
        step: async (...args) => {
          order.push('step');
          return referenceOperators.step(...args);
        },
      }),
    });
    for await (const event of sampler) {
      if (event.step === 1) break;
      asked = event.clean();
    }
    expect(order.slice(0, 3)).toEqual(['step', 'computed', 'step']);
    (await asked)?.dispose();
  });
});

const disposable = (tensor: ArrayTensor) => ({ tensor, [Symbol.dispose]: () => tensor.dispose() });
