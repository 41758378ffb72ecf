/** The pipeline of a command that makes pictures. */
import { memoryRequest } from '../model/memory-plan.js';
import type { ModelWithFiles } from '../model/spec.js';
import type { FluxPipeline } from '../pipeline/index.js';
import type { ResolvedRequest } from '../pipeline/request.js';
import type { LoadOptions } from '../types.js';
import type { Context } from './command.js';

/**
 * Loads a model that has been described, and says so.
 * @param o.largest of the requests to come
 */
export async function openPipeline(
  spec: ModelWithFiles,
  load: LoadOptions,
  o: { args: { quiet: boolean; 'memory-check': boolean }; largest: ResolvedRequest },
  { note, signal }: Context,
): Promise<FluxPipeline> {
  const { FluxPipeline } = await import('../pipeline/index.js');
  if (!o.args.quiet) note(`Loading ${spec.info.name}`);
  const options = { ...load, memoryCheck: o.args['memory-check'] && memoryRequest(o.largest), signal };
  // In the description.
  delete options.textEncoders;
  delete options.variant;
  return FluxPipeline.load(spec, options);
}
