/** Weight files, well-formed and hostile (tools/fixtures/make_hostile_archives.py). */
import { describe, expect, it } from 'vitest';
import { FluxTransformer, inspectWeights, Tensor, TorchScriptModule } from '../../src/engine/index.js';
import { expectError } from '../support/errors.js';
import { readManifest } from '../support/manifest.js';
import { maxAbs } from '../support/parity.js';
import { fixturePath } from '../support/safetensors.js';

type Expectations = Record<string, { code: string; reason: string; verify?: string }>;
const expectations = Object.entries(readManifest<Expectations>('weights/expected.json'));
const accepted = expectations.filter(([, { code }]) => code === 'ok');
const refused = expectations.filter(([, { code }]) => code !== 'ok');
const path = (name: string): string => fixturePath(`weights/${name}`);

/** One forward pass with fixed inputs. */
async function velocity(model: FluxTransformer): Promise<Float32Array> {
  const { textDim, pooledDim, inChannels } = model.config;
  using prompt = Tensor.randn([1, 3, textDim], { seed: 1 });
  using pooled = Tensor.randn([1, pooledDim], { seed: 2 });
  using tokens = Tensor.randn([1, 4, inChannels], { seed: 3 });
  using conditioning = await model.condition({ prompt, pooled, sigmas: [0.7] });
  using result = await model.forward({ tokens, grid: [2, 2], conditioning, step: 0 });
  return result.toFloat32Array();
}

describe('accepted files', () => {
  it.each(accepted)('%s ($reason)', async (name) => {
    using model = await FluxTransformer.load(path(name));
    const result = await velocity(model);
    expect(result.every(Number.isFinite)).toBe(true);
    expect(result.some((value) => value !== 0)).toBe(true);
  });

  // The second group holds the weights rounded to bfloat16.
  it.each([
    ['pico.pt', ['pico.safetensors', 'pico-original.safetensors']],
    ['pico-prefixed.pt', ['misaligned.pt', 'misaligned.safetensors', 'sharded']],
  ])('%s: the same model in every format and layout', async (first, others) => {
    using reference = await FluxTransformer.load(path(first));
    const expected = await velocity(reference);
    for (const name of others) {
      using model = await FluxTransformer.load(path(name));
      expect(maxAbs(await velocity(model), expected), name).toBe(0);
      expect(model.config).toEqual(reference.config);
    }
  });
});

describe('refused files', () => {
  it.each(refused)('%s', async (name, { code }) => {
    await expectError(() => FluxTransformer.load(path(name)), code);
  });

  it('names every missing, unexpected and misshaped parameter', async () => {
    const missing = await expectError(
      () => FluxTransformer.load(path('missing_parameter.pt')),
      'ERR_JITFLUX_WEIGHTS_MISMATCH',
      /proj_out\.bias/,
    );
    expect(missing.details?.missing).toEqual(['proj_out.bias']);
    const shape = await expectError(
      () => FluxTransformer.load(path('wrong_shape.pt')),
      'ERR_JITFLUX_WEIGHTS_MISMATCH',
      /x_embedder\.bias/,
    );
    expect(shape.details?.misshaped).toHaveLength(1);
    const type = await expectError(
      () => FluxTransformer.load(path('wrong_dtype.pt')),
      'ERR_JITFLUX_WEIGHTS_MISMATCH',
      /int64/,
    );
    expect(type.details?.mistyped).toHaveLength(1);
  });

  it('checks CRCs on request', async () => {
    using model = await FluxTransformer.load(path('flipped_bit.pt'));
    expect(model.config.heads).toBeGreaterThan(0);
    await expectError(
      () => FluxTransformer.load(path('flipped_bit.pt'), { verify: true }),
      'ERR_JITFLUX_CORRUPT_FILE',
      /CRC/i,
    );
  });

  it('a file that does not exist', async () => {
    await expectError(() => FluxTransformer.load(path('nowhere.pt')), 'ERR_JITFLUX_FILE_NOT_FOUND');
  });
});

describe('code in archives', () => {
  it('never runs when weights are loaded, although the module raises when run', async () => {
    // As a program the archive fails ...
    await expect(
      TorchScriptModule.load(path('setstate_raises.pt'), { allowTorchScriptCode: true }).then((module) =>
        module.run([Tensor.randn([1, 4], { seed: 0 })]),
      ),
    ).rejects.toThrow(/raise|setstate/i);
    // ... as weights it is fine, and equals the archive (bfloat16 too) whose code is harmless.
    using reference = await FluxTransformer.load(path('pico-prefixed.pt'));
    using model = await FluxTransformer.load(path('setstate_raises.pt'));
    expect(maxAbs(await velocity(model), await velocity(reference))).toBe(0);
  });

  it('is refused where it would have to run, unless pinned or allowed', async () => {
    const error = await expectError(
      () => TorchScriptModule.load(path('pico.pt')),
      'ERR_JITFLUX_CODE_NOT_ALLOWED',
      /allowTorchScriptCode/,
    );
    expect(error.details?.sha256).toMatch(/^[0-9a-f]{64}$/);
  });
});

describe('inspectWeights', () => {
  it('lists tensors and tells the architecture', async () => {
    const result = await inspectWeights(path('pico-prefixed.pt'));
    expect(result).toMatchObject({ format: 'torchscript', layout: 'diffusers' });
    expect(result.prefix).not.toBe('');
    expect(result.config?.doubleBlocks).toBe(1);
    expect(result.tensors.some((tensor) => tensor.dtype === 'bfloat16')).toBe(true);
  });

  it('says why tensors are no FLUX transformer, without failing', async () => {
    const result = await inspectWeights(path('missing_parameter.pt'));
    expect(result.problem).toMatchObject({ code: 'ERR_JITFLUX_WEIGHTS_MISMATCH' });
    expect(result.tensors.length).toBeGreaterThan(10);
  });
});

it('loading reports progress and can be aborted', async () => {
  const seen: number[] = [];
  let total = 0;
  using model = await FluxTransformer.load(path('pico.pt'), {
    onProgress: ({ loadedBytes, totalBytes }) => {
      seen.push(loadedBytes);
      total = totalBytes;
    },
  });
  expect(model.disposed).toBe(false);
  expect(seen.at(-1)).toBe(total);
  await expectError(
    () => FluxTransformer.load(path('pico.pt'), { signal: AbortSignal.abort() }),
    'ERR_JITFLUX_ABORTED',
  );
});
