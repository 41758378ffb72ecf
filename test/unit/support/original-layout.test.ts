/** What tests take for the original layout of flux-mini is what the reference wrote. */
import { expect, it } from 'vitest';
import { originalLayoutMini } from '../../support/mini.js';
import { SafeTensors, sharedFixture } from '../../support/safetensors.js';

const reference = sharedFixture('flux/flux-mini.original-layout.safetensors');

it.skipIf(reference === undefined)('originalTransformer gives the tensors of the reference’s file', () => {
  const expected = SafeTensors.open(reference as string);
  const actual = SafeTensors.open(originalLayoutMini());
  expect(actual.names.sort()).toEqual(expected.names.sort());
  for (const name of expected.names) expect(actual.raw(name), name).toEqual(expected.raw(name));
});
