import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import {
  BUNDLED_MODEL,
  parseModelIndex,
  pixelsPerToken,
  readModelDirectory,
} from '../../../src/model/model-directory.js';

const text = await readFile(join(BUNDLED_MODEL, 'model_index.json'), 'utf8');

/** The bundled model's index with one field changed. */
function changed(path: string, value: unknown): string {
  const index = JSON.parse(text) as Record<string, unknown>;
  const keys = path.split('.');
  let target = index;
  for (const key of keys.slice(0, -1)) target = target[key] as Record<string, unknown>;
  target[keys.at(-1) as string] = value;
  return JSON.stringify(index);
}

describe('parseModelIndex', () => {
  it('reads the bundled model', () => {
    const index = parseModelIndex(text);
    expect(index).toMatchObject({
      name: 'flux-tiny',
      license: 'Apache-2.0',
      text: { length: 24 },
      decoder: { channels: 16, spatialFactor: 4 },
      defaults: { width: 256, height: 256, guidance: 3.5 },
    });
    expect(pixelsPerToken(index)).toBe(8);
  });

  it.each([
    ['version', 2],
    ['name', ''],
    ['text.length', 0],
    ['decoder.scalingFactor', '1.3'],
    ['decoder.scalingFactor', 0],
    ['transformer.ropeAxes', [8, 12]],
    ['defaults.guidance', -1],
    ['decoder', undefined],
  ])('names the malformed field %s', (field, value) => {
    expect(() => parseModelIndex(changed(field, value), '/m/model_index.json')).toThrow(
      expect.objectContaining({
        code: 'ERR_JITFLUX_INVALID_MODEL',
        message: expect.stringContaining(`/m/model_index.json: ${field}`) as string,
      }),
    );
  });

  it.each(['../secret.pt', '/etc/passwd', 'a/../../b', 'a\\..\\b', 'C:/x.pt', '..', 'a\0b', ''])(
    'refuses the component path %j',
    (path) => {
      expect(() => parseModelIndex(changed('transformer.file', path))).toThrow(
        expect.objectContaining({
          code: 'ERR_JITFLUX_INVALID_MODEL',
          details: expect.objectContaining({ field: 'transformer.file' }) as object,
        }),
      );
    },
  );

  it('accepts a component in a subdirectory', () => {
    expect(parseModelIndex(changed('transformer.file', 'transformer/..model.pt')).transformer.file).toBe(
      'transformer/..model.pt',
    );
  });

  it('recognises what is not JSON and what is for diffusers', () => {
    expect(() => parseModelIndex('{')).toThrow(/is not JSON/);
    expect(() => parseModelIndex('{"_class_name": "FluxPipeline"}')).toThrow(/diffusers/);
  });
});

describe('readModelDirectory', () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'jit-flux-model-'));
  });
  afterEach(() => rm(directory, { recursive: true, force: true }));

  it('finds the bundled model complete', async () => {
    const { files } = await readModelDirectory(BUNDLED_MODEL);
    expect(files.transformer).toBe(join(BUNDLED_MODEL, 'transformer.pt'));
  });

  it('distinguishes a missing directory, a file, and a directory without a model', async () => {
    await writeFile(join(directory, 'file'), '');
    for (const [path, code] of [
      [join(directory, 'missing'), 'ERR_JITFLUX_FILE_NOT_FOUND'],
      [join(directory, 'file'), 'ERR_JITFLUX_FILE_NOT_FOUND'],
      [directory, 'ERR_JITFLUX_INVALID_MODEL'],
    ] as const) {
      await expect(readModelDirectory(path)).rejects.toMatchObject({ code });
    }
  });

  it('lists the missing components', async () => {
    await writeFile(join(directory, 'model_index.json'), changed('transformer.file', 'parts/t.pt'));
    await writeFile(join(directory, 'tokenizer.json'), '{}');
    await mkdir(join(directory, 'parts'));
    await expect(readModelDirectory(directory)).rejects.toMatchObject({
      code: 'ERR_JITFLUX_INVALID_MODEL',
      message: expect.stringMatching(/missing: text_encoder\.pt, parts\/t\.pt, vae_decoder\.pt$/) as string,
    });
  });

  it('stops when aborted', async () => {
    await expect(readModelDirectory(BUNDLED_MODEL, { signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: 'ERR_JITFLUX_ABORTED',
    });
  });
});
