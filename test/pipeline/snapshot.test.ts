/** FLUX.1 as published, at toy widths: snapshot, schnell, original checkpoint, converted; prompts encoded apart. */
import { execFileSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import {
  BUNDLED_MODEL,
  convertModel,
  encodeOnly,
  engineInfo,
  FluxPipeline,
  loadEncodedPrompts,
  planMemory,
  type GenerateRequest,
} from '../../src/index.js';
import { run } from '../../src/cli/run.js';
import { expectError } from '../support/errors.js';
import { relativeRms } from '../support/parity.js';
import { originalAutoencoder, originalTransformer } from '../support/original-layout.js';
import { SafeTensors, writeSafeTensors } from '../support/safetensors.js';
import { writeTinySnapshot } from '../support/tiny-snapshot.js';

const scratch = mkdtempSync(join(tmpdir(), 'jit-flux-snapshot-'));
const dev = join(scratch, 'dev');
const schnell = join(scratch, 'schnell');
const request: GenerateRequest = { prompt: 'a lighthouse on a cliff', width: 128, height: 64, seed: 3 };

beforeAll(() => {
  writeTinySnapshot(dev);
  writeTinySnapshot(schnell, 'schnell');
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** A copy of the snapshot to damage. */
function copyOf(name: string, source = dev): string {
  const path = join(scratch, name);
  cpSync(source, path, { recursive: true });
  return path;
}

/** The pixels of one picture. */
async function picture(model: string, o: Parameters<typeof FluxPipeline.load>[1] = {}): Promise<Uint8Array> {
  await using pipeline = await FluxPipeline.load(model, o);
  const { images } = await pipeline.generate(request);
  return images[0]!.data;
}

describe('a snapshot of FLUX.1-dev', () => {
  it('generates, with its own defaults', async () => {
    await using pipeline = await FluxPipeline.load(dev);
    const { images, plan, warnings } = await pipeline.generate(request);
    expect(images[0]).toMatchObject({ width: 128, height: 64, seed: 3 });
    expect(images[0]!.data).toHaveLength(128 * 64 * 3);
    // Pictures of random weights are noise, but not flat.
    expect(new Set(images[0]!.data).size).toBeGreaterThan(50);
    expect(plan.preset).toBe('jit-4x');
    expect(warnings).toEqual([]);
    expect(pipeline.model.text.length).toBe(512);
    const again = await pipeline.generate(request);
    expect(again.images[0]!.toPNG()).toEqual(images[0]!.toPNG());
  });

  it('gives the same picture with released encoders, with and without resident modulation and mappings', async () => {
    const expected = await picture(dev);
    expect(await picture(dev, { keepTextEncoders: false })).toEqual(expected);
    expect(await picture(dev, { keepModulation: false })).toEqual(expected);
    expect(await picture(dev, { mapWeights: false })).toEqual(expected);
    expect(await picture(dev, { mapWeights: false, keepModulation: false })).toEqual(expected);
  });

  it('hands the form of its weights to the transformer, and maps what would not fit packed', async () => {
    const form = async (o: Parameters<typeof FluxPipeline.load>[1]): Promise<string> => {
      const before = engineInfo().kernelCalls;
      await picture(dev, o);
      const after = engineInfo().kernelCalls;
      if (after.linearInt8 > before.linearInt8) return 'int8';
      return after.linearPacked > before.linearPacked ? 'packed' : 'mapped';
    };
    expect(await form({})).toBe('packed');
    expect(await form({ quantize: 'int8' })).toBe('int8');
    expect(await form({ packWeights: false })).toBe('mapped');

    // A size at which decoding takes most: only then do mapped weights, which may go meanwhile, make a difference.
    const size = { width: 256, height: 256, textTokens: 4, steps: 1 };
    const plan = (packWeights: boolean) => planMemory(dev, { packWeights, ...size });
    const [packed, mapped] = [await plan(true), await plan(false)];
    expect(mapped.peakBytes).toBeLessThan(packed.peakBytes);
    process.env.JIT_FLUX_MEMORY_LIMIT = `${packed.peakBytes - 1}B`;
    try {
      expect(await form({ memoryCheck: size })).toBe('mapped');
    } finally {
      delete process.env.JIT_FLUX_MEMORY_LIMIT;
    }
  });

  it('multiplies bytes in T5 if it is told to, and says nearly the same', async () => {
    const before = engineInfo().kernelCalls.linearInt8;
    await using pipeline = await FluxPipeline.load(dev, { quantizeTextEncoders: 'int8' });
    await using reference = await FluxPipeline.load(dev);
    const encode = async (p: FluxPipeline) => {
      using encoded = await p.encodePrompt('a red circle');
      return [await encoded.prompt.toFloat32Array(), await encoded.pooled.toFloat32Array()] as const;
    };
    const [[rounded, pooled], [exact, samePooled]] = [await encode(pipeline), await encode(reference)];
    expect(engineInfo().kernelCalls.linearInt8).toBeGreaterThan(before);
    expect(pooled).toEqual(samePooled);
    expect(rounded).not.toEqual(exact);
    expect(relativeRms(rounded, exact)).toBeLessThan(0.05);
  });

  it('runs in bfloat16', async () => {
    const [reference, rounded] = [await picture(dev), await picture(dev, { dtype: 'bfloat16' })];
    expect(rounded).not.toEqual(reference);
    const error =
      reference.reduce((sum, value, i) => sum + Math.abs(value - rounded[i]!), 0) / reference.length;
    expect(error).toBeLessThan(40);
  });

  it('gives the same picture after conversion to TorchScript archives', async () => {
    const converted = join(scratch, 'converted');
    await convertModel(dev, converted, { format: 'torchscript' });
    expect(existsSync(join(converted, 'transformer', 'model.pt'))).toBe(true);
    expect(await picture(converted)).toEqual(await picture(dev));
  });

  it('warns of a prompt that is too long, with the counts of both encoders', async () => {
    await using pipeline = await FluxPipeline.load(dev);
    const long = 'a very long story about the sea '.repeat(40);
    const { warnings } = await pipeline.generate({ ...request, prompt: long, maxSequenceLength: 64 });
    expect(warnings.map(({ code, encoder }) => [code, encoder])).toEqual([
      ['PROMPT_TRUNCATED', 'clip'],
      ['PROMPT_TRUNCATED', 't5'],
    ]);
    for (const { truncated, message } of warnings) expect(message).toContain(` ${truncated} token`);
  });
});

describe('a snapshot of FLUX.1-schnell', () => {
  it('has four steps, the static schedule, 256 text tokens and no guidance', async () => {
    await using pipeline = await FluxPipeline.load(schnell);
    expect(pipeline.config.guidance).toBe(false);
    const { plan, warnings } = await pipeline.generate({ ...request, guidance: 2 });
    expect(plan).toMatchObject({ preset: 'dense', steps: 4 });
    expect(plan.sigmas).toEqual([1, 0.75, 0.5, 0.25]);
    expect(warnings).toMatchObject([{ code: 'GUIDANCE_IGNORED' }]);
    using encoded = await pipeline.encodePrompt('x');
    expect(encoded.prompt.shape[1]).toBe(256);
    const sparse = await pipeline.generate({ ...request, preset: 'jit-7x' });
    expect(sparse.plan).toMatchObject({ preset: 'jit-7x', steps: 11 });
  });
});

describe('an original checkpoint', () => {
  it('gives the same picture, with text encoders from a snapshot, and tells so if it has none', async () => {
    const directory = join(scratch, 'checkpoint');
    mkdirSync(directory);
    const file = join(directory, 'flux1-dev.safetensors');
    const whole = join(scratch, 'whole.safetensors');
    await convertModel(join(dev, 'transformer'), whole, { format: 'safetensors' });
    writeSafeTensors(file, originalTransformer(SafeTensors.open(whole).all()));
    // The original names its heads' axes nowhere; FLUX.1's own follow from heads of 128.
    cpSync(join(dev, 'transformer', 'config.json'), join(directory, 'flux1-dev.config.json'));
    const vae = SafeTensors.open(join(dev, 'vae', 'diffusion_pytorch_model.safetensors'));
    writeSafeTensors(join(directory, 'ae.safetensors'), originalAutoencoder(vae.all(), 4));
    await expectError(() => FluxPipeline.load(file), 'ERR_JITFLUX_INVALID_MODEL', /text encoder/);
    const expected = await picture(dev);
    expect(await picture(file, { textEncoders: dev })).toEqual(expected);
    expect(await picture(directory, { textEncoders: dev })).toEqual(expected);
  });
});

describe('prompts encoded in advance', () => {
  it('have as many text tokens as asked for', async () => {
    using encoded = await encodeOnly(dev, 'a lighthouse', { maxSequenceLength: 16, threads: 1 });
    expect(encoded.prompt.shape).toEqual([1, 16, expect.any(Number)]);
  });

  it('refuse a bad device or type', async () => {
    for (const [option, value] of [
      ['device', 'tpu'],
      ['textEncoderDevice', 'tpu'],
      ['dtype', 'int3'],
    ] as const) {
      await expectError(
        () => encodeOnly(BUNDLED_MODEL, 'x', { [option]: value }),
        'ERR_JITFLUX_INVALID_ARGUMENT',
        /tpu|int3/,
      );
    }
  });

  it('refuse encoders that cannot fit, before reading them', async () => {
    vi.stubEnv('JIT_FLUX_MEMORY_LIMIT', '1MB');
    try {
      await expectError(() => encodeOnly(dev, 'x'), 'ERR_JITFLUX_OUT_OF_MEMORY', /for its text encoders/);
      (await encodeOnly(dev, 'x', { memoryCheck: false })).dispose();
    } finally {
      vi.unstubAllEnvs();
    }
  });

  it('give the same picture in another process, without text encoders', async () => {
    const file = join(scratch, 'conditioning.safetensors');
    using encoded = await encodeOnly(dev, request.prompt!);
    await encoded.save(file);
    const program = `
      import { FluxPipeline, loadEncodedPrompts } from ${JSON.stringify(new URL('../../dist/index.js', import.meta.url).href)};
      import { writeFileSync } from 'node:fs';
      await using pipeline = await FluxPipeline.load(${JSON.stringify(dev)}, { textEncoders: false });
      using conditioning = await loadEncodedPrompts(${JSON.stringify(file)});
      const { images } = await pipeline.generate({ conditioning, width: 128, height: 64, seed: 3 });
      writeFileSync(${JSON.stringify(join(scratch, 'other.bin'))}, images[0].data);`
      // Node 20 has no "using".
      .replaceAll('await using', 'const')
      .replaceAll('using', 'const');
    execFileSync(process.execPath, ['--input-type=module', '-e', program]);
    expect(new Uint8Array(readFileSync(join(scratch, 'other.bin')))).toEqual(await picture(dev));
  });

  it('are refused where they do not fit, and needed where there are no encoders', async () => {
    await using pipeline = await FluxPipeline.load(dev, { textEncoders: false });
    await expectError(() => pipeline.generate(request), 'ERR_JITFLUX_INVALID_ARGUMENT', /conditioning/);
    using foreign = await encodeOnly(
      fileURLToPath(new URL('../../models/flux-tiny', import.meta.url)),
      'a red circle',
    );
    await expectError(
      () => pipeline.generate({ conditioning: foreign, width: 64, height: 64 }),
      'ERR_JITFLUX_INVALID_TENSOR',
      /conditioning/,
    );
    await expectError(
      () => pipeline.generate({ conditioning: foreign, prompt: 'x' }),
      'ERR_JITFLUX_INVALID_ARGUMENT',
    );
    await expectError(
      () => loadEncodedPrompts(join(dev, 'model_index.json')),
      'ERR_JITFLUX_UNSUPPORTED_FORMAT',
    );
    await expectError(() => loadEncodedPrompts(join(dev, 'nothing')), 'ERR_JITFLUX_FILE_NOT_FOUND');
  });
});

describe('bad models are refused, exit code 2', () => {
  /** Exit code and error of `jit-flux generate --json`. */
  async function generate(
    model: string,
    ...more: string[]
  ): Promise<{ code: number; error: string; text: string }> {
    let text = '';
    const sink = { write: (chunk: string) => ((text += chunk), true) } as unknown as NodeJS.WriteStream;
    const quiet = { write: () => true } as unknown as NodeJS.WriteStream;
    const out = join(scratch, 'never.png');
    const argv = [
      'generate',
      'x',
      '--model',
      model,
      '-o',
      out,
      '--json',
      '--width',
      '64',
      '--height',
      '64',
      ...more,
    ];
    const code = await run(argv, { stdout: sink, stderr: quiet, signal: new AbortController().signal });
    expect(existsSync(out)).toBe(false);
    const { error } = JSON.parse(text) as { error: { code: string } };
    return { code, error: error.code, text };
  }

  it('missing shard', async () => {
    const model = copyOf('missing-shard');
    rmSync(join(model, 'transformer', 'diffusion_pytorch_model-00002-of-00003.safetensors'));
    expect(await generate(model)).toMatchObject({ code: 2, error: 'ERR_JITFLUX_FILE_NOT_FOUND' });
  });

  it.each(['../../etc/passwd', '/etc/passwd'])('shard path %s', async (path) => {
    const model = copyOf(`shard-path-${path.length}`);
    const index = join(model, 'transformer', 'diffusion_pytorch_model.safetensors.index.json');
    const json = JSON.parse(readFileSync(index, 'utf8')) as { weight_map: Record<string, string> };
    json.weight_map['proj_out.weight'] = path;
    writeFileSync(index, JSON.stringify(json));
    expect(await generate(model)).toMatchObject({ code: 2, error: 'ERR_JITFLUX_UNSAFE_FILE' });
  });

  it('text encoder of another width', async () => {
    const model = copyOf('wrong-width');
    rmSync(join(model, 'text_encoder'), { recursive: true });
    cpSync(fileURLToPath(new URL('../fixtures/text-vae', import.meta.url)), join(model, 'text_encoder'), {
      recursive: true,
      filter: (path) => !/(t5|vae|cases|\.pt|manifest)/.test(path.replace(/.*text-vae/, '')),
    });
    renameSync(join(model, 'text_encoder', 'clip.config.json'), join(model, 'text_encoder', 'config.json'));
    const { code, error, text } = await generate(model);
    expect({ code, error }).toEqual({ code: 2, error: 'ERR_JITFLUX_INVALID_MODEL' });
    expect(text).toMatch(/48 wide.*takes 32/);
  });

  it('tokenizer absent, and every other missing part in the same message', async () => {
    const model = copyOf('no-tokenizer');
    rmSync(join(model, 'tokenizer', 'merges.txt'));
    rmSync(join(model, 'vae'), { recursive: true });
    const { code, error, text } = await generate(model);
    expect({ code, error }).toEqual({ code: 2, error: 'ERR_JITFLUX_INVALID_MODEL' });
    expect(text).toMatch(/merges\.txt/);
    expect(text).toMatch(/autoencoder/);
  });

  it('not enough memory, with the numbers', async () => {
    process.env.JIT_FLUX_MEMORY_LIMIT = '100MB';
    try {
      const { code, error, text } = await generate(dev);
      expect({ code, error }).toEqual({ code: 2, error: 'ERR_JITFLUX_OUT_OF_MEMORY' });
      expect(text).toMatch(/0\.10 GB/);
      const plan = await planMemory(dev);
      expect(plan.fits).toBe(false);
      expect(await picture(dev, { memoryCheck: false })).toHaveLength(128 * 64 * 3);
    } finally {
      delete process.env.JIT_FLUX_MEMORY_LIMIT;
    }
  });
});
