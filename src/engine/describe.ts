/** What weight files are and what memory models take, as the engine knows it. Without LibTorch. */
import { abortedFirst } from '../abort.js';
import type { DType } from '../types.js';
import type { MemoryRequest, PartMemory, PartName, WeightDescription } from './binding.js';
import { callWeights, runWeights } from './call.js';

export type {
  AutoencoderArchitecture,
  ClipArchitecture,
  DescribedPart,
  FluxArchitecture,
  MemoryArchitectures,
  MemoryRequest,
  PartArchitectures,
  PartMemory,
  PartName,
  T5Architecture,
  UnknownPart,
  WeightDescription,
  WeightFileDescription,
} from './binding.js';

/**
 * Describes a weight file. Headers are read, no weights; every file is opened once. Tensors that are no known part of a
 * model, or not as it needs them, are a `problem` of the description and no error.
 * @param path a `.safetensors` file, a `*.safetensors.index.json`, a TorchScript archive, or a directory with one of them
 * @throws ERR_JITFLUX_FILE_NOT_FOUND (shards included), ERR_JITFLUX_CORRUPT_FILE, ERR_JITFLUX_UNSAFE_FILE,
 *   ERR_JITFLUX_UNSUPPORTED_FORMAT, ERR_JITFLUX_ABORTED
 */
export async function describeWeights(
  path: string,
  o: { signal?: AbortSignal | undefined } = {},
): Promise<WeightDescription> {
  const { signal } = o;
  const work = runWeights((binding, job) => binding.describeWeights(path, job), { signal });
  const found = await abortedFirst(work, signal);
  if (!found.problem) return found;
  // An Error, whose message JSON would not show.
  const { code, message, details } = found.problem;
  return { ...found, problem: { code, message, ...(details && { details }) } };
}

/** The floating type that most bytes of a file are stored in; undefined if most are of another type. */
export function mostStored({ storedTypes }: Pick<WeightDescription, 'storedTypes'>): DType | undefined {
  const bytes = Object.entries(storedTypes).map(
    ([type, elements]) => [type, elements * elementBytes(type)] as const,
  );
  const [most] = bytes.sort((a, b) => b[1] - a[1])[0] ?? [];
  return FLOATING.find((type) => type === most);
}

const FLOATING = ['float32', 'bfloat16', 'float16', 'float64'] as const satisfies DType[];

function elementBytes(type: string): number {
  return /64$/.test(type) ? 8 : /32$/.test(type) ? 4 : /16$/.test(type) ? 2 : 1;
}

/**
 * Memory that a part of a model takes, by the engine's own sizes. Synchronous: arithmetic alone.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT
 */
export function componentMemory<Part extends PartName>(request: MemoryRequest<Part>): PartMemory {
  return callWeights((binding) => binding.componentMemory(request as MemoryRequest));
}
