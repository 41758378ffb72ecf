/** What crosses the Node-API boundary by name: every field is checked, and every error names the field at fault. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ERROR_CODES } from '../../src/errors.js';
import type { NativeBinding, WeightsBinding } from '../../src/engine/binding.js';
import { native } from '../../src/engine/call.js';
import {
  Autoencoder,
  FluxTransformer,
  latentOps,
  Tensor,
  type Conditioning,
} from '../../src/engine/index.js';
import { loadWeightsLibrary } from '../../src/engine/load.js';
import { expectError } from '../support/errors.js';
import { loadMini, MINI, MINI_AXES } from '../support/mini.js';
import { fixturePath } from '../support/safetensors.js';

const IMAGES = 2;
const GRID = [4, 4] as const;
const TOKENS = 16;

type Fields = Record<string, unknown>;
interface Case {
  export: keyof NativeBinding | keyof WeightsBinding;
  good: () => Fields;
  /** Positional arguments before the fields. */
  before?: unknown[];
  /** false: is not called with good fields, as it would need another file. */
  run?: boolean;
  /** Fields that may be absent. */
  optional?: string[];
}

let binding: NativeBinding;
let model: FluxTransformer;
let conditioning: Conditioning;
const tensors: Record<string, Tensor> = {};
beforeAll(async () => {
  binding = native();
  model = await loadMini();
  tensors.prompt = Tensor.randn([IMAGES, 12, 96], { seed: 1 });
  tensors.pooled = Tensor.randn([IMAGES, 48], { seed: 2 });
  conditioning = await model.condition({ prompt: tensors.prompt, pooled: tensors.pooled, sigmas: [1, 0.5] });
  tensors.grid = Tensor.randn([IMAGES, TOKENS, 64], { seed: 3 });
  tensors.other = Tensor.randn([IMAGES, TOKENS, 64], { seed: 4 });
  tensors.some = Tensor.randn([IMAGES, 3, 64], { seed: 5 });
  tensors.two = Tensor.randn([IMAGES, 2, 64], { seed: 6 });
});
afterAll(() => {
  conditioning.dispose();
  model.dispose();
  for (const tensor of Object.values(tensors)) tensor.dispose();
});

const handle = (name: string) => tensors[name]!.handle;
const anchors = Int32Array.of(0, 5, 9);
const newTokens = Int32Array.of(1, 2);
const pass = () => ({
  transformer: model.handle,
  conditioning: conditioning.handle,
  anchors,
  grid: GRID,
  step: Int32Array.of(0, 1),
});
const load = { device: -1, dtype: 'float32', threads: 0, verify: false, mapWeights: true };

const CASES: Case[] = [
  {
    export: 'tensorFrom',
    good: () => ({ data: new Float32Array(4), shape: [2, 2], dtype: 'float32', device: -1 }),
  },
  { export: 'tensorRandn', good: () => ({ shape: [2, 2], seeds: [1n, 2n], dtype: 'float32', device: -1 }) },
  { export: 'gather', good: () => ({ latents: handle('grid'), anchors, perImage: false }) },
  { export: 'lift', good: () => ({ velocity: handle('some'), anchors, grid: GRID, blur: false }) },
  {
    export: 'tensorCombine',
    good: () => ({ tensor: handle('grid'), scale: 2, other: handle('other'), otherScale: -1 }),
    optional: ['other'],
  },
  { export: 'tensorReduce', good: () => ({ tensor: handle('grid'), reduction: 'norm' }) },
  { export: 'importance', good: () => ({ velocity: handle('grid'), grid: GRID }) },
  {
    export: 'selectTokens',
    good: () => ({ velocity: handle('grid'), anchors, perImage: false, count: 4, grid: GRID }),
  },
  {
    export: 'predictClean',
    good: () => ({ latents: handle('grid'), velocity: handle('other'), sigma: 0.5 }),
  },
  {
    export: 'microFlow',
    good: () => ({
      latents: handle('grid'),
      newTokens,
      target: handle('two'),
      weights: Float64Array.of(0.5, 1),
    }),
  },
  {
    export: 'microFlowTarget',
    good: () => ({
      clean: handle('grid'),
      noise: handle('other'),
      anchors,
      newTokens,
      perImage: false,
      sigma: 0.5,
      grid: GRID,
    }),
  },
  {
    export: 'step',
    good: () => ({
      latents: handle('grid'),
      velocity: handle('some'),
      anchors,
      grid: GRID,
      dSigma: -0.1,
    }),
    optional: ['anchors'],
  },
  { export: 'unpack', good: () => ({ tokens: handle('grid'), grid: GRID, scale: 1, shift: 0 }) },
  {
    export: 'stackImages',
    good: () => ({ tensors: [handle('grid'), handle('other')], repeats: Int32Array.of(1, 2) }),
  },
  { export: 'imagesOf', good: () => ({ tensor: handle('grid'), first: 0, count: 1 }) },
  {
    export: 'condition',
    good: () => ({
      transformer: model.handle,
      prompt: handle('prompt'),
      pooled: handle('pooled'),
      guidance: Float64Array.of(3.5),
      sigmas: Float64Array.of(1, 0.5),
    }),
  },
  {
    export: 'forward',
    good: () => ({ ...pass(), tokens: handle('some') }),
    optional: ['anchors'],
  },
  {
    export: 'forward',
    good: () => ({ ...pass(), latents: handle('grid'), perImage: false }),
    // Without latents there should be tokens: the message names these.
    optional: ['anchors', 'latents'],
  },
  {
    export: 'advance',
    good: () => ({ ...pass(), latents: handle('grid'), perImage: false, dSigma: -0.1 }),
    optional: ['anchors', 'latents'],
  },
  {
    export: 'loadTransformer',
    before: [MINI],
    good: () => ({
      ...load,
      blockWeights: 'mapped',
      cudaGraphs: false,
      timeEmbedding: 'reference',
      keepModulation: true,
      ropeAxes: MINI_AXES,
    }),
    optional: ['ropeAxes'],
  },
  {
    export: 'loadClipTextEncoder',
    before: [MINI],
    good: () => ({ ...load, heads: 0, eps: 1e-5, eosTokenId: 2 }),
    run: false,
  },
  {
    export: 'loadT5Encoder',
    before: [MINI],
    good: () => ({ ...load, maxDistance: 128, eps: 1e-6, int8: false }),
    run: false,
  },
  {
    export: 'loadAutoencoder',
    before: [MINI],
    good: () => ({ ...load, normGroups: 32, eps: 1e-6 }),
    run: false,
  },
  { export: 'inspectWeights', before: [MINI], good: () => ({ verify: false, metadata: true }) },
  {
    export: 'convertWeights',
    before: [MINI, '/nowhere'],
    good: () => ({
      format: 'safetensors',
      dtype: 'keep',
      resume: false,
      verify: false,
      completed: '',
      ropeAxes: MINI_AXES,
    }),
    run: false,
    optional: ['ropeAxes'],
  },
];

const call = ({ export: name, before = [] }: Case, fields: unknown): unknown => {
  const library = name === 'inspectWeights' || name === 'convertWeights' ? loadWeightsLibrary() : binding;
  const exports = library as unknown as Record<string, (...args: unknown[]) => unknown>;
  return exports[name]!(...before, fields);
};
const CODES: unknown[] = [
  ERROR_CODES.INVALID_ARGUMENT,
  ERROR_CODES.INVALID_ANCHORS,
  ERROR_CODES.INVALID_TENSOR,
];

/** The error that a call throws before it starts anything. */
function refusal(run: () => unknown): Error & { code?: string; details?: Record<string, unknown> } {
  try {
    void Promise.resolve(run()).catch(() => undefined);
  } catch (error) {
    return error as Error & { code?: string };
  }
  throw new Error('was not refused');
}

/** Lets go of the handles in a result. */
async function settle(result: unknown): Promise<void> {
  const settled: unknown = await result;
  if (typeof settled !== 'object' || settled === null || ArrayBuffer.isView(settled)) return;
  const { handle: model } = settled as { handle?: never };
  if (model !== undefined) binding.release(model);
  else if (!('tensors' in settled)) binding.release(settled as never);
}

describe.each(CASES)('$export', (c) => {
  if (c.run !== false) it('takes what it should', async () => settle(call(c, c.good())));

  it('refuses anything but an object', () => {
    for (const wrong of [undefined, null, 7, 'x', true, Symbol('x')]) {
      const error = refusal(() => call(c, wrong));
      expect(error.code).toBe(ERROR_CODES.INVALID_ARGUMENT);
      expect(error.message).toMatch(/^Expected an object for "options" but received /);
    }
  });

  it('names the field that is missing or of the wrong kind', () => {
    const good = c.good();
    for (const field of Object.keys(good)) {
      for (const wrong of [undefined, null, {}, [], NaN, Symbol('x'), () => 1]) {
        if (wrong === undefined && c.optional?.includes(field)) continue;
        const error = refusal(() => call(c, { ...good, [field]: wrong }));
        expect(CODES, `${field}: ${error.message}`).toContain(error.code);
        expect(error.message).toContain(`"${field}"`);
        if (error.details?.option !== undefined) expect(error.details.option).toBe(field);
      }
    }
  });

  it('passes on what a getter throws', () => {
    const [field] = Object.keys(c.good()) as [string];
    const failure = new RangeError('mine');
    const fields = Object.defineProperty(c.good(), field, {
      get: () => {
        throw failure;
      },
    });
    expect(refusal(() => call(c, fields))).toBe(failure);
  });
});

describe('fields refuse', () => {
  const of = (name: Case['export']) => CASES.find((c) => c.export === name)!;
  it.each([
    ['tensorFrom', { device: -2 }, /"device".*-2/],
    ['tensorFrom', { dtype: 'float8' }, /'float32', .* or 'int64' for "dtype" but received 'float8'/],
    ['tensorRandn', { seeds: [1n, 2n, 3n] }, /one per image \(2\), for "seeds" but received 3/],
    ['tensorRandn', { seeds: [-1n] }, /"seeds"/],
    ['tensorRandn', { dtype: 'int32' }, /floating point.*"dtype"/],
    ['gather', { perImage: 0 }, /true or false for "perImage" but received 0/],
    ['lift', { grid: [4, 4, 1] }, /"grid"/],
    ['lift', { grid: [4097, 1] }, /"grid rows".*4097/],
    ['lift', { grid: [4, 0.5] }, /"grid columns".*0.5/],
    ['selectTokens', { count: 14 }, /0 to 13 for "count"/],
    ['microFlow', { weights: new Float64Array() }, /"weights"/],
    ['microFlow', { weights: Float64Array.of(NaN) }, /"weights"/],
    ['stackImages', { repeats: Int32Array.of(1) }, /one number per tensor \(2\) for "repeats"/],
    ['stackImages', { repeats: Int32Array.of(1, 0) }, /"repeats"/],
    ['imagesOf', { first: 2 }, /"first"/],
    ['imagesOf', { count: 3 }, /"count"/],
    ['condition', { guidance: new Float64Array() }, /one per image \(2\), for "guidance" but received 0/],
    ['condition', { guidance: new Float64Array(3) }, /"guidance" but received 3/],
    ['condition', { sigmas: new Float64Array() }, /"sigmas"/],
    ['condition', { sigmas: Float64Array.of(1.5) }, /"sigmas"/],
    ['forward', { step: new Int32Array() }, /one per image \(2\), for "step" but received 0/],
    ['forward', { step: new Int32Array(3) }, /"step" but received 3/],
    ['forward', { step: Int32Array.of(2) }, /0 to 1 for "step"/],
    ['advance', { step: Int32Array.of(0, -1) }, /0 to 1 for "step"/],
    ['loadTransformer', { blockWeights: 'resident' }, /'mapped', 'packed' or 'int8' for "blockWeights"/],
    ['loadTransformer', { blockWeights: 'none' }, /"blockWeights" but received 'none'/],
    ['loadTransformer', { timeEmbedding: 'precise' }, /'reference' or 'exact' for "timeEmbedding"/],
    ['loadTransformer', { dtype: 'float16' }, /'float32' or 'bfloat16' for "dtype"/],
    ['loadTransformer', { ropeAxes: [1, 2] }, /three numbers for "ropeAxes"/],
    ['loadTransformer', { threads: -1 }, /"threads"/],
    ['convertWeights', { format: 'gguf' }, /'torchscript' or 'safetensors' for "format"/],
    ['convertWeights', { dtype: 'int8' }, /'keep', .* or 'float16' for "dtype"/],
  ] as const)('%s: %o', (name, wrong, message) => {
    const c = of(name);
    const error = refusal(() => call(c, { ...c.good(), ...wrong }));
    expect(error.code).toBe(ERROR_CODES.INVALID_ARGUMENT);
    expect(error.message).toMatch(message);
  });

  it('a tiling, by its own fields', async () => {
    const path = fixturePath('text-vae/vae.safetensors');
    using autoencoder = await Autoencoder.load(path);
    using latents = Tensor.randn([1, autoencoder.config.latentChannels, 4, 4], { seed: 1 });
    const decode = (tiling: unknown) =>
      binding.decodeLatents(autoencoder.handle, latents.handle, tiling as never);
    const good = { mode: 'fixed', memoryBudgetBytes: 1 << 30, tileSize: 4, overlap: 1 };
    await settle(decode(good));
    for (const [field, wrong] of [
      ['mode', 'sometimes'],
      ['tileSize', 1],
      ['overlap', 4],
      ['memoryBudgetBytes', -1],
    ] as const) {
      const error = refusal(() => decode({ ...good, [field]: wrong }));
      expect([error.code, error.details?.option]).toEqual([ERROR_CODES.INVALID_ARGUMENT, field]);
    }
    expect(refusal(() => decode(undefined)).message).toMatch(/an object for "tiling"/);
  });

  it('tokens and latents at once', () => {
    const c = of('forward');
    const both = { ...c.good(), latents: handle('grid'), perImage: false };
    expect(refusal(() => call(c, both)).message).toMatch(/either tokens or latents/);
  });
});

describe('what has no elements is refused, not read', () => {
  const tokens = () => tensors.some!;
  it.each([[[]], [''], [new Map()], [new Set([0])], [[[]]], [[0, 1, 0]]])(
    'forward: step %o',
    async (step) => {
      await expectError(
        () => model.forward({ tokens: tokens(), anchors, grid: GRID, conditioning, step: step as never }),
        ERROR_CODES.INVALID_ARGUMENT,
        /"step"/,
      );
    },
  );

  it.each([[[]], [[1, 2, 3]], [['']], [new Map()]])('condition: guidance %o', async (guidance) => {
    const { prompt, pooled } = tensors as { prompt: Tensor; pooled: Tensor };
    await expectError(
      () => model.condition({ prompt, pooled, sigmas: [1], guidance: guidance as never }),
      ERROR_CODES.INVALID_ARGUMENT,
      /"guidance"/,
    );
  });

  it('lists of tensors, seeds, shapes', async () => {
    const refused = (run: () => unknown, message: RegExp) =>
      expectError(run, ERROR_CODES.INVALID_ARGUMENT, message);
    await refused(() => Tensor.stack([]), /"tensors"/);
    await refused(() => Tensor.stack([tokens()], { repeats: [] }), /"repeats"/);
    await refused(() => Tensor.randn([2], { seed: [] }), /"seeds"/);
    await refused(() => Tensor.randn([], { seed: 1 }), /"shape"/);
    await refused(() => Tensor.from(new Float32Array(), []), /"shape"/);
    await refused(() => Tensor.from(new Float32Array(), [0]), /"shape"/);
    await refused(() => latentOps.unpack(tokens(), [] as never, { scale: 1, shift: 0 }), /"grid"/);
  });

  it('takes one step and one guidance for all images', async () => {
    const { prompt, pooled } = tensors as { prompt: Tensor; pooled: Tensor };
    using one = await model.condition({ prompt, pooled, sigmas: [1, 0.5], guidance: [3.5] });
    using a = await model.forward({ tokens: tokens(), anchors, grid: GRID, conditioning: one, step: [1] });
    using b = await model.forward({ tokens: tokens(), anchors, grid: GRID, conditioning, step: [1, 1] });
    expect(await a.toFloat32Array()).toEqual(await b.toFloat32Array());
  });

  it('facts about the CPU as an accelerator', () => {
    const error = refusal(() => binding.deviceInfo(-1));
    expect(error.code).toBe(ERROR_CODES.INVALID_ARGUMENT);
    expect(error.message).toMatch(/"device"/);
  });
});
