/** What of `jit-flux` needs no LibTorch: descriptions and plans of models, conversion, `setup`, logging. */
import { createHash } from 'node:crypto';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

import type * as ImageModule from '../../../src/pipeline/image.js';
import type { LibTorchManifest } from '../../../src/libtorch/libtorch.js';
import type { ModelSpec } from '../../../src/pipeline/index.js';
import { type Api, type Family, type Main, type Target } from '../../support/hostile/family.js';
import { makeManifest, makeWheel } from '../../support/fake-archives.js';

type Methods = Record<string, (...args: unknown[]) => unknown>;

interface World extends Api {
  /** Of a directory, and of a known name. */
  tiny: ModelSpec;
  named: ModelSpec;
  /** A pinned archive of a few kilobytes, and what pins it. */
  archives: string;
  manifest: LibTorchManifest;
  /** Makes pictures, whose constructor is the pipeline's alone. */
  generatedImageOf: (typeof ImageModule)['generatedImageOf'];
}

const signal = () => new AbortController().signal;
const fixture = ({ root }: Api, name: string) => join(root, 'test/fixtures', name);

function plain(
  name: keyof Main,
  good: (w: World) => unknown[],
  more: Partial<Target<World>> = {},
): Target<World> {
  return {
    name,
    good,
    async: true,
    call: ({ main }, args) => (main as unknown as Methods)[name]!(...args),
    ...more,
  };
}

/** As a program has it that keeps descriptions in JSON. */
const copyOf = (spec: ModelSpec) => JSON.parse(JSON.stringify(spec)) as ModelSpec;

const planOptions = () => ({
  dtype: 'bfloat16' as const,
  device: 'cpu' as const,
  quantize: 'int8' as const,
  quantizeTextEncoders: undefined,
  packWeights: true,
  mapWeights: true,
  weightStreaming: false,
  textEncoderDevice: 'cpu' as const,
  decoderDevice: 'cpu' as const,
  keepDecoder: true,
  keepModulation: true,
  textEncoders: undefined,
  variant: undefined,
  keepTextEncoders: true,
  signal: signal(),
  width: 64,
  height: 64,
  images: 2,
  textTokens: 24,
  steps: 4,
  concurrency: 2,
});

/** The options of `setup` with what keeps it from the network and from other folders. */
function offline({ manifest, scratch }: World, options: unknown): unknown {
  if (typeof options !== 'object' || options === null) return options;
  const env = { PATH: '/nonexistent', HOME: scratch, JIT_FLUX_CACHE: join(scratch, 'cache') };
  const own: Record<PropertyKey, unknown> = { manifest, env };
  return new Proxy(options, {
    get: (target, key) => {
      if (Object.hasOwn(own, key)) return own[key];
      const value: unknown = Reflect.get(target, key);
      const leadsOut = key === 'cacheDir' && typeof value === 'string' && !/^$|\0/.test(value);
      return leadsOut && !resolve(value).startsWith(scratch) ? join(scratch, 'libtorch') : value;
    },
  });
}

export const family: Family<World> = {
  async open(api) {
    const wheel = makeWheel('2.13.0');
    const archives = join(api.scratch, 'archives');
    mkdirSync(archives, { recursive: true });
    const manifest = makeManifest(wheel);
    const [archive] = manifest.variants['cpu']!.archives;
    writeFileSync(join(archives, archive!.file), wheel);
    if (createHash('sha256').update(wheel).digest('hex') !== archive!.sha256) throw new Error('not pinned');
    const images = (await import(`${api.root}/dist/pipeline/image.js`)) as typeof ImageModule;
    return {
      ...api,
      tiny: await api.main.resolveModel('flux-tiny'),
      named: await api.main.resolveModel('flux.1-dev'),
      generatedImageOf: images.generatedImageOf,
      archives,
      manifest,
    };
  },
  ownNames: [
    'description',
    'description of a known name',
    'a model directory',
    'a weight file',
    'a path with NUL',
  ],
  own: (w) => ({
    description: () => w.tiny,
    'description of a known name': () => copyOf(w.named),
    'a model directory': () => join(w.root, 'models/flux-tiny'),
    'a weight file': () => fixture(w, 'flux/flux-nano.safetensors'),
    'a path with NUL': () => `${join(w.root, 'models/flux-tiny')}\0.pt`,
  }),
  targets: [
    plain('resolveModel', (w) => [
      join(w.root, 'models/flux-tiny'),
      { textEncoders: false, variant: 'fp16', signal: signal() },
    ]),
    plain('resolveModel', (w) => [copyOf(w.tiny), { textEncoders: undefined, signal: signal() }]),
    plain('resolveModel', (w) => [copyOf(w.named), {}]),
    plain('planMemory', () => ['flux-tiny', planOptions()]),
    plain('planMemory', () => ['flux.1-dev', planOptions()]),
    plain('planMemory', (w) => [copyOf(w.named), planOptions()]),
    plain('planMemory', (w) => [copyOf(w.tiny), planOptions()]),
    plain('inspectWeights', (w) => [
      fixture(w, 'flux/flux-nano.safetensors'),
      { verify: true, signal: signal() },
    ]),
    plain(
      'convertModel',
      (w) => [
        fixture(w, 'weights/pico.safetensors'),
        join(w.scratch, 'converted.pt'),
        {
          format: 'torchscript',
          dtype: 'bfloat16',
          resume: true,
          verify: true,
          onProgress: () => undefined,
          signal: signal(),
        },
      ],
      { slow: 2 },
    ),
    plain('convertModel', (w) => [copyOf(w.tiny), join(w.scratch, 'converted-tiny'), {}], {
      slow: 4,
      refuses: true,
    }),
    plain(
      'setupLibTorch',
      (w) => [
        {
          variant: 'cpu',
          from: w.archives,
          cacheDir: join(w.scratch, 'libtorch'),
          force: false,
          onProgress: () => undefined,
          signal: signal(),
        },
      ],
      {
        slow: 3,
        // Would look into the cache of whoever runs this.
        skip: ([options]) => (options === undefined ? 'it is of this machine' : undefined),
        call: async (w, [options, ...rest]) => {
          rmSync(join(w.scratch, 'libtorch'), { recursive: true, force: true });
          await (w.main.setupLibTorch as Methods[string])(offline(w, options), ...rest);
        },
      },
    ),
    plain('setLogger', () => [{ level: 'silent', log: () => undefined }], {
      async: false,
      call: ({ main }, args) => {
        try {
          (main.setLogger as Methods[string])(...args);
        } finally {
          main.setLogger();
        }
      },
    }),
    plain(
      'encodePng',
      () => [
        { width: 2, height: 2, data: new Uint8Array(12) },
        { prompt: 'a picture', seed: 7 },
      ],
      { async: false, slow: 4 },
    ),
    plain(
      'encodePngAsync',
      () => [{ width: 2, height: 2, data: new Uint8Array(12) }, { prompt: 'x' }, { signal: signal() }],
      { slow: 2 },
    ),
    plain('contactSheet', () => [[pictureOfSide(12), pictureOfSide(3)], { columns: 2, gap: 1 }], {
      async: false,
    }),
    ...(['png', 'jpeg', 'webp'] as const).map((format) => ({
      ...plain('encodeImage', () => [
        pictureOfSide(12),
        { format, quality: 80, metadata: { prompt: 'a picture', seed: 7 }, signal: signal() },
      ]),
      slow: 2,
    })),
    ...(['psnr', 'ssim'] as const).map((name) =>
      plain(name, () => [pictureOfSide(12), pictureOfSide(12)], { async: false, slow: 2 }),
    ),
    plain('readPngText', (w) => [picture(w).toPNG()], { async: false }),
    {
      name: 'GeneratedImage#toPNG',
      good: () => [{ metadata: true }],
      slow: 10,
      call: (w, args) => void (picture(w).toPNG as Methods[string]).apply(picture(w), args),
    },
    {
      name: 'GeneratedImage#toPNGAsync',
      good: () => [{ metadata: false, signal: signal() }],
      async: true,
      slow: 2,
      call: (w, args) => (picture(w).toPNGAsync as Methods[string]).apply(picture(w), args),
    },
    {
      name: 'GeneratedImage#toJSON',
      good: () => [],
      slow: 10,
      call: (w, args) => void (picture(w).toJSON as Methods[string]).apply(picture(w), args),
    },
    {
      name: 'toPNGAsync of what was changed',
      good: () => [{ width: 2, height: 2, data: new Uint8Array(12), metadata: { prompt: 'a picture' } }],
      async: true,
      slow: 2,
      call: async (w, [fields]) => {
        const image = picture(w);
        for (const key of ['width', 'height', 'data', 'metadata'] as const) {
          const found = fieldOf(fields, key);
          if (found) Object.defineProperty(image, key, { ...found, configurable: true });
        }
        return image.toPNGAsync();
      },
    },
  ],
};

const pictureOfSide = (side: number) => ({
  width: side,
  height: side,
  data: new Uint8Array(side * side * 3),
});

function picture({ generatedImageOf }: World) {
  const image = { width: 2, height: 2, data: new Uint8Array(12) };
  return generatedImageOf({ image, prompt: 'a picture', seed: 7, metadata: {} });
}

function fieldOf(value: unknown, key: string): PropertyDescriptor | undefined {
  try {
    return Object.getOwnPropertyDescriptor(value, key);
  } catch {
    return undefined;
  }
}
