/** `jit-flux plan`: what a preset will do, without doing it. */
import { ERROR_CODES, invalidArgument, JitFluxError } from '../errors.js';
import { availableMemory } from '../model/available-memory.js';
import { checkPlannedOptions } from '../model/component-options.js';
import { KNOWN_MODELS } from '../model/known-models.js';
import { type MemoryPlan, memoryRequest, type PhaseMemory, planModelMemory } from '../model/memory-plan.js';
import { type ResolveOptions, resolveModel } from '../model/resolve-model.js';
import { type ResolvedRun, resolveRun } from '../model/run.js';
import { doubts, type ModelSpec } from '../model/spec.js';
import { fluxFlops } from '../sampler/index.js';
import type { FluxConfig } from '../types.js';
import { defineCommand } from './command.js';
import { table } from './format.js';
import { numberFlag } from './number-flag.js';
import { LOAD_FLAGS, loadOptions, runOptions, SAMPLING_FLAGS, ONE_IMAGE } from './options.js';

const NAMES = [...KNOWN_MODELS, 'flux-tiny'];

export const planCommand = defineCommand({
  command: 'plan',
  describe: 'Show schedule, token counts, FLOPs and memory of a run, without running it (needs no LibTorch)',
  builder: (yargs) =>
    yargs
      .options(SAMPLING_FLAGS)
      .option('model', {
        type: 'string',
        requiresArg: true,
        default: 'flux.1-dev',
        describe: `${NAMES.join(', ')}, or the path of a model`,
      })
      .options(LOAD_FLAGS)
      .option(
        'gpu-memory',
        numberFlag('gpu-memory', {
          describe: 'GiB that are free on the GPU, to judge whether it fits',
        }),
      )
      .example('$0 plan --preset jit-7x --width 1024 --height 1024', 'FLUX.1-dev at 1024x1024'),
  async run(args, context) {
    const { textEncoders, variant, ...load } = loadOptions(args, checkPlannedOptions);
    const { signal } = context;
    const spec = await findModel(args.model, { textEncoders, variant, signal });
    const { config } = spec.transformer;
    const run = resolveRun(
      { ...runOptions(args, spec.info), images: args['num-images'] ?? ONE_IMAGE },
      spec.info,
      config,
    );
    const memory = planModelMemory(
      spec,
      { ...load, ...memoryRequest(run) },
      {
        host: await availableMemory(),
        ...(args['gpu-memory'] !== undefined && { device: args['gpu-memory'] * 2 ** 30 }),
      },
    );
    const { width, height, images, textTokens, plan } = run;
    const { inferred } = spec;
    context.printJson({ model: args.model, width, height, images, textTokens, ...plan, memory, inferred });
    for (const line of describeRun(run, args.model, config)) context.print(line);
    for (const line of describeMemory(memory)) context.print(line);
    for (const doubt of doubts(spec)) context.note(`Warning: ${doubt}`);
  },
});

/** @throws ERR_JITFLUX_INVALID_ARGUMENT naming the known models if it is neither one of them nor a path */
async function findModel(model: string, o: ResolveOptions): Promise<ModelSpec> {
  try {
    return await resolveModel(model, o);
  } catch (error) {
    if (error instanceof JitFluxError && error.code === ERROR_CODES.FILE_NOT_FOUND) {
      const names = `${NAMES.slice(0, -1).join(', ')} or ${NAMES.at(-1)}`;
      throw invalidArgument('model', `${names}, or the path of a model`, model);
    }
    throw error;
  }
}

/** The memory plan as lines of text. */
function describeMemory(memory: MemoryPlan): string[] {
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
  return [
    '',
    `memory in GB, ${memory.dtype}${memory.blockWeights === 'int8' ? ' with int8 blocks' : ''}`,
    ...table([['part', 'on', 'M parameters', 'file', 'weights', 'while it works'], ...parts], [2, 3, 4, 5]),
    `${accelerator ? 'host: ' : ''}${phases(({ bytes }) => bytes)}; ` +
      `available ${available ? gb(available.bytes) : 'unknown'}: ${memory.fits ? 'fits' : 'does not fit'}`,
    ...(accelerator
      ? [
          `${accelerator.device}: ${phases(({ deviceBytes }) => deviceBytes ?? 0)}; transformer ${memory.blockWeights}; ` +
            `available ${accelerator.availableBytes === undefined ? 'unknown (--gpu-memory)' : gb(accelerator.availableBytes)}`,
        ]
      : []),
  ];
}

/** The run as lines of text. */
function describeRun({ plan, ...run }: ResolvedRun, model: string, config: FluxConfig): string[] {
  const [rows, cols] = plan.grid;
  const denseStep = fluxFlops(config, plan.totalTokens, run.textTokens).total;
  // Tera, giga or mega, so that a small model's figures are not all zero.
  const [unit, size] =
    denseStep >= 1e11 ? ['TFLOPs', 1e12] : denseStep >= 1e8 ? ['GFLOPs', 1e9] : ['MFLOPs', 1e6];
  const amount = (flops: number) => (flops / Number(size)).toFixed(2);
  const cells = [['stage', 'steps', 'active tokens', 'share', `${unit}/step`, unit]];
  for (const stage of plan.stages) {
    const last = stage.firstStep + stage.steps;
    cells.push([
      String(stage.stage),
      stage.steps === 1 ? `${last}` : `${stage.firstStep + 1}-${last}`,
      `${stage.activeTokens} / ${plan.totalTokens}`,
      `${((100 * stage.activeTokens) / plan.totalTokens).toFixed(1)} %`,
      amount(stage.flops / stage.steps),
      amount(stage.flops),
    ]);
  }
  const { flops } = plan;
  const lines = [
    `${plan.preset}, ${model}, ${run.width}x${run.height}: ${rows} x ${cols} = ${plan.totalTokens} tokens, ` +
      `${run.textTokens} text tokens, ${plan.steps} steps`,
    '',
    ...table(cells, [0, 1, 2, 3, 4, 5]),
    '',
  ];
  if (flops) {
    const ratio = (dense: number) => `${((dense * denseStep) / Number(size)).toFixed(2)} ${unit}`;
    lines.push(
      `total ${amount(flops.total)} ${unit}`,
      `50 dense steps take ${ratio(50)}: ${flops.speedup.dense50.toFixed(2)}x`,
      `28 dense steps take ${ratio(28)}: ${flops.speedup.dense28.toFixed(2)}x`,
      '',
    );
  }
  lines.push('sigmas');
  for (let i = 0; i < plan.sigmasWithTerminal.length; i += 10) {
    lines.push(
      `  ${plan.sigmasWithTerminal
        .slice(i, i + 10)
        .map((sigma) => sigma.toFixed(4))
        .join('  ')}`,
    );
  }
  return lines;
}
