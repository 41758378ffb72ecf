import { describe, expect, it } from 'vitest';
import { findFailures, part } from '../../../bench/lib/part.mjs';
import { flattened } from '../../../bench/lib/peer.mjs';
import { SECTIONS, problemsOf } from '../../../bench/schema.mjs';

const spread = { median: 1, low: 0.9, high: 1.1, samples: 3 };
const lag = { p50: 1.1, p99: 1.2, max: 5, ticks: 90 };
const perStep = { activeMsPerStep: spread, cpuMsPerStep: spread, wallMsPerStep: spread };

/** A run of the section `javascript` alone. */
const result = () => ({
  machine: {
    date: '2026-11-30T07:16:35.363Z',
    commit: '32a5d37595',
    modified: false,
    mode: 'smoke',
    cpu: 'Intel(R) Xeon(R) Processor',
    cpuFamily: '6/143/8',
    flags: ['avx2'],
    cpuClass: 'avx2',
    cores: 2,
    memoryGiB: 23.5,
    kernel: '6.18',
    node: '20.20.2',
    engine: { version: '0.1.0', libtorch: '2.13.0+cpu', isa: 'avx512bf16', cpuCapability: 'AVX512' },
    threads: 2,
  },
  targets: [{ name: 'a', value: 1.6, target: 1.5, unit: 'x', direction: '>=', met: true }],
  failures: [] as { where: string; reason: string }[],
  seconds: 3,
  sections: {
    javascript: {
      seconds: 2,
      grid: [32, 32],
      preset: 'jit-4x',
      sampler: perStep,
      bare: perStep,
      lag: { resolutionMs: 1, idle: lag, running: lag, added: { p50: -0.1, p99: 0.3 } },
    },
  } as Record<string, unknown>,
});
const expected = { mode: 'smoke', sections: ['javascript'] } as const;

describe('problemsOf', () => {
  it('finds nothing in a result of the right form', () => {
    expect(problemsOf(result(), expected)).toEqual([]);
  });

  it('names the figure that is missing, no number, zero or unknown', () => {
    const broken = result();
    broken.sections.javascript = {
      ...(broken.sections.javascript as object),
      sampler: { ...perStep, wallMsPerStep: { ...spread, median: null }, cpuMsPerStep: undefined },
      bare: { ...perStep, wallMsPerStep: { ...spread, low: 0 } },
      lags: lag,
    };
    const text = problemsOf(JSON.parse(JSON.stringify(broken)), expected).join('\n');
    expect(text).toMatch(/sections\.javascript\.sampler\.wallMsPerStep\.median: .*null/);
    expect(text).toMatch(/sections\.javascript\.sampler\.cpuMsPerStep: .*undefined/);
    expect(text).toMatch(/sections\.javascript\.bare\.wallMsPerStep\.low: .*>0/);
    expect(text).toMatch(/sections\.javascript: .*"lags"/);
  });

  it('misses a section that was asked for, and another mode', () => {
    expect(problemsOf(result(), { mode: 'quick', sections: ['javascript', 'load'] })).toEqual([
      'sections.load is missing',
      'machine.mode is not quick',
    ]);
  });

  it('takes a failed section as a result, as the others are worth having', () => {
    const failed = result();
    failed.sections.load = { error: 'no space left', seconds: 1 };
    failed.failures = findFailures({ sections: failed.sections });
    expect(failed.failures).toEqual([{ where: 'sections.load', reason: 'no space left' }]);
    expect(problemsOf(failed, { mode: 'smoke', sections: ['javascript', 'load'] })).toEqual([]);
  });

  it('refuses a reference without a ratio', () => {
    const native = result();
    const measurement = { name: 'x', seconds: 1 };
    const row = { section: 'attention', name: 'a', params: {}, ours: measurement, reference: measurement };
    const document = { section: 'attention', isa: 'avx2', threads: 2, mode: 'smoke', memory: 'arena' };
    const documents = Object.fromEntries(
      ['ceilings', 'attention', 'jit-operators'].map((name) => [name, { ...document, rows: [row] }]),
    );
    native.sections = { native: { documents, seconds: 1 } };
    expect(problemsOf(native, { mode: 'smoke', sections: ['native'] })[0]).toMatch(/needs a ratio/);
  });

  it('wants a figure for every target when everything ran', () => {
    const without = result();
    without.targets = [{ ...without.targets[0], value: null, reason: 'gone' } as never];
    without.sections = {};
    const problems = problemsOf(without, { mode: 'smoke', sections: SECTIONS });
    expect(problems.at(-1)).toBe('target a has no figure: gone');
  });
});

describe('a part that fails', () => {
  it('leaves its reason where its result would be, and others theirs', async () => {
    const said: string[] = [];
    const context = { log: (text: string) => said.push(text) };
    const quiet = console.error;
    console.error = () => undefined;
    try {
      const results = {
        first: await part('first', context, () => Promise.reject(new Error('broken'))),
        second: await part('second', context, () => 2),
      };
      expect(results).toEqual({ first: { error: 'broken' }, second: 2 });
      expect(findFailures({ rows: [results] })).toEqual([{ where: 'rows.0.first', reason: 'broken' }]);
      expect(said).toEqual(['first', 'second']);
    } finally {
      console.error = quiet;
    }
  });
});

it('a request to eager ATen is one line of flat fields', () => {
  const request = { op: 'forward', input: { grid: [4, 4], sigma: 0.5, anchors: undefined }, guided: true };
  expect(flattened(request)).toBe('op=forward\tinput.grid=4,4\tinput.sigma=0.5\tguided=true');
  expect(() => flattened({ op: 'load', path: '/a\tb' })).toThrow('without tabs');
});
