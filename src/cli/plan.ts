/** `jit-flux plan`: what a preset will do, without doing it. */
import { invalidArgument } from '../errors.js';
import { createPlan, FLUX_1_DEV, FLUX_TINY, fluxFlops } from '../sampler/index.js';
import type { FluxConfig, JitPlan } from '../types.js';
import { checkSide } from '../pipeline/size.js';
import { defineCommand } from './command.js';
import { table } from './format.js';
import { SAMPLING_FLAGS, samplingOptions } from './options.js';

interface PlannedModel {
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
        describe: Object.keys(MODELS).join(' or '),
      })
      .option('text-tokens', {
        type: 'number',
        requiresArg: true,
        describe: "text tokens per picture (default: the model's)",
      })
      .example('$0 plan --preset jit-7x --width 1024 --height 1024', 'FLUX.1-dev at 1024x1024'),
  async run(args, context) {
    const model = Object.hasOwn(MODELS, args.model) ? MODELS[args.model] : undefined;
    if (!model) throw invalidArgument('model', Object.keys(MODELS).join(' or '), args.model);
    const width = checkSide('width', args.width ?? model.side, model.pixelsPerToken, args.model);
    const height = checkSide('height', args.height ?? model.side, model.pixelsPerToken, args.model);
    const textTokens = args['text-tokens'] ?? model.textTokens;
    if (!Number.isInteger(textTokens) || textTokens < 1 || textTokens > 4096) {
      throw invalidArgument('text-tokens', 'an integer from 1 to 4096', textTokens);
    }
    const plan = createPlan({
      ...samplingOptions(args),
      grid: [height / model.pixelsPerToken, width / model.pixelsPerToken],
      model: { config: model.config, textTokens },
    });
    context.printJson({ model: args.model, width, height, textTokens, ...plan });
    const denseStep = fluxFlops(model.config, plan.totalTokens, textTokens).total;
    for (const line of describePlan(plan, { model: args.model, width, height, textTokens, denseStep })) {
      context.print(line);
    }
  },
});

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
