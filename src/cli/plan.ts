/** `jit-flux plan`: what a preset will do, without doing it. */
import { checkNumber } from '../arguments.js';
import { isAccelerator } from '../engine/index.js';
import { ERROR_CODES, invalidArgument, JitFluxError } from '../errors.js';
import { availableMemory } from '../model/available-memory.js';
import { checkPlannedOptions } from '../model/component-options.js';
import { memoryRequest, planModelMemory } from '../model/memory-plan.js';
import { type ResolveOptions, resolveModel } from '../model/resolve-model.js';
import { type ResolvedRun, resolveRun } from '../model/run.js';
import { doubts, type ModelSpec } from '../model/spec.js';
import { fluxFlops } from '../sampler/index.js';
import type { Device, FluxConfig } from '../types.js';
import { defineCommand } from './command.js';
import { describeMemory, describeModelChoice } from './details.js';
import { table } from './format.js';
import { LETTERS } from './flags.js';
import { numberFlag } from './number-flag.js';
import { LOAD_FLAGS, loadOptions, runOptions, SAMPLING_FLAGS, ONE_IMAGE } from './options.js';
import { MODEL_NAMES } from './words.js';

export const planCommand = defineCommand({
  command: 'plan',
  describe: 'Show schedule, token counts, FLOPs and memory of a run, without running it (needs no LibTorch)',
  builder: (yargs) =>
    yargs
      .options(SAMPLING_FLAGS)
      .option('model', {
        alias: LETTERS.model,
        type: 'string',
        requiresArg: true,
        default: 'flux.1-dev',
        describe: `${MODEL_NAMES.join(', ')}, or the path of a model`,
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
    const free = gpuMemory(args['gpu-memory'], load.device);
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
        ...(free !== undefined && { device: free }),
      },
    );
    const { width, height, images, textTokens, plan } = run;
    const { inferred } = spec;
    for (const line of describeModelChoice(spec, load)) context.detail(line);
    context.printJson({ model: args.model, width, height, images, textTokens, ...plan, memory, inferred });
    for (const line of describeRun(run, args.model, config, context.stdout.columns)) context.print(line);
    context.print();
    for (const line of describeMemory(memory, context.stdout.columns)) context.print(line);
    for (const doubt of doubts(spec)) context.note(`Warning: ${doubt}`);
  },
});

/** Bytes that are free on the GPU. @throws ERR_JITFLUX_INVALID_ARGUMENT, also if no GPU is planned for */
function gpuMemory(gibibytes: number | undefined, device: Device | undefined): number | undefined {
  if (gibibytes === undefined) return undefined;
  const option = 'gpu-memory';
  if (!isAccelerator(device)) throw invalidArgument(option, 'nothing without --device cuda', gibibytes);
  checkNumber(option, gibibytes, 'GiB, more than 0 and at most 65536', (v) => v > 0 && v <= 65536);
  return gibibytes * 2 ** 30;
}

/** @throws ERR_JITFLUX_INVALID_ARGUMENT naming the known models if it is neither one of them nor a path */
async function findModel(model: string, o: ResolveOptions): Promise<ModelSpec> {
  try {
    return await resolveModel(model, o);
  } catch (error) {
    if (error instanceof JitFluxError && error.code === ERROR_CODES.FILE_NOT_FOUND) {
      const names = `${MODEL_NAMES.slice(0, -1).join(', ')} or ${MODEL_NAMES.at(-1)}`;
      throw invalidArgument('model', `${names}, or the path of a model`, model);
    }
    throw error;
  }
}

/** The run as lines of text. */
function describeRun(
  { plan, ...run }: ResolvedRun,
  model: string,
  config: FluxConfig,
  columns: number | undefined,
): string[] {
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
    ...table(cells, [0, 1, 2, 3, 4, 5], { columns, drop: [3, 4] }),
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
  // Of 8 characters each.
  const perLine = Math.max(1, Math.min(10, Math.floor(((columns ?? Infinity) - 2) / 8)));
  for (let i = 0; i < plan.sigmasWithTerminal.length; i += perLine) {
    lines.push(
      `  ${plan.sigmasWithTerminal
        .slice(i, i + perLine)
        .map((sigma) => sigma.toFixed(4))
        .join('  ')}`,
    );
  }
  return lines;
}
