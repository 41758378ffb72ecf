import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  denseWork,
  elementwiseSeconds,
  kernelRows,
  operatorShare,
  speedup,
} from '../../../bench/gpu/figures.mjs';
import { GPU_MODELS } from '../../../bench/gpu/models.mjs';
import { StageRecord, readDocument } from '../../../bench/gpu/record.mjs';
import { markdownTable, mergeDocuments, renderReport, reportDocument } from '../../../bench/gpu/report.mjs';
import { GPU_TARGETS, evaluateGpuTargets } from '../../../bench/gpu/targets.mjs';

const spread = (median: number) => ({ median, low: median * 0.9, high: median * 1.1, samples: 5 });
const stages = (...list: [number, number][]) =>
  list.map(([steps, activeTokens]) => ({ steps, activeTokens, stepSeconds: spread(0.1) }));
const run = (name: string, seconds: number, ...list: [number, number][]) => ({
  name,
  seconds: spread(seconds),
  conditionSeconds: spread(0.05),
  betweenSteps: 1e-5,
  stages: stages(...list),
  finite: true,
});
const operators = (preset: string, tokens: number, transitionSeconds: number) => ({
  preset,
  share: 0.3,
  tokens,
  newTokens: 1,
  seconds: { gather: 1e-4, lift: 1e-4, step: 3e-4 },
  transitionSeconds,
});
/** As the part `resident` reports it. */
const resident = {
  load: { seconds: 10, fileBytes: 23.8e9, memory: { allocatedBytes: 17e9, peakBytes: 17e9 } },
  memory: { phases: { load: { peakBytes: 17e9 }, condition: { peakBytes: 18e9 } }, peakBytes: 18e9 },
  firstStep: 0.5,
  callsPerStep: { gelu: 114 },
  steps: [{ share: 1, tokens: 4096, seconds: spread(0.13) }],
  passes: [{ share: 1, seconds: spread(0.128) }],
  roundTrip: spread(1e-4),
  operators: [operators('jit-7x', 1310, 1e-3), operators('jit-7x', 2457, 5e-4)],
  runs: [
    run('dense-50', 7, [50, 4096]),
    run('jit-4x', 1.6, [7, 1433], [4, 2539], [7, 4096]),
    run('jit-7x', 1, [4, 1310], [3, 2457], [4, 4096]),
  ],
};
const peer = {
  cases: [{ name: '1', host: spread(0.17), device: spread(0.17), finite: true }],
  differences: [{ share: 1, difference: 0.006 }],
  parts: [
    { part: 'product', shape: [4096, 3072, 9216], calls: 19, seconds: 1e-3, flops: 1e12 },
    { part: 'attention', shape: [24, 4608, 128], calls: 57, seconds: 5e-4, flops: 1e11 },
  ],
};
const ok = (result: unknown) => ({
  status: 'ok' as const,
  run: 'r',
  at: '2026-11-24T00:00:00Z',
  seconds: 1,
  result,
});
const stepsOf = (bench: Record<string, unknown>) => (stage: string, step: string) =>
  stage === 'bench' && step in bench ? ok(bench[step]) : undefined;
const target = (bench: Record<string, unknown>, name: RegExp) =>
  evaluateGpuTargets(stepsOf(bench)).find((t) => name.test(t.name));

describe('figures', () => {
  it('compares runs with dense-50', () => {
    expect(speedup(resident, 'jit-7x')).toBeCloseTo(7);
    expect(speedup(resident, 'missing')).toBeUndefined();
    expect(speedup(undefined, 'jit-7x')).toBeUndefined();
  });

  it('adds the operators of steps and transitions, round trips within a step taken off', () => {
    // Two transitions, and 4 + 3 sparse steps of 0.3 - 0.1 ms.
    expect(operatorShare(resident, 'jit-7x')?.seconds).toBeCloseTo(1.5e-3 + 7 * 2e-4);
    expect(operatorShare(resident, 'jit-7x')?.share).toBeCloseTo(2.9e-3);
    expect(operatorShare(resident, 'jit-4x')).toBeUndefined();
  });

  it('reads the rows of the kernels', () => {
    expect(
      kernelRows([
        { kernel: 'lift_step', shape: '64x64x64', microseconds: 12, bytes: 24e6 },
        { kernel: 'gelu_tanh', shape: 'bfloat16 4608x12288 + prefix', microseconds: 100, gbytes_per_s: 2000 },
        { nonsense: true },
      ]),
    ).toEqual([
      { kernel: 'lift_step', shape: '64x64x64', seconds: 12e-6, gigabytesPerSecond: 2000 },
      {
        kernel: 'gelu_tanh',
        type: 'bfloat16',
        shape: '4608x12288 + prefix',
        seconds: 100e-6,
        gigabytesPerSecond: 2000,
      },
    ]);
    expect(kernelRows(undefined)).toEqual([]);
  });

  it('adds up the kernels of a dense step, by time where the shape was measured and else by traffic', () => {
    const rows = [
      { kernel: 'gated_residual', shape: 'bfloat16 4608x3072 + norm', microseconds: 40, gbytes_per_s: 2800 },
      { kernel: 'qk_norm_rope', shape: 'bfloat16 1822x9216 in place', microseconds: 20, gbytes_per_s: 2000 },
      { kernel: 'gated_residual', shape: 'float32 4608x3072 + norm', microseconds: 999, gbytes_per_s: 1 },
    ];
    const found = elementwiseSeconds(rows, GPU_MODELS.flux);
    const pass = 2 * 4608 * 3072;
    expect(found?.seconds).toBeCloseTo((2 * 19 + 38) * 40e-6 + (57 * 4 * pass) / 2e12);
    expect(found?.missing).toEqual(['gather_embed', 'layer_norm_modulate', 'gelu_tanh']);
    expect(elementwiseSeconds([], GPU_MODELS.flux)).toBeUndefined();
  });

  it('leaves the double blocks without GELU if the engine does not call it there', () => {
    const calls = (gelu: number) =>
      denseWork(GPU_MODELS.flux, { gelu })
        .filter(({ kernel }) => kernel === 'gelu_tanh')
        .reduce((sum, work) => sum + work.calls, 0);
    expect([calls(38), calls(76)]).toEqual([38, 57]);
  });
});

describe('evaluateGpuTargets', () => {
  it('gives one entry per target even when nothing ran', () => {
    const targets = evaluateGpuTargets(() => undefined);
    expect(targets.map(({ name }) => name)).toEqual(GPU_TARGETS.map(({ name }) => name));
    for (const { value, met, reason } of targets) {
      expect({ value, met }).toEqual({ value: null, met: false });
      expect(reason).toMatch(/did not run/);
    }
  });

  it('compares in the direction of the target', () => {
    const bench = { resident, peer };
    expect(target(bench, /^dense step/)).toMatchObject({ value: 0.13, met: true });
    expect(target(bench, /eager PyTorch/)).toMatchObject({ met: true });
    expect(target(bench, /^jit-4x against/)).toMatchObject({ value: 7 / 1.6, met: true });
    expect(target(bench, /^jit-7x, transformer loop/)).toMatchObject({ value: 1, met: true });
    expect(target(bench, /^JiT operators/)).toMatchObject({ met: true });
    expect(target(bench, /^peak memory/)).toMatchObject({ value: 18, met: true });
    const slow = { ...resident, steps: [{ share: 1, tokens: 4096, seconds: spread(0.2) }] };
    expect(target({ resident: slow }, /^dense step/)).toMatchObject({ value: 0.2, met: false });
  });

  it('passes reasons on', () => {
    const failed = { status: 'failed' as const, run: 'r', at: '', reason: 'out of memory' };
    expect(evaluateGpuTargets(() => failed)[0]?.reason).toBe('bench/resident failed: out of memory');
    expect(target({ resident: {} }, /^dense step/)?.reason).toMatch(/another form/);
    expect(target({ resident, peer: { cases: [] } }, /eager PyTorch/)?.reason).toMatch(/another form/);
  });
});

const call = (id: string, o: Record<string, unknown> = {}) => ({
  id,
  date: `2026-11-24T0${id}:00:00Z`,
  device: 'NVIDIA H100 80GB HBM3',
  commit: 'abc',
  command: `bash scripts/gpu-check ${id}`,
  ...o,
});
const step = (status: 'ok' | 'failed' | 'skipped', id: string, result?: unknown) => ({
  status,
  run: id,
  at: `2026-11-24T0${id}:30:00Z`,
  ...(result !== undefined && { result }),
  ...(status !== 'ok' && { reason: `${status} in ${id}` }),
});

describe('mergeDocuments', () => {
  it('takes results over failures, failures over absence, and later over earlier', () => {
    const { stages: merged, runs } = mergeDocuments([
      {
        stage: 'bench',
        runs: [call('2')],
        steps: { a: step('skipped', '2'), b: step('ok', '2', 'new'), c: step('failed', '2') },
      },
      {
        stage: 'bench',
        runs: [call('1')],
        steps: { a: step('ok', '1', 'old'), b: step('ok', '1', 'old'), c: step('skipped', '1') },
      },
    ]);
    expect(runs).toMatchObject([{ id: '1' }, { id: '2' }]);
    expect(merged.bench).toMatchObject({
      a: { status: 'ok', result: 'old', call: 0 },
      b: { result: 'new', call: 1 },
      c: { status: 'failed', call: 1 },
    });
  });

  it('warns of calls that do not belong together', () => {
    const document = (id: string, o: object) => ({ stage: 'build', runs: [call(id, { ...o })], steps: {} });
    expect(mergeDocuments([document('1', {}), document('2', {})]).warnings).toEqual([]);
    expect(mergeDocuments([document('1', {}), document('2', { commit: 'def' })]).warnings.join()).toMatch(
      /different commits: abc, def/,
    );
    expect(mergeDocuments([document('1', { modified: true })]).warnings.join()).toMatch(/in no commit/);
  });
});

describe('renderReport', () => {
  const documents = [
    { stage: 'build', runs: [call('1')], steps: { build: step('ok', '1', {}) } },
    {
      stage: 'test',
      runs: [call('1')],
      steps: {
        vitest: step('failed', '1', {
          passed: 3,
          failed: 1,
          skipped: 0,
          failures: [{ name: 'test/cuda/a.test.ts: works', message: 'expected | 1\nmore' }],
        }),
        memcheck: step('ok', '1', { errors: 0, summary: '0 errors' }),
      },
    },
    {
      stage: 'bench',
      runs: [call('2')],
      steps: { resident: ok(resident), peer: ok(peer), streaming: step('skipped', '2') },
    },
  ];

  it('has the tables, the targets and what was left out', () => {
    const text = renderReport(mergeDocuments(documents));
    expect(text).toContain('# GPU check: NVIDIA H100 80GB HBM3, 2026-11-24');
    expect(text).toContain('| dense step, 1024x1024 | 0.130 s | <= 0.14 s | yes |');
    expect(text).toContain('test/cuda: 3 passed, 1 failed, 0 skipped');
    expect(text).toContain('- test/cuda/a.test.ts: works: expected | 1');
    expect(text).toContain('memcheck: 0 errors');
    expect(text).toContain('| jit-7x | 1.00 s');
    expect(text).toContain('- bench: streaming: skipped in 2');
    expect(text).toContain('1. `bash scripts/gpu-check 1`');
    expect(text).not.toContain('undefined');
    expect(text).not.toContain('NaN');
  });

  it('can be written of nothing at all', () => {
    const text = renderReport(
      mergeDocuments([{ stage: 'unpack', runs: [call('1', { device: undefined })], steps: {} }]),
    );
    expect(text).toContain('no device');
    expect(text).toContain('the whole stage bench: no call ran it');
    expect(text).not.toContain('undefined');
  });

  it('does not judge a toy model', () => {
    const toy = documents.map((document) => ({ ...document, runs: [call('1', { tiny: true })] }));
    const merged = mergeDocuments(toy);
    expect(renderReport(merged)).toContain('| 0.130 s | <= 0.14 s | not judged |');
    expect(reportDocument(merged).targets.every(({ met }) => !met)).toBe(true);
  });
});

it('markdownTable escapes, and fills short rows', () => {
  expect(markdownTable(['a', 'b'], [['x|y'], ['1\n2', 3]])).toBe(
    '| a | b |\n|---|---|\n| x\\|y |  |\n| 1 2 | 3 |',
  );
  expect(markdownTable(['a'], [])).toBe('');
});

describe('StageRecord', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'jit-flux-record-'));
  });
  afterEach(() => {
    rmSync(folder, { recursive: true, force: true });
  });

  it('writes after every step, records failures, and is taken up again by a later call', async () => {
    const path = join(folder, 'test.json');
    const first = new StageRecord(path, 'test', { id: '1' });
    await first.step('good', () => 42);
    expect(readDocument(path)?.steps.good).toMatchObject({ status: 'ok', result: 42, run: '1' });
    await first.step('bad', () => {
      throw Object.assign(new Error('broken'), { result: { detail: 1 } });
    });
    expect(first.failed).toBe(1);

    const second = new StageRecord(path, 'test', { id: '2' });
    second.skip('good', 'no time');
    await second.step('bad', () => 'mended');
    const document = readDocument(path);
    expect(document?.runs.map(({ id }: { id?: string }) => id)).toEqual(['1', '2']);
    expect(document?.steps).toMatchObject({
      good: { status: 'ok', run: '1' },
      bad: { status: 'ok', result: 'mended', run: '2' },
    });
    // Nothing else stays: few files come back from the device.
    expect(readdirSync(folder)).toEqual(['test.json']);
  });

  it('reads nothing but its own documents', () => {
    writeFileSync(join(folder, 'other.json'), '{"passed": true}');
    writeFileSync(join(folder, 'broken.json'), '{');
    expect(readDocument(join(folder, 'other.json'))).toBeUndefined();
    expect(readDocument(join(folder, 'broken.json'))).toBeUndefined();
    expect(readDocument(join(folder, 'missing.json'))).toBeUndefined();
  });
});
