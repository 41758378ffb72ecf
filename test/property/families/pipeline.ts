/** Pipelines of `jit-flux`: loading, requests of every kind, encoded prompts, and calls from inside callbacks. */
import { join } from 'node:path';

import type { EncodedPrompts, FluxPipeline } from '../../../src/pipeline/index.js';
import { type Api, Deliberate, type Family, type Target } from '../../support/hostile/family.js';

type Methods = Record<string, (...args: unknown[]) => unknown>;

interface World extends Api {
  pipeline: FluxPipeline | undefined;
  /** One that samples requests together. */
  batching: FluxPipeline | undefined;
  encoded: EncodedPrompts | undefined;
}

const SIDE = 32;
const TOKENS = 16;
const signal = () => new AbortController().signal;
const directory = ({ root }: Api) => join(root, 'models/flux-tiny');

/** Every option of a request but callbacks, and what excludes others. */
const request = () => ({
  width: SIDE,
  height: SIDE,
  maxSequenceLength: 8,
  preset: 'jit-4x' as const,
  steps: 2,
  stageRatios: [0.5, 1],
  tokenRatios: [0.5, 1],
  schedule: { kind: 'static' as const, shift: 3 },
  initialAnchors: 'strided' as const,
  microFlow: { mode: 'relax' as const, steps: 3 },
  lifter: 'gaussian' as const,
  importanceInEvents: true,
  seed: 7,
  guidance: 3,
  numImages: 2,
  signal: signal(),
  output: 'image' as const,
});

const prompted = () => ({ ...request(), prompt: ['a red circle', 'a blue square'], numImages: 1 });
const conditioned = (w: World) => {
  const rest: Partial<ReturnType<typeof request>> = request();
  // Those of the encoded prompts.
  delete rest.maxSequenceLength;
  const { prompt, pooled, prompts, model, tokens, warnings, disposed } = w.encoded!;
  return {
    ...rest,
    // As plain data, so that its parts can be hostile.
    conditioning: {
      prompt: prompt.clone(),
      pooled: pooled.clone(),
      prompts,
      model,
      tokens,
      warnings,
      disposed,
    },
    latents: w.main.Tensor.randn([2, TOKENS, 64], { seed: 3 }),
    output: 'latent' as const,
  };
};

const loadOptions = () => ({
  device: 'cpu' as const,
  dtype: 'float32' as const,
  packWeights: false,
  mapWeights: true,
  weightStreaming: false,
  cudaGraphs: false,
  textEncoderDevice: 'cpu' as const,
  decoderDevice: 'cpu' as const,
  threads: 1,
  verify: false,
  timeEmbedding: 'reference' as const,
  keepTextEncoders: false,
  keepDecoder: true,
  keepModulation: true,
  allowTorchScriptCode: false,
  onProgress: () => undefined,
  signal: signal(),
});

const pipelineOptions = () => ({
  ...loadOptions(),
  memoryCheck: { width: 64, height: 64, images: 1, textTokens: 8, steps: 2 },
  concurrency: 2,
  maxQueue: 4,
  dynamicBatching: { maxImages: 4, maxWaitMilliseconds: 1 },
});

/** A method of the pipeline. */
function method(
  name: string,
  good: (w: World) => unknown[],
  more: Partial<Target<World>> = {},
): Target<World> {
  return {
    name: `FluxPipeline#${name}`,
    good,
    async: true,
    model: ({ pipeline }) => pipeline,
    call: ({ pipeline }, args) => (pipeline as unknown as Methods)[name]!(...args),
    ...more,
  };
}

/** Iterates a request to its end. */
async function iterate({ pipeline }: World, args: unknown[]): Promise<void> {
  const run = (pipeline as unknown as Methods)['steps']!(...args) as ReturnType<FluxPipeline['steps']>;
  for (;;) {
    const next = await run.next();
    if (!next.done) continue;
    next.value.latents?.dispose();
    return;
  }
}

/** What a callback of a request does. */
async function act(w: World, what: unknown, event: unknown): Promise<void> {
  const { pipeline } = w;
  if (what === 'dispose') return void pipeline!.dispose();
  if (what === 'dispose the latents') return (event as { latents: { dispose(): void } }).latents.dispose();
  if (what === 'stats') return void pipeline!.stats();
  if (what === 'another request') {
    // Not awaited, which would wait for itself.
    const other = pipeline!.generate({ ...prompted(), prompt: 'another' });
    other.catch(() => undefined);
    return;
  }
  if (what === 'another load') {
    await (
      await w.main.FluxPipeline.load('flux-tiny', { memoryCheck: false, signal: AbortSignal.abort() })
    ).dispose();
  }
}

export const family: Family<World> = {
  async open(api) {
    const world: World = { ...api, pipeline: undefined, batching: undefined, encoded: undefined };
    await this.mend!(world);
    return world;
  },
  async mend(w) {
    const { FluxPipeline: Pipeline } = w.main;
    const o = { memoryCheck: false, packWeights: false, threads: 1 };
    if (!w.pipeline || w.pipeline.disposed)
      w.pipeline = await Pipeline.load('flux-tiny', { ...o, concurrency: 2 });
    if (!w.batching || w.batching.disposed) {
      w.batching = await Pipeline.load('flux-tiny', {
        ...o,
        dynamicBatching: { maxImages: 4, maxWaitMilliseconds: 5 },
      });
    }
    if (!w.encoded || w.encoded.disposed) {
      w.encoded = await w.pipeline.encodePrompt('a circle', { maxSequenceLength: 8 });
      await w.encoded.save(join(w.scratch, 'encoded.safetensors'));
    }
  },
  async close(w) {
    w.encoded?.dispose();
    await w.pipeline?.dispose();
    await w.batching?.dispose();
  },
  ownNames: [
    'encoded prompts',
    'disposed encoded prompts',
    'disposed tensor',
    'tensor of int32',
    'tensor of one',
    'proxy of a tensor',
    'object with the prototype of a tensor',
    'pipeline',
    'a path with NUL',
  ],
  own: (w) => {
    const { Tensor, EncodedPrompts: Encoded } = w.main;
    return {
      'encoded prompts': () => w.encoded,
      'disposed encoded prompts': () => Object.create(Encoded.prototype) as unknown,
      'disposed tensor': () => {
        const tensor = Tensor.randn([2, TOKENS, 64], { seed: 1 });
        tensor.dispose();
        return tensor;
      },
      'tensor of int32': () => Tensor.from(Int32Array.of(1, 2), [1, 2]),
      'tensor of one': () => Tensor.from(Float32Array.of(1), [1, 1]),
      'proxy of a tensor': () => new Proxy(Tensor.randn([2, TOKENS, 64], { seed: 1 }), {}),
      'object with the prototype of a tensor': () => Object.create(Tensor.prototype) as unknown,
      pipeline: () => w.pipeline,
      'a path with NUL': () => `${directory(w)}\0.pt`,
    };
  },
  targets: [
    {
      name: 'FluxPipeline.load',
      good: (w) => [directory(w), pipelineOptions()],
      async: true,
      slow: 2,
      call: ({ main }, args) => (main.FluxPipeline.load as Methods[string])(...args),
    },
    {
      name: 'FluxPipeline.load',
      good: () => ['flux-tiny', { ...pipelineOptions(), textEncoders: false }],
      async: true,
      slow: 2,
      call: ({ main }, args) => (main.FluxPipeline.load as Methods[string])(...args),
    },
    method('generate', () => [prompted()]),
    method('generate', (w) => [conditioned(w)]),
    {
      name: 'generate beside another request',
      good: () => [prompted()],
      async: true,
      slow: 1.5,
      model: ({ batching }) => batching,
      call: async ({ batching }, args) => {
        const other = batching!
          .generate({ ...prompted(), prompt: 'another' })
          .catch((error: unknown) => error);
        const run = (batching as unknown as Methods)['generate']!(...args) as Promise<unknown>;
        await run.finally(() => other);
      },
    },
    {
      name: 'callbacks of a request',
      good: () => [
        {
          ...prompted(),
          onStep: () => undefined,
          activation: ({ anchors, targetCount }: { anchors: Int32Array; targetCount: number }) => {
            const set = new Set(anchors);
            for (let token = 0; set.size < targetCount; token++) set.add(token);
            return Int32Array.from(set);
          },
        },
      ],
      async: true,
      passes: true,
      slow: 2,
      call: ({ pipeline }, args) => (pipeline!.generate as Methods[string]).apply(pipeline, args),
    },
    {
      name: 'FluxPipeline#steps',
      good: () => [prompted()],
      async: true,
      model: ({ pipeline }) => pipeline,
      call: iterate,
    },
    ...['dispose', 'dispose the latents', 'stats', 'another request', 'another load'].map(
      (what): Target<World> => ({
        name: `${what} from inside a callback`,
        good: () => [prompted()],
        async: true,
        refuses: what.startsWith('dispose'),
        slow: 6,
        call: async (w, [o]) => {
          if (typeof o !== 'object' || o === null) return;
          const inside: Promise<unknown>[] = [];
          const withStep = new Proxy(o, {
            ownKeys: (target) => [...Reflect.ownKeys(target).filter((key) => key !== 'onStep'), 'onStep'],
            getOwnPropertyDescriptor: (target, key) =>
              key === 'onStep'
                ? { value: undefined, enumerable: true, configurable: true }
                : Reflect.getOwnPropertyDescriptor(target, key),
            get: (target, key) =>
              key === 'onStep'
                ? (event: unknown) => void inside.push(act(w, what, event).catch((error: unknown) => error))
                : (Reflect.get(target, key) as unknown),
          });
          try {
            await (w.pipeline!.generate as Methods[string]).call(w.pipeline, withStep);
          } finally {
            await Promise.all(inside);
          }
        },
      }),
    ),
    {
      name: 'an error of a callback',
      good: () => [],
      async: true,
      passes: true,
      slow: 50,
      call: ({ pipeline }) =>
        pipeline!.generate({
          ...prompted(),
          onStep: () => {
            throw new Deliberate('mine');
          },
        }),
    },
    method('decode', (w) => [
      w.main.Tensor.randn([1, TOKENS, 64], { seed: 3 }),
      { width: SIDE, height: SIDE, signal: signal() },
    ]),
    {
      ...method('decode', (w) => {
        const latents = w.main.Tensor.randn([1, TOKENS, 64], { seed: 3 });
        return [{ clean: async () => latents, grid: [SIDE / 8, SIDE / 8] }];
      }),
      name: "FluxPipeline#decode of a step's event",
      passes: true,
    },
    {
      name: 'initialNoise',
      good: ({ pipeline }) => {
        const { name, decoder, defaults } = pipeline!.model;
        return [
          { name, decoder: { ...decoder }, defaults: { ...defaults } },
          { width: SIDE, height: SIDE, seed: [1, 2n], images: 2, device: 'cpu' },
        ];
      },
      async: true,
      call: ({ main }, args) => (main.initialNoise as Methods[string])(...args),
    },
    {
      name: 'EncodedPrompts.from',
      good: (w) => [
        {
          prompt: w.main.Tensor.randn([1, 4, 8], { seed: 3 }),
          pooled: w.main.Tensor.randn([1, 6], { seed: 3 }),
          prompts: ['a circle'],
          model: 'mine',
        },
      ],
      async: true,
      call: ({ main }, args) => (main.EncodedPrompts.from as Methods[string])(...args),
    },
    method('encodePrompt', () => [['a circle', 'a square'], { maxSequenceLength: 8, signal: signal() }]),
    method('warmUp', () => [{ signal: signal(), onProgress: () => undefined }]),
    method('stats', () => [], { async: false, slow: 10 }),
    method('memory', () => [], { slow: 10 }),
    method('dispose', () => [], { slow: 10 }),
    {
      name: 'encodeOnly',
      good: (w) => [
        directory(w),
        ['a circle'],
        { ...loadOptions(), memoryCheck: true, maxSequenceLength: 8, textEncoders: undefined },
      ],
      async: true,
      slow: 1.5,
      call: ({ main }, args) => (main.encodeOnly as Methods[string])(...args),
    },
    ...(['EncodedPrompts.load', 'loadEncodedPrompts'] as const).map((name): Target<World> => ({
      name,
      good: (w) => [join(w.scratch, 'encoded.safetensors'), { signal: signal() }],
      async: true,
      slow: 2,
      call: ({ main }, args) =>
        name === 'loadEncodedPrompts'
          ? (main.loadEncodedPrompts as Methods[string])(...args)
          : (main.EncodedPrompts.load as Methods[string])(...args),
    })),
    {
      name: 'EncodedPrompts#save',
      good: (w) => [join(w.scratch, 'saved.safetensors'), { signal: signal() }],
      async: true,
      slow: 2,
      model: ({ encoded }) => encoded,
      call: ({ encoded }, args) => (encoded!.save as Methods[string]).apply(encoded, args),
    },
    {
      name: 'EncodedPrompts#dispose',
      good: () => [],
      slow: 20,
      call: ({ encoded }, args) => (encoded as unknown as Methods)['dispose']!(...args),
    },
    {
      // Its constructor is internal; what it takes may still be hostile when it is saved.
      name: 'save of what was changed',
      good: ({ encoded }) => {
        const { prompt, pooled, prompts, model, tokens, warnings } = encoded!;
        return [{ prompt, pooled, prompts, model, tokens, warnings }];
      },
      async: true,
      slow: 3,
      call: async ({ main, scratch }, [fields]) => {
        const changed = Object.create(main.EncodedPrompts.prototype) as EncodedPrompts;
        try {
          Object.defineProperties(changed, Object.getOwnPropertyDescriptors(fields as object));
        } catch {
          return; // no fields at all
        }
        await changed.save(join(scratch, 'changed.safetensors'));
      },
    },
  ],
};
