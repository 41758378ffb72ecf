/** What the property tests have found, case by case. */
import { describe, expect, it } from 'vitest';

import {
  Autoencoder,
  ClipTextEncoder,
  convertModel,
  encodeOnly,
  ERROR_CODES,
  FluxPipeline,
  FluxTransformer,
  inspectWeights,
  jit,
  JitFluxError,
  latentOps,
  loadEncodedPrompts,
  type ModelSpec,
  planMemory,
  resolveModel,
  setLogger,
  setupLibTorch,
  T5Encoder,
  Tensor,
  TorchScriptModule,
} from '../../src/index.js';
import {
  activateAll,
  activateByImportance,
  activateOnGrid,
  betaQuantile,
  betaSigmas,
  createPlan,
  divideStages,
  fluxFlops,
  Random,
  resolveOptions,
  SamplerCore,
  shiftSigmas,
  staticSigmas,
  subSeed,
} from '../../src/sampler/index.js';
import { generatedImageOf } from '../../src/pipeline/image.js';
import { VALUES } from '../support/hostile/values.js';
import { fixturePath } from '../support/safetensors.js';
import { ArrayTensor, referenceBackend } from '../support/reference-operators.js';

const { INVALID_ARGUMENT, INVALID_ANCHORS } = ERROR_CODES;

async function rejection(run: () => unknown, message: RegExp): Promise<JitFluxError> {
  let promise: unknown;
  // A function that promises never throws.
  expect(() => (promise = run())).not.toThrow();
  const error: unknown = await (promise as Promise<unknown>).catch((reason: unknown) => reason);
  return refusal(() => {
    throw error;
  }, message);
}

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

/** A field whose getter throws. */
const unreadable = (option: string) => Object.defineProperty({}, option, { enumerable: true, get: fail });
function fail(): never {
  throw new RangeError('mine');
}

describe('the main entry', () => {
  it('a list of stages leaves a step for the last one, which has all tokens', () => {
    const o = { steps: 1, tokens: 200, stageRatios: [0.01, 1, 1], tokenRatios: [0.01, 0.01, 1] };
    refusal(() => divideStages(o), /a step for the last stage/);
    refusal(() => createPlan({ grid, stageRatios: [1, 1], tokenRatios: [0.5, 1] }), /"stageRatios"/);
  });

  it('a pipeline is loaded, and a description is read, with errors of their own', async () => {
    await rejection(() => FluxPipeline.load(unreadable('path') as never), /readable value for "path"/);
    for (const model of [
      'symbol',
      'revoked proxy',
      'throwing proxy',
      'null',
      'array',
      'cyclic',
      'nul inside',
    ]) {
      await rejection(() => FluxPipeline.load(named(model)), /"model"|readable/);
      await rejection(() => resolveModel(named(model)), /"model"|readable/);
      await rejection(() => planMemory(named(model)), /"model"|readable/);
    }
    await rejection(() => FluxPipeline.load('flux-tiny', unreadable('memoryCheck')), /"memoryCheck"/);
    await rejection(
      () => FluxPipeline.load('flux-tiny', { memoryCheck: { images: '2' } } as never),
      /"memoryCheck.images"/,
    );
    await rejection(() => FluxPipeline.load('flux-tiny', named('null')), /"options"/);
    await rejection(
      () => resolveModel('flux-tiny', { textEncoders: 'a\0b' }),
      /"textEncoders".*NUL|NUL.*"textEncoders"/,
    );
  });

  it.each([
    ['info', null],
    ['info.text.length', 'long'],
    ['info.decoder.spatialFactor', 0],
    ['info.defaults.width', 2 ** 53],
    ['info.defaults.dense', { steps: 4 }],
    ['transformer.config', {}],
    ['transformer.config.hiddenSize', NaN],
    ['transformer.config.ropeAxes', [1]],
    ['text.clip.settings', undefined],
    ['text.t5.architecture.width', -1],
    ['text', { kind: 'native' }],
    ['decoder', { kind: 'another' }],
    ['decoder.architecture.channels', new Array<number>(2 ** 32 - 1)],
    ['decoder.settings', 7],
    ['inferred', [7]],
    ['path', 'a\0b'],
  ])('a description made by hand is checked to its last field: %s', async (at, value) => {
    const spec = JSON.parse(JSON.stringify(await resolveModel('flux.1-dev'))) as Record<string, unknown>;
    const names = at.split('.');
    const holder = names.slice(0, -1).reduce((part, name) => part[name] as Record<string, unknown>, spec);
    holder[names.at(-1)!] = value;
    const load = (model: ModelSpec) => FluxPipeline.load(model);
    for (const use of [resolveModel, planMemory, load, encodeOnly]) {
      const error = await rejection(
        () =>
          (use as (model: unknown, prompt: string) => unknown)(
            spec,
            use === encodeOnly ? 'a' : (undefined as never),
          ),
        /"model"|lists of at most|plain data/,
      );
      expect(() => JSON.stringify(error.details)).not.toThrow();
    }
    await rejection(
      () => convertModel(spec as never, '/nonexistent/out'),
      /"model"|lists of at most|plain data/,
    );
  });

  it('a description is used as it was when it was checked', async () => {
    const spec = JSON.parse(JSON.stringify(await resolveModel('flux.1-dev'))) as ModelSpec;
    let reads = 0;
    const { info } = spec;
    Object.defineProperty(spec, 'info', { enumerable: true, get: () => (reads++ === 0 ? info : null) });
    expect((await planMemory(spec)).model).toBe('flux.1-dev');
    expect(reads).toBe(1);
  });

  it.each([
    ['with NUL', 'a\0b.safetensors'],
    ['that no system takes', 'a'.repeat(4096)],
  ])('paths %s are refused by every function that takes one', async (_name, path) => {
    for (const run of [
      () => resolveModel(path),
      () => resolveModel('flux-tiny', { textEncoders: path }),
      () => FluxTransformer.load(path),
      () => ClipTextEncoder.load(path),
      () => T5Encoder.load(path),
      () => Autoencoder.load(path),
      () => inspectWeights(path),
      () => loadEncodedPrompts(path),
      () => convertModel(path, 'out.pt'),
      () => convertModel('in.pt', path),
      () => setupLibTorch({ from: path }),
      () => setupLibTorch({ cacheDir: path }),
    ]) {
      await rejection(run, /has no NUL/);
    }
  });

  it('options that cannot be read, and that are none', async () => {
    const bad = unreadable('signal');
    for (const run of [
      (o: never) => FluxTransformer.load('none', o),
      (o: never) => ClipTextEncoder.load('none', o),
      (o: never) => T5Encoder.load('none', o),
      (o: never) => Autoencoder.load('none', o),
      (o: never) => TorchScriptModule.load('none', o),
      (o: never) => inspectWeights('none', o),
      (o: never) => loadEncodedPrompts('none', o),
      (o: never) => encodeOnly('flux-tiny', 'a', o),
      (o: never) => planMemory('flux-tiny', o),
      (o: never) => convertModel('none', 'out.pt', o),
      (o: never) => setupLibTorch(o),
    ]) {
      await rejection(() => run(bad as never), /readable value for "signal"/);
      await rejection(() => run(named('null')), /"options"/);
    }
    refusal(() => setLogger(unreadable('log')), /"log"/);
    refusal(() => setLogger(named('null')), /"options"/);
  });

  it('what a picture says is checked on the calling thread', async () => {
    const image = { width: 1, height: 1, data: new Uint8Array(3) };
    const make = (metadata: unknown) =>
      generatedImageOf({ image, prompt: 'a', seed: 1, metadata: metadata as never });
    for (const metadata of [{ a: () => undefined }, { ['k'.repeat(80)]: 1 }, { 'a\0b': 1 }, 7]) {
      refusal(() => make(metadata).toPNG(), /"metadata/);
      await rejection(() => make(metadata).toPNGAsync(), /"metadata/);
    }
    await rejection(() => make({}).toPNGAsync(named('null')), /"options"/);
  });

  it('a bound model promises, and rejects', async () => {
    using model = await FluxTransformer.load(fixturePath('flux/flux-nano.safetensors'));
    using prompt = Tensor.randn([1, 4, 24], { seed: 1 });
    using pooled = Tensor.randn([1, 12], { seed: 2 });
    using conditioning = await model.condition({ prompt, pooled, sigmas: [1] });
    const bound = model.bind(conditioning);
    await rejection(() => bound.velocity(undefined as never), /"options"/);
    await rejection(() => bound.advance!(undefined as never), /"options"/);
    refusal(() => model.bind(named('object')), /"conditioning"/);
  });

  it('a factor is finite in float32', async () => {
    using latents = Tensor.randn([1, 16, 4], { seed: 1 });
    const where = [4, 4] as const;
    await rejection(() => jit.predictClean(latents, latents, -1.7e78), /float32 for "sigma"/);
    await rejection(() => jit.step(latents, latents, { grid: where, dSigma: 1e39 }), /float32 for "dSigma"/);
    await rejection(
      () => latentOps.unpack(latents, where, { scale: 1e300, shift: 0 }),
      /float32 for "scale"/,
    );
  });
});
