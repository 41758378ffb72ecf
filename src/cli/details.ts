/** What a run is, needs and took, as lines of text. */
import { computeDType } from '../engine/index.js';
import type { MemoryPlan, PhaseMemory } from '../model/memory-plan.js';
import type { ModelSpec } from '../model/spec.js';
import type { ResolvedRequest } from '../pipeline/request.js';
import type { GenerateTimings } from '../pipeline/index.js';
import { resolveOptions } from '../sampler/options.js';
import { listText, microFlowText, scheduleText } from '../sampler/settings-text.js';
import type { LoadOptions } from '../types.js';
import { formatDuration, table } from './format.js';

/** Which model it is, what was inferred of it and why, and how it is loaded. */
export function describeModelChoice(spec: ModelSpec, load: LoadOptions): string[] {
  const { info, kind, path, inferred } = spec;
  return [
    `Model ${info.name} (${kind})${path === undefined ? '' : ` in ${path}`}`,
    ...inferred.map(({ what, value, why }) => `Inferred ${what}: ${value}: ${why}`),
    `Device ${load.device ?? 'cpu'}, ${computeDType(load)}`,
  ];
}

/** What a request has become with the defaults of its model and preset. */
export function describeRunChoice(run: ResolvedRequest): string[] {
  const { plan, width, height, images, textTokens, guidance, seed } = run;
  const { schedule, microFlow, stageRatios, tokenRatios } = resolveOptions(run.sampling);
  return [
    `Run: ${plan.preset}, ${plan.steps} steps, ${width}x${height}, ${images} ${images === 1 ? 'picture' : 'pictures'}, seed ${seed}, ` +
      `guidance ${guidance}, ${textTokens} text tokens`,
    `Sampling: schedule ${scheduleText(schedule)}, stage ratios ${listText(stageRatios)}, ` +
      `token ratios ${listText(tokenRatios)}, micro-flow ${microFlowText(microFlow)}`,
  ];
}

/** How long each phase took. */
export function describeTimings({ encode, condition, stages, decode, total }: GenerateTimings): string[] {
  return [
    `Encode ${formatDuration(encode)}`,
    `Condition ${formatDuration(condition)}`,
    ...stages.map(
      ({ stage, steps, activeTokens, milliseconds }) =>
        `Stage ${stage}: ${steps} steps of ${activeTokens} tokens, ${formatDuration(milliseconds)}, ` +
        `${formatDuration(milliseconds / steps)} each`,
    ),
    `Decode ${formatDuration(decode)}`,
    `Total ${formatDuration(total)}`,
  ];
}

/** The memory plan as lines of text. */
export function describeMemory(memory: MemoryPlan, columns?: number): string[] {
  const gb = (bytes: number) => (bytes / 1e9).toFixed(2);
  const parts = memory.components.map((part) => [
    part.component,
    part.device,
    part.parameters === undefined ? '' : (part.parameters / 1e6).toFixed(1),
    gb(part.fileBytes),
    `${gb(part.residentBytes)}${part.mapped ? ' mapped' : ''}`,
    gb(part.transientBytes),
  ]);
  const { available, accelerator } = memory;
  const phases = (bytesOf: (phase: PhaseMemory) => number) =>
    memory.phases.map((phase) => `${phase.phase} ${gb(bytesOf(phase))}`).join(', ');
  const verdict = (bytes: number, there: number | undefined) =>
    there === undefined || bytes <= there ? 'fits' : 'does not fit';
  return [
    `memory in GB, ${memory.dtype}${memory.blockWeights === 'int8' ? ' with int8 blocks' : ''}`,
    ...table([['part', 'on', 'M parameters', 'file', 'weights', 'while it works'], ...parts], [2, 3, 4, 5], {
      columns,
      drop: [3, 2],
    }),
    `${accelerator ? 'host: ' : ''}${phases(({ bytes }) => bytes)}; ` +
      `available ${available ? gb(available.bytes) : 'unknown'}: ${verdict(memory.peakBytes, available?.bytes)}`,
    ...(accelerator
      ? [
          `${accelerator.device}: ${phases(({ deviceBytes }) => deviceBytes ?? 0)}; transformer ${memory.blockWeights}; ` +
            (accelerator.availableBytes === undefined
              ? 'available unknown (--gpu-memory)'
              : `available ${gb(accelerator.availableBytes)}: ${verdict(accelerator.peakBytes, accelerator.availableBytes)}`),
        ]
      : []),
  ];
}
