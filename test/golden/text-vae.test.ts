/** The native text encoders and the autoencoder against transformers and diffusers (fixtures/text-vae). */
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { ERROR_CODES } from '../../src/errors.js';
import { engineInfo } from '../../src/index.js';
import { Autoencoder, ClipTextEncoder, DEVICE, T5Encoder, Tensor } from '../support/device.js';
import { originalAutoencoder } from '../support/original-layout.js';
import { expectError } from '../support/errors.js';
import { expectWithin, maxAbs, printParityTable, relativeRms } from '../support/parity.js';
import { fixturePath, type RawTensor, SafeTensors, writeSafeTensors } from '../support/safetensors.js';

printParityTable('text encoders and autoencoder, against transformers and diffusers');

const scratch = mkdtempSync(join(tmpdir(), 'jit-flux-text-vae-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

type Component = 'clip' | 't5' | 'vae';
const weights = (component: Component): string => fixturePath(`text-vae/${component}.safetensors`);

/** Writes a changed copy of a component's weights, with its config.json, and returns the path. */
function variant(
  component: Component,
  name: string,
  change: (tensors: Map<string, RawTensor>) => Map<string, RawTensor>,
): string {
  const path = join(scratch, `${component}-${name}.safetensors`);
  writeSafeTensors(path, change(SafeTensors.open(`text-vae/${component}.safetensors`).all()));
  copyFileSync(
    fixturePath(`text-vae/${component}.config.json`),
    path.replace('.safetensors', '.config.json'),
  );
  return path;
}

function renamed(tensors: Map<string, RawTensor>, rename: (name: string) => string): Map<string, RawTensor> {
  return new Map([...tensors].map(([name, tensor]) => [rename(name), tensor]));
}

const tensor = (data: SafeTensors, name: string): Tensor => Tensor.from(data.float32(name), data.shape(name));
const idTensor = (ids: readonly number[], shape: readonly number[]): Tensor =>
  Tensor.from(BigInt64Array.from(ids, BigInt), shape);
const idsOf = (data: SafeTensors, name: string): Tensor =>
  idTensor([...data.int32(`${name}.input_ids`)], data.shape(`${name}.input_ids`));

describe('CLIP text encoder', () => {
  const cases = SafeTensors.open('text-vae/clip.cases.safetensors');
  const layouts = {
    'text_model. names': () => weights('clip'),
    'bare names': () =>
      variant('clip', 'bare', (tensors) => renamed(tensors, (name) => name.replace('text_model.', ''))),
    'prefix, extras': () =>
      variant('clip', 'prefix', (tensors) => {
        const result = renamed(tensors, (name) => `clip_l.transformer.${name}`);
        const ids = { dtype: 'I64', shape: [1, 77], data: new Uint8Array(77 * 8) };
        result.set('clip_l.transformer.text_model.embeddings.position_ids', ids);
        result.set('clip_l.transformer.text_projection.weight', tensors.values().next().value!);
        return result;
      }),
    TorchScript: () => fixturePath('text-vae/clip.pt'),
  };
  describe.each(Object.entries(layouts))('%s', (layout, path) => {
    it.each(['padded77', 'short9', 'full77'])('%s', async (name) => {
      using encoder = await ClipTextEncoder.load(path());
      using ids = idsOf(cases, name);
      const { pooled, hidden } = await encoder.encode(ids);
      expect(pooled.shape).toEqual(cases.shape(`${name}.pooler_output`));
      expect(hidden.shape).toEqual(cases.shape(`${name}.last_hidden_state`));
      const [actual, expected] = [await pooled.toFloat32Array(), cases.float32(`${name}.pooler_output`)];
      expectWithin(`CLIP ${layout} ${name} pooled`, 'max abs', maxAbs(actual, expected), 1e-4);
      const states = maxAbs(await hidden.toFloat32Array(), cases.float32(`${name}.last_hidden_state`));
      expectWithin(`CLIP ${layout} ${name} hidden`, 'max abs', states, 1e-4);
    });
  });

  it('agrees in bfloat16', async () => {
    using encoder = await ClipTextEncoder.load(weights('clip'), { dtype: 'bfloat16' });
    const { pooled } = await encoder.encode(idsOf(cases, 'padded77'));
    expect(pooled.dtype).toBe('float32');
    const error = relativeRms(await pooled.toFloat32Array(), cases.float32('padded77.pooler_output'));
    expectWithin('CLIP bfloat16 padded77 pooled', 'relative rms', error, 2e-2);
  });

  it('takes the pooled vector at the first end of text of a modern config.json', async () => {
    const path = variant('clip', 'eos', (tensors) => tensors);
    writeFileSync(
      path.replace('.safetensors', '.config.json'),
      JSON.stringify({ text_config: { num_attention_heads: 4, eos_token_id: 7 } }),
    );
    using encoder = await ClipTextEncoder.load(path);
    expect(encoder.config).toMatchObject({ heads: 4, eosTokenId: 7 });
    const { pooled, hidden } = await encoder.encode(idTensor([0, 900, 7, 5, 7, 3, 4, 5], [2, 4]));
    const states = await hidden.toFloat32Array();
    const vectors = await pooled.toFloat32Array();
    expect(vectors.slice(0, 48)).toEqual(states.slice(2 * 48, 3 * 48));
    expect(vectors.slice(48)).toEqual(states.slice(4 * 48, 5 * 48));
  });

  it('says what its configuration is', async () => {
    using encoder = await ClipTextEncoder.load(weights('clip'));
    expect(encoder.config).toEqual({
      vocabulary: 1000,
      maxTokens: 77,
      width: 48,
      mlpWidth: 96,
      layers: 3,
      heads: 4,
      eosTokenId: 2,
    });
  });
});

describe('T5 encoder', () => {
  const cases = SafeTensors.open('text-vae/t5.cases.safetensors');
  const layouts = {
    'shared.weight': () => weights('t5'),
    'embed_tokens.weight': () =>
      variant('t5', 'embed', (tensors) =>
        renamed(tensors, (name) => name.replace(/^shared/, 'encoder.embed_tokens')),
      ),
    'whole T5 below a prefix': () =>
      variant('t5', 'whole', (tensors) => {
        const result = renamed(tensors, (name) => `t5xxl.transformer.${name}`);
        const shared = tensors.get('shared.weight')!;
        for (const name of ['encoder.embed_tokens', 'decoder.embed_tokens', 'lm_head']) {
          result.set(`t5xxl.transformer.${name}.weight`, shared);
        }
        const norm = tensors.get('encoder.final_layer_norm.weight')!;
        return result.set('t5xxl.transformer.decoder.final_layer_norm.weight', norm);
      }),
  };
  describe.each(Object.entries(layouts))('%s', (layout, path) => {
    it.each(['len12', 'len256', 'batch2_len20', 'len1'])('%s', async (name) => {
      using encoder = await T5Encoder.load(path());
      using hidden = await encoder.encode(idsOf(cases, name));
      expect(hidden.shape).toEqual(cases.shape(`${name}.last_hidden_state`));
      const error = maxAbs(await hidden.toFloat32Array(), cases.float32(`${name}.last_hidden_state`));
      expectWithin(`T5 ${layout} ${name}`, 'max abs', error, 1e-4);
    });
  });

  it.each(['len12', 'len256'])('agrees in bfloat16: %s', async (name) => {
    using encoder = await T5Encoder.load(weights('t5'), { dtype: 'bfloat16' });
    using hidden = await encoder.encode(idsOf(cases, name));
    const error = relativeRms(await hidden.toFloat32Array(), cases.float32(`${name}.last_hidden_state`));
    expectWithin(`T5 bfloat16 ${name}`, 'relative rms', error, 2e-2);
  });

  it.skipIf(DEVICE !== 'cpu').each([
    ['float32', 'len12'],
    ['float32', 'len256'],
    ['bfloat16', 'len12'],
    ['bfloat16', 'batch2_len20'],
  ] as const)('agrees with its blocks in 8 bits: %s, %s', async (dtype, name) => {
    using encoder = await T5Encoder.load(weights('t5'), { dtype, quantize: 'int8' });
    const before = engineInfo().kernelCalls.linearInt8;
    using hidden = await encoder.encode(idsOf(cases, name));
    // q, k, v, out, gate, up, down
    expect(engineInfo().kernelCalls.linearInt8 - before).toBe(7 * encoder.config.layers);
    const error = relativeRms(await hidden.toFloat32Array(), cases.float32(`${name}.last_hidden_state`));
    expectWithin(`T5 int8, ${dtype}, ${name}`, 'relative rms', error, 5e-2);
    using again = await encoder.encode(idsOf(cases, name));
    expect(await again.toFloat32Array()).toEqual(await hidden.toFloat32Array());
  });

  it('gives a prompt of a batch what it gets alone, and keeps no state between lengths', async () => {
    using encoder = await T5Encoder.load(weights('t5'));
    const ids = [...cases.int32('batch2_len20.input_ids')];
    using both = await encoder.encode(idTensor(ids, [2, 20]));
    using other = await encoder.encode(idTensor(ids.slice(0, 7), [1, 7]));
    expect(other.shape).toEqual([1, 7, 64]);
    const batched = await both.toFloat32Array();
    for (const b of [0, 1]) {
      using alone = await encoder.encode(idTensor(ids.slice(20 * b, 20 * b + 20), [1, 20]));
      const error = maxAbs(batched.slice(b * 20 * 64, (b + 1) * 20 * 64), await alone.toFloat32Array());
      expectWithin(`T5 prompt ${b} of a batch, against alone`, 'max abs', error, 1e-5);
    }
  });
});

describe('autoencoder', () => {
  const cases = SafeTensors.open('text-vae/vae.cases.safetensors');
  const layouts = {
    diffusers: () => weights('vae'),
    original: () =>
      variant('vae', 'original', (tensors) => originalAutoencoder(tensors, 3, 'first_stage_model.')),
  };

  describe.each(Object.entries(layouts))('%s names', (layout, path) => {
    it.each([
      ['8x8', 'image', false],
      ['batch2_6x10', 'image', 'auto'],
      ['tiled', 'image_untiled', false],
      // tile_latent_min_size 8, tile_overlap_factor 0.25
      ['tiled', 'image', { tileSize: 8, overlap: 2 }],
    ] as const)('%s.%s', async (name, output, tiling) => {
      using vae = await Autoencoder.load(path());
      expect(vae.config.names).toBe(layout);
      using picture = await vae.decode(tensor(cases, `${name}.decoder_input`), { tiling });
      expect(picture.shape).toEqual(cases.shape(`${name}.${output}`));
      const error = maxAbs(await picture.toFloat32Array(), cases.float32(`${name}.${output}`));
      expectWithin(`VAE ${layout} ${name}.${output}`, 'max abs', error, 1e-4);
    });

    it('encodes', async () => {
      using vae = await Autoencoder.load(path());
      const moments = await vae.encode(tensor(cases, 'encode.image'));
      for (const name of ['mean', 'logvar'] as const) {
        expect(moments[name].shape).toEqual(cases.shape(`encode.${name}`));
        const error = maxAbs(await moments[name].toFloat32Array(), cases.float32(`encode.${name}`));
        expectWithin(`VAE ${layout} encode.${name}`, 'max abs', error, 1e-4);
      }
    });
  });

  it('agrees in bfloat16', async () => {
    using vae = await Autoencoder.load(weights('vae'), { dtype: 'bfloat16' });
    using picture = await vae.decode(tensor(cases, '8x8.decoder_input'));
    const decoded = relativeRms(await picture.toFloat32Array(), cases.float32('8x8.image'));
    expectWithin('VAE bfloat16 8x8', 'relative rms', decoded, 5e-2);
    const { mean } = await vae.encode(tensor(cases, 'encode.image'));
    const encoded = relativeRms(await mean.toFloat32Array(), cases.float32('encode.mean'));
    expectWithin('VAE bfloat16 encode.mean', 'relative rms', encoded, 5e-2);
  });

  it('decodes a picture of a batch as it does alone', async () => {
    using vae = await Autoencoder.load(weights('vae'));
    const latents = cases.float32('batch2_6x10.decoder_input');
    const size = latents.length / 2;
    using both = await vae.decode(tensor(cases, 'batch2_6x10.decoder_input'));
    const batched = await both.toFloat32Array();
    for (const b of [0, 1]) {
      using alone = await vae.decode(Tensor.from(latents.slice(b * size, (b + 1) * size), [1, 16, 6, 10]));
      const pixels = await alone.toFloat32Array();
      expect(pixels).toEqual(batched.slice(b * pixels.length, (b + 1) * pixels.length));
    }
  });

  it('computes the same in strips of rows as in strips of columns', async () => {
    // Large maps are computed in strips of rows. With transposed kernels the transposed input must give the
    // transposed output, cut in the other direction.
    const [h, w] = [264, 128];
    const path = variant('vae', 'transposed', (tensors) => {
      for (const [name, tensor] of tensors) {
        if (tensor.shape.length !== 4 || tensor.shape[3] !== 3) continue;
        const values = new Float32Array(tensor.data.buffer);
        const swapped = values.map((_, i) => values[i - (i % 9) + 3 * (i % 3) + Math.floor((i % 9) / 3)]!);
        tensors.set(name, { ...tensor, data: new Uint8Array(swapped.buffer) });
      }
      return tensors;
    });
    const transposed = async (of: Tensor): Promise<Tensor> => {
      const [images, channels, rows, columns] = of.shape as [number, number, number, number];
      const data = await of.toFloat32Array();
      const result = new Float32Array(data.length);
      for (let i = 0; i < data.length; i++) {
        const [map, at] = [Math.floor(i / (rows * columns)), i % (rows * columns)];
        result[map * rows * columns + (at % columns) * rows + Math.floor(at / columns)] = data[i]!;
      }
      return Tensor.from(result, [images, channels, columns, rows]);
    };
    using vae = await Autoencoder.load(weights('vae'));
    using turned = await Autoencoder.load(path);
    using latents = Tensor.randn([1, 16, h, w], { seed: 3 });
    using picture = await vae.decode(latents, { tiling: false });
    using other = await turned.decode(await transposed(latents), { tiling: false });
    const decoded = maxAbs(await picture.toFloat32Array(), await (await transposed(other)).toFloat32Array());
    expectWithin('VAE decode, strips of rows against columns', 'max abs', decoded, 1e-4);
    const { mean } = await vae.encode(picture);
    const moments = await turned.encode(await transposed(picture));
    const encoded = maxAbs(
      await mean.toFloat32Array(),
      await (await transposed(moments.mean)).toFloat32Array(),
    );
    expectWithin('VAE encode, strips of rows against columns', 'max abs', encoded, 1e-4);
  });

  describe('tiling', () => {
    const F = 4; // pixels per latent cell
    const [h, w] = [64, 96];

    it('is exact when one tile is enough', async () => {
      using vae = await Autoencoder.load(weights('vae'));
      using latents = Tensor.randn([1, 16, 24, 32], { seed: 1 });
      using whole = await vae.decode(latents, { tiling: false });
      const expected = await whole.toFloat32Array();
      for (const tiling of [true, 'auto', { tileSize: 32 }] as const) {
        using picture = await vae.decode(latents, { tiling });
        expect(await picture.toFloat32Array()).toEqual(expected);
      }
    });

    it('stays near the untiled picture inside the tiles and has no seams', async () => {
      using vae = await Autoencoder.load(weights('vae'));
      using latents = Tensor.randn([1, 16, h, w], { seed: 2 });
      using whole = await vae.decode(latents, { tiling: false });
      using tiled = await vae.decode(latents, { tiling: { tileSize: 48, overlap: 16 } });
      const [expected, actual] = [await whole.toFloat32Array(), await tiled.toFloat32Array()];
      // Group norms see a tile instead of the picture: close, not equal.
      const [rows, columns] = [h * F, w * F];
      const inside: [number[], number[]] = [[], []];
      const jump = new Float64Array(columns - 1); // squared jumps of the error between neighbouring columns
      for (let i = 0; i < 3 * rows; i++) {
        for (let x = 0; x < columns; x++) {
          const at = i * columns + x;
          const row = i % rows;
          if (row < 24 * F && x > 4 * F && x < 28 * F) {
            inside[0].push(actual[at]!);
            inside[1].push(expected[at]!);
          }
          if (x + 1 < columns) {
            jump[x]! += (actual[at + 1]! - expected[at + 1]! - (actual[at]! - expected[at]!)) ** 2;
          }
        }
      }
      const error = relativeRms(inside[0], inside[1]);
      expectWithin('VAE tiled against untiled, inside a tile', 'relative rms', error, 0.15);
      // Tiles start at columns 0, 32, 64: the error must not jump where one begins or where its blending ends.
      const mean = jump.reduce((a, b) => a + b, 0) / jump.length;
      for (const column of [32, 48, 64, 80]) {
        const ratio = Math.sqrt(jump[column * F - 1]! / mean);
        expectWithin(`VAE tiled, jump at column ${column} over mean jump`, 'ratio', ratio, 2);
      }
    });

    it('follows the memory budget, and reports every tile', async () => {
      using vae = await Autoencoder.load(weights('vae'));
      using latents = Tensor.randn([1, 16, h, w], { seed: 2 });
      const blocks: number[] = [];
      const totals: number[] = [];
      const needed = vae.decodeBytes(h, w);
      expect(needed).toBeGreaterThan(vae.decodeBytes(h / 2, w));
      for (const memoryBudgetBytes of [needed, needed - 1]) {
        let last = 0;
        using picture = await vae.decode(latents, {
          memoryBudgetBytes,
          onProgress: ({ done, total }) => {
            expect(done).toBeGreaterThanOrEqual(last);
            last = done;
            blocks.push(done);
            totals[totals.length - (totals.includes(total) ? 1 : 0)] = total;
          },
        });
        expect(picture.shape).toEqual([1, 3, h * F, w * F]);
        expect(last).toBe(totals.at(-1));
      }
      expect(totals).toHaveLength(2);
      expect(totals[1]! % totals[0]!).toBe(0);
      expect(totals[1]!).toBeGreaterThan(totals[0]!);
    });

    it('refuses tiles that make no sense', async () => {
      using vae = await Autoencoder.load(weights('vae'));
      using latents = Tensor.randn([1, 16, 8, 8], { seed: 2 });
      const { INVALID_ARGUMENT } = ERROR_CODES;
      await expectError(
        () => vae.decode(latents, { tiling: { tileSize: 8, overlap: 5 } }),
        INVALID_ARGUMENT,
        /overlap/,
      );
      await expectError(() => vae.decode(latents, { tiling: { tileSize: 1 } }), INVALID_ARGUMENT, /tileSize/);
      await expectError(
        () => vae.decode(latents, { memoryBudgetBytes: -1 }),
        INVALID_ARGUMENT,
        /memoryBudgetBytes/,
      );
    });
  });

  it('works from a file that holds the decoder only', async () => {
    const path = variant(
      'vae',
      'decoder',
      (tensors) => new Map([...tensors].filter(([name]) => name.startsWith('decoder.'))),
    );
    using vae = await Autoencoder.load(path);
    expect(vae.config.encoder).toBe(false);
    using picture = await vae.decode(tensor(cases, '8x8.decoder_input'));
    expect(maxAbs(await picture.toFloat32Array(), cases.float32('8x8.image'))).toBeLessThan(1e-4);
    await expectError(
      () => vae.encode(tensor(cases, 'encode.image')),
      ERROR_CODES.INVALID_ARGUMENT,
      /decoder only/,
    );
  });

  it('stops when aborted', async () => {
    using vae = await Autoencoder.load(weights('vae'));
    using latents = Tensor.randn([1, 16, 256, 256], { seed: 2 });
    const controller = new AbortController();
    const reason = new Error('enough');
    const decoding = vae.decode(latents, {
      signal: controller.signal,
      onProgress: () => controller.abort(reason),
    });
    const error = await expectError(() => decoding, ERROR_CODES.ABORTED);
    expect(error.cause).toBe(reason);
  });
});

describe('wrong weights', () => {
  const { WEIGHTS_MISMATCH, INVALID_MODEL } = ERROR_CODES;

  it('names everything that is missing, misshaped, mistyped and unexpected', async () => {
    const path = variant('t5', 'wrong', (tensors) => {
      const layer = 'encoder.block.1.layer.';
      tensors.delete(`${layer}0.layer_norm.weight`);
      tensors.delete(`${layer}1.DenseReluDense.wo.weight`);
      const norm = tensors.get('encoder.final_layer_norm.weight')!;
      tensors.set('encoder.final_layer_norm.weight', { ...norm, shape: [8, 8] });
      tensors.set(`${layer}1.layer_norm.weight`, { ...norm, dtype: 'I32' });
      return tensors.set('encoder.block.1.surprise', norm);
    });
    const error = await expectError(() => T5Encoder.load(path), WEIGHTS_MISMATCH, /T5 encoder/);
    expect(error.details).toMatchObject({
      missing: [
        'encoder.block.1.layer.0.layer_norm.weight',
        'encoder.block.1.layer.1.DenseReluDense.wo.weight',
      ],
      misshaped: ['encoder.final_layer_norm.weight: expected [64], found [8, 8]'],
      mistyped: ['encoder.block.1.layer.1.layer_norm.weight: int32 is not a floating point type'],
      unexpected: ['encoder.block.1.surprise'],
    });
  });

  it('tells a text encoder of inconsistent size', async () => {
    const path = variant('clip', 'size', (tensors) => {
      const name = 'text_model.encoder.layers.0.self_attn.q_proj.weight';
      const matrix = tensors.get(name)!;
      return tensors.set(name, { ...matrix, shape: [24, 96] });
    });
    const error = await expectError(() => ClipTextEncoder.load(path), WEIGHTS_MISMATCH, /q_proj/);
    expect(error.details?.['misshaped']).toHaveLength(1);
  });

  it('tells one model from another', async () => {
    await expectError(() => ClipTextEncoder.load(weights('t5')), WEIGHTS_MISMATCH, /CLIP text encoder/);
    await expectError(() => T5Encoder.load(weights('vae')), WEIGHTS_MISMATCH, /T5 encoder/);
    await expectError(() => Autoencoder.load(weights('clip')), WEIGHTS_MISMATCH, /FLUX autoencoder/);
  });

  it('reports a configuration that the shapes contradict', async () => {
    const clip = variant('clip', 'heads', (tensors) => tensors);
    const config = clip.replace('.safetensors', '.config.json');
    writeFileSync(config, '{"num_attention_heads": 5}');
    await expectError(() => ClipTextEncoder.load(clip), WEIGHTS_MISMATCH, /48 does not divide into 5 heads/);
    writeFileSync(config, '{"hidden_act": "gelu"}');
    await expectError(() => ClipTextEncoder.load(clip), INVALID_MODEL, /hidden_act/);
    writeFileSync(config, '{');
    await expectError(() => ClipTextEncoder.load(clip), INVALID_MODEL, /not valid JSON/);
    // A config.json of another kind of model says nothing about this one.
    writeFileSync(config, '{"_class_name": "FluxTransformer2DModel", "num_attention_heads": 4}');
    await expectError(() => ClipTextEncoder.load(clip), WEIGHTS_MISMATCH, /num_attention_heads/);
  });
});

describe('wrong inputs', () => {
  const { INVALID_TENSOR, INVALID_ARGUMENT, DISPOSED, ABORTED, DEVICE_UNAVAILABLE } = ERROR_CODES;

  it.each([
    ['CLIP', () => ClipTextEncoder.load(weights('clip')), 1000, 77],
    ['T5', () => T5Encoder.load(weights('t5')), 300, 512],
  ] as const)('%s: token ids', async (_, load, vocabulary, longest) => {
    using encoder = await load();
    const encode = async (ids: Tensor): Promise<unknown> => encoder.encode(ids);
    await expectError(() => encode(idTensor([0, vocabulary], [1, 2])), INVALID_TENSOR, /position 1/);
    await expectError(() => encode(idTensor([-1, 0], [1, 2])), INVALID_TENSOR, /-1/);
    await expectError(() => encode(idTensor([0, 1], [2])), INVALID_TENSOR, /int64 \[2\]/);
    await expectError(
      () => encode(Tensor.from(Int32Array.from([0, 1]), [1, 2])),
      INVALID_TENSOR,
      /int32 \[1, 2\]/,
    );
    const long = idTensor(new Array<number>(longest + 1).fill(1), [1, longest + 1]);
    await expectError(() => encode(long), INVALID_TENSOR, new RegExp(`at most ${longest} tokens`));
    await expectError(() => encoder.encode(idTensor([1], [1, 1]), { signal: AbortSignal.abort() }), ABORTED);
    encoder.dispose();
    expect(encoder.disposed).toBe(true);
    await expectError(() => encode(idTensor([1], [1, 1])), DISPOSED);
  });

  it('autoencoder: shapes and dtypes', async () => {
    using vae = await Autoencoder.load(weights('vae'));
    await expectError(() => vae.decode(Tensor.randn([1, 4, 8, 8], { seed: 0 })), INVALID_TENSOR, /16/);
    await expectError(() => vae.decode(Tensor.randn([16, 8, 8], { seed: 0 })), INVALID_TENSOR);
    await expectError(
      () => vae.encode(Tensor.randn([1, 3, 30, 32], { seed: 0 })),
      INVALID_TENSOR,
      /divisible/,
    );
    vae.dispose();
    await expectError(() => vae.decode(Tensor.randn([1, 16, 8, 8], { seed: 0 })), DISPOSED);
  });

  it('load options', async () => {
    await expectError(() => T5Encoder.load(weights('t5'), { dtype: 'float16' }), INVALID_ARGUMENT, /dtype/);
    await expectError(() => Autoencoder.load(weights('vae'), { device: 'cuda:99' }), DEVICE_UNAVAILABLE);
    await expectError(() => ClipTextEncoder.load(join(scratch, 'none')), ERROR_CODES.FILE_NOT_FOUND);
    const signal = AbortSignal.abort();
    await expectError(() => ClipTextEncoder.load(weights('clip'), { signal }), ABORTED);
  });
});
