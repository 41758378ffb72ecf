import { describe, expect, it } from 'vitest';

import type { MemoryPlan } from '../../../src/model/memory-plan.js';
import type { JitPlan } from '../../../src/types.js';
import { cli, errorOf } from './helpers.js';

const FLUX_7X = 'plan --preset jit-7x --width 1024 --height 1024 --text-tokens 512 --model flux.1-dev'.split(
  ' ',
);

describe('jit-flux plan', () => {
  it('prints token counts, FLOPs and sigmas', async () => {
    const { code, stdout, stderr } = await cli(FLUX_7X);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    for (const part of ['1310 / 4096', '2457 / 4096', '4096 / 4096', '64 x 64 = 4096 tokens', 'TFLOPs']) {
      expect(stdout).toContain(part);
    }
    expect(stdout).toMatch(/50 dense steps take \d{4}\.\d\d TFLOPs: 6\.9\dx/);
    expect(stdout).toMatch(/28 dense steps take .*: 3\.\d\dx/);
    expect(stdout).toMatch(/sigmas\n {2}1\.0000 /);
  });

  it('prints the plan as one JSON document', async () => {
    const { code, stdout, stderr } = await cli([...FLUX_7X, '--json']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const plan = JSON.parse(stdout) as JitPlan & { model: string; textTokens: number };
    expect(plan).toMatchObject({ model: 'flux.1-dev', textTokens: 512, preset: 'jit-7x', steps: 11 });
    expect(plan.stages.map((stage) => [stage.stage, stage.steps, stage.activeTokens])).toEqual([
      [2, 4, 1310],
      [1, 3, 2457],
      [0, 4, 4096],
    ]);
    expect(plan.flops?.speedup.dense50).toBeCloseTo(6.96, 2);
  });

  it('has defaults and takes ratios', async () => {
    const tiny = JSON.parse((await cli(['plan', '--model', 'flux-tiny', '--json'])).stdout) as JitPlan;
    expect(tiny).toMatchObject({ preset: 'jit-4x', totalTokens: 1024 });
    const own = await cli('plan --stage-ratios 0.5,1 --token-ratios 0.25,1 --steps 10 --json'.split(' '));
    expect((JSON.parse(own.stdout) as JitPlan).tokensPerStep).toEqual([
      ...Array<number>(5).fill(1024),
      ...Array<number>(5).fill(4096),
    ]);
    expect(JSON.parse(own.stdout)).toMatchObject({ preset: 'custom', width: 1024 });
  });

  it('plans for a GPU that is not here', async () => {
    const { code, stdout } = await cli([...FLUX_7X, '--device', 'cuda:7', '--gpu-memory', '80', '--json']);
    expect(code, stdout).toBe(0);
    const { memory } = JSON.parse(stdout) as { memory: MemoryPlan };
    expect(memory.accelerator).toMatchObject({ device: 'cuda:7', availableBytes: 80 * 2 ** 30 });
  });

  it('says whether it fits before anything is fetched', async () => {
    const fits = async (model: string, gigabytes: string) => {
      const flags = ['--dtype', 'bfloat16', '--device', 'cuda', '--gpu-memory', gigabytes];
      const { stdout } = await cli(['plan', '--model', model, ...flags]);
      return stdout.trimEnd().split('\n').at(-1);
    };
    for (const model of ['flux.1-dev', 'flux.1-schnell']) {
      expect(await fits(model, '80')).toMatch(/^cuda: .*; transformer resident; available 85.90: fits$/);
      expect(await fits(model, '24')).toMatch(/^cuda: .*; transformer streamed; available 25.77: fits$/);
      expect(await fits(model, '8')).toMatch(/: does not fit$/);
    }
  });

  it('counts mapped weights as copies with --no-map-weights', async () => {
    const memory = async (flags: string[]) => {
      const { stdout } = await cli([...FLUX_7X, '--dtype', 'bfloat16', ...flags, '--json']);
      return (JSON.parse(stdout) as { memory: MemoryPlan }).memory;
    };
    const [mapped, copied] = [await memory([]), await memory(['--no-map-weights'])];
    expect([mapped.mapWeights, copied.mapWeights]).toEqual([true, false]);
    expect(copied.components.filter((part) => part.mapped)).toEqual([]);
    expect(copied.peakBytes).toBeGreaterThan(mapped.peakBytes);
  });

  it.each([
    ['--device gpu', 'ERR_JITFLUX_INVALID_ARGUMENT', 'device'],
    ['--device cuda --quantize int8', 'ERR_JITFLUX_INVALID_ARGUMENT', 'streamed) for --quantize'],
    [
      '--model flux.1-schnell --device cuda --gpu-memory 24 --quantize int8',
      'ERR_JITFLUX_INVALID_ARGUMENT',
      '--quantize',
    ],
    ['--gpu-memory 24', 'ERR_JITFLUX_INVALID_ARGUMENT', 'nothing without --device cuda for --gpu-memory'],
    ['--device cuda --gpu-memory 0', 'ERR_JITFLUX_INVALID_ARGUMENT', 'more than 0'],
    [
      '--device cuda --quantize-text-encoders int8',
      'ERR_JITFLUX_INVALID_ARGUMENT',
      '--quantize-text-encoders',
    ],
    [
      '--model flux-tiny --quantize-text-encoders int8',
      'ERR_JITFLUX_INVALID_ARGUMENT',
      'nothing: the text encoder is a TorchScript module',
    ],
    ['--preset jit-5x', 'ERR_JITFLUX_UNKNOWN_PRESET', 'jit-4x'],
    ['--width 100', 'ERR_JITFLUX_INVALID_ARGUMENT', 'multiple of 16'],
    ['--width abc', 'ERR_JITFLUX_INVALID_ARGUMENT', 'width'],
    ['--model flux.2', 'ERR_JITFLUX_INVALID_ARGUMENT', 'flux.1-dev, flux.1-schnell or flux-tiny'],
    ['--model constructor', 'ERR_JITFLUX_INVALID_ARGUMENT', 'flux-tiny'],
    ['--text-tokens 0', 'ERR_JITFLUX_INVALID_ARGUMENT', '--text-tokens'],
    ['--steps -3', 'ERR_JITFLUX_INVALID_ARGUMENT', 'steps'],
    ['--token-ratios 0,0.5,1', 'ERR_JITFLUX_INVALID_ARGUMENT', '--token-ratios'],
    ['--stage-ratios 0.4,0.65,0.9', 'ERR_JITFLUX_INVALID_ARGUMENT', '--stage-ratios'],
    ['--stage-ratios 0.4,,1', 'ERR_JITFLUX_INVALID_ARGUMENT', 'stage-ratios'],
    ['--prest jit-7x', 'ERR_JITFLUX_INVALID_ARGUMENT', 'prest'],
    ['--width', 'ERR_JITFLUX_INVALID_ARGUMENT', 'width'],
  ])('refuses %s', async (flags, errorCode, part) => {
    const argv = ['plan', ...flags.split(' ')];
    const json = await cli([...argv, '--json']);
    expect(json.code).toBe(2);
    expect(json.stderr).toBe('');
    expect(errorOf(json).code).toBe(errorCode);
    expect(errorOf(json).message).toContain(part);
    const plain = await cli(argv);
    expect(plain.code).toBe(2);
    expect(plain.stdout).toBe('');
    expect(plain.stderr).toContain(part);
  });
});
