/** Every function of `jit-flux/sampler` has a property: a new export without one fails here. */
import { expect, it } from 'vitest';

import * as sampler from '../../src/sampler/index.js';
import { family } from './families/sampler.js';

/** Functions, constructors and methods of an entry point, by the names that targets have. */
function functionsOf(entry: Record<string, unknown>): string[] {
  return Object.entries(entry).flatMap(([name, value]) => {
    if (typeof value !== 'function') return [];
    if (!/^class\b/.test(Function.prototype.toString.call(value))) return [name];
    const prototype = (value as { prototype: object }).prototype;
    const methods = Reflect.ownKeys(prototype)
      .filter((key) => typeof Object.getOwnPropertyDescriptor(prototype, key)?.value === 'function')
      .filter((key) => key !== 'constructor')
      .map(
        (key) =>
          `${name}#${typeof key === 'symbol' ? `[${key.description?.replace('nodejs.', 'Symbol.')}]` : key}`,
      );
    return [`new ${name}`, ...methods];
  });
}

/** What another target calls with the same arguments. */
const WITH: Record<string, string> = { 'SamplerCore#[Symbol.dispose]': 'SamplerCore#dispose' };

it('every export of jit-flux/sampler is called with hostile arguments', () => {
  const known = new Set(family.targets.map(({ name }) => name));
  const missing = functionsOf(sampler).filter((name) => !known.has(WITH[name] ?? name));
  expect(missing).toEqual([]);
});
