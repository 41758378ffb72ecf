import { describe, expect, it } from 'vitest';

import type { Context } from '../../../src/cli/command.js';
import {
  formatBytes,
  formatCount,
  formatDuration,
  table,
  toJson,
  wrapText,
} from '../../../src/cli/format.js';
import { generationProgress, transferProgress } from '../../../src/cli/progress.js';
import { createPlan } from '../../../src/sampler/index.js';
import { capture } from './helpers.js';

function contextOf(isTTY: boolean, columns?: number): { context: Context; text: () => string } {
  const { stream: stderr, text } = capture({ isTTY, ...(columns !== undefined && { columns }) });
  const context: Context = {
    stdout: { write: () => undefined },
    stderr,
    signal: new AbortController().signal,
    json: false,
    verbose: false,
    set: new Set(),
    print: () => undefined,
    printJson: () => undefined,
    note: (line) => void stderr.write(`${line}\n`),
    detail: () => undefined,
    dim: (text) => text,
  };
  return { context, text };
}

const plan = createPlan({ preset: 'jit-7x', grid: [16, 16] });

async function play(isTTY: boolean, enabled: boolean): Promise<string> {
  const { context, text } = contextOf(isTTY);
  const progress = await generationProgress(context, plan, { enabled });
  plan.tokensPerStep.forEach((activeTokens, step) =>
    progress.step({ step, stage: plan.stageOfStep[step] as number, activeTokens, milliseconds: 100 }),
  );
  progress.close();
  return text();
}

describe('generationProgress', () => {
  it('writes one line per stage where there is no terminal', async () => {
    expect((await play(false, true)).split('\n')).toEqual([
      'Step 1 of 11: stage 2, 81 of 256 tokens',
      'Step 5 of 11: stage 1, 153 of 256 tokens',
      'Step 8 of 11: stage 0, 256 of 256 tokens',
      'Sampled 11 steps in 1.1 s',
      '',
    ]);
  });

  it('draws a bar on a terminal', async () => {
    const text = await play(true, true);
    expect(text).toMatch(/Stage \d .*\/11 \| ETA .* \| 100 ms\/step \| \d+\/256 tokens/);
  });

  it.each([50, 80, 120])('fits %i columns', async (columns) => {
    const { context, text } = contextOf(true, columns);
    const large = createPlan({ preset: 'jit-4x', grid: [64, 64] });
    const progress = await generationProgress(context, large, { enabled: true });
    large.tokensPerStep.forEach((activeTokens, step) =>
      progress.step({ step, stage: large.stageOfStep[step]!, activeTokens, milliseconds: 8000 }),
    );
    progress.close();
    // What moves the cursor takes no place.
    const lines = text()
      .split('\x1b')
      .map((part) => part.replace(/^(?:\[\??\d*[A-Za-z]|[78])/, ''));
    const longest = Math.max(...lines.map((line) => line.length));
    expect(longest).toBeGreaterThan(columns / 2);
    expect(longest).toBeLessThan(columns);
    expect(text()).toContain('18/18');
    expect(text().includes('tokens')).toBe(columns >= 80);
  });

  it('is silent when asked', async () => {
    expect(await play(true, false)).toBe('');
    expect(await play(false, false)).toBe('');
  });
});

describe('transferProgress', () => {
  it('names the phases', async () => {
    const { context, text } = contextOf(false);
    const progress = await transferProgress(context, { enabled: true });
    progress.update({ phase: 'download', done: 0, total: 10, source: 'pip' });
    progress.update({ phase: 'download', done: 10, total: 10, source: 'pip' });
    progress.update({ phase: 'unpack', done: 0, total: 5 });
    progress.close();
    expect(text()).toBe('Download pip\nUnpack\n');
  });

  it('says who is waited for', async () => {
    const { context, text } = contextOf(false);
    const progress = await transferProgress(context, { enabled: true });
    const holder = { pid: 12, host: 'builder-7' };
    progress.update({ phase: 'wait', done: 0, total: 0, archives: 2, source: '/c/x.lock', holder });
    progress.close();
    expect(text()).toBe('Wait /c/x.lock (process 12 on builder-7 is at it)\n');
  });

  it('counts several archives as one', async () => {
    const { context, text } = contextOf(false);
    const progress = await transferProgress(context, { enabled: true });
    const update = (done: number) =>
      progress.update({ phase: 'download', done, total: 1000, archives: 2, source: 'pip' });
    for (const done of [0, 99, 100, 150, 1000]) update(done);
    progress.close();
    expect(text()).toBe('Download 2 archives, 1.00 kB\nDownload 10 %\nDownload 100 %\n');
  });
});

describe('formatting', () => {
  it('is for people', () => {
    expect([999, 1500, 11.9e9].map(formatBytes)).toEqual(['999 bytes', '1.50 kB', '11.9 GB']);
    expect([12, 2_366_272, 11_901_408_320].map(formatCount)).toEqual(['12', '2.37 M', '11.90 G']);
    expect([12.4, 1234, 125_000].map(formatDuration)).toEqual(['12 ms', '1.2 s', '2 min 5 s']);
    expect(
      table(
        [
          ['a', '1'],
          ['bcd', '22'],
        ],
        [1],
      ),
    ).toEqual(['a     1', 'bcd  22']);
  });

  it('fits a terminal', () => {
    const rows = [
      ['a', '1', 'some words to read'],
      ['bcd', '22', 'x'],
    ];
    expect(table(rows, [1], { columns: 26 })).toEqual([
      'a     1  some words to',
      '         read',
      'bcd  22  x',
    ]);
    expect(table(rows, [1, 2], { columns: 24, drop: [1, 0] })).toEqual([
      'a    some words to read',
      'bcd                   x',
    ]);
    expect(wrapText('  one two three\nfour', 9)).toBe('  one two\n  three\nfour');
    expect(wrapText('a very-long-word b', 6)).toBe('a\nvery-long-word\nb');
    expect(wrapText('one two', undefined)).toBe('one two');
  });

  it('keeps large integers exact in JSON', () => {
    expect(JSON.parse(toJson({ a: 1n, b: 2n ** 64n - 1n, c: Int32Array.of(1, 2) }))).toEqual({
      a: 1,
      b: '18446744073709551615',
      c: [1, 2],
    });
  });
});
