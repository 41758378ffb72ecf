/** Whatever is loaded, generated, aborted and disposed again and again leaves nothing behind. */
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

import { runProgram } from '../support/program.js';

interface Sample {
  anonymousMiB: number;
  heapMiB: number;
  handles: number;
  descriptors: number;
  threads: number;
}

function samplesOf(program: string, seconds: number): Sample[] {
  const path = fileURLToPath(new URL(`programs/${program}.mjs`, import.meta.url));
  const { status, signal, stdout, stderr } = runProgram(['--expose-gc', path], { seconds });
  expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: '' });
  return JSON.parse(stdout) as Sample[];
}

/**
 * Allocators settle slowly: measured over 6000 generations, the floor rose by 3 MiB from 700 to 1000, and by 1 MiB in the
 * last 2000. The latents of one request that are left behind each time add 12 MiB in a third of the run.
 */
const SETTLING_MIB = 6;

/**
 * Growth from the second third of the run to the last. The least of each third: what allocators keep for a while goes up
 * and down by more than a leak would add, but a leak raises the floor.
 */
function growth(samples: readonly Sample[], of: keyof Sample): number {
  const third = Math.floor(samples.length / 3);
  const least = (part: readonly Sample[]) => Math.min(...part.map((one) => one[of]));
  return least(samples.slice(2 * third)) - least(samples.slice(third, 2 * third));
}

function expectFlat(what: string, samples: readonly Sample[]): void {
  const table = Object.fromEntries(
    (['anonymousMiB', 'heapMiB', 'handles', 'descriptors', 'threads'] as const).map((name) => [
      name,
      { first: samples[0]?.[name], last: samples.at(-1)?.[name], growth: growth(samples, name) },
    ]),
  );
  console.log(what);
  console.table(table);
  expect(growth(samples, 'anonymousMiB')).toBeLessThan(SETTLING_MIB);
  expect(growth(samples, 'heapMiB')).toBeLessThan(1);
  for (const name of ['handles', 'descriptors', 'threads'] as const) expect(growth(samples, name)).toBe(0);
}

describe('memory, handles, descriptors and threads stay flat', () => {
  it('over 200 cycles of load, generate and dispose', { timeout: 300_000 }, () => {
    expectFlat('200 load cycles', samplesOf('load-cycles', 280));
  });

  it('over 1000 generations, aborted, batched and left ones among them', { timeout: 400_000 }, () => {
    expectFlat('1000 generations', samplesOf('generations', 380));
  });
});
