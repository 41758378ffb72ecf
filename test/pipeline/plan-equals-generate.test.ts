/** What `plan` says is what `generate` does, for every preset and kind of model. */
import { copyFile, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { convertModel } from '../../src/convert/index.js';
import { BUNDLED_MODEL } from '../../src/model/bundled-model.js';
import type { MemoryPlan } from '../../src/model/memory-plan.js';
import type { JitPlan } from '../../src/types.js';
import { writeTinySnapshot } from '../support/tiny-snapshot.js';
import { cli } from '../unit/cli/helpers.js';

let root: string;
const models: Record<string, string[]> = {};
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'jit-flux-plan-'));
  const [dev, schnell, checkpoint] = ['dev', 'schnell', 'checkpoint'].map((name) => join(root, name)) as [
    string,
    string,
    string,
  ];
  writeTinySnapshot(dev, 'dev');
  writeTinySnapshot(schnell, 'schnell');
  await mkdir(checkpoint);
  await convertModel(join(dev, 'transformer'), join(checkpoint, 'flux1-tiny.safetensors'));
  await copyFile(join(dev, 'vae', 'diffusion_pytorch_model.safetensors'), join(checkpoint, 'ae.safetensors'));
  Object.assign(models, {
    bundled: ['--model', BUNDLED_MODEL],
    dev: ['--model', dev],
    schnell: ['--model', schnell],
    checkpoint: ['--model', checkpoint, '--text-encoders', dev],
  });
});
afterAll(() => rm(root, { recursive: true, force: true }));

interface Planned extends JitPlan {
  width: number;
  height: number;
  images: number;
  textTokens: number;
  memory: MemoryPlan;
}
interface Generated {
  images: { width: number; height: number }[];
  textTokens: number;
  plan: JitPlan;
  memory: MemoryPlan;
}

async function json<T>(argv: string[]): Promise<T> {
  const { code, stdout } = await cli([...argv, '--json']);
  expect(code, stdout).toBe(0);
  return JSON.parse(stdout) as T;
}

/** What is available differs from call to call. */
function withoutAvailable({ available: _available, ...memory }: MemoryPlan) {
  return memory;
}

describe.each(['bundled', 'dev', 'schnell', 'checkpoint'])('of %s', (model) => {
  it.each([
    ['the default preset', []],
    ['dense', ['--preset', 'dense']],
    ['jit-4x', ['--preset', 'jit-4x']],
    ['jit-7x', ['--preset', 'jit-7x']],
    ['other steps and two pictures', ['--preset', 'dense', '--steps', '3', '--num-images', '2']],
    ['ratios of its own', ['--stage-ratios', '0.5,1', '--token-ratios', '0.25,1', '--steps', '4']],
    ['released encoders in bfloat16', ['--release-encoders', '--dtype', 'bfloat16', '--steps', '4']],
    ['int8 blocks', ['--quantize', 'int8', '--steps', '4']],
    ['fewer text tokens', ['--preset', 'jit-7x', '--text-tokens', '20']],
  ])('with %s', async (_name, flags) => {
    const common = [...models[model]!, ...flags, '--width', '128', '--height', '64'];
    const planned = await json<Planned>(['plan', ...common]);
    const out = join(root, `${model}.png`);
    const generated = await json<Generated>([
      'generate',
      'a red circle',
      '--seed',
      '1',
      '-o',
      out,
      ...common,
    ]);

    const { width, height, images, textTokens, memory, ...rest } = planned;
    expect(rest).toMatchObject(generated.plan);
    expect(generated.images).toHaveLength(images);
    expect(generated.images[0]).toMatchObject({ width, height });
    expect(generated.textTokens).toBe(textTokens);
    expect(withoutAvailable(generated.memory)).toEqual(withoutAvailable(memory));
    expect(memory.steps).toBe(generated.plan.steps);
  });
});
