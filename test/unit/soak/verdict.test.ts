/** When a soak counts as flat. */
import { describe, expect, it } from 'vitest';

import { plot } from '../../soak/plot.mjs';
import { judge, medianSlope, type Sample } from '../../soak/verdict.mjs';

/** An hour with a quiet sample every half minute, and what differs from a flat one. */
function hour(change: (sample: Sample, minute: number) => Partial<Sample> = () => ({})): Sample[] {
  return Array.from({ length: 120 }, (_, i) => {
    const sample: Sample = {
      seconds: 30 * (i + 1),
      quiet: true,
      residentMiB: 500,
      // Allocators fill up in the first minutes, and go up and down later.
      anonymousMiB: 400 - 100 * Math.exp(-i / 8) + 10 * Math.sin(i),
      heapMiB: 12 + 0.3 * Math.sin(i),
      externalMiB: 2.6,
      referencesKiB: 40,
      tensorMiB: 36,
      mappedMiB: 18,
      handles: 3,
      descriptors: 25,
      left: 0,
      threads: 14,
      mappings: 430,
      done: 100 * i,
      refused: 0,
      aborted: 0,
      unexpected: 0,
      workers: i,
    };
    return { ...sample, ...change(sample, i / 2) };
  });
}
const problems = (samples: Sample[]) => judge(samples).problems.join('\n');

describe('judge', () => {
  it('takes an hour that settles and stays', () => {
    expect(judge(hour())).toMatchObject({ ok: true, problems: [] });
  });

  it.each<[string, keyof Sample, number]>([
    ['anonymous memory', 'anonymousMiB', 1],
    ["V8's heap", 'heapMiB', 0.1],
    ['external memory', 'externalMiB', 0.05],
    ['tensors', 'tensorMiB', 0.05],
    ['mapped weights', 'mappedMiB', 0.01],
    ['references from native code', 'referencesKiB', 1],
    ['descriptors', 'descriptors', 0.1],
    ['threads', 'threads', 0.1],
    ['active handles', 'handles', 0.1],
    ['mappings', 'mappings', 2],
  ])('finds a leak of %s', (name, key, perMinute) => {
    const leaking = hour((sample, minute) => ({ [key]: Number(sample[key]) + perMinute * minute }));
    expect(problems(leaking)).toMatch(new RegExp(`^${name} grew by`));
  });

  it('looks at quiet samples only', () => {
    const busy = hour().map((sample, i): Sample => ({ ...sample, quiet: false, threads: 20 + i }));
    const all = [...hour(), ...busy].sort((a, b) => a.seconds - b.seconds);
    expect(judge(all).ok).toBe(true);
  });

  it('refuses unexpected errors, work that stopped, and what is too short to tell', () => {
    expect(problems(hour(() => ({ unexpected: 1 })))).toBe('1 unexpected errors');
    expect(problems(hour(() => ({ left: 239 })))).toMatch(/119 workers have left 239 files open/);
    expect(problems(hour((_, minute) => (minute > 50 ? { done: 7 } : {})))).toMatch(/no action has ended/);
    expect(judge(hour().slice(0, 5)).ok).toBe(false);
  });
});

it('medianSlope is not moved by a few odd points', () => {
  const points = Array.from({ length: 50 }, (_, i) => [i, i % 10 === 0 ? 1000 : 3 * i] as const);
  expect(medianSlope(points)).toBeCloseTo(3, 0);
  expect(medianSlope([])).toBe(0);
});

it('plot draws every series', () => {
  const svg = plot({ samples: hour(), date: '2026-11-30T00:00:00Z', commit: 'abc' });
  expect(svg).toMatch(/^<svg [\s\S]*<\/svg>\n$/);
  expect(svg).not.toContain('NaN');
  expect(svg.match(/<polyline /g)).toHaveLength(15);
});
