/** JavaScript sees no `private`: constructors that are not a caller's refuse with an error that says what to use. */
import { expect, it } from 'vitest';

import * as main from '../../src/index.js';
import { ERROR_CODES, isJitFluxError } from '../../src/errors.js';

const PRIVATE = {
  Autoencoder: 'Autoencoder.load',
  ClipTextEncoder: 'ClipTextEncoder.load',
  Conditioning: 'FluxTransformer.condition',
  DecodedImage: 'FluxPipeline.generate or decode',
  EncodedPrompts: 'FluxPipeline.encodePrompt, encodeOnly or loadEncodedPrompts',
  FluxPipeline: 'FluxPipeline.load',
  FluxTransformer: 'FluxTransformer.load',
  GeneratedImage: 'FluxPipeline.generate or decode',
  T5Encoder: 'T5Encoder.load',
  Tensor: 'Tensor.from or Tensor.randn',
  TorchScriptModule: 'TorchScriptModule.load',
} as const satisfies Partial<Record<keyof typeof main, string>>;

it.each(Object.entries(PRIVATE))('new %s', (name, instead) => {
  const construct = main[name as keyof typeof PRIVATE] as unknown as new (...args: unknown[]) => object;
  class Derived extends construct {}
  for (const args of [[], [undefined, {}], [Symbol('jit-flux'), {}, {}, {}], [{ handle: {} }, 'tensor']]) {
    for (const [type, make] of [
      [name, () => new construct(...args)],
      ['Derived', () => new Derived(...args)],
    ] as const) {
      let thrown: unknown;
      try {
        make();
      } catch (error) {
        thrown = error;
      }
      expect(isJitFluxError(thrown)).toBe(true);
      expect(thrown).toMatchObject({
        code: ERROR_CODES.INVALID_ARGUMENT,
        message: expect.stringContaining(`${type} has no constructor for you to call`) as string,
        details: { type },
      });
      if (type === name) expect(thrown).toMatchObject({ details: { instead } });
    }
  }
});

it('every other exported class is for callers to construct', () => {
  const classes = Object.entries(main).filter(
    ([, value]) => typeof value === 'function' && /^class\b/.test(Function.prototype.toString.call(value)),
  );
  const others = classes.map(([name]) => name).filter((name) => !Object.hasOwn(PRIVATE, name));
  expect(others.sort()).toEqual(['JitFluxError', 'JitSampler', 'SamplerCore']);
});
