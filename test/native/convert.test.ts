/** Conversion of weight files: exact, resumable, atomic; the archives open with torch.jit.load. */
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { chmodSync, chownSync, linkSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { convertModel, type ConvertOptions } from '../../src/convert/index.js';
import { FluxTransformer, inspectWeights, Tensor } from '../../src/engine/index.js';
import { expectError } from '../support/errors.js';
import { archiveMini, originalLayoutMini } from '../support/mini.js';
import { fixturePath } from '../support/safetensors.js';
import { cli, errorOf } from '../unit/cli/helpers.js';

const scratch = mkdtempSync(join(tmpdir(), 'jit-flux-convert-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
let next = 0;
/** An empty directory of its own for each use. */
const place = (): string => {
  const path = join(scratch, String(next++));
  mkdirSync(path);
  return path;
};
/** Other forms of flux-mini than that in fixtures/flux. */
const derived: Record<string, string> = {
  'flux-mini.original-layout.safetensors': originalLayoutMini(),
  'flux-mini.pt': await archiveMini(),
};
const flux = (name: string): string => derived[name] ?? fixturePath(`flux/${name}`);
const weights = (name: string): string => fixturePath(`weights/${name}`);

// ---- reading and writing safetensors ----

interface Entry {
  dtype: string;
  shape: number[];
  bytes: Buffer;
}

function readSafetensors(path: string): Map<string, Entry> {
  const file = readFileSync(path);
  const begin = 8 + Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString('utf8', 8, begin)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const entries = new Map<string, Entry>();
  for (const [name, { dtype, shape, data_offsets: range }] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    entries.set(name, { dtype, shape, bytes: file.subarray(begin + range[0], begin + range[1]) });
  }
  return entries;
}

function writeSafetensors(path: string, tensors: Map<string, Entry>): void {
  const header: Record<string, unknown> = {};
  let end = 0;
  for (const [name, { dtype, shape, bytes }] of tensors) {
    header[name] = { dtype, shape, data_offsets: [end, (end += bytes.length)] };
  }
  let text = JSON.stringify(header);
  text += ' '.repeat((8 - (text.length % 8)) % 8);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(
    path,
    Buffer.concat([length, Buffer.from(text), ...[...tensors.values()].map((t) => t.bytes)]),
  );
}

function expectSameTensors(actual: Map<string, Entry>, expected: Map<string, Entry>): void {
  expect([...actual.keys()].sort()).toEqual([...expected.keys()].sort());
  for (const [name, tensor] of expected) {
    const other = actual.get(name)!;
    expect([name, other.dtype, other.shape]).toEqual([name, tensor.dtype, tensor.shape]);
    expect(other.bytes.equals(tensor.bytes), name).toBe(true);
  }
}

/** The tensors of any file, by way of our own conversion to safetensors. */
async function tensorsOf(path: string): Promise<Map<string, Entry>> {
  const copy = join(place(), 'copy.safetensors');
  await convertModel(path, copy);
  return readSafetensors(copy);
}

/** Many megabytes of tensors that no two runs of chance would make equal. */
function writeLarge(path: string, tensors: number, megabytesEach: number): void {
  const entries = new Map<string, Entry>();
  for (let i = 0; i < tensors; i++) {
    const words = new Uint32Array(megabytesEach * 262_144);
    for (let k = 0; k < words.length; k++) words[k] = Math.imul(k + i * 7919, 2654435761) >>> 2;
    entries.set(`layers.${i}.weight`, {
      dtype: 'F32',
      shape: [words.length / 256, 256],
      bytes: Buffer.from(words.buffer),
    });
  }
  writeSafetensors(path, entries);
}

/** Starts a conversion and aborts it once a part is written; that of a snapshot, of its `vae`. */
async function interrupted(input: string, output: string, o: ConvertOptions = {}): Promise<void> {
  const controller = new AbortController();
  await expectError(
    () =>
      convertModel(input, output, {
        ...o,
        signal: controller.signal,
        onProgress: ({ component = 'vae', writtenBytes, totalBytes }) => {
          if (component === 'vae' && writtenBytes > totalBytes / 20) controller.abort();
        },
      }),
    'ERR_JITFLUX_ABORTED',
  );
}

// ---- exactness ----

describe('round trip', () => {
  const FILES = [
    ['flux-mini.safetensors', 'flux-mini.safetensors'],
    ['flux-mini.original-layout.safetensors', 'flux-mini.safetensors'],
    ['flux-mini.pt', 'flux-mini.safetensors'],
    ['flux-nano.safetensors', 'flux-nano.safetensors'],
    ['flux-nano.scripted-container.pt', 'flux-nano.safetensors'],
    ['flux-nano.traced-wrapped.pt', 'flux-nano.safetensors'],
    ['flux-nano.original-layout.scripted.pt', 'flux-nano.safetensors'],
  ] as const;

  it.each(FILES)('%s to TorchScript and back is %s bit for bit', async (input, expected) => {
    const archive = join(place(), 'model.pt');
    const { files } = await convertModel(flux(input), archive);
    expect(files[0]?.bytes).toBe(statSync(archive).size);
    const back = join(place(), 'model.safetensors');
    await convertModel(archive, back, { verify: true });
    expectSameTensors(readSafetensors(back), readSafetensors(flux(expected)));
    expect(await inspectWeights(archive)).toMatchObject({
      format: 'torchscript',
      layout: 'diffusers',
      prefix: '',
    });
  });

  it.each(['flux-mini', 'flux-nano'])(
    'makes equal bytes of equal tensors, whatever they came from: %s',
    async (model) => {
      const outputs: Buffer[] = [];
      for (const [input] of FILES.filter(([name]) => name.startsWith(model))) {
        const path = join(place(), `${outputs.length}.pt`);
        await convertModel(flux(input), path);
        outputs.push(readFileSync(path));
      }
      expect(outputs.length).toBeGreaterThanOrEqual(3);
      expect(outputs.every((bytes) => bytes.equals(outputs[0]!))).toBe(true);
    },
  );

  it.each([
    'pico.pt',
    'pico-prefixed.pt',
    'misaligned.pt',
    'misaligned.safetensors',
    'sharded',
    'setstate_raises.pt',
  ])('%s keeps its values', async (name) => {
    const archive = join(place(), 'model.pt');
    await convertModel(weights(name), archive);
    const before = await tensorsOf(weights(name));
    expectSameTensors(await tensorsOf(archive), before);
    expect(before.has('transformer_blocks.0.attn.to_q.weight')).toBe(true);
  });

  it.each(['float16', 'bfloat16'])('flux-nano.%s.scripted.pt keeps its type', async (dtype) => {
    const archive = join(place(), 'model.pt');
    await convertModel(flux(`flux-nano.${dtype}.scripted.pt`), archive);
    const { tensors } = await inspectWeights(archive, { verify: true });
    expect(new Set(tensors.map((tensor) => tensor.dtype))).toEqual(new Set([dtype]));
    const expected = join(place(), 'expected.safetensors');
    await convertModel(flux('flux-nano.safetensors'), expected, { dtype: dtype as 'float16' });
    expectSameTensors(await tensorsOf(archive), readSafetensors(expected));
  });

  it('keeps names and tensors of other components, integers included', async () => {
    const source = join(place(), 'clip.safetensors');
    const values = new Map<string, Entry>([
      ['text_model.embeddings.position_ids', { dtype: 'I64', shape: [1, 2], bytes: Buffer.alloc(16, 3) }],
      ['text_model.layers.0.weight', { dtype: 'F32', shape: [2, 2], bytes: Buffer.alloc(16, 63) }],
      ['text_model.layers.10.weight', { dtype: 'BF16', shape: [], bytes: Buffer.alloc(2, 64) }],
      ['text_model.class.mask', { dtype: 'BOOL', shape: [3], bytes: Buffer.from([1, 0, 1]) }],
      ['none', { dtype: 'F32', shape: [0, 4], bytes: Buffer.alloc(0) }],
    ]);
    writeSafetensors(source, values);
    const archive = join(place(), 'clip.pt');
    const { files } = await convertModel(source, archive);
    expect(files).toMatchObject([{ tensors: 5, skippedTensors: 0 }]);
    expect(files[0]).not.toHaveProperty('layout');
    expectSameTensors(await tensorsOf(archive), values);
  });

  it('takes the transformer out of a whole checkpoint, and says what it left', async () => {
    const source = join(place(), 'all.safetensors');
    const all = new Map(
      [...readSafetensors(weights('pico-original.safetensors'))].map(([name, tensor]): [string, Entry] => [
        `model.diffusion_model.${name}`,
        tensor,
      ]),
    );
    all.set('vae.decoder.conv_in.weight', { dtype: 'F32', shape: [1], bytes: Buffer.alloc(4) });
    writeSafetensors(source, all);
    const output = join(place(), 'model.safetensors');
    const { files } = await convertModel(source, output);
    expect(files).toMatchObject([{ layout: 'original', skippedTensors: 1 }]);
    expectSameTensors(readSafetensors(output), await tensorsOf(weights('pico-original.safetensors')));
  });
});

describe('forward of a converted file', () => {
  /** One forward pass with fixed inputs. */
  async function velocity(path: string): Promise<Float32Array> {
    using model = await FluxTransformer.load(path);
    const { textDim, pooledDim, inChannels } = model.config;
    using prompt = Tensor.randn([1, 5, textDim], { seed: 1 });
    using pooled = Tensor.randn([1, pooledDim], { seed: 2 });
    using tokens = Tensor.randn([1, 12, inChannels], { seed: 3 });
    using conditioning = await model.condition({ prompt, pooled, sigmas: [0.6] });
    using result = await model.forward({ tokens, grid: [3, 4], conditioning, step: 0 });
    return result.toFloat32Array();
  }

  it.each(['flux-mini.safetensors', 'flux-mini.original-layout.safetensors', 'flux-nano.traced-wrapped.pt'])(
    '%s: equal bit for bit in both formats',
    async (name) => {
      const expected = await velocity(flux(name));
      for (const extension of ['pt', 'safetensors']) {
        const path = join(place(), `model.${extension}`);
        await convertModel(flux(name), path);
        expect(Buffer.from((await velocity(path)).buffer).equals(Buffer.from(expected.buffer))).toBe(true);
      }
    },
  );

  it('RoPE axes of a config.json go along, into both formats and back', async () => {
    const directory = place();
    copyFileSync(flux('flux-nano.safetensors'), join(directory, 'weights.safetensors'));
    writeFileSync(join(directory, 'config.json'), JSON.stringify({ axes_dims_rope: [2, 4, 10] }));
    const paths = ['a.pt', 'b.safetensors', 'c.pt'].map((name) => join(place(), name));
    let from = join(directory, 'weights.safetensors');
    for (const path of paths) {
      await convertModel(from, path);
      using model = await FluxTransformer.load(path);
      expect(model.config.ropeAxes).toEqual([2, 4, 10]);
      from = path;
    }
    expect(readFileSync(paths[2]!).equals(readFileSync(paths[0]!))).toBe(true);
  });
});

describe('dtype', () => {
  const isNaN16 = (bits: number, exponent: number): boolean => (bits & 0x7fff) > exponent;
  const isNaN: Record<string, (bits: number) => boolean> = {
    F32: (bits) => (bits & 0x7fffffff) >>> 0 > 0x7f800000,
    BF16: (bits) => isNaN16(bits, 0x7f80),
    F16: (bits) => isNaN16(bits, 0x7c00),
  };

  it.each(['float32', 'bfloat16', 'float16'] as const)('%s rounds as PyTorch does', async (dtype) => {
    const path = join(place(), 'rounded.safetensors');
    await convertModel(fixturePath('convert/source.safetensors'), path, { dtype });
    const actual = readSafetensors(path);
    let compared = 0;
    for (const [name, expected] of readSafetensors(fixturePath(`convert/${dtype}.safetensors`))) {
      const found = actual.get(name)!;
      expect([name, found.dtype, found.shape]).toEqual([name, expected.dtype, expected.shape]);
      const nan = isNaN[expected.dtype];
      if (!nan) {
        expect(found.bytes.equals(expected.bytes), name).toBe(true);
        continue;
      }
      const size = expected.dtype === 'F32' ? 4 : 2;
      for (let at = 0; at < expected.bytes.length; at += size) {
        const [a, b] = [found.bytes.readUIntLE(at, size), expected.bytes.readUIntLE(at, size)];
        const same = a === b || (nan(a) && nan(b));
        if (!same) expect.fail(`${name}[${at / size}]: ${a.toString(16)}, PyTorch ${b.toString(16)}`);
        compared++;
      }
    }
    expect(compared).toBeGreaterThan(30_000);
  });
});

// ---- interruption and failure ----

describe('interruption', () => {
  const large = join(scratch, 'large.safetensors');
  const single = join(scratch, 'single.safetensors');
  beforeAll(() => {
    writeLarge(large, 40, 4);
    writeLarge(single, 1, 160);
  });

  it.each([
    ['model.pt', 'keep', 'many tensors', large],
    ['model.safetensors', 'bfloat16', 'many tensors', large],
    ['model.pt', 'float16', 'one tensor', single],
  ] as const)('%s (%s, %s) is resumed, with identical bytes', async (name, dtype, _what, source) => {
    const directory = place();
    const output = join(directory, name);
    writeFileSync(output, 'old content');
    await interrupted(source, output, { dtype });
    expect(readFileSync(output, 'utf8')).toBe('old content');
    expect(readdirSync(directory).sort()).toEqual([name, `${name}.partial`, `${name}.partial.json`]);

    const seen: number[] = [];
    const { files } = await convertModel(source, output, {
      dtype,
      onProgress: ({ writtenBytes }) => seen.push(writtenBytes),
    });
    expect(files[0]?.resumedBytes).toBeGreaterThan(0);
    expect(seen[0]).toBe(files[0]?.resumedBytes);
    expect(readdirSync(directory)).toEqual([name]);

    const whole = join(place(), name);
    const fresh = await convertModel(source, whole, { dtype });
    expect(fresh.files[0]?.resumedBytes).toBe(0);
    expect(readFileSync(output).equals(readFileSync(whole))).toBe(true);
  });

  it('starts again when source, options or journal do not fit, or when told to', async () => {
    const source = join(place(), 'source.safetensors');
    copyFileSync(large, source);
    const output = join(place(), 'model.pt');
    const journal = `${output}.partial.json`;
    const resumed = async (o: ConvertOptions = {}): Promise<number> =>
      (await convertModel(source, output, o)).files[0]!.resumedBytes;

    await interrupted(source, output);
    expect(await resumed({ dtype: 'bfloat16' })).toBe(0);
    await interrupted(source, output);
    expect(await resumed({ resume: false })).toBe(0);
    await interrupted(source, output);
    writeFileSync(journal, readFileSync(journal, 'utf8').slice(0, -20));
    expect(await resumed()).toBe(0);
    await interrupted(source, output);
    writeFileSync(`${output}.partial`, '');
    expect(await resumed()).toBe(0);
    await interrupted(source, output);
    copyFileSync(large, source); // another modification time
    expect(await resumed()).toBe(0);
    expect(existsSync(journal)).toBe(false);
  });

  it('leaves nothing when it must not be resumed', async () => {
    const directory = place();
    await interrupted(large, join(directory, 'model.pt'), { resume: false });
    expect(readdirSync(directory)).toEqual([]);
  });

  it('the command exits with 130 and goes on when repeated', async () => {
    const output = join(place(), 'model.pt');
    const controller = new AbortController();
    const watch = setInterval(() => existsSync(`${output}.partial`) && controller.abort(), 5);
    const first = await cli(['convert', large, output, '--dtype', 'float16'], controller.signal);
    clearInterval(watch);
    expect([first.code, first.stdout]).toEqual([130, '']);
    expect(first.stderr).toContain('Interrupted');
    const second = await cli(['convert', large, output, '--dtype', 'float16', '--json']);
    expect(second.code, second.stderr).toBe(0);
    expect(JSON.parse(second.stdout)).toMatchObject({
      path: output,
      format: 'torchscript',
      dtype: 'float16',
    });
  });

  // The kernel refuses writes beyond RLIMIT_FSIZE as it does on a full disk. Node ignores SIGXFSZ.
  const limitFileSize = (bytes: number | 'unlimited'): void =>
    void execFileSync('prlimit', ['--pid', String(process.pid), `--fsize=${bytes}:`]);
  const canLimit = spawnSync('prlimit', ['--version']).status === 0;
  const fullDisk = canLimit
    ? 'a full disk is a typed error; the old file stays, nothing else does'
    : 'a full disk is a typed error (skipped: no prlimit on this machine)';

  it.skipIf(!canLimit)(fullDisk, async () => {
    const directory = place();
    const output = join(directory, 'model.pt');
    writeFileSync(output, 'old content');
    try {
      // Known before the work ...
      limitFileSize(50_000_000);
      const early = await expectError(
        () => convertModel(large, output),
        'ERR_JITFLUX_WRITE_FAILED',
        /larger than/,
      );
      expect(early.details?.path).toBe(output);
      // ... or in the midst of it.
      limitFileSize('unlimited');
      let limited = false;
      await expectError(
        () =>
          convertModel(large, output, {
            onProgress() {
              if (!limited) limitFileSize(50_000_000);
              limited = true;
            },
          }),
        'ERR_JITFLUX_WRITE_FAILED',
      );
    } finally {
      limitFileSize('unlimited');
    }
    expect(readFileSync(output, 'utf8')).toBe('old content');
    expect(readdirSync(directory)).toEqual(['model.pt']);
  });
});

describe('bad input', () => {
  it.each([
    ['truncated.pt', 'ERR_JITFLUX_CORRUPT_FILE'],
    ['torch_save.pt', 'ERR_JITFLUX_UNSUPPORTED_FORMAT'],
    ['deep_pickle.pt', 'ERR_JITFLUX_UNSAFE_FILE'],
    ['missing_parameter.pt', 'ERR_JITFLUX_WEIGHTS_MISMATCH'],
    ['sharded_missing', 'ERR_JITFLUX_FILE_NOT_FOUND'],
    ['sharded_traversal', 'ERR_JITFLUX_UNSAFE_FILE'],
    ['nowhere.pt', 'ERR_JITFLUX_FILE_NOT_FOUND'],
  ])('%s: %s, and no output', async (name, code) => {
    const directory = place();
    await expectError(() => convertModel(weights(name), join(directory, 'model.pt')), code);
    expect(readdirSync(directory)).toEqual([]);
  });

  it('checks CRCs on request', async () => {
    const output = join(place(), 'model.pt');
    await expectError(
      () => convertModel(weights('flipped_bit.pt'), output, { verify: true }),
      'ERR_JITFLUX_CORRUPT_FILE',
      /CRC/,
    );
  });

  it.each([
    [['a.b', 'a'], /continue/],
    [['a..b'], /empty/],
    [['a b'], /spell/],
    [['a.training'], /training/],
    [[Array<string>(30).fill('a').join('.')], /levels/],
  ])('names that no module can hold: %j', async (names, message) => {
    const source = join(place(), 'source.safetensors');
    writeSafetensors(
      source,
      new Map(names.map((name) => [name, { dtype: 'F32', shape: [1], bytes: Buffer.alloc(4) }])),
    );
    const directory = place();
    const run = () => convertModel(source, join(directory, 'model.pt'));
    await expectError(run, 'ERR_JITFLUX_UNSUPPORTED_FORMAT', message);
    expect(readdirSync(directory)).toEqual([]);
    await convertModel(source, join(directory, 'model.safetensors'));
    expect([...readSafetensors(join(directory, 'model.safetensors')).keys()].sort()).toEqual(
      [...names].sort(),
    );
  });

  it('refuses outputs that cannot be meant', async () => {
    const directory = place();
    const source = join(directory, 'source.safetensors');
    copyFileSync(weights('pico.safetensors'), source);
    const convert = (output: string, o: ConvertOptions = {}) =>
      convertModel(source, join(directory, output), o);
    await expectError(() => convert('source.safetensors'), 'ERR_JITFLUX_INVALID_ARGUMENT', /input/);
    await expectError(() => convert('model.bin'), 'ERR_JITFLUX_INVALID_ARGUMENT', /\.pt or \.safetensors/);
    await expectError(() => convert('m.pt', { format: 'safetensors' }), 'ERR_JITFLUX_INVALID_ARGUMENT');
    await expectError(() => convert('m.pt', { dtype: 'int8' as never }), 'ERR_JITFLUX_INVALID_ARGUMENT');
    await expectError(() => convert('nowhere/m.pt'), 'ERR_JITFLUX_WRITE_FAILED');
    await expectError(() => convert('.'), 'ERR_JITFLUX_INVALID_ARGUMENT');
    symlinkSync('/etc/hostname', join(directory, 'm.pt.partial'));
    await expectError(() => convert('m.pt'), 'ERR_JITFLUX_WRITE_FAILED', /symbolic link/);
  });

  it('writes no file that has another name, and believes no journal of another user', async () => {
    const directory = place();
    const convert = () => convertModel(weights('pico.pt'), join(directory, 'm.safetensors'));
    const partial = join(directory, 'm.safetensors.partial');
    const victim = join(directory, 'victim');
    writeFileSync(victim, 'precious');
    linkSync(victim, partial);
    await expectError(convert, 'ERR_JITFLUX_WRITE_FAILED', /\.partial file has another name \(a hard link\)/);
    rmSync(partial);
    // A journal is passed over; what would take its place is made anew.
    for (const name of [`${partial}.json`, `${partial}.json.new`])
      for (const plant of [() => symlinkSync(victim, name), () => linkSync(victim, name)]) {
        plant();
        await convert();
        expect(readdirSync(directory).sort()).toEqual(['m.safetensors', 'victim']);
      }
    expect(spawnSync('mkfifo', [`${partial}.json`]).status).toBe(0);
    await convert();
    expect(readFileSync(victim, 'utf8')).toBe('precious');
  });

  it.skipIf(process.geteuid?.() !== 0)(
    "refuses another user's partial file in a folder that everyone may write",
    async () => {
      const directory = place();
      const partial = join(directory, 'm.safetensors.partial');
      const convert = () => convertModel(weights('pico.pt'), join(directory, 'm.safetensors'));
      writeFileSync(partial, '');
      chownSync(partial, 4711, 4711);
      chmodSync(directory, 0o1777);
      await expectError(convert, 'ERR_JITFLUX_WRITE_FAILED', /\.partial file belongs to another user/);
      chmodSync(directory, 0o755);
      await convert();
    },
  );

  it('the command exits with 2', async () => {
    const output = join(place(), 'model.pt');
    for (const argv of [
      ['convert', weights('truncated.pt'), output],
      ['convert', weights('pico.pt'), join(scratch, 'model.xyz')],
      ['convert', weights('pico.pt'), output, '--dtype', 'int4'],
      ['convert', weights('pico.pt')],
    ]) {
      const outcome = await cli([...argv, '--json']);
      expect(outcome.code).toBe(2);
      expect(errorOf(outcome).code).toMatch(/^ERR_JITFLUX_/);
    }
  });
});

// ---- snapshots ----

describe('snapshot', () => {
  /** The shape of a published FLUX snapshot, with small weights. */
  function makeSnapshot(): string {
    const root = place();
    const write = (path: string, content: unknown): void => {
      mkdirSync(dirname(join(root, path)), { recursive: true });
      writeFileSync(join(root, path), typeof content === 'string' ? content : JSON.stringify(content));
    };
    write('model_index.json', {
      _class_name: 'FluxPipeline',
      _diffusers_version: '0.30.0',
      scheduler: ['diffusers', 'FlowMatchEulerDiscreteScheduler'],
      text_encoder: ['transformers', 'CLIPTextModel'],
      text_encoder_2: ['transformers', 'T5EncoderModel'],
      tokenizer: ['transformers', 'CLIPTokenizer'],
      transformer: ['diffusers', 'FluxTransformer2DModel'],
      vae: ['diffusers', 'AutoencoderKL'],
      image_encoder: [null, null],
    });
    write('LICENSE.md', 'terms');
    write('README.md', 'not copied');
    write('scheduler/scheduler_config.json', { shift: 3 });
    write('tokenizer/vocab.json', {});
    write('tokenizer/merges.txt', '#version: 0.2\n');
    for (const [name, seed] of [
      ['text_encoder', 1],
      ['vae', 2],
    ] as const) {
      write(`${name}/config.json`, { name });
      writeSafetensors(
        join(root, name, name === 'vae' ? 'diffusion_pytorch_model.safetensors' : 'model.safetensors'),
        new Map([[`${name}.weight`, { dtype: 'F32', shape: [2], bytes: Buffer.alloc(8, seed) }]]),
      );
    }
    for (const [name, from] of [
      ['text_encoder_2', 'sharded'],
      ['transformer', 'sharded'],
    ] as const) {
      write(`${name}/config.json`, name === 'transformer' ? { axes_dims_rope: [4, 6, 6] } : {});
      for (const file of readdirSync(weights(from))) {
        // As in the cache of huggingface_hub.
        symlinkSync(join(weights(from), file), join(root, name, file));
      }
    }
    return root;
  }

  it('becomes a directory of the same shape, and back again', async () => {
    const source = makeSnapshot();
    const archives = join(place(), 'converted');
    const components: string[] = [];
    const result = await convertModel(source, archives, {
      onProgress: ({ component }) => components.push(component!),
    });
    expect(new Set(components)).toEqual(new Set(['text_encoder', 'text_encoder_2', 'transformer', 'vae']));
    expect(result.files.map(({ path }) => path.slice(archives.length + 1))).toEqual([
      'text_encoder/model.pt',
      'text_encoder_2/model.pt',
      'transformer/model.pt',
      'vae/model.pt',
    ]);
    const list = readdirSync(archives, { recursive: true, encoding: 'utf8' }).filter((name) =>
      /\.[a-z]+$/.test(name),
    );
    expect(list.sort()).toEqual([
      'LICENSE.md',
      'model_index.json',
      'scheduler/scheduler_config.json',
      'text_encoder/config.json',
      'text_encoder/model.pt',
      'text_encoder_2/config.json',
      'text_encoder_2/model.pt',
      'tokenizer/merges.txt',
      'tokenizer/vocab.json',
      'transformer/config.json',
      'transformer/model.pt',
      'vae/config.json',
      'vae/model.pt',
    ]);
    using model = await FluxTransformer.load(join(archives, 'transformer'));
    expect(model.config.ropeAxes).toEqual([4, 6, 6]);

    const back = join(place(), 'back');
    const { code, stderr } = await cli(['convert', archives, back, '--format', 'safetensors', '--quiet']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    for (const [file, original] of [
      ['transformer/diffusion_pytorch_model.safetensors', 'transformer'],
      ['vae/diffusion_pytorch_model.safetensors', 'vae'],
      ['text_encoder/model.safetensors', 'text_encoder'],
      ['text_encoder_2/model.safetensors', 'text_encoder_2'],
    ] as const) {
      expectSameTensors(readSafetensors(join(back, file)), await tensorsOf(join(source, original)));
    }
  });

  it('goes on with the component at which it was interrupted', async () => {
    const source = makeSnapshot();
    writeLarge(join(source, 'vae/diffusion_pytorch_model.safetensors'), 20, 4);
    const target = join(place(), 'converted');
    await interrupted(source, target);
    const done = statSync(join(target, 'transformer/model.pt'));
    const { files } = await convertModel(source, target);
    expect(files.map(({ component, reused }) => [component, reused])).toEqual([
      ['text_encoder', true],
      ['text_encoder_2', true],
      ['transformer', true],
      ['vae', false],
    ]);
    expect(statSync(join(target, 'transformer/model.pt')).ino).toBe(done.ino);
    expect(readdirSync(target)).not.toContain('.jit-flux-convert.json');
    const again = await convertModel(source, target);
    expect(again.files.some(({ reused }) => reused)).toBe(false);
  });

  it('is checked before anything is written', async () => {
    const source = makeSnapshot();
    const target = join(place(), 'converted');
    rmSync(join(source, 'vae/diffusion_pytorch_model.safetensors'));
    await expectError(() => convertModel(source, target), 'ERR_JITFLUX_FILE_NOT_FOUND', /vae/);
    rmSync(join(source, 'vae'), { recursive: true });
    const error = await expectError(() => convertModel(source, target), 'ERR_JITFLUX_INVALID_MODEL', /vae/);
    expect(error.details?.missing).toEqual(['vae']);
    writeFileSync(join(source, 'model_index.json'), '{"../../etc": ["a", "b"]}');
    await expectError(() => convertModel(source, target), 'ERR_JITFLUX_INVALID_MODEL', /plain directory/);
    writeFileSync(join(source, 'model_index.json'), '{');
    await expectError(() => convertModel(source, target), 'ERR_JITFLUX_INVALID_MODEL', /JSON/);
    expect(existsSync(target)).toBe(false);
  });

  it('refuses a target with other weights, or inside the source', async () => {
    const source = makeSnapshot();
    const target = place();
    mkdirSync(join(target, 'vae'));
    writeFileSync(join(target, 'vae/old.safetensors'), '');
    await expectError(() => convertModel(source, target), 'ERR_JITFLUX_WRITE_FAILED', /old\.safetensors/);
    await expectError(() => convertModel(source, source), 'ERR_JITFLUX_INVALID_ARGUMENT');
    await expectError(() => convertModel(source, join(source, 'out')), 'ERR_JITFLUX_INVALID_ARGUMENT');
  });
});

// ---- PyTorch itself ----

const python = process.env['JIT_FLUX_PYTHON'] ?? 'python3';
const hasTorch = spawnSync(python, ['-c', 'import torch']).status === 0;
const noTorch = hasTorch ? '' : ` (skipped: ${python} has no torch; set JIT_FLUX_PYTHON)`;

describe.skipIf(!hasTorch)(`torch.jit.load${noTorch}`, () => {
  const repository = fileURLToPath(new URL('../..', import.meta.url));
  const compare = (archive: string, reference: string): string =>
    execFileSync(python, [join(repository, 'test/support/compare_archive.py'), archive, reference], {
      encoding: 'utf8',
    });

  it.each([
    [
      flux('flux-mini.original-layout.safetensors'),
      flux('flux-mini.safetensors'),
      '126 parameters, 0 buffers',
    ],
    [flux('flux-nano.traced-wrapped.pt'), flux('flux-nano.safetensors'), '66 parameters, 0 buffers'],
    [
      fixturePath('convert/source.safetensors'),
      fixturePath('convert/source.safetensors'),
      '6 parameters, 3 buffers',
    ],
  ])('opens %s, converted', async (input, reference, summary) => {
    const archive = join(place(), 'model.pt');
    await convertModel(input, archive);
    expect(compare(archive, reference).trim()).toBe(summary);
  });

  it('strided tensors of an archive come out contiguous', async () => {
    const directory = place();
    const script = `
import torch
from safetensors.torch import save_file
module = torch.nn.Module()
base = torch.randn(7, 6, 5)
views = {"transposed": base.permute(2, 0, 1), "slice": base[1:6:2, 1:, ::3], "row": base[3, 2], "plain": base}
for name, view in views.items():
    module.register_parameter(name, torch.nn.Parameter(view, requires_grad=False))
torch.jit.script(module.eval()).save("${directory}/strided.pt")
save_file({name: view.clone(memory_format=torch.contiguous_format) for name, view in views.items()}, "${directory}/expected.safetensors")`;
    execFileSync(python, ['-c', script]);
    const archive = join(directory, 'out.pt');
    await convertModel(join(directory, 'strided.pt'), archive);
    expectSameTensors(await tensorsOf(archive), readSafetensors(join(directory, 'expected.safetensors')));
    const half = join(directory, 'half.pt');
    await convertModel(join(directory, 'strided.pt'), half, { dtype: 'bfloat16' });
    const rounded = join(directory, 'half.safetensors');
    await convertModel(join(directory, 'expected.safetensors'), rounded, { dtype: 'bfloat16' });
    expectSameTensors(await tensorsOf(half), readSafetensors(rounded));
  });

  it('tools/export_torchscript.py writes what we read', async () => {
    const archive = join(place(), 'model.pt');
    const exporter = join(repository, 'tools/export_torchscript.py');
    const run = spawnSync(python, [exporter, flux('flux-nano.safetensors'), archive], { encoding: 'utf8' });
    if (/No module named 'safetensors'/.test(run.stderr)) {
      console.log(`Skipped: export_torchscript.py (${python} has no safetensors)`);
      return;
    }
    expect(run.status, run.stderr).toBe(0);
    expectSameTensors(await tensorsOf(archive), readSafetensors(flux('flux-nano.safetensors')));
  });
});
