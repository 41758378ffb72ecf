/** Variants, copies, links, failed downloads and files of other programs, as they lie on people's disks. No LibTorch. */
import { cp, mkdir, mkdtemp, readdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';

import { modelFingerprint } from '../../../src/model/fingerprint.js';
import { findWeights } from '../../../src/model/find-weights.js';
import { currentSnapshot, hubCache, isRepository, repositoryFolder } from '../../../src/model/hub-cache.js';
import { requireFiles, resolveModel } from '../../../src/model/resolve-model.js';
import { doubts } from '../../../src/model/spec.js';
import { expectError } from '../../support/errors.js';
import { SafeTensors, type RawTensor, writeSafeTensors } from '../../support/safetensors.js';
import { writeTinySnapshot } from '../../support/tiny-snapshot.js';

let root: string;
let work: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'jit-flux-people-'));
  writeTinySnapshot(join(root, 'dev'));
});
afterAll(() => rm(root, { recursive: true, force: true }));
beforeEach(async () => {
  work = await mkdtemp(join(root, 'work-'));
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(work, { recursive: true, force: true });
});

async function snapshot(at = join(work, 'model')): Promise<string> {
  await cp(join(root, 'dev'), at, { recursive: true });
  return at;
}

/** The transformer of the snapshot in one file, with some tensors changed. */
async function singleTransformer(
  model: string,
  change: (tensors: Map<string, RawTensor>) => void,
): Promise<string> {
  const folder = join(model, 'transformer');
  const tensors = new Map<string, RawTensor>();
  for (const name of await readdir(folder)) {
    if (name.endsWith('.safetensors')) {
      for (const [key, tensor] of SafeTensors.open(join(folder, name)).all()) tensors.set(key, tensor);
    }
    if (name.includes('safetensors')) await rm(join(folder, name));
  }
  change(tensors);
  const path = join(folder, 'diffusion_pytorch_model.safetensors');
  writeSafeTensors(path, tensors);
  return path;
}

describe('the weights of a folder', () => {
  const INDEX = 'model.safetensors.index.json';
  const SHARDS = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'];
  const NEW = ['model.fp16-00001-of-00002.safetensors', 'model.safetensors.index.fp16.json'];
  const OLD = ['model-00001-of-00002.fp16.safetensors', 'model.safetensors.fp16.index.json'];

  it.each<[title: string, names: string[], variant: string | undefined, expected: string | undefined]>([
    ['one file', ['model.safetensors'], undefined, 'model.safetensors'],
    ['an archive', ['model.pt'], undefined, 'model.pt'],
    ['none', ['config.json', 'model.bin', '.model.safetensors'], undefined, undefined],
    ['shards', [INDEX, ...SHARDS], undefined, INDEX],
    ['shards of any name', [INDEX, 'a.safetensors', 'b.safetensors'], undefined, INDEX],
    ['a variant beside', ['model.safetensors', 'model.fp16.safetensors'], undefined, 'model.safetensors'],
    ['that variant', ['model.safetensors', 'model.fp16.safetensors'], 'fp16', 'model.fp16.safetensors'],
    ['no such variant', ['model.safetensors', 'model.fp16.safetensors'], 'bf16', 'model.safetensors'],
    ['only a variant', ['model.fp16.safetensors'], undefined, 'model.fp16.safetensors'],
    ['only another', ['model.fp16.safetensors'], 'bf16', 'model.fp16.safetensors'],
    ['a sharded variant, as named now', NEW, undefined, NEW[1]],
    ['a sharded variant, as named before', OLD, undefined, OLD[1]],
    ['sharded variants beside shards', [INDEX, ...SHARDS, ...NEW], undefined, INDEX],
    ['those, asked for', [INDEX, ...SHARDS, ...NEW], 'fp16', NEW[1]],
    ['those of before, asked for', [INDEX, ...SHARDS, ...OLD], 'fp16', OLD[1]],
    ['weights without averaging', ['diffusion_pytorch_model.non_ema.safetensors', 'diffusion_pytorch_model.safetensors'], undefined, 'diffusion_pytorch_model.safetensors'], // prettier-ignore
    ['a copy', ['model (1).safetensors', 'model.safetensors'], undefined, 'model.safetensors'],
    ['an index without its shards', [INDEX, 'model.safetensors'], undefined, 'model.safetensors'],
    ['an index and a file', [INDEX, ...SHARDS, 'model.safetensors'], undefined, INDEX],
    ['a number is no variant', ['flux1-dev-v1.0.safetensors'], undefined, 'flux1-dev-v1.0.safetensors'],
  ])('%s', async (_, names, variant, expected) => {
    for (const name of names) await writeFile(join(work, name), '');
    expect(await findWeights(work, { variant })).toBe(expected && join(work, expected));
  });

  it('cannot be told where several could be meant', async () => {
    const code = 'ERR_JITFLUX_UNSUPPORTED_FORMAT';
    for (const [names, message] of [
      [
        ['model.safetensors', 'model.pt'],
        /several weight files, name one of them: 'model.safetensors', 'model.pt'/,
      ],
      [['a.safetensors', 'b.safetensors'], /'a.safetensors', 'b.safetensors'/],
      [['model.fp16.safetensors', 'model.bf16.safetensors'], /several variants .* \(bf16, fp16\); say which/],
      [SHARDS, /holds 2 shards \('model-00001-of-00002.safetensors', ...\) without the index/],
    ] as const) {
      const folder = await mkdtemp(join(work, 'several-'));
      for (const name of names) await writeFile(join(folder, name), '');
      await expectError(() => findWeights(folder), code, message);
      await expectError(() => resolveModel(folder, { variant: '../x' }), 'ERR_JITFLUX_INVALID_ARGUMENT');
    }
    expect(await findWeights(join(work, 'nowhere'))).toBeUndefined();
  });

  it('follow the variant through a whole model', async () => {
    const model = await snapshot();
    for (const [folder, name] of [
      ['vae', 'diffusion_pytorch_model'],
      ['text_encoder', 'model'],
    ] as const) {
      const path = (end: string) => join(model, folder, `${name}${end}`);
      await cp(path('.safetensors'), path('.fp16.safetensors'));
    }
    const files = (spec: Awaited<ReturnType<typeof resolveModel>>) => [
      spec.decoder.weights?.path,
      spec.text?.kind === 'native' && spec.text.clip.weights?.path,
    ];
    expect(files(await resolveModel(model))).toEqual([
      join(model, 'vae/diffusion_pytorch_model.safetensors'),
      join(model, 'text_encoder/model.safetensors'),
    ]);
    const half = await resolveModel(model, { variant: 'fp16' });
    expect(files(half)).toEqual([
      join(model, 'vae/diffusion_pytorch_model.fp16.safetensors'),
      join(model, 'text_encoder/model.fp16.safetensors'),
    ]);
    await expectError(
      () => resolveModel(half, { variant: 'fp16' }),
      'ERR_JITFLUX_INVALID_ARGUMENT',
      /variant/,
    );
  });
});

describe('failed downloads say so', () => {
  const PAGE = '<!doctype html><html><body>Sign in</body></html>';
  const DENIED = 'Access to model black-forest-labs/FLUX.1-dev is restricted.';
  const POINTER = 'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9949328904\n';

  it.each([
    ['vae/diffusion_pytorch_model.safetensors', 'ERR_JITFLUX_UNSUPPORTED_FORMAT'],
    ['transformer/diffusion_pytorch_model-00001-of-00003.safetensors', 'ERR_JITFLUX_UNSUPPORTED_FORMAT'],
    ['model_index.json', 'ERR_JITFLUX_INVALID_MODEL'],
    ['vae/config.json', 'ERR_JITFLUX_INVALID_MODEL'],
  ])('%s', async (name, code) => {
    const model = await snapshot();
    const path = join(model, name);
    for (const [text, message] of [
      [PAGE, /<!doctype html>.*failed or unauthorised download\?/],
      [DENIED, /Access to model .*failed or unauthorised download\?/],
      [POINTER, /Git LFS pointer/],
    ] as const) {
      await writeFile(path, text);
      await expectError(() => resolveModel(model), code, message);
    }
  });

  it('and links without their file', async () => {
    const model = await snapshot();
    await rm(join(model, 'model_index.json'));
    await symlink(join(model, 'gone'), join(model, 'model_index.json'));
    await expectError(
      () => resolveModel(model),
      'ERR_JITFLUX_INVALID_MODEL',
      /link to a file that is not there/,
    );
  });

  it('but a byte order mark is none', async () => {
    const model = await snapshot();
    const path = join(model, 'model_index.json');
    await writeFile(path, `\ufeff${await readFile(path, 'utf8')}`);
    expect((await resolveModel(model)).kind).toBe('diffusers');
  });
});

describe('the fingerprint of a model', () => {
  it('tells models of one architecture apart, wherever they lie', async () => {
    const of = async (path: string) => modelFingerprint(requireFiles(await resolveModel(path)));
    const first = await snapshot();
    const copy = await snapshot(join(work, 'copy'));
    expect(await of(copy)).toBe(await of(first));
    expect(await of(first)).toMatch(/^[0-9a-f]{16}$/);
    // One number, in the middle of the file or at its end.
    for (const at of [0.5, 1]) {
      const path = join(copy, 'vae', 'diffusion_pytorch_model.safetensors');
      const bytes = await readFile(path);
      const place = Math.floor((bytes.length - 1) * at);
      bytes[place] = bytes[place]! ^ 1;
      await writeFile(path, bytes);
      expect(await of(copy)).not.toBe(await of(first));
    }
  });
});

describe("Hugging Face's cache", () => {
  const COMMIT = '0123456789abcdef0123456789abcdef01234567';

  it('is where its tools have it', () => {
    expect(hubCache({ HF_HUB_CACHE: '/a', HF_HOME: '/b' })).toBe('/a');
    expect(hubCache({ HF_HOME: '/b' })).toBe('/b/hub');
    expect(hubCache({ XDG_CACHE_HOME: 'relative', HOME: '/h' })).toBe('/h/.cache/huggingface/hub');
    expect(hubCache({ XDG_CACHE_HOME: '/c' })).toBe('/c/huggingface/hub');
    expect(hubCache({})).toMatch(/\/\.cache\/huggingface\/hub$/);
    expect(repositoryFolder('org/name', { HF_HUB_CACHE: '/a' })).toBe('/a/models--org--name');
    expect(['org/name', 'a.b/c-d_1'].every(isRepository)).toBe(true);
    expect(['name', 'a/b/c', '/a/b', 'a b/c', './'].some(isRepository)).toBe(false);
  });

  it('is followed from its folder and from a name', async () => {
    const folder = join(work, 'hub', 'models--org--FLUX.1-tiny');
    const at = join(folder, 'snapshots', COMMIT);
    await snapshot(at);
    await mkdir(join(folder, 'snapshots', 'other'));
    // Two, and nothing that says which.
    await expectError(() => resolveModel(folder), 'ERR_JITFLUX_INVALID_MODEL', /neither model_index.json/);
    await mkdir(join(folder, 'refs'));
    await writeFile(join(folder, 'refs', 'main'), `${COMMIT}\n`);
    expect(await resolveModel(folder)).toMatchObject({ path: at, info: { name: 'FLUX.1-tiny' } });
    vi.stubEnv('HF_HUB_CACHE', join(work, 'hub'));
    expect(await resolveModel('org/FLUX.1-tiny')).toMatchObject({ path: at });
    await expectError(
      () => resolveModel('org/other'),
      'ERR_JITFLUX_FILE_NOT_FOUND',
      /models--org--other\). To get it: hf download org\/other/,
    );
    await writeFile(join(folder, 'refs', 'main'), '../../../etc');
    expect(await currentSnapshot(folder)).toBeUndefined();
    await rm(join(folder, 'refs'), { recursive: true });
    await rm(join(folder, 'snapshots', 'other'), { recursive: true });
    expect(await currentSnapshot(folder)).toBe(at);
  });
});

describe('files of other programs', () => {
  it.each([
    [
      'NF4',
      'transformer_blocks.0.attn.to_q.weight.quant_state.bitsandbytes__nf4',
      /quantised to NF4 by bitsandbytes/,
    ],
    ['int8 of bitsandbytes', 'transformer_blocks.0.attn.to_q.SCB', /quantised to int8 by bitsandbytes/],
    ['nunchaku', 'transformer_blocks.0.attn.to_q.wscales', /for nunchaku \(SVDQuant\)/],
    ['ComfyUI', 'transformer_blocks.0.attn.to_q.comfy_quant', /quantised by ComfyUI/],
    ['scaled fp8', 'scaled_fp8', /scaled fp8/],
    ['a LoRA', 'transformer_blocks.0.attn.to_q.lora_A.weight', /LoRA adapter/],
  ])('%s', async (_, name, message) => {
    const model = await snapshot();
    await singleTransformer(model, (tensors) => {
      const weight = tensors.get('transformer_blocks.0.attn.to_q.weight')!;
      tensors.set('transformer_blocks.0.attn.to_q.weight', {
        dtype: 'U8',
        shape: [4],
        data: new Uint8Array(4),
      });
      tensors.set(name, weight);
    });
    await expectError(() => resolveModel(model), 'ERR_JITFLUX_UNSUPPORTED_FORMAT', message);
  });

  it('an adapter without a model', async () => {
    const path = join(work, 'lora.safetensors');
    const tensor = { dtype: 'F32', shape: [1], data: new Uint8Array(4) };
    writeSafeTensors(path, new Map([['lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight', tensor]]));
    await expectError(
      () => resolveModel(path, { textEncoders: false }),
      'ERR_JITFLUX_INVALID_MODEL',
      /autoencoder/,
    );
    await cp(join(root, 'dev', 'vae'), join(work, 'vae'), { recursive: true });
    await expectError(
      () => resolveModel(path, { textEncoders: false }),
      'ERR_JITFLUX_UNSUPPORTED_FORMAT',
      /LoRA adapter/,
    );
  });

  it('GGUF and pickles in a folder are named', async () => {
    const model = await snapshot();
    await rm(join(model, 'vae', 'diffusion_pytorch_model.safetensors'));
    await writeFile(join(model, 'vae', 'diffusion_pytorch_model.bin'), '');
    await expectError(
      () => resolveModel(model),
      'ERR_JITFLUX_INVALID_MODEL',
      /holds diffusion_pytorch_model.bin: such/,
    );
    await writeFile(join(work, 'flux1-dev-Q4_0.gguf'), 'GGUF');
    await expectError(() => resolveModel(work), 'ERR_JITFLUX_INVALID_MODEL', /It holds flux1-dev-Q4_0.gguf/);
  });
});

describe('what is not followed or not used is told', () => {
  it('tensors of modules that FLUX.1 has not', async () => {
    const model = await snapshot();
    const path = await singleTransformer(model, (tensors) => {
      const bias = tensors.get('proj_out.bias')!;
      for (let i = 0; i < 30; i++) tensors.set(`note_${i}.weight`, bias);
    });
    const spec = await resolveModel(model);
    expect(spec.transformer.weights?.extra).toMatchObject({ count: 30 });
    expect(spec.transformer.weights?.extra?.names).toHaveLength(20);
    expect(doubts(spec)).toEqual([
      expect.stringContaining(`${path} holds 30 tensors that no part of FLUX.1 has (note_0.weight, `),
    ]);
    // Read back, as a caller may keep it.
    expect(doubts(await resolveModel(JSON.parse(JSON.stringify(spec)) as typeof spec))).toEqual(doubts(spec));
  });

  it('but one in a module of its own is another model', async () => {
    const model = await snapshot();
    await singleTransformer(model, (tensors) => {
      tensors.set('x_embedder.gate', tensors.get('proj_out.bias')!);
    });
    await expectError(
      () => resolveModel(model),
      'ERR_JITFLUX_WEIGHTS_MISMATCH',
      /1 unexpected: x_embedder.gate/,
    );
  });

  it.each([
    ['_class_name', 'FlowMatchHeunDiscreteScheduler', /names a FlowMatchHeunDiscreteScheduler, which is not/],
    ['use_beta_sigmas', true, /sets use_beta_sigmas, which is not followed/],
    ['stochastic_sampling', true, /sets stochastic_sampling/],
  ])('a scheduler with %s', async (field, value, message) => {
    const model = await snapshot();
    const path = join(model, 'scheduler', 'scheduler_config.json');
    const json = JSON.parse(await readFile(path, 'utf8')) as object;
    await writeFile(path, JSON.stringify({ ...json, [field]: value }));
    expect(doubts(await resolveModel(model))).toEqual([expect.stringMatching(message)]);
    await writeFile(path, JSON.stringify({ ...json, use_beta_sigmas: false, invert_sigmas: false }));
    expect(doubts(await resolveModel(model))).toEqual([]);
    await rename(path, `${path}.old`);
  });
});
