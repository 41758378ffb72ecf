import { describe, expect, it } from 'vitest';

import { BUNDLED_MODEL } from '../../../src/model/bundled-model.js';
import type { ModelSpec } from '../../../src/model/spec.js';
import { cli, errorOf } from './helpers.js';

describe('jit-flux inspect of a model', () => {
  it('shows parts and defaults of a directory', async () => {
    const { code, stdout, stderr } = await cli(['inspect', BUNDLED_MODEL]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toMatch(/^model +flux-tiny\nkind +jit-flux$/m);
    for (const file of ['transformer.pt', 'text_encoder.pt', 'vae_decoder.pt'])
      expect(stdout).toContain(file);
    expect(stdout).toContain('256x256, guidance 3.5, preset jit-4x');
  });

  it('prints the description as one JSON document', async () => {
    const { code, stdout } = await cli(['inspect', 'flux.1-schnell', '--json']);
    expect(code).toBe(0);
    const spec = JSON.parse(stdout) as ModelSpec;
    expect(spec).toMatchObject({
      kind: 'named',
      info: { name: 'flux.1-schnell', defaults: { preset: 'dense', dense: { steps: 4 } } },
      transformer: { config: { doubleBlocks: 19, guidance: false } },
      inferred: [],
    });
  });

  it('names the known models for a name that is none', async () => {
    const outcome = await cli(['inspect', 'flux.9', '--json']);
    expect(outcome.code).toBe(2);
    expect(errorOf(outcome)).toMatchObject({
      code: 'ERR_JITFLUX_FILE_NOT_FOUND',
      message: expect.stringContaining('flux.1-dev, flux.1-schnell, flux-tiny') as string,
    });
  });
});
