/** Encoding without the transformer: what `jit-flux encode` and prompt caches need. */
import { readLoadOptions } from '../engine/index.js';
import type { LoadOptions } from '../types.js';
import { checkLoadOptions, textPlacement } from '../model/component-options.js';
import { type EncodedPrompts, encodedPromptsOf, requireFinite } from './encoded-prompts.js';
import { checkMemory, memoryAvailableTo, planEncoding } from '../model/memory-plan.js';
import { describeModel, requireFiles } from '../model/resolve-model.js';
import type { ModelSpec } from '../model/spec.js';
import { resolveTextLength } from '../model/run.js';
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
  model: string | ModelSpec,
  prompt: string | string[],
  given: LoadOptions & { maxSequenceLength?: number | undefined } = {},
): Promise<EncodedPrompts> {
  const prompts = checkPrompts(prompt);
  const { maxSequenceLength, ...o } = readLoadOptions(given, { maxSequenceLength: true });
  const { signal } = o;
  checkLoadOptions(o);
  const source = requireFiles(
    await describeModel(model, { textEncoders: o.textEncoders, variant: o.variant, signal }),
  );
  const length = resolveTextLength(maxSequenceLength, source.info);
  if (o.memoryCheck !== false) {
    const request = {
      ...(o.dtype && { dtype: o.dtype }),
      ...(o.mapWeights !== undefined && { mapWeights: o.mapWeights }),
      ...(o.quantizeTextEncoders && { quantizeTextEncoders: o.quantizeTextEncoders }),
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
    return await requireFinite(encodedPromptsOf({ ...conditions, prompts, model: source.info.name }));
  } finally {
    conditioner.dispose();
  }
}
