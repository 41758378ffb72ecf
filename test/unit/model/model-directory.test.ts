import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { BUNDLED_MODEL } from '../../../src/model/bundled-model.js';
import { checkModelIndex } from '../../../src/model/model-directory.js';
import { pixelsPerToken } from '../../../src/model/size.js';
import { resolveModel } from '../../../src/model/resolve-model.js';

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

const parseModelIndex = (text: string, name?: string) => checkModelIndex(JSON.parse(text), name);

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

  it('recognises what is for diffusers', () => {
    expect(() => parseModelIndex('{"_class_name": "FluxPipeline"}')).toThrow(/diffusers/);
  });
});

describe('a directory with our own index', () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'jit-flux-model-'));
  });
  afterEach(() => rm(directory, { recursive: true, force: true }));

  it('is complete in the bundled model', async () => {
    const { transformer } = await resolveModel(BUNDLED_MODEL);
    expect(transformer.weights?.path).toBe(join(BUNDLED_MODEL, 'transformer.pt'));
  });

  it('is told from a missing directory, a file, a directory without a model, and an index that is not JSON', async () => {
    await writeFile(join(directory, 'file'), '');
    await mkdir(join(directory, 'broken'));
    await writeFile(join(directory, 'broken', 'model_index.json'), '{');
    for (const [path, code, message] of [
      [join(directory, 'missing'), 'ERR_JITFLUX_FILE_NOT_FOUND', /does not exist/],
      [join(directory, 'file'), 'ERR_JITFLUX_INVALID_MODEL', /incomplete/],
      [directory, 'ERR_JITFLUX_INVALID_MODEL', /not a model directory/],
      [join(directory, 'broken'), 'ERR_JITFLUX_INVALID_MODEL', /not valid JSON/],
    ] as const) {
      const expected = { code, message: expect.stringMatching(message) as string };
      await expect(resolveModel(path)).rejects.toMatchObject(expected);
    }
  });

  it('lists the missing components', async () => {
    await writeFile(join(directory, 'model_index.json'), changed('transformer.file', 'parts/t.pt'));
    await writeFile(join(directory, 'tokenizer.json'), '{}');
    await mkdir(join(directory, 'parts'));
    await expect(resolveModel(directory)).rejects.toMatchObject({
      code: 'ERR_JITFLUX_INVALID_MODEL',
      message: expect.stringMatching(/missing: text_encoder\.pt, parts\/t\.pt, vae_decoder\.pt$/) as string,
    });
  });

  it('stops when aborted', async () => {
    await expect(resolveModel(BUNDLED_MODEL, { signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: 'ERR_JITFLUX_ABORTED',
    });
  });
});
