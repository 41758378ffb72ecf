/** `jit-flux plan`: what a preset will do, without doing it. */
import { ERROR_CODES, invalidArgument, JitFluxError } from '../errors.js';
import { availableMemory } from '../model/available-memory.js';
import { type MemoryPlan, type PhaseMemory, planModelMemory } from '../model/memory-plan.js';
import { type ModelSource, resolveModel } from '../model/model-source.js';
import { createPlan, FLUX_1_DEV, FLUX_TINY, fluxFlops } from '../sampler/index.js';
import type { FluxConfig, JitPlan, PresetName } from '../types.js';
import { checkSide } from '../model/size.js';
import { defineCommand } from './command.js';
import { table } from './format.js';
import {
  DEVICE_FLAGS,
  given,
  GPU_FLAGS,
  MODEL_FLAGS,
  parseDevice,
  SAMPLING_FLAGS,
  samplingOptions,
  WEIGHT_FLAGS,
} from './options.js';

interface PlannedModel {
  preset?: PresetName;
  steps?: number;
  config: Readonly<FluxConfig>;
  pixelsPerToken: number;
  textTokens: number;
  side: number;
}

const MODELS: Record<string, PlannedModel> = {
  'flux.1-dev': { config: FLUX_1_DEV, pixelsPerToken: 16, textTokens: 512, side: 1024 },
  'flux-tiny': { config: FLUX_TINY, pixelsPerToken: 8, textTokens: 24, side: 256 },
};

export const planCommand = defineCommand({
  command: 'plan',
  describe: 'Show schedule, token counts and FLOPs of a preset (needs no native code)',
  builder: (yargs) =>
    yargs
      .options(SAMPLING_FLAGS)
      .option('model', {
        type: 'string',
        requiresArg: true,
        default: 'flux.1-dev',
        describe: `${Object.keys(MODELS).join(', ')}, or the path of a model: adds the memory it will take`,
      })
      .option('text-tokens', {
        type: 'number',
        requiresArg: true,
        describe: "text tokens per picture (default: the model's)",
      })
      .option('text-encoders', MODEL_FLAGS['text-encoders'])
      .options(DEVICE_FLAGS)
      .options(WEIGHT_FLAGS)
      .option('stream-weights', GPU_FLAGS['stream-weights'])
      .option('gpu-memory', {
        type: 'number',
        requiresArg: true,
        describe: 'GiB that are free on the GPU, to judge whether it fits',
      })
      .example('$0 plan --preset jit-7x --width 1024 --height 1024', 'FLUX.1-dev at 1024x1024'),
  async run(args, context) {
    const known = Object.hasOwn(MODELS, args.model) ? MODELS[args.model] : undefined;
    const source = known ? undefined : await findModel(args.model, args['text-encoders'], context.signal);
    const model = known ?? plannedModel(source as ModelSource);
    const width = checkSide('width', args.width ?? model.side, model.pixelsPerToken, args.model);
    const height = checkSide('height', args.height ?? model.side, model.pixelsPerToken, args.model);
    const textTokens = args['text-tokens'] ?? model.textTokens;
    if (!Number.isInteger(textTokens) || textTokens < 1 || textTokens > 4096) {
      throw invalidArgument('text-tokens', 'an integer from 1 to 4096', textTokens);
    }
    const plan = createPlan({
      ...(model.preset && { preset: model.preset }),
      ...(model.preset && args.steps === undefined && { steps: model.steps }),
      ...samplingOptions(args),
      grid: [height / model.pixelsPerToken, width / model.pixelsPerToken],
      model: { config: model.config, textTokens },
    });
    const memory =
      source &&
      planModelMemory(
        source,
        {
          ...given({
            device: parseDevice(args.device),
            dtype: args.dtype,
            quantize: args.quantize,
            weightStreaming: args['stream-weights'],
          }),
          width,
          height,
          textTokens,
          steps: plan.steps,
        },
        {
          host: await availableMemory(),
          ...(args['gpu-memory'] !== undefined && { device: args['gpu-memory'] * 2 ** 30 }),
        },
      );
    context.printJson({ model: args.model, width, height, textTokens, ...plan, ...(memory && { memory }) });
    const denseStep = fluxFlops(model.config, plan.totalTokens, textTokens).total;
    for (const line of describePlan(plan, { model: args.model, width, height, textTokens, denseStep })) {
      context.print(line);
    }
    if (memory) for (const line of describeMemory(memory)) context.print(line);
  },
});

/** @throws ERR_JITFLUX_INVALID_ARGUMENT naming the built-in models if it is neither one of them nor a path */
async function findModel(
  path: string,
  textEncoders: string | undefined,
  signal: AbortSignal,
): Promise<ModelSource> {
  try {
    return await resolveModel(path, { textEncoders, signal });
  } catch (error) {
    if (error instanceof JitFluxError && error.code === ERROR_CODES.FILE_NOT_FOUND) {
      throw invalidArgument('model', `${Object.keys(MODELS).join(' or ')}, or the path of a model`, path);
    }
    throw error;
  }
}

function plannedModel({ info, transformer, path }: ModelSource): PlannedModel {
  if (!transformer.config) {
    throw new JitFluxError(
      ERROR_CODES.UNSUPPORTED_FORMAT,
      `${path}: the architecture is in an archive without config.json, which only native code can read ` +
        '(jit-flux inspect)',
      { path },
    );
  }
  const { preset, dense } = info.defaults;
  return {
    config: transformer.config,
    pixelsPerToken: info.decoder.spatialFactor * 2,
    textTokens: info.text.defaultLength ?? info.text.length,
    side: info.defaults.width,
    ...given({ preset, steps: dense?.steps }),
  };
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

/** The plan as lines of text. */
function describePlan(
  plan: JitPlan,
  o: { model: string; width: number; height: number; textTokens: number; denseStep: number },
): string[] {
  const [rows, cols] = plan.grid;
  // Tera, giga or mega, so that a small model's figures are not all zero.
  const [unit, size] =
    o.denseStep >= 1e11 ? ['TFLOPs', 1e12] : o.denseStep >= 1e8 ? ['GFLOPs', 1e9] : ['MFLOPs', 1e6];
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
    `${plan.preset}, ${o.model}, ${o.width}x${o.height}: ${rows} x ${cols} = ${plan.totalTokens} tokens, ` +
      `${o.textTokens} text tokens, ${plan.steps} steps`,
    '',
    ...table(cells, [0, 1, 2, 3, 4, 5]),
    '',
  ];
  if (flops) {
    const ratio = (dense: number) => `${((dense * o.denseStep) / Number(size)).toFixed(2)} ${unit}`;
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
