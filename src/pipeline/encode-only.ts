/** Encoding without the transformer: what `jit-flux encode` and prompt caches need. */
import { invalidArgument } from '../errors.js';
import type { LoadOptions } from '../types.js';
import { checkLoadOptions, textPlacement } from '../model/component-options.js';
import { EncodedPrompts } from './encoded-prompts.js';
import { checkMemory, memoryAvailableTo, planEncoding } from '../model/memory-plan.js';
import { resolveModel } from '../model/model-source.js';
import { checkPrompts } from './request.js';
import { loadTextConditioner } from './text-conditioner.js';

/**
 * Encodes prompts with a model's text encoders, loading nothing else of the model and releasing them afterwards. The
 * caller disposes the result. Encoders that cannot fit into memory are refused before they are read, unless
 * `memoryCheck` is false.
 * @param model as `FluxPipeline.load` takes
 * @throws what `FluxPipeline.load` and `FluxPipeline.encodePrompt` throw
 */
export async function encodeOnly(
  model: string,
  prompt: string | string[],
  o: LoadOptions & { maxSequenceLength?: number } = {},
): Promise<EncodedPrompts> {
  const prompts = checkPrompts(prompt);
  const { signal } = o;
  checkLoadOptions(o);
  const source = await resolveModel(model, { textEncoders: o.textEncoders, signal });
  const { length: most, defaultLength } = source.info.text;
  const length = o.maxSequenceLength ?? defaultLength ?? most;
  if (!Number.isInteger(length) || length < 1 || length > most) {
    throw invalidArgument('maxSequenceLength', `an integer from 1 to ${most}`, length);
  }
  if (o.memoryCheck !== false) {
    const request = {
      ...(o.dtype && { dtype: o.dtype }),
      device: textPlacement(o, source.text).device,
      textTokens: length,
      images: prompts.length,
    };
    checkMemory(planEncoding(source, request, await memoryAvailableTo(request)));
  }
  const conditioner = await loadTextConditioner(source, o);
  try {
    const conditions = await conditioner.encode(prompts, {
      length,
      signal: signal ?? new AbortController().signal,
    });
    return new EncodedPrompts({ ...conditions, prompts, model: source.info.name });
  } finally {
    conditioner.dispose();
  }
}
