/** What tests take for the original layout of flux-mini is what the reference wrote. */
import { expect, it } from 'vitest';
import { originalLayoutMini } from '../../support/mini.js';
import { SafeTensors, sharedFixture } from '../../support/safetensors.js';

const reference = sharedFixture('flux/flux-mini.original-layout.safetensors');

const title =
  reference === undefined
    ? 'originalTransformer (skipped: the reference’s file is not in ../shared/fixtures)'
    : 'originalTransformer gives the tensors of the reference’s file';

it.skipIf(reference === undefined)(title, () => {
  const expected = SafeTensors.open(reference as string);
  const actual = SafeTensors.open(originalLayoutMini());
  expect(actual.names.sort()).toEqual(expected.names.sort());
  for (const name of expected.names) {
    const [{ data, ...is }, { data: wanted, ...as }] = [actual.raw(name), expected.raw(name)];
    expect(is, name).toEqual(as);
    // Megabytes: `toEqual` would look at every byte for itself.
    expect(Buffer.compare(data, wanted), name).toBe(0);
  }
});
