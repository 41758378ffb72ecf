/** What is no AbortSignal is refused wherever a signal is taken, and leaves nothing behind that somebody waits for. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { convertModel } from '../../src/convert/index.js';
import { describeWeights } from '../../src/engine/describe.js';
import {
  Autoencoder,
  ClipTextEncoder,
  FluxTransformer,
  inspectWeights,
  JitSampler,
  T5Encoder,
  Tensor,
  TorchScriptModule,
} from '../../src/engine/index.js';
import { setupLibTorch } from '../../src/libtorch/provision.js';
import {
  BUNDLED_MODEL,
  encodeOnly,
  type EncodedPrompts,
  FluxPipeline,
  type GeneratedImage,
  loadEncodedPrompts,
  resolveModel,
} from '../../src/pipeline/index.js';
import { Tokenizer } from '../../src/text/index.js';
import { expectError } from '../support/errors.js';
import { loadMini, MINI, MINI_AXES } from '../support/mini.js';
import { fixturePath } from '../support/safetensors.js';

const T5 = fixturePath('text-vae/t5.safetensors');
const CLIP = fixturePath('text-vae/clip.safetensors');
const VAE = fixturePath('text-vae/vae.safetensors');
const WARNS = fixturePath('native/warns.pt');
const REFUSED = { code: 'ERR_JITFLUX_INVALID_ARGUMENT', details: { option: 'signal' } };

const throwing = Object.defineProperty({}, 'aborted', {
  get() {
    throw new RangeError('mine');
  },
});
const VALUES: [string, unknown][] = [
  ['an object', {}],
  ['null', null],
  ['true', true],
  ['a string', 'abort'],
  ['a function', () => {}],
  ['half a signal', { aborted: false }],
  ['an AbortController', new AbortController()],
  ['a getter that throws', throwing],
];

const folder = mkdtempSync(join(tmpdir(), 'jit-flux-signals-'));
let model: FluxTransformer;
let vae: Autoencoder;
let t5: T5Encoder;
let clip: ClipTextEncoder;
let module: TorchScriptModule;
let pipeline: FluxPipeline;
let image: GeneratedImage;
let encoded: EncodedPrompts;

beforeAll(async () => {
  model = await loadMini();
  vae = await Autoencoder.load(VAE);
  t5 = await T5Encoder.load(T5);
  clip = await ClipTextEncoder.load(CLIP);
  module = await TorchScriptModule.load(WARNS, { allowTorchScriptCode: true });
  pipeline = await FluxPipeline.load(BUNDLED_MODEL);
  image = (await pipeline.generate({ prompt: 'a', width: 64, height: 64, steps: 1 }))
    .images[0] as GeneratedImage;
  encoded = await pipeline.encodePrompt('a');
});
afterAll(async () => {
  rmSync(folder, { recursive: true, force: true });
  // None of the refused calls is waited for.
  for (const one of [model, vae, t5, clip, module, pipeline]) await one[Symbol.asyncDispose]();
});

/** Every exported function that takes a signal. */
const FUNCTIONS: Record<string, (signal: AbortSignal) => unknown> = {
  'FluxPipeline.load': (signal) => FluxPipeline.load(BUNDLED_MODEL, { signal }),
  'FluxPipeline.generate': (signal) => pipeline.generate({ prompt: 'a', signal }),
  'FluxPipeline.steps': (signal) => pipeline.steps({ prompt: 'a', signal }),
  'FluxPipeline.encodePrompt': (signal) => pipeline.encodePrompt('a', { signal }),
  'FluxPipeline.warmUp': (signal) => pipeline.warmUp({ signal }),
  'GeneratedImage.toPNGAsync': (signal) => image.toPNGAsync({ signal }),
  'EncodedPrompts.save': (signal) => encoded.save(join(folder, 'a.safetensors'), { signal }),
  loadEncodedPrompts: (signal) => loadEncodedPrompts(join(folder, 'b.safetensors'), { signal }),
  encodeOnly: (signal) => encodeOnly(BUNDLED_MODEL, 'a', { signal }),
  resolveModel: (signal) => resolveModel(BUNDLED_MODEL, { signal }),
  convertModel: (signal) => convertModel(MINI, join(folder, 'mini.pt'), { signal }),
  inspectWeights: (signal) => inspectWeights(MINI, { signal }),
  describeWeights: (signal) => describeWeights(MINI, { signal }),
  setupLibTorch: (signal) => setupLibTorch({ signal, cacheDir: folder }),
  'Tokenizer.load': (signal) => Tokenizer.load(join(BUNDLED_MODEL, 'tokenizer.json'), { signal }),
  'FluxTransformer.load': (signal) => FluxTransformer.load(MINI, { ropeAxes: MINI_AXES, signal }),
  'FluxTransformer.prepare': (signal) => model.prepare({ signal }),
  'FluxTransformer.condition': (signal) =>
    model.condition({
      prompt: Tensor.randn([1, 4, 96], { seed: 1 }),
      pooled: Tensor.randn([1, 48], { seed: 1 }),
      sigmas: [1],
      signal,
    }),
  'FluxTransformer.forward': async (signal) =>
    model.forward({
      tokens: Tensor.randn([1, 16, 64], { seed: 1 }),
      grid: [4, 4],
      conditioning: await model.condition({
        prompt: Tensor.randn([1, 4, 96], { seed: 1 }),
        pooled: Tensor.randn([1, 48], { seed: 1 }),
        sigmas: [1],
      }),
      step: 0,
      signal,
    }),
  'Autoencoder.load': (signal) => Autoencoder.load(VAE, { signal }),
  'Autoencoder.decode': (signal) => vae.decode(Tensor.randn([1, 16, 6, 10], { seed: 1 }), { signal }),
  'Autoencoder.encode': (signal) => vae.encode(Tensor.randn([1, 3, 16, 16], { seed: 1 }), { signal }),
  'T5Encoder.load': (signal) => T5Encoder.load(T5, { signal }),
  'T5Encoder.encode': (signal) => t5.encode(Tensor.from(BigInt64Array.of(1n), [1, 1]), { signal }),
  'ClipTextEncoder.load': (signal) => ClipTextEncoder.load(CLIP, { signal }),
  'ClipTextEncoder.encode': (signal) => clip.encode(Tensor.from(BigInt64Array.of(1n), [1, 1]), { signal }),
  'TorchScriptModule.load': (signal) => TorchScriptModule.load(WARNS, { allowTorchScriptCode: true, signal }),
  'TorchScriptModule.run': (signal) => module.run([Tensor.randn([2], { seed: 1 })], { signal }),
  JitSampler: (signal) =>
    new JitSampler({ velocity: () => Promise.reject(new Error('not called')) }, {
      latents: Tensor.randn([1, 16, 64], { seed: 1 }),
      grid: [4, 4],
      signal,
    } as unknown as ConstructorParameters<typeof JitSampler>[1]),
};

describe.each(Object.entries(FUNCTIONS))('%s', (_, call) => {
  it.each(VALUES)('refuses %s as signal', async (_name, value) => {
    const outcome = (async () => call(value as AbortSignal))();
    await expect(outcome).rejects.toMatchObject(REFUSED);
  });
});

describe('a signal', () => {
  it('of another class is refused: nothing says that it tells of its abortion', async () => {
    const { signal: inner } = new AbortController();
    const signal = {
      get aborted() {
        return inner.aborted;
      },
      addEventListener: inner.addEventListener.bind(inner),
      removeEventListener: inner.removeEventListener.bind(inner),
    } as AbortSignal;
    await expectError(
      () => module.run([Tensor.randn([2], { seed: 1 })], { signal }),
      'ERR_JITFLUX_INVALID_ARGUMENT',
    );
  });

  it.each(['addEventListener', 'removeEventListener'])(
    'whose own %s throws serves as any other, and does not keep asyncDispose from returning',
    async (name) => {
      const mini = await loadMini();
      const { signal } = new AbortController();
      Object.defineProperty(signal, name, {
        value: () => {
          throw new RangeError('mine');
        },
      });
      const prompt = Tensor.randn([1, 4, 96], { seed: 1 });
      const call = mini.condition({
        prompt,
        pooled: Tensor.randn([1, 48], { seed: 1 }),
        sigmas: [1],
        signal,
      });
      (await call).dispose();
      await mini[Symbol.asyncDispose]();
    },
  );
});
