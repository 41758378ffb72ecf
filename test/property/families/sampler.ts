/* eslint-disable @typescript-eslint/unbound-method -- operators are handed on, not called */
/** `jit-flux/sampler`: plans, schedules, anchors, random numbers, and the loop over another tensor library. */
import { types } from 'node:util';

import type { MicroFlowOptions, SampleOptions } from '../../../src/types.js';
import type { PlanOptions } from '../../../src/sampler/index.js';
import { type Api, Deliberate, type Family, type Target } from '../../support/hostile/family.js';
import { NEVER } from '../../support/hostile/values.js';
import { ArrayTensor, referenceBackend } from '../../support/reference-operators.js';

type World = Api;
type Call = (...args: unknown[]) => unknown;

const GRID = [4, 5];
const anchors = () => Int32Array.of(0, 7, 19, 3);

/** A function of the entry point that is called as it is. */
function plain(name: string, good: (api: Api) => unknown[]): Target<World> {
  return {
    name,
    good,
    call: ({ sampler }, args) => (sampler as unknown as Record<string, Call>)[name]!(...args),
  };
}

/** A method of the random numbers. */
function random(method: string, good: () => unknown[]): Target<World> {
  return {
    name: `Random#${method}`,
    good,
    call: ({ sampler }, args) => (new sampler.Random(7) as unknown as Record<string, Call>)[method]!(...args),
  };
}

const jitOptions = () => ({
  preset: 'jit-7x' as const,
  steps: 6,
  stageRatios: [0.4, 1],
  tokenRatios: [0.5, 1],
  schedule: { kind: 'beta' as const, alpha: 1.4, beta: 0.425 },
  initialAnchors: 'strided' as const,
  activation: 'grid' as const,
  microFlow: { mode: 'relax', steps: 3 } satisfies Required<MicroFlowOptions> as MicroFlowOptions,
  lifter: 'gaussian' as const,
  importanceInEvents: true,
});

const planOptions = ({ sampler }: Api) =>
  ({
    ...jitOptions(),
    grid: GRID as [number, number],
    seed: 3,
    model: { config: { ...sampler.FLUX_TINY }, textTokens: 24 },
  }) satisfies Required<PlanOptions>;

function sampleOptions() {
  return {
    ...jitOptions(),
    activation: (ctx: { anchors: Int32Array; targetCount: number }) => {
      const set = new Set(ctx.anchors);
      for (let token = 0; set.size < ctx.targetCount; token++) set.add(token);
      return Int32Array.from(set);
    },
    grid: GRID as [number, number],
    latents: ArrayTensor.randn([2, 20, 4], [1n, 2n]),
    microFlowNoise: ArrayTensor.randn([2, 20, 4], [3n, 4n]),
    seed: [5, 6],
    signal: new AbortController().signal,
  } satisfies Required<SampleOptions<ArrayTensor>>;
}

const model = () => ({
  velocity: async ({ tokens }: { tokens: ArrayTensor }) => tokens.clone(),
});

/** The thenable that never settles, or a copy of it. */
function neverSettles(value: unknown): boolean {
  return (
    typeof value === 'object' &&
    value !== null &&
    !types.isProxy(value) &&
    Object.values(Object.getOwnPropertyDescriptors(value)).some((field) => field.value === NEVER.then)
  );
}

/** What a run gives, to its end. */
async function iterate(sampler: AsyncIterable<unknown> & { dispose(): void }): Promise<void> {
  try {
    for await (const event of sampler) void event;
  } finally {
    sampler.dispose();
  }
}

export const family: Family<World> = {
  open: (api) => api,
  targets: [
    plain('createPlan', (api) => [planOptions(api)]),
    plain('resolveOptions', () => [jitOptions()]),
    plain('getPreset', () => ['jit-4x']),
    plain('betaSigmas', () => [10, 1.4, 0.42]),
    plain('scheduleSigmas', () => [{ kind: 'static', shift: 3 }, 4, 256]),
    { ...plain('scheduleSigmas', () => [{ kind: 'sigmas', sigmas: [1, 0.5] }, 2, 256]) },
    plain('shiftMu', () => [4096]),
    plain('shiftSigmas', () => [4, 4096]),
    plain('staticSigmas', () => [4, 3]),
    plain('betaQuantile', () => [0.5, 1.4, 0.42]),
    plain('regularizedBeta', () => [0.5, 1.4, 0.42]),
    plain('divideStages', () => [
      { steps: 10, tokens: 64, stageRatios: [0.4, 1], tokenRatios: [0.5, 1], initialCount: 20 },
    ]),
    plain('normalizeStageRatios', () => [[0.4, 1]]),
    plain('normalizeTokenRatios', () => [[0.4, 1]]),
    plain('stageBorders', () => [10, [0.4, 1]]),
    plain('stageTokens', () => [64, 0.3]),
    plain('activateAll', () => [anchors(), 20]),
    plain('activateByImportance', () => [anchors(), 9, new Float32Array(20)]),
    plain('activateOnGrid', () => [anchors(), 9, GRID]),
    plain('checkerboardBase', () => [GRID]),
    plain('fitAnchors', ({ sampler }) => [anchors(), 9, 20, new sampler.Random(3)]),
    plain('fitAnchors', ({ sampler }) => [anchors(), 2, 20, new sampler.Random(3)]),
    plain('selectInitialAnchors', ({ sampler }) => [
      { pattern: 'strided', grid: GRID, count: 9, ratio: 0.3, random: new sampler.Random(3) },
    ]),
    plain('stridedBase', () => [GRID, 0.3]),
    plain('imageSeed', () => [7, 1]),
    plain('normalizeSeed', () => [7, 'seed']),
    plain('subSeed', () => [7, 'anchors']),
    plain('fluxFlops', ({ sampler }) => [{ ...sampler.FLUX_TINY }, 64, 24]),
    {
      name: 'new Random',
      good: () => [7],
      call: ({ sampler }, args) => new sampler.Random(...(args as [number])),
    },
    random('uint32', () => []),
    random('next', () => []),
    random('below', () => [10]),
    random('choose', () => [anchors(), 2]),
    random('permutation', () => [10]),
    {
      name: 'new JitFluxError',
      good: ({ main }) => [main.ERROR_CODES.NATIVE, 'text', { a: 1 }, { cause: 7 }],
      call: ({ sampler }, args) =>
        new sampler.JitFluxError(...(args as ConstructorParameters<typeof sampler.JitFluxError>)),
    },
    {
      name: 'new SamplerCore',
      passes: true,
      good: () => [
        model(),
        sampleOptions(),
        { ...referenceBackend, operators: { ...referenceBackend.operators } },
      ],
      async: true,
      call: async ({ sampler }, args) =>
        iterate(
          new sampler.SamplerCore(
            ...(args as ConstructorParameters<typeof sampler.SamplerCore<ArrayTensor>>),
          ),
        ),
      slow: 0.3,
    },
    {
      // What a model, a policy and a backend give back.
      name: 'SamplerCore#[Symbol.asyncIterator]',
      good: () => [
        {
          velocity: undefined,
          advance: undefined,
          policy: undefined,
          gather: undefined,
          step: undefined,
          importance: undefined,
          randn: undefined,
          selectTokens: undefined,
          predictClean: undefined,
          microFlowTarget: undefined,
        },
      ],
      async: true,
      passes: true,
      call: async ({ sampler }, [given]) => {
        let bad: Record<string, unknown> = {};
        try {
          bad = { ...(given as object) };
        } catch {
          return; // not what is tested here
        }
        // Whoever waits for a model that never answers waits for ever.
        if (Object.values(bad).some(neverSettles)) return;
        const replaced = <F>(name: string, usual: F): F =>
          bad[name] === undefined ? usual : ((() => bad[name]) as F);
        const { policy } = bad;
        const o: SampleOptions<ArrayTensor> = sampleOptions();
        await iterate(
          new sampler.SamplerCore<ArrayTensor>(
            {
              velocity: replaced('velocity', model().velocity),
              ...(bad['advance'] !== undefined && { advance: () => bad['advance'] as Promise<ArrayTensor> }),
            },
            {
              ...o,
              activation: policy === undefined ? 'importance' : () => policy as Int32Array,
            },
            {
              randn: replaced('randn', referenceBackend.randn),
              operators: {
                ...referenceBackend.operators,
                gather: replaced('gather', referenceBackend.operators.gather),
                step: replaced('step', referenceBackend.operators.step),
                importance: replaced('importance', referenceBackend.operators.importance),
                predictClean: replaced('predictClean', referenceBackend.operators.predictClean),
                microFlowTarget: replaced('microFlowTarget', referenceBackend.operators.microFlowTarget),
                ...(bad['selectTokens'] !== undefined && {
                  selectTokens: () => bad['selectTokens'] as Promise<Int32Array>,
                }),
              },
            },
          ),
        );
      },
      slow: 0.3,
    },
    {
      name: 'SamplerCore#dispose',
      good: () => [],
      call: ({ sampler }, args) => {
        const core = new sampler.SamplerCore<ArrayTensor>(model(), sampleOptions(), referenceBackend);
        core.dispose(...(args as []));
        core[Symbol.dispose](...(args as []));
      },
    },
    {
      name: 'an error of a callback',
      good: () => [],
      async: true,
      passes: true,
      call: async ({ sampler }) =>
        iterate(
          new sampler.SamplerCore<ArrayTensor>(
            { velocity: () => Promise.reject(new Deliberate('mine')) },
            sampleOptions(),
            referenceBackend,
          ),
        ),
      slow: 100,
    },
  ],
};
