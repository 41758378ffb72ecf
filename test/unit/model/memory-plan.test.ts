import { describe, expect, it } from 'vitest';

import { componentMemory, type PartName, type WeightDescription } from '../../../src/engine/describe.js';
import { AUTOENCODER_SETTINGS } from '../../../src/engine/component-config.js';
import { CLIP_L, FLUX_AUTOENCODER, T5_XXL } from '../../../src/model/known-models.js';
import {
  checkMemory,
  type MemoryPlanOptions,
  planMemory,
  planEncoding,
  planModelMemory,
  RUNTIME_BYTES,
} from '../../../src/model/memory-plan.js';
import { resolveModel } from '../../../src/model/resolve-model.js';
import { BUNDLED_MODEL } from '../../../src/model/bundled-model.js';
import type { ModelSpec } from '../../../src/model/spec.js';
import { FLUX_1_DEV, FLUX_TINY } from '../../../src/sampler/index.js';

const TRANSFORMER = 11_901_408_320;
const T5 = 4_762_310_656;
const CLIP = 123_060_480;
const VAE = 83_819_683;

/** Layers of FLUX.1-dev's blocks, and its adaptive norms. */
const BLOCKS = 912 * 3072 * 3072 + 646 * 3072;
const MODULATION = 344 * 3072 * 3073;

/** Weights with so many parameters. */
function weightFile(
  part: PartName,
  parameters: number,
  storedDType: 'bfloat16' | 'float32',
  format: WeightDescription['format'],
): WeightDescription {
  return {
    path: part,
    files: [part],
    format,
    fileBytes: parameters * (storedDType === 'float32' ? 4 : 2),
    part,
    prefix: '',
    architecture: {} as never,
    parameters,
    storedTypes: { [storedDType]: parameters },
    fingerprint: '0123456789abcdef',
  };
}

/** FLUX.1-dev as published: bfloat16 safetensors. */
function fluxDev(
  dtype: 'bfloat16' | 'float32' = 'bfloat16',
  format: WeightDescription['format'] = 'safetensors',
): ModelSpec {
  const weights = (part: PartName, parameters: number) => weightFile(part, parameters, dtype, format);
  return {
    kind: 'diffusers',
    path: '/models/FLUX.1-dev',
    info: {
      name: 'FLUX.1-dev',
      text: { length: 512 },
      decoder: { channels: 16, spatialFactor: 8, scalingFactor: 0.3611, shiftFactor: 0.1159 },
      defaults: { width: 1024, height: 1024, guidance: 3.5 },
    },
    transformer: {
      weights: weights('transformer', TRANSFORMER),
      config: FLUX_1_DEV,
      ropeAxes: undefined,
    },
    text: {
      kind: 'native',
      clip: {
        weights: weights('clip', CLIP),
        tokenizer: '',
        architecture: CLIP_L,
        settings: { heads: 0, eps: 1e-5, eosTokenId: 2 },
      },
      t5: {
        weights: weights('t5', T5),
        tokenizer: '',
        architecture: T5_XXL,
        settings: { maxDistance: 128, eps: 1e-6 },
      },
    },
    decoder: {
      kind: 'native',
      weights: weights('autoencoder', VAE),
      architecture: FLUX_AUTOENCODER,
      settings: AUTOENCODER_SETTINGS,
    },
    inferred: [],
  };
}

const plan = (o: MemoryPlanOptions = {}, source = fluxDev(), bytes = 1e12) =>
  planModelMemory(source, o, { host: { bytes, limitedBy: 'machine' } });
const resident = (p: ReturnType<typeof plan>) =>
  Object.fromEntries(p.components.map(({ component, residentBytes }) => [component, residentBytes]));

describe('planModelMemory', () => {
  it('counts the weights of FLUX.1-dev exactly', () => {
    const p = plan({ dtype: 'bfloat16' });
    expect(p).toMatchObject({
      model: 'FLUX.1-dev',
      dtype: 'bfloat16',
      width: 1024,
      height: 1024,
      images: 1,
      textTokens: 512,
      steps: 18,
      fits: true,
    });
    expect(resident(p)).toEqual({
      runtime: RUNTIME_BYTES,
      text_encoder: 2 * CLIP,
      text_encoder_2: 2 * T5,
      transformer: 2 * TRANSFORMER,
      vae: 2 * VAE,
    });
    expect(p.components.map(({ parameters }) => parameters)).toEqual([undefined, CLIP, T5, TRANSFORMER, VAE]);
    expect(p.components.find(({ component }) => component === 'transformer')?.fileBytes).toBe(23_802_816_640);
    expect(resident(plan())).toMatchObject({ text_encoder_2: 4 * T5, transformer: 4 * TRANSFORMER });
  });

  it('plans archives, whose tensors are known too, as the same in safetensors', () => {
    const of = (format: WeightDescription['format']) =>
      plan({ dtype: 'bfloat16' }, fluxDev('bfloat16', format)).components.map(
        ({ format: _format, ...component }) => component,
      );
    expect(of('torchscript')).toEqual(of('safetensors'));
  });

  it('uses weights from the file only if it holds the compute type', () => {
    const mapped = (p: ReturnType<typeof plan>) =>
      p.components.filter((part) => part.mapped).map(({ component }) => component);
    expect(mapped(plan({ dtype: 'bfloat16' }))).toEqual(['text_encoder', 'text_encoder_2', 'transformer']);
    const copies = plan({ dtype: 'bfloat16' }).components.map(({ copiedBytes }) => copiedBytes);
    expect(copies).toEqual([RUNTIME_BYTES, 0, 0, 2 * BLOCKS, 2 * VAE]);
    const shared = plan({ dtype: 'bfloat16', packWeights: false }).components[3];
    expect(shared?.copiedBytes).toBe(2 * 380 * 3072 * 3073);
    expect(mapped(plan())).toEqual([]);
    expect(mapped(plan({ dtype: 'bfloat16' }, fluxDev('float32')))).toEqual([]);
  });

  it('counts quantised blocks, and modulation weights that do not stay', () => {
    const p = plan({ dtype: 'bfloat16', quantize: 'int8', keepModulation: false });
    expect(p.blockWeights).toBe('int8');
    expect(p.components[3]).toMatchObject({
      residentBytes: 2 * TRANSFORMER - BLOCKS - 2 * MODULATION,
      copiedBytes: BLOCKS,
    });
  });

  it('counts T5 in 8 bits: a byte and, per row, a scale and a sum; all but its blocks stays mapped', () => {
    const p = plan({ dtype: 'bfloat16', quantizeTextEncoders: 'int8' });
    expect(p).toMatchObject({ blockWeights: 'packed', quantizeTextEncoders: true });
    // 24 blocks: q, k, v, o of 4096 x 4096, three matrices of 10240 x 4096
    const matrices = 24 * (4 * 4096 * 4096 + 3 * 10240 * 4096);
    const bytes = matrices + 24 * 8 * (4 * 4096 + 2 * 10240 + 4096);
    expect(p.components[2]).toMatchObject({
      mapped: true,
      copiedBytes: bytes,
      residentBytes: 2 * (T5 - matrices) + bytes,
    });
    const copied = plan({ dtype: 'bfloat16', quantizeTextEncoders: 'int8', mapWeights: false });
    expect(copied.components[2]).toMatchObject({ mapped: false, copiedBytes: 2 * (T5 - matrices) + bytes });
    const without = plan({ dtype: 'bfloat16' });
    expect(without.quantizeTextEncoders).toBe(false);
    expect(without.components[2]?.residentBytes).toBe(2 * T5);
    const short = { ...fluxDev() };
    expect(() => checkMemory(plan({ dtype: 'bfloat16' }, short, 5e9))).toThrow(/quantizeTextEncoders 'int8'/);
    expect(() => checkMemory(plan({ dtype: 'bfloat16', quantizeTextEncoders: 'int8' }, short, 5e9))).toThrow(
      expect.objectContaining({ message: expect.not.stringContaining('quantizeTextEncoders') as string }),
    );
  });

  it('packs weights unless only mapped ones fit', () => {
    const form = (bytes: number, packWeights?: boolean) =>
      plan({ dtype: 'bfloat16', ...(packWeights !== undefined && { packWeights }) }, fluxDev(), bytes);
    const packed = form(1e12);
    expect(packed).toMatchObject({ blockWeights: 'packed', fits: true });
    const mapped = form(1e12, false);
    expect(mapped.peakBytes).toBeLessThan(packed.peakBytes);
    expect(form(packed.peakBytes)).toEqual({ ...packed, available: expect.anything() as unknown });
    expect(form(packed.peakBytes - 1)).toMatchObject({ blockWeights: 'mapped', fits: true });
    expect(form(packed.peakBytes - 1, true)).toMatchObject({ blockWeights: 'packed', fits: false });
    expect(form(mapped.peakBytes - 1)).toMatchObject({ blockWeights: 'mapped', fits: false });
  });

  it('counts everything as a copy where nothing is mapped', () => {
    const [mapped, copied] = [plan({ dtype: 'bfloat16' }), plan({ dtype: 'bfloat16', mapWeights: false })];
    expect(mapped.mapWeights).toBe(true);
    expect(copied.mapWeights).toBe(false);
    expect(copied.components.some((part) => part.mapped)).toBe(false);
    for (const part of copied.components) expect(part.copiedBytes).toBe(part.residentBytes);
    const sampling = (p: typeof mapped) => p.phases.find(({ phase }) => phase === 'sample')!.bytes;
    // Text encoders stay, though they have nothing to do.
    expect(sampling(copied) - sampling(mapped)).toBe(2 * (CLIP + T5));
    // As the file holds them they would take no less.
    const short = plan({ dtype: 'bfloat16', mapWeights: false }, fluxDev(), copied.peakBytes - 1);
    expect(short).toMatchObject({ blockWeights: 'packed', fits: false });
    expect(() => checkMemory(short)).toThrow(/mapWeights: true/);
  });

  it('takes the largest phase, and encoders only where they are', () => {
    const phases = (o: MemoryPlanOptions, source = fluxDev()) =>
      Object.fromEntries(plan(o, source).phases.map(({ phase, bytes }) => [phase, bytes]));
    // Copied encoders stay in memory while sampling; released ones do not.
    const [kept, released] = [phases({}), phases({ keepTextEncoders: false })];
    expect(kept['sample']! - released['sample']!).toBe(4 * (CLIP + T5));
    expect(kept['decode']! - released['decode']!).toBe(4 * (CLIP + T5));
    expect(kept['encode']).toBe(released['encode']);
    // Mapped ones make no difference: their pages may go.
    expect(phases({ dtype: 'bfloat16' })['sample']).toBe(
      phases({ dtype: 'bfloat16', keepTextEncoders: false })['sample'],
    );
    const without = { ...fluxDev(), text: undefined };
    expect(phases({ keepTextEncoders: false })['sample']).toBe(phases({}, without)['sample']);
    const p = plan();
    expect(p.peakBytes).toBe(Math.max(...p.phases.map(({ bytes }) => bytes)));
  });

  it('lets FLUX.1-dev in bfloat16 run in 32 GB, and not in 16', () => {
    expect(plan({ dtype: 'bfloat16' }, fluxDev(), 32e9).fits).toBe(true);
    expect(plan({ dtype: 'bfloat16' }, fluxDev(), 16e9).fits).toBe(false);
    expect(plan({}, fluxDev(), 64e9).fits).toBe(false);
  });

  it('keeps the workspace of the transformer through all phases', () => {
    const [small, large] = [plan({ images: 1 }), plan({ images: 1, steps: 100 })];
    const grown = 82 * 3072 * (12 * 19 + 3 * 38 + 2) * 4;
    large.phases.forEach(({ bytes }, i) => expect(bytes - small.phases[i]!.bytes).toBe(grown));
  });

  it('grows with the request', () => {
    const of = (o: MemoryPlanOptions, name: string) =>
      plan(o).components.find(({ component }) => component === name)!.transientBytes;
    const preparing = 2 * 3072 * (3 * 3072 + 12288) * 4;
    const one = of({}, 'transformer') - preparing;
    expect(of({ width: 2048, height: 2048 }, 'transformer') - preparing).toBeGreaterThan(3 * one);
    expect(of({ images: 4 }, 'transformer') - preparing).toBe(4 * one - 3 * 4096 * 128 * 8);
    expect(of({ textTokens: 256 }, 'text_encoder_2')).toBeLessThan(of({}, 'text_encoder_2'));
    // Tiles bound the decoder; the finished picture remains.
    expect(of({ width: 4096, height: 4096 }, 'vae')).toBe(2 * 1024 ** 3 + 4096 * 4096 * 15);
    for (const option of ['width', 'height', 'images', 'textTokens', 'steps'] as const) {
      expect(() => plan({ [option]: 0 })).toThrow(
        expect.objectContaining({ code: 'ERR_JITFLUX_INVALID_ARGUMENT' }),
      );
    }
  });

  it('plans a model that is known by its name as if its published files were there', async () => {
    const [known, files] = [await resolveModel('flux.1-dev'), fluxDev()].map((spec) =>
      plan({ dtype: 'bfloat16' }, spec),
    ) as [ReturnType<typeof plan>, ReturnType<typeof plan>];
    const withoutPaths = (p: typeof known) => p.components.map(({ path: _path, ...part }) => part);
    expect(withoutPaths(known)).toEqual(withoutPaths(files));
    expect(known).toMatchObject({ model: 'flux.1-dev', kind: 'named', steps: 18, textTokens: 512 });
    const schnell = await planMemory('flux.1-schnell');
    expect(schnell).toMatchObject({ steps: 4, textTokens: 256 });
  });

  it('plans the bundled model without LibTorch', async () => {
    const p = await planMemory(BUNDLED_MODEL);
    expect(p).toMatchObject({ model: 'flux-tiny', kind: 'jit-flux', width: 256, textTokens: 24, fits: true });
    expect(p.components.map(({ component }) => component)).toEqual([
      'runtime',
      'text_encoder',
      'transformer',
      'vae',
    ]);
  });
});

/** Of one part at 1024x1024 in bfloat16. */
const part = (request: object) =>
  componentMemory({
    fileBytes: 0,
    dtype: 'bfloat16',
    device: 'cpu',
    blockWeights: 'packed',
    keepModulation: true,
    mapWeights: true,
    work: { rows: 64, cols: 64, textTokens: 512, images: 1, steps: 18, runs: 1 },
    ...request,
  } as never);
const WORK = { rows: 64, cols: 64, textTokens: 512, images: 1, steps: 18, runs: 1 };

describe('parameter counts', () => {
  it('are those of the published models', () => {
    const count = (name: PartName, architecture: object) => part({ part: name, architecture }).parameters;
    expect(count('transformer', FLUX_1_DEV)).toBe(TRANSFORMER);
    expect(count('transformer', { ...FLUX_1_DEV, guidance: false })).toBe(11_891_178_560);
    expect(count('transformer', FLUX_TINY)).toBe(2_366_784);
    expect(count('clip', CLIP_L)).toBe(CLIP);
    expect(count('t5', T5_XXL)).toBe(T5);
    expect(count('autoencoder', { ...FLUX_AUTOENCODER, encoder: true })).toBe(VAE);
  });
});

describe('activations', () => {
  it('of T5-XXL at 512 tokens in bfloat16', () => {
    // 512 rows of residual and norm in float32, five more and three of the MLP; scores and bias of 64 heads.
    const rows = 512 * (2 * 4 * 4096 + 2 * (4096 + 4 * 4096 + 3 * 10240));
    const t5 = part({ part: 't5', architecture: T5_XXL });
    expect(t5.transientBytes).toBe(rows + 2 * 64 * 512 * 512 * 4);
  });

  it('of CLIP-L in bfloat16', () => {
    const clip = part({ part: 'clip', architecture: CLIP_L, work: { ...WORK, images: 3 } });
    expect(clip.transientBytes).toBe(3 * 77 * ((8 + 10) * 768 + 4 * 3072));
  });

  it('of the transformer at 1024x1024', () => {
    const of = (o: object) =>
      part({ part: 'transformer', architecture: FLUX_1_DEV, work: { ...WORK, ...o } }).transientBytes;
    const workspace = 4608 * ((11 * 3072 + 2 * 12288) * 2 + 2 * 3072 * 4) + 2 * 3072 * (3 * 3072 + 12288) * 2;
    const modulation = 18 * 3072 * (12 * 19 + 3 * 38 + 2) * 4;
    const tokens = 512 * (3072 * 2 + 4096 * 4) + 8 * 4096 * 64 * 4;
    const shared = workspace + 4096 * 128 * 8;
    expect(of({})).toBe(shared + modulation + tokens);
    // Passes take turns in one workspace; conditioning and latents are each request's own.
    expect(of({ runs: 3 })).toBe(shared + 3 * (modulation + tokens));
  });

  it('of the decoder, as the native bound', () => {
    // At half the picture's size, a map of 256 channels in the buffer of 512, and the four times larger one after it.
    const area = 512 * 512;
    const strips = 6 * 32 * 1024 ** 2;
    const picture = 1024 * 1024 * 15;
    const of = (dtype: string) =>
      part({ part: 'autoencoder', architecture: { ...FLUX_AUTOENCODER, encoder: true }, dtype })
        .transientBytes;
    expect(of('float32')).toBe(area * (512 + 4 * 256) * 4 + strips + picture);
    expect(of('float32') - picture).toBeLessThan(1.7 * 1024 ** 3);
    expect(of('bfloat16')).toBe(area * (512 + 4 * 256) * 2 + strips + picture);
  });
});

describe('checkMemory', () => {
  it('lets pass what fits, or what cannot be known', () => {
    const p = plan();
    expect(() => checkMemory(p)).not.toThrow();
    expect(() => checkMemory(plan({}, fluxDev(), p.peakBytes))).not.toThrow();
    expect(() => checkMemory(planModelMemory(fluxDev(), {}, { host: undefined }))).not.toThrow();
  });

  it('refuses with all the numbers', () => {
    const p = plan({}, fluxDev(), 32e9);
    expect(p.fits).toBe(false);
    expect(() => checkMemory(p)).toThrow(
      expect.objectContaining({
        code: 'ERR_JITFLUX_OUT_OF_MEMORY',
        message: expect.stringMatching(
          /FLUX\.1-dev in float32 needs 71\.\d GB at 1024x1024 .*32\.0 GB are available.*text_encoder 0\.49 GB, text_encoder_2 19\.0 GB, transformer 47\.6 GB, vae 0\.34 GB.*'bfloat16'/,
        ) as string,
        details: expect.objectContaining({
          peakBytes: p.peakBytes,
          available: { bytes: 32e9, limitedBy: 'machine' },
          components: p.components,
        }) as object,
      }),
    );
  });

  it('speaks of the encoders alone where nothing else is loaded', () => {
    const available = { host: { bytes: 8e9, limitedBy: 'machine' as const } };
    const p = planEncoding(fluxDev(), { images: 2 }, available);
    expect(p.components.map(({ component }) => component)).toEqual([
      'runtime',
      'text_encoder',
      'text_encoder_2',
    ]);
    expect(p.phases.map(({ phase }) => phase)).toEqual(['encode']);
    expect(() => checkMemory(p)).toThrow(
      /needs 20\.\d GB for its text encoders, .*text_encoder_2 19\.0 GB\. Try dtype 'bfloat16'; quantizeTextEncoders 'int8'; memoryCheck/,
    );
    expect(() =>
      checkMemory(planEncoding(fluxDev(), {}, { host: { bytes: 24e9, limitedBy: 'machine' } })),
    ).not.toThrow();
  });

  it('does not advise what was done already', () => {
    const source = { ...fluxDev(), text: undefined };
    let message = '';
    try {
      checkMemory(plan({ dtype: 'bfloat16' }, source, 1e9));
    } catch (error) {
      message = (error as Error).message;
    }
    expect(message).toContain('a smaller picture');
    expect(message).not.toMatch(/'bfloat16'|keepTextEncoders/);
  });
});
