import { describe, expect, it } from 'vitest';
import { gemmCeilings } from '../../../bench/lib/native.mjs';
import { number, table } from '../../../bench/lib/table.mjs';
import { evaluateTargets, TARGETS } from '../../../bench/targets.mjs';

const entry = (sections: Record<string, unknown>, name: string) =>
  evaluateTargets(sections).find((target) => target.name === name);
const spread = (median: number) => ({ median, low: median - 0.1, high: median + 0.1, samples: 5 });

describe('evaluateTargets', () => {
  it('gives one entry per target even when nothing ran, but for those of optional sections', () => {
    const targets = evaluateTargets({});
    const always = TARGETS.filter(({ section }) => section !== 'sdcpp');
    expect(targets.map(({ name }) => name)).toEqual(always.map(({ name }) => name));
    expect(new Set(targets.map(({ name }) => name)).size).toBe(targets.length);
    for (const { value, met, reason } of targets) {
      expect({ value, met }).toEqual({ value: null, met: false });
      expect(reason).toMatch(/did not run/);
    }
  });

  it('sets the best type of each side against the other for stable-diffusion.cpp', () => {
    const row = (implementation: string, type: string, median: number) => ({
      implementation,
      type,
      seconds: spread(median),
    });
    const rows = [
      row('stable-diffusion.cpp', 'f16', 30),
      row('jit-flux', 'float32', 9),
      row('stable-diffusion.cpp', 'q8_0', 24),
      row('jit-flux', 'int8', 2),
      { implementation: 'stable-diffusion.cpp', type: 'bf16', error: 'ended with code 1' },
    ];
    const name = 'a step of flux-slice against stable-diffusion.cpp, best type against best type';
    expect(entry({ sdcpp: { rows } }, name)).toMatchObject({ value: 12, met: true, detail: 'int8, q8_0' });
    expect(entry({ sdcpp: { rows: rows.slice(4) } }, name)).toMatchObject({ value: null, met: false });
  });

  it('passes the reason of a failed section, or part of one, on', () => {
    const name = 'forward against eager ATen, bench 64x64, float32';
    expect(entry({ peer: { error: 'no executable' } }, name)).toMatchObject({
      met: false,
      reason: 'section peer failed: no executable',
    });
    expect(entry({ peer: {} }, name)?.reason).toMatch(/another form/);
    expect(entry({ peer: { cases: [] } }, name)?.reason).toMatch(/no such figure/);
    const cases = [{ model: 'bench', grid: [64, 64], error: 'other velocities' }];
    expect(entry({ peer: { cases } }, name)?.reason).toMatch(/cases\.0 failed: other velocities/);
  });

  it('looks at other models and sizes in a smoke run', () => {
    const row = { type: 'float32', implementation: 'aten', ratio: spread(3) };
    const sections = { peer: { cases: [{ model: 'smoke-small', grid: [16, 16], rows: [row] }] } };
    const [found] = evaluateTargets(sections, 'smoke').filter(({ value }) => value !== null);
    expect(found).toMatchObject({ name: 'forward against eager ATen, bench 64x64, float32', value: 3 });
  });

  it('compares in the direction of the target', () => {
    const row = { implementation: 'aten' };
    const rows = [
      { ...row, type: 'bfloat16', ratio: spread(1.6) },
      { ...row, type: 'float32', ratio: spread(1.19) },
      { ...row, type: 'best', ratio: spread(2.5), oursType: 'int8', referenceType: 'bfloat16' },
    ];
    const sections = { peer: { cases: [{ model: 'bench', grid: [64, 64], rows }] } };
    const name = 'forward against eager ATen, bench 64x64, bfloat16';
    expect(entry(sections, name)).toMatchObject({ target: 1.9, met: false });
    const onTiles = evaluateTargets(sections, 'full', 'amx').find((target) => target.name === name);
    expect(onTiles).toMatchObject({
      value: 1.6,
      target: 1.6,
      unit: 'x',
      met: true,
      detail: '1.50..1.70',
    });
    expect(entry(sections, 'forward against eager ATen, bench 64x64, float32')?.met).toBe(false);
    const best = entry(sections, 'forward, best type against best type of eager ATen, bench 64x64');
    expect(best).toMatchObject({ met: true, detail: 'ours int8, theirs bfloat16, 2.40..2.60' });
    const time = { ours: spread(0.2), references: [{ implementation: 'aten', ratio: spread(8) }] };
    const load = entry({ load: { time } }, 'load of a 2 GB archive, time over torch::jit::load');
    expect(load).toMatchObject({ value: 0.125, met: false });
  });

  it('reads the documents of the native executable', () => {
    const params = { heads: 8, sequence: 4160, head_dim: 64, dtype: 'bfloat16' };
    const documents = {
      attention: { rows: [{ name: 'joint_attention', params, ratio: spread(2.4) }] },
      'jit-operators': { rows: [], slope: { step: 0.98, lifter: 1.02 } },
    };
    const sections = { native: { documents } };
    expect(entry(sections, 'own attention against SDPA, 8x4160x64, bfloat16')).toMatchObject({
      value: 2.4,
      met: true,
    });
    expect(entry(sections, 'JiT operators, scaling exponent up to 65536 tokens')).toMatchObject({
      value: 1.02,
      met: true,
      detail: 'largest, of lifter',
    });
  });
});

it('gemmCeilings takes the fastest product of each type', () => {
  const rows = [
    { name: 'gemm', params: { dtype: 'float32' }, ours: { gflops: 180 } },
    { name: 'gemm', params: { dtype: 'float32' }, ours: { gflops: 380 } },
    { name: 'copy', params: {}, ours: { gbytes_per_s: 30 } },
  ];
  expect(gemmCeilings({ rows })).toEqual({ float32: 380 });
  expect(gemmCeilings({ rows, ceilings: { gemm_float32_gflops: 390, gemm_float32_way: 'plain' } })).toEqual({
    float32: 390,
  });
  expect(gemmCeilings(undefined)).toEqual({});
});

describe('table', () => {
  it('is Markdown, with numbers to the right and text to the left', () => {
    const text = table(
      ['name', 'seconds', 'remark'],
      [
        ['a', '1.25 s', 'fast'],
        ['longer', '10 s', undefined],
      ],
    );
    expect(text.split('\n')).toEqual([
      '| name   | seconds | remark |',
      '| ------ | ------: | ------ |',
      '| a      |  1.25 s | fast   |',
      '| longer |    10 s |        |',
    ]);
  });

  it('escapes, fills short rows, and is empty without rows', () => {
    expect(table(['a', 'b'], [['x|y'], ['1\n2', 'z']])).toBe(
      '| a    | b   |\n| ---- | --- |\n| x\\|y |     |\n| 1 2  | z   |',
    );
    expect(table(['a'], [])).toBe('');
  });

  it('writes numbers with three digits', () => {
    expect([0, 1.23456, 1234.5, 0.0000123, Number.NaN, undefined, null].map(number)).toEqual([
      '0.00',
      '1.23',
      '1235',
      '1.2e-5',
      '-',
      '-',
      '-',
    ]);
  });
});
