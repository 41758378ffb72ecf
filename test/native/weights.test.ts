/** Weight files, well-formed and hostile (tools/fixtures/make_hostile_archives.py). */
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';

import { describe, expect, it } from 'vitest';

import { convertModel } from '../../src/convert/index.js';
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

/** A TorchScript archive whose first record is so many zeros, which take no room on a disk. */
async function writeSparseArchive(path: string, zeros: number): Promise<void> {
  const names = ['m/data/0', 'm/data.pkl', 'm/constants.pkl', 'm/version'];
  const number = (bytes: number, value: number | bigint): Buffer => {
    const buffer = Buffer.alloc(8);
    buffer.writeBigUInt64LE(BigInt(value));
    return buffer.subarray(0, bytes);
  };
  const shared = (size: number, name: string): Buffer => {
    const isLarge = size > 0xffff_fffe;
    const shown = isLarge ? 0xffff_ffff : size;
    const head = [45, 0, 0, 0, 0].map((value) => number(2, value));
    return Buffer.concat([...head, number(4, 0), number(4, shown), number(4, shown), number(2, name.length)]);
  };
  const large = (size: number): Buffer => Buffer.concat([number(2, 1), number(2, 16), number(8, size), number(8, size)]); // prettier-ignore
  const file = await open(path, 'w');
  const directory: Buffer[] = [];
  let at = 0;
  for (const [i, name] of names.entries()) {
    const size = i === 0 ? zeros : 4;
    const extra = size > 0xffff_fffe ? large(size) : Buffer.alloc(0);
    const fields = shared(size, name);
    const header = Buffer.concat([number(4, 0x04034b50), fields, number(2, extra.length), Buffer.from(name), extra]); // prettier-ignore
    await file.write(header, 0, header.length, at);
    directory.push(
      Buffer.concat([
        ...[
          number(4, 0x02014b50),
          number(2, 45),
          fields,
          number(2, extra.length),
          number(8, 0),
          number(2, 0),
        ],
        // The position of the first record fits, and that of the others does not.
        ...(at > 0xffff_fffe ? [number(4, 0xffff_ffff)] : [number(4, at)]),
        ...[Buffer.from(name), extra],
      ]),
    );
    if (at > 0xffff_fffe) {
      const last = directory.at(-1)!;
      last.writeUInt16LE(12, 30);
      directory[directory.length - 1] = Buffer.concat([last, number(2, 1), number(2, 8), number(8, at)]);
    }
    at += header.length + size;
  }
  const entries = Buffer.concat(directory);
  const end64 = Buffer.concat([
    ...[number(4, 0x06064b50), number(8, 44), number(2, 45), number(2, 45), number(8, 0)],
    ...[number(8, names.length), number(8, names.length), number(8, entries.length), number(8, at)],
    ...[number(4, 0x07064b50), number(4, 0), number(8, at + entries.length), number(4, 1)],
    ...[number(4, 0x06054b50), number(4, 0), number(2, 0xffff), number(2, 0xffff)],
    ...[number(4, 0xffff_ffff), number(4, 0xffff_ffff), number(2, 0)],
  ]);
  await file.write(Buffer.concat([entries, end64]), 0, undefined, at);
  await file.close();
}

describe('a check of checksums that takes an hour', () => {
  it.each<[string, (path: string, signal: AbortSignal) => Promise<unknown>]>([
    ['inspectWeights', (file, signal) => inspectWeights(file, { verify: true, signal })],
    ['FluxTransformer.load', (file, signal) => FluxTransformer.load(file, { verify: true, signal })],
    ['convertModel', (file, signal) => convertModel(file, `${file}.safetensors`, { verify: true, signal })],
  ])('ends when the signal of %s fires', async (_name, run) => {
    const directory = await mkdtemp(join(tmpdir(), 'jit-flux-sparse-'));
    try {
      await writeSparseArchive(join(directory, 'sparse.pt'), 4 * 2 ** 40);
      const controller = new AbortController();
      const running = expectError(
        () => run(join(directory, 'sparse.pt'), controller.signal),
        'ERR_JITFLUX_ABORTED',
      );
      await setTimeout(200);
      controller.abort();
      await running;
    } finally {
      await rm(directory, { recursive: true });
    }
  });
});
