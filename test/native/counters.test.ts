/** The names of the engine's counters are written down on both sides. */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { engineInfo } from '../../src/engine/engine.js';

it('every counter of the engine is a KernelName of binding.ts, and every KernelName a counter', () => {
  const source = readFileSync(new URL('../../src/engine/binding.ts', import.meta.url), 'utf8');
  const union = /export type KernelName =([^;]+);/.exec(source)?.[1] ?? '';
  const names = [...union.matchAll(/'(\w+)'/g)].map(([, name]) => name);
  expect(names.length).toBeGreaterThan(10);
  expect(Object.keys(engineInfo().kernelCalls).sort()).toEqual(names.sort());
});
