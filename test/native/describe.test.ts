/** What the engine says of weight files without loading them, against what it loads. */
import { writeFileSync, mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

import {
  componentMemory,
  describeWeights,
  mostStored,
  type WeightDescription,
} from '../../src/engine/describe.js';
import { Autoencoder, ClipTextEncoder, FluxTransformer, T5Encoder } from '../../src/engine/index.js';
import { FLUX_1_DEV } from '../../src/sampler/index.js';
import { expectError } from '../support/errors.js';
import { readManifest } from '../support/manifest.js';
import { fixturePath } from '../support/safetensors.js';

type Expectations = Record<string, { code: string }>;
const weightFiles = Object.entries(readManifest<Expectations>('weights/expected.json'));

const without = (config: object, ...names: string[]) =>
  Object.fromEntries(Object.entries(config).filter(([name]) => !names.includes(name)));

describe('describeWeights', () => {
  it.each([
    ['flux/flux-mini.safetensors', 'safetensors', 'diffusers'],
    ['flux/flux-nano.safetensors', 'safetensors', 'diffusers'],
    ['flux/flux-nano.bfloat16.scripted.pt', 'torchscript', 'diffusers'],
    ['flux/flux-nano.original-layout.scripted.pt', 'torchscript', 'original'],
    ['weights/pico-original.safetensors', 'safetensors', 'original'],
    ['weights/sharded/model.safetensors.index.json', 'safetensors', 'diffusers'],
  ] as const)('tells of %s what loading gives', async (name, format, layout) => {
    const path = fixturePath(name);
    const found = await describeWeights(path);
    const ropeAxes = found.part === 'transformer' ? found.architecture?.ropeAxes : undefined;
    using model = await FluxTransformer.load(path, ropeAxes && { ropeAxes });
    expect(found).toMatchObject({ path, part: 'transformer', format, layout, architecture: model.config });
    expect(found.parameters).toBe(componentMemory(request(found)).parameters);
    expect(found.parameters).toBe(Object.values(found.storedTypes).reduce((sum, count) => sum + count, 0));
  });

  it('tells of text encoders and autoencoders what loading gives, without what config.json says', async () => {
    const clip = await describeWeights(fixturePath('text-vae/clip.safetensors'));
    using encoder = await ClipTextEncoder.load(clip.path);
    expect(clip).toMatchObject({ part: 'clip', prefix: expect.any(String) as string });
    expect(clip.architecture).toEqual(without(encoder.config, 'heads', 'eosTokenId'));
    expect((await describeWeights(fixturePath('text-vae/clip.pt'))).architecture).toEqual(clip.architecture);
    const t5 = await describeWeights(fixturePath('text-vae/t5.safetensors'));
    using t5Encoder = await T5Encoder.load(t5.path);
    expect(t5.part).toBe('t5');
    expect(t5.architecture).toEqual(without(t5Encoder.config, 'maxTokens', 'maxDistance'));
    const vae = await describeWeights(fixturePath('text-vae/vae.safetensors'));
    using autoencoder = await Autoencoder.load(vae.path);
    expect(vae).toMatchObject({ part: 'autoencoder', layout: autoencoder.config.names });
    expect(vae.architecture).toEqual(
      without(autoencoder.config, 'normGroups', 'scalingFactor', 'shiftFactor'),
    );
    for (const found of [clip, t5, vae]) {
      expect(found.parameters).toBe(componentMemory(request(found)).parameters);
    }
  });

  it('names every file once and adds up their sizes', async () => {
    const index = fixturePath('weights/sharded/model.safetensors.index.json');
    const found = await describeWeights(index);
    expect(found.files).toEqual([
      index,
      fixturePath('weights/sharded/model-00001-of-00002.safetensors'),
      fixturePath('weights/sharded/model-00002-of-00002.safetensors'),
    ]);
    const alone = await Promise.all(found.files.slice(1).map((path) => describeWeights(path)));
    expect(found.fileBytes).toBe(alone.reduce((sum, { fileBytes }) => sum + fileBytes, 0));
    // A shard alone lacks the rest of the transformer.
    expect(alone[0]).toMatchObject({
      part: 'transformer',
      problem: { code: 'ERR_JITFLUX_WEIGHTS_MISMATCH' },
    });
    expect(alone[0]?.architecture).toBeUndefined();
    expect(mostStored(found)).toBe('bfloat16');
    expect(await describeWeights(fixturePath('weights/sharded'))).toEqual({
      ...found,
      path: fixturePath('weights/sharded'),
    });
  });

  it('is plain data', async () => {
    for (const name of [
      'text-vae/vae.safetensors',
      'weights/missing_parameter.pt',
      'convert/source.safetensors',
    ]) {
      const found = await describeWeights(fixturePath(name));
      expect(JSON.parse(JSON.stringify(found))).toEqual(found);
    }
  });

  it('has a problem, and throws nothing, for tensors of no known part', async () => {
    const found = await describeWeights(fixturePath('flux/flux-nano.cases.safetensors'));
    expect(found.part).toBeUndefined();
    expect(found.problem?.code).toBe('ERR_JITFLUX_WEIGHTS_MISMATCH');
    expect(found.parameters).toBeGreaterThan(0);
  });

  it.each(weightFiles.filter(([, { code }]) => code !== 'ok'))(
    'refuses %s as loading does',
    async (name, { code }) => {
      const path = fixturePath(`weights/${name}`);
      if (code !== 'ERR_JITFLUX_WEIGHTS_MISMATCH')
        return void (await expectError(() => describeWeights(path), code));
      expect((await describeWeights(path)).problem).toMatchObject({ code, details: { path } });
    },
  );

  it.each(['transformer_blocks.511.norm1.linear.bias', 'text_model.encoder.layers.511.layer_norm1.bias'])(
    'does not list hundreds of blocks because one tensor is named %s',
    async (name) => {
      const path = join(mkdtempSync(join(tmpdir(), 'jit-flux-')), 'one.safetensors');
      // One value, and for CLIP the name by which it is known.
      const landmark = 'text_model.embeddings.token_embedding.weight';
      const header = JSON.stringify({
        [name]: { dtype: 'F32', shape: [1], data_offsets: [0, 4] },
        ...(name.startsWith('text_model') && {
          [landmark]: { dtype: 'F32', shape: [1, 1], data_offsets: [4, 8] },
        }),
      });
      const size = Buffer.alloc(8);
      size.writeBigUInt64LE(BigInt(header.length));
      const values = Buffer.alloc(name.startsWith('text_model') ? 8 : 4);
      writeFileSync(path, Buffer.concat([size, Buffer.from(header), values]));
      const { problem } = await describeWeights(path);
      expect(problem?.code).toBe('ERR_JITFLUX_WEIGHTS_MISMATCH');
      const { missing, unexpected } = problem?.details as Record<string, string[]>;
      expect(unexpected).toContain(name);
      expect(missing?.length).toBeGreaterThan(10);
      expect(missing?.length).toBeLessThan(200);
    },
  );

  it('names all shards that are missing, and what a Git LFS pointer is', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'jit-flux-'));
    const index = join(directory, 'model.safetensors.index.json');
    const map = { a: 'one.safetensors', b: 'two.safetensors', c: 'three.safetensors' };
    writeFileSync(index, JSON.stringify({ weight_map: map }));
    const pointer = 'version https://git-lfs.github.com/spec/v1\n';
    writeFileSync(join(directory, 'three.safetensors'), pointer);
    const missing = await expectError(
      () => describeWeights(index),
      'ERR_JITFLUX_FILE_NOT_FOUND',
      /are missing/,
    );
    expect(missing.details).toEqual({ path: index, missing: ['one.safetensors', 'two.safetensors'] });
    writeFileSync(index, JSON.stringify({ weight_map: { c: map.c } }));
    await expectError(() => describeWeights(index), 'ERR_JITFLUX_UNSUPPORTED_FORMAT', /git lfs pull/);
  });

  it('can be aborted', async () => {
    const path = fixturePath('flux/flux-nano.safetensors');
    await expectError(() => describeWeights(path, { signal: AbortSignal.abort() }), 'ERR_JITFLUX_ABORTED');
    // Behind others in the queue of the library's thread.
    const before = Array.from({ length: 50 }, () => describeWeights(path));
    const controller = new AbortController();
    const work = describeWeights(path, { signal: controller.signal });
    controller.abort();
    await expectError(() => work, 'ERR_JITFLUX_ABORTED');
    await Promise.all(before);
  });
});

/** Of a part as the file holds it. */
function request({ part, architecture, fileBytes }: WeightDescription) {
  return {
    part: part!,
    architecture: architecture as never,
    fileBytes,
    dtype: 'float32',
    device: 'cpu',
    blockWeights: 'packed',
    keepModulation: true,
    mapWeights: true,
    work: { rows: 64, cols: 64, textTokens: 512, images: 1, steps: 18, runs: 1 },
  } as const;
}

describe('componentMemory', () => {
  const dev = {
    ...request({ part: 'transformer', architecture: FLUX_1_DEV, fileBytes: 0 } as never),
    dtype: 'bfloat16',
    storedDType: 'bfloat16',
  } as const;

  it('knows what the engine copies, maps, quantises and streams', () => {
    const parameters = 11_901_408_320;
    const block = 912 * 3072 * 3072 + 646 * 3072;
    const modulation = 344 * 3072 * 3073;
    const of = (o: object) => componentMemory({ ...dev, ...o });
    expect(of({})).toMatchObject({
      parameters,
      residentBytes: 2 * parameters,
      copiedBytes: 2 * block,
      mapped: true,
    });
    expect(of({ blockWeights: 'mapped' }).copiedBytes).toBe(2 * 380 * 3072 * 3073);
    expect(of({ storedDType: 'float32' })).toMatchObject({ copiedBytes: 2 * parameters, mapped: false });
    expect(of({ blockWeights: 'int8' })).toMatchObject({
      residentBytes: 2 * parameters - block,
      copiedBytes: block,
    });
    expect(of({ keepModulation: false }).residentBytes).toBe(2 * (parameters - modulation));
    // Three slots of the largest block: both streams' projections.
    const largest = 2 * (4 + 8) * 3072 * 3072;
    expect(of({ blockWeights: 'streamed', device: 'accelerator' })).toMatchObject({
      residentBytes: 2 * (parameters - block + 3 * largest),
      copiedBytes: 2 * (parameters - block + 3 * largest),
      streamedBytes: 2 * block,
      mapped: false,
    });
    expect(of({ architecture: { ...FLUX_1_DEV, guidance: false } }).parameters).toBe(11_891_178_560);
    expect(of({ architecture: undefined, fileBytes: 17 })).toMatchObject({
      residentBytes: 17,
      transientBytes: 0,
    });
  });

  it('takes an autoencoder of as many levels as the engine loads', async () => {
    const of = (...channels: number[]) => {
      const architecture = { latentChannels: 16, layersPerBlock: 2, encoder: true, channels };
      return componentMemory({ ...dev, part: 'autoencoder', architecture } as never);
    };
    const flux = of(128, 256, 512, 512).parameters!;
    expect(flux).toBe(83_819_683);
    expect(of(128, 256, 512, 512, 512).parameters).toBeGreaterThan(flux);
    expect(of(...Array<number>(8).fill(1024)).parameters).toBeGreaterThan(flux);
    await expectError(() => of(...Array<number>(9).fill(32)), 'ERR_JITFLUX_INVALID_ARGUMENT', /"channels"/);
  });

  it.each([
    [{ part: 'unet' }, /"part"/],
    [{ architecture: {} }, /"doubleBlocks"/],
    [{ architecture: { ...FLUX_1_DEV, doubleBlocks: 1e9 } }, /"doubleBlocks"/],
    [{ dtype: 'int8' }, /"dtype"/],
    [{ device: 'cuda' }, /"device"/],
    [{ blockWeights: 'zip' }, /"blockWeights"/],
    [{ work: { ...dev.work, images: 0 } }, /"images"/],
    [{ work: undefined }, /"work"/],
    [{ fileBytes: -1 }, /"fileBytes"/],
    [{ keepModulation: 1 }, /"keepModulation"/],
    [{ mapWeights: 1 }, /"mapWeights"/],
  ])('refuses %j', async (o, message) => {
    await expectError(
      () => componentMemory({ ...dev, ...o } as never),
      'ERR_JITFLUX_INVALID_ARGUMENT',
      message,
    );
  });
});
