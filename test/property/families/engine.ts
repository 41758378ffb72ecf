/** What is native in `jit-flux`: tensors, the JiT operators, model classes, devices, weight files. */
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';

import type { JitSampler, Tensor } from '../../../src/engine/index.js';
import type { Conditioning, FluxTransformer } from '../../../src/engine/index.js';
import { type Api, Deliberate, type Family, type Main, type Target } from '../../support/hostile/family.js';
import { MUTATOR } from '../../support/hostile/mutator.js';

type Call = (...args: unknown[]) => unknown;
type Methods = Record<string, Call>;

/** Loaded models and what is handed to them. */
interface World extends Api {
  models: Partial<{
    transformer: FluxTransformer;
    clip: Awaited<ReturnType<Main['ClipTextEncoder']['load']>>;
    t5: Awaited<ReturnType<Main['T5Encoder']['load']>>;
    vae: Awaited<ReturnType<Main['Autoencoder']['load']>>;
    script: Awaited<ReturnType<Main['TorchScriptModule']['load']>>;
    conditioning: Conditioning;
  }>;
  /** Memory that another thread changes all the time. */
  changing: SharedArrayBuffer;
  worker: Worker;
}

const GRID = [4, 4];
const TOKENS = 16;
const IMAGES = 2;
const anchors = () => Int32Array.of(0, 5, 9);
const newTokens = () => Int32Array.of(1, 2);
const signal = () => new AbortController().signal;

const files = ({ root }: Api) => {
  const fixture = (name: string) => join(root, 'test/fixtures', name);
  return {
    nano: fixture('flux/flux-nano.safetensors'),
    clip: fixture('text-vae/clip.safetensors'),
    t5: fixture('text-vae/t5.safetensors'),
    vae: fixture('text-vae/vae.safetensors'),
    script: join(root, 'models/flux-tiny/vae_decoder.pt'),
  };
};

const randn = ({ main }: Api, shape: number[], seed = 1) => main.Tensor.randn(shape, { seed });
const latents = (w: Api) => randn(w, [IMAGES, TOKENS, 64], 2);
const some = (w: Api) => randn(w, [IMAGES, 3, 64], 3);
const ids = ({ main }: Api) =>
  main.Tensor.from(
    BigInt64Array.from({ length: 8 }, (_, i) => BigInt(i)),
    [1, 8],
  );

/** A function of the entry point that is called as it is. */
function plain(
  name: string,
  good: (w: World) => unknown[],
  more: Partial<Target<World>> = {},
): Target<World> {
  return { name, good, call: ({ main }, args) => (main as unknown as Methods)[name]!(...args), ...more };
}

/** A function of an object or class of the entry point. */
function member(
  holder: keyof Main,
  method: string,
  good: (w: World) => unknown[],
  more: Partial<Target<World>> = {},
): Target<World> {
  return {
    name: `${holder}.${method}`,
    good,
    call: ({ main }, args) => (main[holder] as unknown as Methods)[method]!(...args),
    ...more,
  };
}

/** A method of a loaded model. */
function ofModel(
  type: string,
  key: keyof World['models'],
  method: string,
  good: (w: World) => unknown[],
  more: Partial<Target<World>> = {},
): Target<World> {
  return {
    name: `${type}#${method}`,
    good,
    async: true,
    call: ({ models }, args) => (models[key] as unknown as Methods)[method]!(...args),
    model: ({ models }) => models[key],
    ...more,
  };
}

const advanceRequest = (w: World) => ({
  latents: latents(w),
  anchors: anchors(),
  perImage: false,
  grid: GRID,
  step: 0,
  sigma: 1,
  dSigma: -0.5,
});

/** A method of a tensor of its own. */
function ofTensor(
  method: string,
  good: (w: World) => unknown[],
  more: Partial<Target<World>> = {},
): Target<World> {
  return {
    name: `Tensor#${method}`,
    good,
    call: (w, args) => {
      const tensor = randn(w, [2, 3]);
      try {
        return (tensor as unknown as Methods)[method]!(...args);
      } finally {
        tensor.dispose();
      }
    },
    ...more,
  };
}

const loadOptions = () => ({
  device: 'cpu' as const,
  dtype: 'float32' as const,
  quantize: undefined,
  quantizeTextEncoders: undefined,
  packWeights: false,
  mapWeights: true,
  weightStreaming: false,
  cudaGraphs: false,
  textEncoderDevice: 'cpu' as const,
  decoderDevice: 'cpu' as const,
  threads: 1,
  verify: true,
  timeEmbedding: 'exact' as const,
  textEncoders: false as const,
  variant: 'fp16',
  keepTextEncoders: true,
  keepDecoder: true,
  memoryCheck: false,
  keepModulation: true,
  allowTorchScriptCode: false,
  onProgress: () => undefined,
  signal: signal(),
});

const passRequest = (w: World) => ({
  anchors: anchors(),
  grid: GRID,
  conditioning: w.models.conditioning,
  step: [0, 1],
  signal: signal(),
  onProgress: () => undefined,
});

/** A run of the sampler over the transformer, to its end. */
async function iterate(sampler: JitSampler): Promise<void> {
  try {
    for await (const event of sampler) void event;
  } finally {
    sampler.dispose();
  }
}

const sampleOptions = (w: World) => ({
  steps: 2,
  stageRatios: [0.5, 1],
  tokenRatios: [0.5, 1],
  schedule: { kind: 'static' as const, shift: 3 },
  initialAnchors: 'strided' as const,
  activation: 'importance' as const,
  microFlow: { mode: 'relax' as const, steps: 3 },
  importanceInEvents: true,
  grid: GRID,
  latents: latents(w),
  microFlowNoise: randn(w, [IMAGES, TOKENS, 64], 9),
  seed: [5, 6],
  signal: signal(),
});

/** Sizes whose memory a machine has, but a test should not take. */
function takesMuchMemory(shape: unknown): string | undefined {
  const count = (shape as number[]).reduce((product, size) => product * size, 1);
  return count > 2 ** 24 && count < 2 ** 44 ? 'it would take gigabytes' : undefined;
}

/** A list of noise levels whose modulation would take a gigabyte. */
function manyLevels([o]: readonly unknown[]): string | undefined {
  const list: unknown = Object.getOwnPropertyDescriptor(o, 'sigmas')?.value;
  return Array.isArray(list) && list.length > 1000 ? 'it would take a gigabyte' : undefined;
}

export const family: Family<World> = {
  async open(api) {
    const worker = new Worker(MUTATOR, { eval: true });
    worker.unref();
    const changing = new SharedArrayBuffer(64);
    worker.postMessage(changing);
    const world: World = { ...api, models: {}, changing, worker };
    await this.mend!(world);
    return world;
  },
  async mend(world) {
    const { main, models } = world;
    const file = files(world);
    const gone = (model: { disposed: boolean } | undefined) => model === undefined || model.disposed;
    if (gone(models.transformer)) {
      models.transformer = await main.FluxTransformer.load(file.nano);
      // Of the one before.
      models.conditioning?.dispose();
    }
    if (gone(models.clip)) models.clip = await main.ClipTextEncoder.load(file.clip);
    if (gone(models.t5)) models.t5 = await main.T5Encoder.load(file.t5);
    if (gone(models.vae)) models.vae = await main.Autoencoder.load(file.vae);
    if (gone(models.script)) models.script = await main.TorchScriptModule.load(file.script);
    if (gone(models.conditioning)) {
      using prompt = randn(world, [IMAGES, 4, 24]);
      using pooled = randn(world, [IMAGES, 12]);
      models.conditioning = await models.transformer!.condition({ prompt, pooled, sigmas: [1, 0.5] });
    }
  },
  async close({ models, worker }) {
    for (const model of Object.values(models)) model.dispose();
    await worker.terminate();
  },
  ownNames: [
    'disposed tensor',
    'tensor of int32',
    'empty tensor',
    'tensor of one',
    'tensor of NaN',
    'disposed conditioning',
    'conditioning',
    'transformer',
    'object with the prototype of a tensor',
    'proxy of a tensor',
    'subclassed tensor without a handle',
    'anchors that another thread changes',
    'values that another thread changes',
  ],
  own: (w) => {
    const { Tensor, FluxTransformer: Transformer, Conditioning: Prepared } = w.main;
    return {
      'disposed tensor': () => {
        const tensor = randn(w, [IMAGES, TOKENS, 64]);
        tensor.dispose();
        return tensor;
      },
      'tensor of int32': () => Tensor.from(Int32Array.of(1, 2), [1, 2]),
      'empty tensor': () => Tensor.from(new Float32Array(), [1, 0]),
      'tensor of one': () => Tensor.from(Float32Array.of(1), [1, 1]),
      'tensor of NaN': () =>
        Tensor.from(new Float32Array(IMAGES * TOKENS * 64).fill(NaN), [IMAGES, TOKENS, 64]),
      'disposed conditioning': () => Object.create(Prepared.prototype) as unknown,
      conditioning: () => w.models.conditioning,
      transformer: () => w.models.transformer,
      'object with the prototype of a tensor': () =>
        Object.assign(Object.create(Tensor.prototype) as object, { shape: [IMAGES, TOKENS, 64] }),
      'proxy of a tensor': () => new Proxy(randn(w, [IMAGES, TOKENS, 64]), {}),
      'subclassed tensor without a handle': () => Object.create(Transformer.prototype) as unknown,
      'anchors that another thread changes': () => new Int32Array(w.changing, 0, 3),
      'values that another thread changes': () => new Float32Array(w.changing, 0, 6),
    };
  },
  targets: [
    member('Tensor', 'from', () => [new Float32Array(6), [2, 3], { device: 'cpu', dtype: 'float32' }], {
      skip: ([, shape]) => takesMuchMemory(shape),
    }),
    member('Tensor', 'randn', () => [[2, 3], { seed: [1, 2n], device: 'cpu', dtype: 'float32' }], {
      skip: ([shape]) => takesMuchMemory(shape),
    }),
    member('Tensor', 'stack', (w) => [[randn(w, [1, 4]), randn(w, [2, 4])], { repeats: [1, 2] }], {
      async: true,
    }),
    ofTensor('toFloat32Array', () => [], { async: true }),
    ofTensor('notFinite', () => [], { async: true }),
    ofTensor('to', () => ['cpu'], { async: true }),
    ofTensor('add', (w) => [randn(w, [2, 3]), { scale: 0.5 }], { async: true }),
    ofTensor('scale', () => [0.5], { async: true }),
    ofTensor('mix', (w) => [randn(w, [2, 3]), 0.5], { async: true }),
    ...['norm', 'sum', 'mean', 'min', 'max'].map((name) =>
      ofTensor(name, () => [{ perImage: true }], { async: true }),
    ),
    ofTensor('images', () => [0, 1]),
    ofTensor('clone', () => []),
    ofTensor('dispose', () => []),

    member('jit', 'gather', (w) => [latents(w), anchors(), { perImage: false }], { async: true }),
    member('jit', 'lift', (w) => [some(w), anchors(), GRID], { async: true }),
    member('jit', 'liftNearest', (w) => [some(w), anchors(), GRID], { async: true }),
    member('jit', 'importance', (w) => [latents(w), GRID], { async: true }),
    member(
      'jit',
      'selectTokens',
      (w) => [latents(w), { anchors: anchors(), count: 4, grid: GRID, perImage: false }],
      { async: true },
    ),
    member('jit', 'predictClean', (w) => [latents(w), latents(w), 0.5], { async: true }),
    member(
      'jit',
      'microFlow',
      (w) => [
        latents(w),
        {
          mode: 'relax',
          steps: 2,
          newTokens: newTokens(),
          target: randn(w, [IMAGES, 2, 64]),
          perImage: false,
        },
      ],
      { async: true },
    ),
    member(
      'jit',
      'microFlowTarget',
      (w) => [
        {
          clean: latents(w),
          noise: latents(w),
          anchors: anchors(),
          newTokens: newTokens(),
          sigma: 0.5,
          grid: GRID,
          perImage: false,
        },
      ],
      { async: true },
    ),
    member('jit', 'step', (w) => [latents(w), some(w), { anchors: anchors(), grid: GRID, dSigma: -0.1 }], {
      async: true,
    }),
    member('latentOps', 'unpack', (w) => [latents(w), GRID, { scale: 0.36, shift: 0.1 }], { async: true }),
    member('latentOps', 'pack', (w) => [randn(w, [1, 16, 8, 8])], { async: true }),
    member('latentOps', 'toImage', (w) => [randn(w, [1, 3, 4, 4])], { async: true }),

    member('FluxTransformer', 'load', (w) => [files(w).nano, { ...loadOptions(), ropeAxes: [4, 6, 6] }], {
      async: true,
      slow: 2,
    }),
    member(
      'ClipTextEncoder',
      'load',
      (w) => [files(w).clip, { ...loadOptions(), settings: { heads: 4, eps: 1e-5, eosTokenId: 2 } }],
      { async: true, slow: 2 },
    ),
    member(
      'T5Encoder',
      'load',
      (w) => [files(w).t5, { ...loadOptions(), settings: { maxDistance: 128, eps: 1e-6 } }],
      { async: true, slow: 2 },
    ),
    member(
      'Autoencoder',
      'load',
      (w) => [
        files(w).vae,
        { ...loadOptions(), settings: { normGroups: 8, scalingFactor: 0.36, shiftFactor: 0.1 } },
      ],
      { async: true, slow: 2 },
    ),
    member(
      'TorchScriptModule',
      'load',
      (w) => [files(w).script, { allowTorchScriptCode: false, signal: signal() }],
      {
        async: true,
        slow: 4,
      },
    ),

    ofModel(
      'FluxTransformer',
      'transformer',
      'condition',
      (w) => [
        {
          prompt: randn(w, [IMAGES, 4, 24]),
          pooled: randn(w, [IMAGES, 12]),
          guidance: [3.5, 1],
          sigmas: [1, 0.5],
          signal: signal(),
        },
      ],
      { skip: manyLevels },
    ),
    ofModel('FluxTransformer', 'transformer', 'forward', (w) => [{ tokens: some(w), ...passRequest(w) }]),
    ofModel('FluxTransformer', 'transformer', 'forward', (w) => [
      { latents: latents(w), perImage: false, ...passRequest(w) },
    ]),
    ofModel('FluxTransformer', 'transformer', 'advance', (w) => [advanceRequest(w), w.models.conditioning]),
    ofModel('FluxTransformer', 'transformer', 'prepare', () => [
      { signal: signal(), onProgress: () => undefined },
    ]),
    ofModel('FluxTransformer', 'transformer', 'transferStatistics', () => []),
    ofModel('FluxTransformer', 'transformer', 'bind', (w) => [w.models.conditioning], { async: false }),
    {
      name: 'bind().velocity',
      async: true,
      good: (w) => [{ tokens: some(w), anchors: anchors(), grid: GRID, step: 0, sigma: 1, signal: signal() }],
      call: ({ models }, args) => (models.transformer!.bind(models.conditioning!).velocity as Call)(...args),
    },
    {
      name: 'bind().advance',
      async: true,
      good: (w) => [{ ...advanceRequest(w), signal: signal() }],
      call: ({ models }, args) =>
        (models.transformer!.bind(models.conditioning!) as unknown as Methods)['advance']!(...args),
    },
    ofModel('ClipTextEncoder', 'clip', 'encode', (w) => [ids(w), { signal: signal() }]),
    ofModel('T5Encoder', 't5', 'encode', (w) => [ids(w), { signal: signal() }]),
    ofModel('Autoencoder', 'vae', 'decode', (w) => [
      randn(w, [1, 16, 4, 4]),
      {
        tiling: { tileSize: 4, overlap: 1 },
        memoryBudgetBytes: 2 ** 20,
        signal: signal(),
        onProgress: () => undefined,
      },
    ]),
    ofModel('Autoencoder', 'vae', 'encode', (w) => [
      randn(w, [1, 3, 8, 8]),
      { signal: signal(), onProgress: () => undefined },
    ]),
    ofModel('Autoencoder', 'vae', 'decodeBytes', () => [8, 8], { async: false }),
    ofModel('TorchScriptModule', 'script', 'run', (w) => [[randn(w, [1, 16, 4, 4])], { signal: signal() }], {
      runsPrograms: true,
    }),
    {
      name: 'Conditioning#dispose',
      good: () => [],
      call: ({ models }, args) => (models.conditioning as unknown as Methods)['dispose']!(...args),
    },
    ...(['transformer', 'clip', 't5', 'vae', 'script'] as const).map((key): Target<World> => ({
      name: `dispose of ${key}`,
      good: () => [],
      async: true,
      slow: 20,
      call: ({ models }, args) => (models[key]![Symbol.asyncDispose] as Call).apply(models[key], args),
    })),

    {
      name: 'new JitSampler',
      good: (w) => [
        {
          velocity: async ({ tokens }: { tokens: Tensor }) => tokens.clone(),
          advance: undefined,
        },
        sampleOptions(w),
      ],
      async: true,
      passes: true,
      slow: 2,
      call: async ({ main }, args) =>
        iterate(new main.JitSampler(...(args as ConstructorParameters<typeof main.JitSampler>))),
    },
    {
      name: 'a sampler over a transformer',
      good: (w) => [sampleOptions(w)],
      async: true,
      slow: 2,
      model: ({ models }) => models.transformer,
      call: async ({ main, models }, args) =>
        iterate(
          new main.JitSampler(
            models.transformer!.bind(models.conditioning!),
            ...(args as [ConstructorParameters<typeof main.JitSampler>[1]]),
          ),
        ),
    },
    {
      // A callback that ends what it is called by.
      name: 'calls from inside callbacks',
      good: () => ['dispose the model', 'forward'],
      async: true,
      slow: 4,
      passes: true,
      call: async (w, [what, where]) => {
        const transformer = w.models.transformer!;
        const act = () => {
          if (what === 'dispose the model') transformer.dispose();
          else if (what === 'dispose the conditioning') w.models.conditioning?.dispose();
          else throw new Deliberate('mine');
        };
        const request = { grid: GRID as [number, number], conditioning: w.models.conditioning!, step: 0 };
        using tokens = latents(w);
        if (where === 'forward') {
          const run = transformer.forward({ ...request, tokens, onProgress: act });
          (await run.catch((error: unknown) => endOf(error, what)))?.dispose();
        } else {
          const model = await w.main.FluxTransformer.load(files(w).nano, { onProgress: act }).catch(
            (error: unknown) => endOf(error, what),
          );
          model?.dispose();
        }
      },
    },

    plain('inspectWeights', (w) => [files(w).nano, { verify: true, signal: signal() }], { async: true }),
    plain('deviceInfo', () => ['cuda:0'], { async: true, refuses: true }),
    plain('devices', () => [], { async: true, slow: 10 }),
    plain('memoryReport', () => [], { async: true, slow: 10 }),
    plain('resetPeakMemory', () => ['cpu']),
    plain('engineInfo', () => [], { slow: 10 }),
    {
      name: 'weight files of hostile names',
      good: (w) => {
        const path = join(w.scratch, 'name\nwith\x1b[31m colour.safetensors');
        copyFileSync(files(w).nano, path);
        return [path, { signal: signal() }];
      },
      async: true,
      slow: 10,
      call: ({ main }, args) => (main.inspectWeights as Call)(...args),
    },
  ],
};

/** The end that a callback has caused is no failure; another one is. */
function endOf(error: unknown, what: unknown): undefined {
  const { code } = error as { code?: unknown };
  const caused = what === 'dispose the model' && code === 'ERR_JITFLUX_ABORTED';
  if (caused) return undefined;
  throw error;
}
