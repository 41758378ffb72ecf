/** What users' compilers see of this package: dist/, built. */
import { beforeAll, describe, expect, it } from 'vitest';

import { type Findings, importedPackages, walkPublicTypes } from '../support/public-types.js';

describe('what callers hand over', () => {
  let found: Findings;
  beforeAll(() => {
    found = walkPublicTypes();
    expect(found.fields).toBeGreaterThan(200);
  });

  it('takes undefined for every optional field', () => {
    expect(found.withoutUndefined).toEqual([]);
  });

  it('takes readonly tuples, such as a Grid', () => {
    expect(found.mutableTuples).toEqual([]);
  });

  it('constructors are private where callers have nothing to construct', () => {
    expect(found.constructible).toEqual(['JitFluxError', 'JitSampler', 'Random', 'SamplerCore']);
  });
});

it('declarations name no package but Node', () => {
  expect(importedPackages()).toEqual([]);
});
