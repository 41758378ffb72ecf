import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { GOALS, comparisons, evaluateGoals } from '../../../bench/gpu/goals.mjs';
import { runProcess } from '../../../bench/gpu/process.mjs';
import { NotHere, Recorder, mergeResults, readResults, type Emit } from '../../../bench/gpu/record.mjs';
import { renderReport } from '../../../bench/gpu/report.mjs';
import { lockedFolders } from '../../../scripts/lib/npm-lock.mjs';

const row = (name: string, value: number | undefined, unit = 's') => ({
  name,
  unit,
  ...(value !== undefined && { value }),
});
const part = (rows: ReturnType<typeof row>[], o: object = {}) => ({
  group: 'bench',
  status: 'ok' as const,
  call: 0,
  seconds: 1,
  rows,
  ...o,
});
const call = (o: object = {}) => ({
  date: '2026-11-24T01:00:00Z',
  device: 'NVIDIA H200',
  commit: 'abc',
  command: 'npm run gpu-check --',
  ...o,
});
/** As the parts report it, shortened. */
const measured = {
  calls: [call()],
  parts: {
    resident: part([
      row('calls in a dense step: gelu', 38, ''),
      row('step 100 %', 0.11),
      row('pass 100 %', 0.1),
      row('jit-4x loop', 1.5),
      row('jit-7x loop', 0.8),
      row('jit-4x loop against dense-50', 4.2, 'x'),
      row('jit-7x loop against dense-50', 7, 'x'),
      row('jit-4x: JiT operators, share of a run', 0.002, 'share'),
      row('jit-7x: JiT operators, share of a run', 0.02, 'share'),
      row('peak memory', 18e9, 'B'),
    ]),
    clip: part([row('encode 77 tokens, 12 layers', 0.002)]),
    t5: part([row('encode 512 tokens, 24 layers', 0.02)]),
    decode: part([row('decode to 1024x1024', 0.03)]),
    peer: part([
      row('pass 100 %', 0.15),
      row('products of a dense step', 0.08),
      row('attentions of a dense step', 0.02),
    ]),
    kernels: part([
      row('gather_embed bfloat16 4096x64x3072', 1e-5),
      row('layer_norm_modulate bfloat16 4608x3072', 1e-5),
      row('gated_residual bfloat16 4608x3072 + norm', 1e-5),
      row('qk_norm_rope bfloat16 4608x9216 in place', 1e-5),
      row('qk_norm_rope bfloat16 4608x21504 in place', 1e-5),
      row('gelu_tanh bfloat16 4608x12288', 1),
      row('gelu_tanh bfloat16 4608x12288 + prefix', 1e-5),
    ]),
  },
};
const goal = (results: Parameters<typeof evaluateGoals>[0], name: RegExp) =>
  evaluateGoals(results).find((candidate) => name.test(candidate.name));

describe('goals', () => {
  it('gives one entry per goal even when nothing ran', () => {
    const goals = evaluateGoals({ calls: [call()], parts: {} });
    expect(goals.map(({ name }) => name)).toEqual(GOALS.map(({ name }) => name));
    for (const { value, met, reason } of goals) {
      expect({ value, met }).toEqual({ value: null, met: false });
      expect(reason).toMatch(/did not run/);
    }
  });

  it('compares in the direction of the goal', () => {
    expect(goal(measured, /^dense step/)).toMatchObject({ value: 0.11, met: true });
    expect(goal(measured, /^jit-4x, transformer/)).toMatchObject({ value: 1.5, met: false });
    expect(goal(measured, /^jit-7x, transformer/)).toMatchObject({ value: 0.8, met: true });
    expect(goal(measured, /^text encoders/)?.value).toBeCloseTo(0.052, 9);
    expect(goal(measured, /eager PyTorch/)).toMatchObject({ met: true });
    expect(goal(measured, /^jit-7x against/)).toMatchObject({ value: 7, met: true });
    // The worse preset counts.
    expect(goal(measured, /^JiT operators/)).toMatchObject({ value: 0.02, met: false });
    expect(goal(measured, /^peak memory/)).toMatchObject({ met: true });
  });

  it('adds up the kernels of a dense step, GELU of the double blocks only where the engine calls it', () => {
    // Embedding, first norm, 2 * 19 + 38 residuals, 19 + 38 q/k norms, 38 GELUs.
    expect(goal(measured, /^kernels/)?.value).toBeCloseTo((173 * 1e-5) / 0.11, 9);
    const compared = (name: RegExp) => comparisons(measured).find((row) => name.test(row.name))?.value;
    expect(compared(/other kernels/)).toBeCloseTo(173e-5, 9);
    expect(compared(/the rest/)).toBeCloseTo(0.01 - 173e-5, 9);
    const [, ...others] = measured.parts.resident.rows;
    const resident = part([row('calls in a dense step: gelu', 76, ''), ...others]);
    const everywhere = { ...measured, parts: { ...measured.parts, resident } };
    // 19 of a second each.
    expect(goal(everywhere, /^kernels/)?.value).toBeCloseTo((19 + 173e-5) / 0.11, 9);
  });

  it('passes reasons on, and does not judge a smoke test', () => {
    const failed = { status: 'failed' as const, reason: 'out of memory', rows: [] };
    const broken = { ...measured, parts: { ...measured.parts, resident: part([], failed) } };
    expect(goal(broken, /^dense step/)?.reason).toBe('resident failed: out of memory');
    const { t5, ...others } = measured.parts;
    expect(goal({ ...measured, parts: others }, /^text encoders/)?.reason).toBe('t5 did not run');
    expect(evaluateGoals({ ...measured, calls: [call({ smoke: true })] }).some(({ met }) => met)).toBe(false);
    expect(t5.rows).toHaveLength(1);
  });
});

describe('renderReport', () => {
  it('has a figure or a reason in every row', () => {
    const parts = {
      ...measured.parts,
      streaming: part([row('step 100 %', 0.5)], { status: 'failed', reason: 'was ended' }),
    };
    const text = renderReport({ ...measured, parts });
    expect(text).toContain('# GPU check: NVIDIA H200, 2026-11-24');
    expect(text).toMatch(/dense step, 1024x1024.* 110 ms.* <= 120 ms.* yes/);
    expect(text).toMatch(/jit-4x, transformer loop.*\*\*no\*\*/);
    expect(text).toMatch(/bench: streaming.*\*\*failed\*\*.*was ended/);
    expect(text).toContain('Not complete: was ended');
    expect(text).toContain('pass 62 %, against eager PyTorch');
    expect(text).toMatch(/peer has no "pass 62 %"/);
    expect(text).not.toMatch(/undefined|NaN/);
  });

  it('can be written of nothing at all, and warns of calls that do not belong together', () => {
    expect(renderReport({ calls: [], parts: {} })).toContain('no device');
    const text = renderReport({ calls: [call(), call({ commit: 'def', modified: true })], parts: {} });
    expect(text).toContain('different commits: abc, def');
    expect(text).toContain('in no commit');
  });
});

describe('Recorder', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'jit-flux-record-'));
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));
  const task = (name: string, run: (emit: Emit) => Promise<void> | void, least = 1) => ({
    group: 'tests',
    name,
    least,
    most: 10,
    run: async (emit: Emit) => run(emit),
  });
  const quiet = { budget: 100.9, say: () => undefined };

  it('writes every figure as it comes, and goes on after a part that fails', async () => {
    const path = join(folder, 'results.json');
    const recorder = new Recorder(path, call());
    await recorder.run(
      [
        task('breaks', (emit) => {
          emit('first', 's', [3, 1, 2], 'a note');
          expect(readResults(path).parts.breaks).toMatchObject({
            status: 'failed',
            rows: [{ name: 'first' }],
          });
          throw new Error('broken');
        }),
        task('cannot', () => {
          throw new NotHere('no such tool');
        }),
        task('too long', () => undefined, 200),
        task('works', (emit) => emit('missing', 's', undefined, 'out of memory')),
        task('not asked for', () => undefined),
      ],
      { ...quiet, only: ['breaks', 'cannot', 'too long', 'works'] },
    );
    expect(recorder.failed).toBe(1);
    const { parts } = readResults(path);
    expect(parts).toMatchObject({
      breaks: { status: 'failed', reason: 'broken', rows: [{ value: 2, samples: 3, note: 'a note' }] },
      cannot: { status: 'skipped', reason: 'no such tool' },
      'too long': { status: 'skipped', reason: '100 s were left, 200 s are needed' },
      works: { status: 'ok', rows: [{ name: 'missing', note: 'out of memory' }] },
    });
    expect(Object.keys(parts)).toHaveLength(4);
    expect(readdirSync(folder)).toEqual(['results.json']);
  });

  it('takes an earlier call up: results over failures, failures over absence, later over earlier', async () => {
    const before = {
      calls: [call()],
      parts: { a: part([], {}), b: part([], { status: 'failed' as const }) },
    };
    const recorder = new Recorder(join(folder, 'results.json'), call({ date: 'later' }), [before]);
    await recorder.run(
      [
        task('a', () => {
          throw new NotHere('no time');
        }),
        task('b', () => undefined),
      ],
      quiet,
    );
    expect(recorder.results.parts).toMatchObject({
      a: { status: 'ok', call: 0 },
      b: { status: 'ok', call: 1 },
    });
    const merged = mergeResults([recorder.results, { calls: [call()], parts: { b: part([row('new', 1)]) } }]);
    expect(merged.calls).toHaveLength(3);
    expect(merged.parts.b).toMatchObject({ call: 2, rows: [{ name: 'new' }] });
  });

  it.each([
    ['{"calls": [', /JSON/],
    ['[1]', /no "calls" and "parts"/],
    ['null', /no "calls" and "parts"/],
    [undefined, /ENOENT/],
  ])('says of %s that it holds no results', (content, reason) => {
    const other = join(folder, 'other.json');
    if (content !== undefined) writeFileSync(other, content);
    expect(() => readResults(other)).toThrow(`${other} holds no results of a GPU check: `);
    expect(() => readResults(other)).toThrow(reason);
  });
});

it('runProcess ends what hangs, with everything it started', async () => {
  const { isOverdue, how, output } = await runProcess('bash', ['-c', 'echo begun; sleep 60 & wait'], {
    seconds: 1,
  });
  expect({ isOverdue, output }).toEqual({ isOverdue: true, output: 'begun\n' });
  expect(how).toContain('ended after its 1 s');
  expect(await runProcess('bash', ['-c', 'exit 3'], { seconds: 30 })).toMatchObject({
    code: 3,
    how: 'ended with code 3',
  });
});

describe('lockedFolders', () => {
  const packages = {
    'node_modules/runner': { dependencies: { shared: '*', '@scope/tool': '*' } },
    'node_modules/shared': {},
    'node_modules/@scope/tool': { dependencies: { shared: '^1' }, optionalDependencies: { other: '*' } },
    'node_modules/@scope/tool/node_modules/shared': { dependencies: { runner: '*' } },
    'node_modules/other': {},
    'node_modules/unrelated': {},
  };

  it('follows dependencies as Node looks them up, nested copies and cycles included', () => {
    expect(lockedFolders({ packages }, ['runner'])).toEqual([
      'node_modules/@scope/tool',
      'node_modules/@scope/tool/node_modules/shared',
      'node_modules/other',
      'node_modules/runner',
      'node_modules/shared',
    ]);
  });

  it('says what is missing', () => {
    expect(() => lockedFolders({ packages }, ['gone'])).toThrow(/no gone/);
  });
});
