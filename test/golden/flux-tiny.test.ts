/** The bundled model as it is shipped: its trained weights against eager PyTorch (tools/flux-tiny/train/golden.py). */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BUNDLED_MODEL, FluxPipeline } from '../../src/pipeline/index.js';
import { FluxTransformer } from '../../src/engine/index.js';
import { TRUSTED_ARCHIVES } from '../../src/engine/trusted-archives.js';
import { FLUX_TINY } from '../../src/sampler/index.js';
import { readManifest } from '../support/manifest.js';
import { expectWithin, maxAbs, printParityTable, relativeRms } from '../support/parity.js';
import { SafeTensors } from '../support/safetensors.js';

printParityTable('the bundled model, against PyTorch');

interface Golden {
  prompt: string;
  seed: number;
  grid: [number, number];
  guidance: number;
  sigmas: number[];
}
const golden = readManifest<Golden>('flux-tiny/flux-tiny.manifest.json');
const record = SafeTensors.open('flux-tiny/flux-tiny.safetensors');

describe('flux-tiny', () => {
  let pipeline: FluxPipeline;
  beforeAll(async () => {
    pipeline = await FluxPipeline.load(BUNDLED_MODEL);
  });
  afterAll(() => pipeline.dispose());

  it('draws what PyTorch draws', async () => {
    const { prompt, seed, grid, guidance, sigmas } = golden;
    const request = {
      prompt,
      seed,
      guidance,
      width: grid[1] * 8,
      height: grid[0] * 8,
      preset: 'dense',
      steps: sigmas.length,
      schedule: { kind: 'sigmas', sigmas },
    } as const;
    const { latents } = await pipeline.generate({ ...request, output: 'latent' });
    expectWithin(
      'final latents',
      'max abs',
      maxAbs(await latents!.toFloat32Array(), record.float32('final')),
      1e-3,
    );
    latents!.dispose();

    const { images } = await pipeline.generate(request);
    const { width, height, data } = images[0]!;
    const expected = record.float32('picture');
    let worst = 0;
    for (let c = 0; c < 3; c++) {
      for (let i = 0; i < width * height; i++) {
        worst = Math.max(worst, Math.abs(data[i * 3 + c]! - (expected[c * width * height + i]! + 1) * 127.5));
      }
    }
    expectWithin('picture', 'levels of 255', worst, 0.75);
  });

  // Most of FLUX's sinusoids of 1000 times the guidance turn many times from one weight to the next, so what training has not
  // shown can be anything: once velocities at 1 were worse than none (tools/flux-tiny/train/smooth_guidance.py).
  it('has a meaning for every guidance weight', async () => {
    const guesses: Float32Array[] = []; // what a single step from noise takes the picture for
    for (const guidance of [1, 1.2, 2, 3.5, 5]) {
      const { latents } = await pipeline.generate({
        prompt: golden.prompt,
        seed: golden.seed,
        guidance,
        width: 128,
        height: 128,
        preset: 'dense',
        steps: 1,
        output: 'latent',
      });
      guesses.push(await latents!.toFloat32Array());
      latents!.dispose();
    }
    const meanSquare = guesses.map((x) => x.reduce((sum, v) => sum + v * v, 0) / x.length);
    expect(meanSquare[0]).toBeLessThan(2); // latents of pictures have 1 on average; it was 36
    expect(meanSquare).toEqual([...meanSquare].sort((a, b) => a - b)); // guidance exaggerates,
    expect(relativeRms(guesses[0]!, guesses[1]!)).toBeLessThan(0.2); // by degrees
  });

  it('has the architecture that the planner counts with', async () => {
    const transformer = await FluxTransformer.load(join(BUNDLED_MODEL, 'transformer.pt'));
    expect(transformer.config).toEqual(FLUX_TINY);
    transformer.dispose();
  });

  it('is small, and pinned', () => {
    const sizes = readdirSync(BUNDLED_MODEL).map((name) => statSync(join(BUNDLED_MODEL, name)).size);
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBeLessThanOrEqual(20e6);
    for (const name of ['text_encoder.pt', 'vae_decoder.pt']) {
      const hash = createHash('sha256')
        .update(readFileSync(join(BUNDLED_MODEL, name)))
        .digest('hex');
      expect(TRUSTED_ARCHIVES).toContain(hash);
    }
  });
});
