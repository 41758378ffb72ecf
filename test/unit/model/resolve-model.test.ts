/** Which directories are models, and what is wrong with the others; no native code. */
import { cp, mkdir, mkdtemp, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';

import { BUNDLED_MODEL } from '../../../src/model/bundled-model.js';
import { readAutoencoderConfig } from '../../../src/engine/component-config.js';
import { requireFiles, resolveModel } from '../../../src/model/resolve-model.js';
import { resolveRequest } from '../../../src/pipeline/request.js';
import { originalLayoutMini } from '../../support/mini.js';
import { fixturePath } from '../../support/safetensors.js';
import { writeTinySnapshot } from '../../support/tiny-snapshot.js';

let root: string;
let work: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'jit-flux-source-'));
  for (const variant of ['dev', 'schnell'] as const) writeTinySnapshot(join(root, variant), variant);
});
afterAll(() => rm(root, { recursive: true, force: true }));
beforeEach(async () => {
  work = await mkdtemp(join(root, 'work-'));
});
afterEach(() => rm(work, { recursive: true, force: true }));

/** A copy of the dev snapshot, to be damaged. */
async function snapshot(): Promise<string> {
  const copy = join(work, 'model');
  await cp(join(root, 'dev'), copy, { recursive: true });
  return copy;
}

async function edit(path: string, change: (json: Record<string, unknown>) => void): Promise<void> {
  const json = JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>;
  change(json);
  await writeFile(path, JSON.stringify(json));
}

const fails = (code: string, message: RegExp | string) => ({
  code,
  message: (typeof message === 'string'
    ? expect.stringContaining(message)
    : expect.stringMatching(message)) as string,
});
const ORIGINAL = originalLayoutMini();

describe('kinds of models', () => {
  it('our own', async () => {
    const source = await resolveModel(BUNDLED_MODEL);
    expect(source).toMatchObject({
      kind: 'jit-flux',
      info: { name: 'flux-tiny', text: { length: 24 } },
      text: { kind: 'torchscript' },
      decoder: { kind: 'torchscript' },
    });
    expect((await resolveModel(BUNDLED_MODEL, { textEncoders: false })).text).toBeUndefined();
    await expect(resolveModel(BUNDLED_MODEL, { textEncoders: root })).rejects.toMatchObject(
      fails('ERR_JITFLUX_INVALID_ARGUMENT', 'text encoder of its own'),
    );
  });

  it('a snapshot of dev', async () => {
    const { kind, path, info, transformer, text, decoder } = await resolveModel(join(root, 'dev'));
    expect({ kind, path, name: info.name }).toEqual({
      kind: 'diffusers',
      path: join(root, 'dev'),
      name: 'dev',
    });
    expect(info.text).toEqual({ length: 512 });
    expect(info.defaults).toEqual({ width: 1024, height: 1024, guidance: 3.5 });
    expect(transformer.config?.guidance).toBe(true);
    expect(text).toMatchObject({
      kind: 'native',
      clip: {
        tokenizer: join(root, 'dev', 'tokenizer'),
        architecture: { width: transformer.config?.pooledDim },
      },
      t5: {
        tokenizer: join(root, 'dev', 'tokenizer_2'),
        architecture: { width: transformer.config?.textDim },
      },
    });
    expect(decoder).toMatchObject({
      kind: 'native',
      architecture: { latentChannels: info.decoder.channels },
    });
  });

  it('a snapshot of schnell', async () => {
    const { info, transformer } = await resolveModel(join(root, 'schnell'));
    expect(transformer.config?.guidance).toBe(false);
    expect(info.text).toEqual({ length: 512, defaultLength: 256 });
    expect(info.defaults).toMatchObject({
      preset: 'dense',
      dense: { steps: 4, schedule: { kind: 'static', shift: 1 } },
    });
  });

  it("a snapshot in Hugging Face's cache, named after its repository", async () => {
    const cached = join(work, 'models--black-forest-labs--FLUX.1-dev', 'snapshots', '0123abcd');
    await mkdir(join(cached, '..'), { recursive: true });
    await symlink(join(root, 'dev'), cached);
    expect((await resolveModel(cached)).info.name).toBe('FLUX.1-dev');
  });

  it('an original checkpoint, by its file or its directory', async () => {
    await cp(ORIGINAL, join(work, 'flux1-mine.safetensors'));
    const vae = fixturePath('text-vae/vae.safetensors');
    await cp(vae, join(work, 'ae.safetensors'));
    for (const path of [work, join(work, 'flux1-mine.safetensors')]) {
      const source = await resolveModel(path, { textEncoders: false });
      expect(source).toMatchObject({
        kind: 'checkpoint',
        info: {
          name: 'flux1-mine',
          decoder: { channels: 16, spatialFactor: 4, scalingFactor: 0.3611, shiftFactor: 0.1159 },
        },
        transformer: { weights: { path: join(work, 'flux1-mine.safetensors') } },
        decoder: { weights: { path: join(work, 'ae.safetensors') } },
        text: undefined,
      });
    }
    await expect(resolveModel(work)).rejects.toMatchObject(
      fails('ERR_JITFLUX_INVALID_MODEL', /missing: the CLIP text encoder .*textEncoders/),
    );
  });
});

describe('a description', () => {
  it('is immutable plain data, and is taken where a path is', async () => {
    for (const path of [BUNDLED_MODEL, join(root, 'dev')]) {
      const spec = await resolveModel(path);
      const copy = JSON.parse(JSON.stringify(spec)) as typeof spec;
      expect(copy).toEqual(spec);
      expect(() => (spec.info.defaults.width = 64)).toThrow(TypeError);
      expect(await resolveModel(spec)).toBe(spec);
      expect(await resolveModel(copy)).toBe(copy);
      expect((await resolveModel(spec, { textEncoders: false })).text).toBeUndefined();
      await expect(resolveModel(spec, { textEncoders: root })).rejects.toMatchObject(
        fails('ERR_JITFLUX_INVALID_ARGUMENT', 'with which'),
      );
    }
  });

  it.each([null, 7, {}, [], { kind: 'diffusers' }])('is not %j', async (value) => {
    await expect(resolveModel(value as never)).rejects.toMatchObject(
      fails('ERR_JITFLUX_INVALID_ARGUMENT', 'path or name of a model'),
    );
  });

  it('of a known name needs no files; loading does', async () => {
    const spec = await resolveModel('flux.1-schnell');
    expect(spec).toMatchObject({
      kind: 'named',
      info: { defaults: { preset: 'dense', dense: { steps: 4 } } },
    });
    expect(spec.path).toBeUndefined();
    expect(() => requireFiles(spec)).toThrow(
      expect.objectContaining(fails('ERR_JITFLUX_INVALID_ARGUMENT', 'not the weights')),
    );
    expect((await resolveModel('flux-tiny')).path).toBe(BUNDLED_MODEL);
    await expect(resolveModel('flux.9')).rejects.toMatchObject(
      fails('ERR_JITFLUX_FILE_NOT_FOUND', 'flux.1-dev, flux.1-schnell, flux-tiny'),
    );
  });

  it('reads config.json once for everybody: a named one first, and none of another model', async () => {
    const model = await snapshot();
    const weights = join(model, 'vae', 'diffusion_pytorch_model.safetensors');
    await writeFile(
      weights.replace('.safetensors', '.config.json'),
      JSON.stringify({ scaling_factor: 0.5, shift_factor: 0.25 }),
    );
    await writeFile(join(model, 'text_encoder', 'config.json'), JSON.stringify({ model_type: 'llama' }));
    const { info, decoder, text } = await resolveModel(model);
    expect(info.decoder).toMatchObject({ scalingFactor: 0.5, shiftFactor: 0.25 });
    expect(decoder).toMatchObject({ settings: { scalingFactor: 0.5, shiftFactor: 0.25 } });
    expect((await readAutoencoderConfig(weights)).settings).toMatchObject({ scalingFactor: 0.5 });
    expect(text).toMatchObject({ clip: { settings: { eosTokenId: 2 } } });
  });
});

describe('what is wrong with a directory', () => {
  it('is no model', async () => {
    await expect(resolveModel(join(work, 'none'))).rejects.toMatchObject(
      fails('ERR_JITFLUX_FILE_NOT_FOUND', 'does not exist'),
    );
    await expect(resolveModel(work)).rejects.toMatchObject(
      fails('ERR_JITFLUX_INVALID_MODEL', 'neither model_index.json nor'),
    );
    await expect(resolveModel('')).rejects.toMatchObject({ code: 'ERR_JITFLUX_INVALID_ARGUMENT' });
    await expect(resolveModel(root, { textEncoders: '' })).rejects.toMatchObject({
      code: 'ERR_JITFLUX_INVALID_ARGUMENT',
    });
    await expect(resolveModel(root, { signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: 'ERR_JITFLUX_ABORTED',
    });
  });

  it('is of another pipeline', async () => {
    const model = await snapshot();
    await edit(join(model, 'model_index.json'), (json) => (json['_class_name'] = 'FluxFillPipeline'));
    await expect(resolveModel(model)).rejects.toMatchObject(
      fails('ERR_JITFLUX_INVALID_MODEL', 'FluxFillPipeline'),
    );
  });

  it('lacks components: all of them are named, and where they were looked for', async () => {
    const model = await snapshot();
    const gone = ['transformer', 'vae', 'scheduler', 'text_encoder_2', 'tokenizer', 'tokenizer_2'];
    for (const name of gone) await rm(join(model, name), { recursive: true });
    const error = (await resolveModel(model).catch((e: unknown) => e)) as {
      code: string;
      message: string;
      details: { missing: string[] };
    };
    expect(error.code).toBe('ERR_JITFLUX_INVALID_MODEL');
    expect(error.details.missing).toHaveLength(gone.length);
    for (const name of gone) expect(error.message).toContain(join(model, name));
    expect(error.message).not.toContain(join(model, 'text_encoder)'));
  });

  it('lacks a shard', async () => {
    const model = await snapshot();
    const directory = join(model, 'transformer');
    const index = join(directory, 'diffusion_pytorch_model.safetensors.index.json');
    const { weight_map } = JSON.parse(await readFile(index, 'utf8')) as {
      weight_map: Record<string, string>;
    };
    const shard = Object.values(weight_map)[0]!;
    await rename(join(directory, shard), join(directory, 'elsewhere'));
    await expect(resolveModel(model)).rejects.toMatchObject(fails('ERR_JITFLUX_FILE_NOT_FOUND', shard));
  });

  it.each(['../secret.safetensors', '/etc/passwd', '..', 'a/b.safetensors', 'a\\b.safetensors', ''])(
    'names the shard %j',
    async (shard) => {
      const model = await snapshot();
      const index = join(model, 'transformer', 'diffusion_pytorch_model.safetensors.index.json');
      await edit(index, (json) => (json['weight_map'] = { 'x_embedder.weight': shard }));
      await expect(resolveModel(model)).rejects.toMatchObject(
        fails('ERR_JITFLUX_UNSAFE_FILE', 'not a plain file name'),
      );
    },
  );

  it('has text encoders of other widths, seen in config.json alone', async () => {
    for (const [directory, field, name] of [
      ['text_encoder', 'hidden_size', 'pooledDim'],
      ['text_encoder_2', 'd_model', 'textDim'],
    ] as const) {
      const model = await snapshot();
      await edit(join(model, directory, 'config.json'), (json) => (json[field] = 1234));
      await expect(resolveModel(model)).rejects.toMatchObject(
        fails('ERR_JITFLUX_INVALID_MODEL', new RegExp(`1234 wide.*\\(${name}\\)`)),
      );
      await rm(model, { recursive: true });
    }
  });

  it('has an autoencoder with other latents', async () => {
    const model = await snapshot();
    await edit(join(model, 'vae', 'config.json'), (json) => (json['latent_channels'] = 4));
    await expect(resolveModel(model)).rejects.toMatchObject(
      fails('ERR_JITFLUX_INVALID_MODEL', /64 input and 64 output channels.* has 4 x 4$/),
    );
  });

  it.each([
    ['base_shift', 0.3],
    ['shift_terminal', 0.02],
    ['shift', -1],
  ])('has a scheduler with %s %d', async (field, value) => {
    const model = await snapshot();
    await edit(join(model, 'scheduler', 'scheduler_config.json'), (json) => (json[field] = value));
    await expect(resolveModel(model)).rejects.toMatchObject(
      fails('ERR_JITFLUX_INVALID_MODEL', `scheduler_config.json: ${field}`),
    );
  });

  it('holds several weight files, or several checkpoints', async () => {
    const model = await snapshot();
    const vae = (name: string) => join(model, 'vae', name);
    await rename(vae('diffusion_pytorch_model.safetensors'), vae('one.safetensors'));
    await writeFile(vae('other.safetensors'), '');
    await expect(resolveModel(model)).rejects.toMatchObject(
      fails('ERR_JITFLUX_UNSUPPORTED_FORMAT', 'several weight files'),
    );
    for (const name of ['a.safetensors', 'b.safetensors']) await cp(ORIGINAL, join(work, name));
    await expect(resolveModel(work)).rejects.toMatchObject(
      fails('ERR_JITFLUX_INVALID_MODEL', 'a.safetensors, b.safetensors'),
    );
  });

  it('holds damaged weights', async () => {
    await cp(fixturePath('text-vae/vae.safetensors'), join(work, 'ae.safetensors'));
    for (const [content, code] of [
      [Buffer.alloc(4), 'ERR_JITFLUX_CORRUPT_FILE'],
      [Buffer.from([255, 0, 0, 0, 0, 0, 0, 0, 123]), 'ERR_JITFLUX_CORRUPT_FILE'],
      [Buffer.from([2, 0, 0, 0, 0, 0, 0, 0, 123, 91]), 'ERR_JITFLUX_CORRUPT_FILE'],
      [Buffer.alloc(16, 255), 'ERR_JITFLUX_UNSAFE_FILE'],
      [Buffer.from('version https://git-lfs.github.com/spec/v1'), 'ERR_JITFLUX_UNSUPPORTED_FORMAT'],
      [Buffer.from('<!doctype html><title>Sign in'), 'ERR_JITFLUX_UNSUPPORTED_FORMAT'],
      [Buffer.from('Access to model FLUX.1-dev is restricted.'), 'ERR_JITFLUX_UNSUPPORTED_FORMAT'],
      [Buffer.from([2, 0, 0, 0, 0, 0, 0, 0, 123, 125]), 'ERR_JITFLUX_WEIGHTS_MISMATCH'],
    ] as const) {
      const file = join(work, 'flux.safetensors');
      await writeFile(file, content);
      await expect(resolveModel(file, { textEncoders: false })).rejects.toMatchObject({ code });
    }
  });
});

describe('defaults of a request', () => {
  const requestFor = async (variant: 'dev' | 'schnell', request: object = {}) => {
    const { info, transformer } = await resolveModel(join(root, variant));
    const size = { width: 256, height: 256 };
    return resolveRequest({ prompt: 'a red circle', ...size, ...request }, info, transformer.config);
  };

  it('of schnell: four dense steps on its own schedule, 256 text tokens', async () => {
    const { plan, textTokens } = await requestFor('schnell');
    expect(plan).toMatchObject({ preset: 'dense', steps: 4, sigmas: [1, 0.75, 0.5, 0.25] });
    expect(textTokens).toBe(256);
    expect((await requestFor('schnell', { maxSequenceLength: 512 })).textTokens).toBe(512);
  });

  it('of schnell with something else asked for', async () => {
    expect((await requestFor('schnell', { preset: 'dense', steps: 2 })).plan.sigmas).toEqual([1, 0.5]);
    expect((await requestFor('schnell', { preset: 'jit-4x' })).plan).toMatchObject({
      preset: 'jit-4x',
      steps: 18,
    });
    const shifted = await requestFor('schnell', { schedule: { kind: 'static', shift: 3 } });
    expect(shifted.plan.preset).toBe('custom');
    expect(shifted.sampling.schedule).toEqual({ kind: 'static', shift: 3 });
  });

  it('of dev: the default preset, dense on the dynamic shift, 512 text tokens', async () => {
    const { plan, textTokens, guidance } = await requestFor('dev');
    expect(plan).toMatchObject({ preset: 'jit-4x', steps: 18 });
    expect({ textTokens, guidance }).toEqual({ textTokens: 512, guidance: 3.5 });
    const dense = (await requestFor('dev', { preset: 'dense', steps: 4 })).plan;
    expect(dense.preset).toBe('dense');
    expect(dense.sigmas[1]).toBeGreaterThan(0.75);
  });
});
