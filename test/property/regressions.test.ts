/** What the property tests have found, case by case. */
import { describe, expect, it } from 'vitest';

import { ERROR_CODES, JitFluxError } from '../../src/errors.js';
import {
  activateAll,
  activateByImportance,
  activateOnGrid,
  betaQuantile,
  betaSigmas,
  createPlan,
  fluxFlops,
  Random,
  resolveOptions,
  SamplerCore,
  shiftSigmas,
  staticSigmas,
  subSeed,
} from '../../src/sampler/index.js';
import { VALUES } from '../support/hostile/values.js';
import { ArrayTensor, referenceBackend } from '../support/reference-operators.js';

const { INVALID_ARGUMENT, INVALID_ANCHORS } = ERROR_CODES;

function refusal(run: () => unknown, message?: RegExp): JitFluxError {
  let thrown: unknown;
  try {
    run();
  } catch (error) {
    thrown = error;
  }
  expect(thrown).toBeInstanceOf(JitFluxError);
  expect([INVALID_ARGUMENT, INVALID_ANCHORS, ERROR_CODES.UNKNOWN_PRESET]).toContain(
    (thrown as JitFluxError).code,
  );
  if (message) expect((thrown as JitFluxError).message).toMatch(message);
  return thrown as JitFluxError;
}

const named = (name: string) => VALUES[name]!() as never;
const grid = [4, 5] as const;

describe('hangs', () => {
  it('a list of 2^32 - 1 holes is refused by its length', () => {
    const stageRatios = named('array of 2^32 - 1 holes');
    refusal(() => createPlan({ grid, stageRatios }), /"stageRatios"/);
    refusal(
      () => createPlan({ grid, schedule: { kind: 'sigmas', sigmas: stageRatios } }),
      /"schedule.sigmas"/,
    );
  });

  it('a number below 2^33 is refused, as none is drawn for ever', () => {
    refusal(() => new Random(1).below(2 ** 33), /an integer from 1 to 4294967296 for "n"/);
    refusal(() => new Random(1).permutation(1e12), /"n"/);
  });

  it('schedules of any number of steps are not begun', () => {
    for (const run of [
      () => betaSigmas(85_877_786, 1, 1),
      () => shiftSigmas(2 ** 31, 256),
      () => staticSigmas(2 ** 31, 3),
    ]) {
      refusal(run, /an integer from 1 to 1000 for "steps"/);
    }
  });
});

describe('errors of another kind', () => {
  it.each([
    'revoked proxy',
    'throwing proxy',
    'throwing array proxy',
    'cyclic',
    'throwing constructor',
    'throwing toJSON',
    'array of bigints',
    'array of symbols',
    'throwing toPrimitive',
  ])('the message about a value survives the value: %s', (name) => {
    for (const option of [
      'preset',
      'steps',
      'stageRatios',
      'schedule',
      'initialAnchors',
      'activation',
      'microFlow',
    ]) {
      const error = refusal(() => createPlan({ grid, [option]: named(name) }));
      expect(() => JSON.stringify(error.details)).not.toThrow();
    }
  });

  it('a getter that throws is an argument that cannot be read', () => {
    const failure = new RangeError('mine');
    const options = Object.defineProperty({ grid }, 'steps', {
      get: () => {
        throw failure;
      },
    });
    const error = refusal(() => createPlan(options), /readable value for "steps"/);
    expect(error.cause).toBe(failure);
  });

  it.each(['revoked proxy', 'throwing proxy', 'undefined'])(
    'a getter may throw anything: %s',
    async (name) => {
      const thrown = named(name);
      const options = Object.defineProperty({ grid }, 'steps', {
        get: () => {
          // eslint-disable-next-line @typescript-eslint/only-throw-error -- what is tested
          throw thrown;
        },
      });
      refusal(() => createPlan(options), /readable value for "steps"/);
      // What a callback throws passes, whatever it is.
      const latents = ArrayTensor.zeros([1, 20, 4]);
      const sampler = new SamplerCore(
        // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- what is tested
        { velocity: () => Promise.reject(thrown) },
        { grid, latents },
        referenceBackend,
      );
      let passed: unknown = 'nothing';
      await sampler[Symbol.asyncIterator]()
        .next()
        .catch((error: unknown) => {
          passed = error; // not returned: a promise would look into it
        });
      expect(Object.is(passed, thrown)).toBe(true);
      sampler.dispose();
    },
  );

  it('a field is read once, so that what was checked is what is used', () => {
    let reads = 0;
    const options = Object.defineProperty({ grid }, 'tokenRatios', {
      get: () => (reads++ === 0 ? [0.35, 0.62, 1] : 7),
    });
    expect(createPlan(options).stages).toHaveLength(3);
    expect(reads).toBe(1);
  });

  it.each([
    'Int32Array with a hostile species',
    'Int32Array with hostile methods',
    'Int32Array of another realm',
  ])('anchors are copied by no method of theirs: %s', (name) => {
    const { initialAnchors } = resolveOptions({ initialAnchors: named(name) });
    expect(Object.getPrototypeOf(initialAnchors)).toBe(Int32Array.prototype);
  });

  it.each([
    'detached Int32Array',
    'Int32Array out of bounds',
    'proxy of a typed array',
    'Int32Array of equals',
  ])('anchors that are no list are refused: %s', (name) => {
    refusal(() => createPlan({ grid, initialAnchors: named(name) }), /"initialAnchors"/);
    refusal(() => activateAll(named(name), 20), /"anchors"/);
  });

  it('the functions of jit-flux/sampler check what they are given', () => {
    refusal(() => activateByImportance(Int32Array.of(0), 9, named('Float64Array')), /"importance"/);
    refusal(() => activateOnGrid(Int32Array.of(25), 9, grid), /"anchors"/);
    refusal(() => activateOnGrid(Int32Array.of(1), -1, grid), /"targetCount"/);
    refusal(() => fluxFlops(named('null'), 1, 1), /"config"/);
    refusal(() => new Random(3).choose(Int32Array.of(1), 2), /"count"/);
    refusal(() => subSeed(1, named('symbol')), /"name"/);
    refusal(() => betaQuantile(0.5, named('throwing toPrimitive'), 1), /"a"/);
  });

  it('an error can be made of anything', () => {
    const error = new JitFluxError(named('symbol'), named('symbol'), undefined, named('throwing proxy'));
    expect(error.message).toBe('Symbol(hostile)');
  });

  it.each([
    'duck-typed signal',
    'event target',
    'object with the prototype of a signal',
    'signal that throws when listened to',
  ])('a sampler takes no signal that only looks like one: %s', (name) => {
    const latents = ArrayTensor.zeros([1, 20, 4]);
    const model = { velocity: async ({ tokens }: { tokens: ArrayTensor }) => tokens.clone() };
    refusal(
      () => new SamplerCore(model, { grid, latents, signal: named(name) }, referenceBackend),
      /"signal"/,
    );
  });

  it('what a backend returns is checked', async () => {
    const latents = ArrayTensor.zeros([1, 20, 4]);
    const model = { velocity: async ({ tokens }: { tokens: ArrayTensor }) => tokens.clone() };
    const operators = { ...referenceBackend.operators, gather: async () => undefined as never };
    const sampler = new SamplerCore(model, { grid, latents }, { ...referenceBackend, operators });
    await expect(sampler[Symbol.asyncIterator]().next()).rejects.toMatchObject({
      code: ERROR_CODES.INVALID_TENSOR,
    });
    sampler.dispose();
  });
});

describe('numbers that are none', () => {
  it('a schedule of the largest grid', () => {
    for (const sigma of shiftSigmas(10, 1 << 24)) expect(sigma > 0 && sigma <= 1).toBe(true);
  });

  it('the smallest static shift', () => {
    for (const sigma of staticSigmas(1000, Number.MIN_VALUE)) expect(sigma > 0 && sigma <= 1).toBe(true);
  });

  it('the smallest shapes of a Beta distribution', () => {
    for (const a of [Number.MIN_VALUE, 1e-308, 1e-20]) {
      for (const b of [a, 1, 1000]) {
        for (const sigma of [...betaSigmas(7, a, b), ...betaSigmas(7, b, a)]) {
          expect(sigma > 0 && sigma <= 1, `${a}, ${b}: ${sigma}`).toBe(true);
        }
      }
    }
  });
});
