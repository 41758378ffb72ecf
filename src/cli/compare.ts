/** `jit-flux compare`: one prompt by several presets, side by side, with what each costs and how near it comes. */
import { invalidArgument } from '../errors.js';
import { BUNDLED_MODEL } from '../model/bundled-model.js';
import { requireFiles, resolveModel } from '../model/resolve-model.js';
import type { GeneratedImage, GenerateRequest, GenerateResult } from '../pipeline/index.js';
import { resolveRequest } from '../pipeline/request.js';
import type { PngMetadata } from '../image/index.js';
import { PRESET_NAMES } from '../sampler/presets.js';
import type { PresetName } from '../types.js';
import { type Context, defineCommand, EXIT, WARNING } from './command.js';
import { LETTERS } from './flags.js';
import { formatDuration, table } from './format.js';
import { openPipeline } from './open-pipeline.js';
import {
  GUIDANCE_FLAG,
  LOAD_FLAGS,
  loadOptions,
  MEMORY_CHECK_FLAG,
  MODEL_FLAG,
  parseSeed,
  promptWords,
  quietFlag,
  SAMPLING_FLAGS,
  seedFlag,
} from './options.js';
import {
  checkOutput,
  checkLosses,
  checkSheet,
  type Output,
  PICTURE_FLAGS,
  type PictureArgs,
  showPicture,
  STDOUT,
  writePicture,
} from './picture-output.js';
import { generationProgress } from './progress.js';
import { typedPrompts } from './prompts.js';
import { nearest } from './suggest.js';

const DEFAULT_PRESETS = 'dense,jit-4x,jit-7x';
const DEFAULT_OUT = 'jit-flux-compare.png';

/** One way to make the picture. */
interface Way {
  /** As it was typed. */
  name: string;
  preset: PresetName;
  steps: number | undefined;
}

export const compareCommand = defineCommand({
  command: 'compare [prompt..]',
  describe: 'Make one picture by several presets, side by side, and say how they differ from the first',
  builder: (yargs) =>
    yargs
      .positional('prompt', promptWords('what to draw, in quotes'))
      .option('presets', {
        type: 'string',
        requiresArg: true,
        default: DEFAULT_PRESETS,
        describe: 'what to compare, the reference first; with a number of steps: dense:12',
      })
      .option('out', {
        alias: LETTERS.out,
        type: 'string',
        requiresArg: true,
        describe: `file for the pictures side by side: .png, .jpg or .webp (default: ${DEFAULT_OUT}, or the next free name)`,
      })
      .option('model', MODEL_FLAG)
      .options({
        width: SAMPLING_FLAGS.width,
        height: SAMPLING_FLAGS.height,
        'text-tokens': SAMPLING_FLAGS['text-tokens'],
      })
      .option('seed', seedFlag('of all pictures (default: random, printed)'))
      .option('guidance', GUIDANCE_FLAG)
      .options(LOAD_FLAGS)
      .option('memory-check', MEMORY_CHECK_FLAG)
      .options(PICTURE_FLAGS)
      .option('quiet', quietFlag('no progress, no warnings'))
      .example('$0 compare "a red circle over the sea"', '')
      .example('$0 compare "a cat" --presets dense,jit-7x,dense:7', 'JiT against dense steps of its cost'),
  async run(args, context) {
    const { signal } = context;
    const load = loadOptions(args);
    const [prompt, ...more] = typedPrompts(args);
    if (prompt === undefined || prompt === STDOUT || more.length > 0) {
      throw invalidArgument('prompt', 'one prompt in quotes', more[0] ?? prompt);
    }
    const ways = readWays(args.presets);
    checkSheet('presets', ways.length);
    const spec = requireFiles(
      await resolveModel(args.model ?? BUNDLED_MODEL, {
        textEncoders: load.textEncoders,
        variant: load.variant,
        signal,
      }),
    );
    const { width, height, guidance, 'text-tokens': maxSequenceLength } = args;
    let seed = parseSeed(args.seed);
    const requests = ways.map(({ preset, steps }) => {
      const request: GenerateRequest = {
        ...{ prompt, preset, steps, seed, width, height, guidance, maxSequenceLength, signal },
      };
      const resolved = resolveRequest(request, spec.info, spec.transformer.config);
      // Drawn once for all.
      ({ seed } = resolved);
      return { request: { ...request, seed }, resolved };
    });
    const output = { path: args.out ?? DEFAULT_OUT, replace: args.out !== undefined };
    if (output.path === STDOUT) throw invalidArgument('out', 'a file', STDOUT);
    await checkLosses(args.quality, [output.path]);
    await checkOutput(output, 'out', context);

    // All are of one size.
    const largest = requests[0]!.resolved;
    await using pipeline = await openPipeline(spec, load, { args, largest }, context);
    // The first would pay for what all need.
    await pipeline.warmUp({ signal });
    const made: GenerateResult[] = [];
    try {
      for (const [i, { request, resolved }] of requests.entries()) {
        if (!args.quiet) context.note(`${i + 1} of ${requests.length}: ${ways[i]!.name}`);
        const progress = await generationProgress(context, resolved.plan, { enabled: !args.quiet });
        try {
          made.push(await pipeline.generate({ ...request, onStep: (event) => progress.step(event) }));
        } finally {
          progress.close();
        }
      }
    } catch (error) {
      // What was made is not lost with what follows.
      if (made.length > 0) {
        const kept = await writeSheet(made, ways, { output, args, context: { ...context, signal: never } });
        context.note(`Made before: ${kept.path}`);
      }
      throw error;
    }
    if (!args.quiet) for (const { message } of made[0]!.warnings) context.note(`${WARNING} ${message}`);

    const { psnr, ssim } = await import('../image/index.js');
    const [reference] = made as [GenerateResult];
    const results = made.map(({ images: [image], plan, timings }, i) => ({
      preset: ways[i]!.name,
      steps: plan.steps,
      milliseconds: timings.total,
      speedup: reference.timings.total / timings.total,
      teraflops: (plan.flops?.total ?? 0) / 1e12,
      // Of the reference itself there is nothing to say.
      ...(i > 0 && {
        psnr: psnr(image!, reference.images[0]!),
        ssim: ssim(image!, reference.images[0]!),
      }),
    }));
    const { sheet, ...written } = await writeSheet(made, ways, { output, args, context });
    if (args.show) showPicture(sheet, context);
    context.printJson({
      ...written,
      seed,
      prompt,
      results,
      model: { name: spec.info.name, path: spec.path },
    });
    for (const line of table(
      [
        ['', 'steps', 'time', 'speed', 'TFLOP', 'PSNR', 'SSIM'],
        ...results.map((row) => [
          row.preset,
          String(row.steps),
          formatDuration(row.milliseconds),
          `${row.speedup.toFixed(2)}x`,
          row.teraflops.toPrecision(3),
          row.psnr === undefined ? '' : row.psnr === Infinity ? 'equal' : `${row.psnr.toFixed(1)} dB`,
          row.ssim === undefined ? '' : row.ssim.toFixed(3),
        ]),
      ],
      [1, 2, 3, 4, 5, 6],
      { columns: context.stdout.columns, drop: [4, 6] },
    )) {
      context.print(line);
    }
    context.print(`${written.path}  ${sheet.width}x${sheet.height}  seed ${seed}`, written.path);
    return written.elsewhere === undefined ? EXIT.ok : EXIT.failure;
  },
});

const never = new AbortController().signal;
/** Pictures in one row. */
const WIDEST_ROW = 4;

async function writeSheet(
  made: readonly GenerateResult[],
  ways: readonly Way[],
  { output, args, context }: { output: Output; args: PictureArgs; context: Context },
) {
  const { contactSheet } = await import('../image/index.js');
  const images = made.map((result) => result.images[0]!);
  const sheet = contactSheet(images, { columns: made.length <= WIDEST_ROW ? made.length : undefined });
  const metadata = factsOf(images[0]!, ways.slice(0, made.length));
  return { sheet, ...(await writePicture({ ...sheet, metadata }, output, args, context)) };
}

/** @throws ERR_JITFLUX_INVALID_ARGUMENT */
function readWays(text: string): Way[] {
  return text.split(',').map((part) => {
    const [, name = '', steps] = /^([^:]*)(?::(\d{1,4}))?$/.exec(part.trim()) ?? [];
    const preset = PRESET_NAMES.find((known) => known === name);
    if (preset !== undefined)
      return { name: part.trim(), preset, steps: steps === undefined ? undefined : Number(steps) };
    const meant = nearest(name, PRESET_NAMES);
    const hint = meant === undefined ? '' : ` (did you mean ${meant}?)`;
    throw invalidArgument(
      'presets',
      `${PRESET_NAMES.join(', ')}, each with or without a number of steps (dense:12), separated by commas${hint}`,
      part,
    );
  });
}

/** What the sheet says: what all of its pictures have in common, and in what they differ. */
function factsOf({ metadata }: GeneratedImage, ways: readonly Way[]): PngMetadata {
  const common = Object.entries(metadata).filter(([name]) => COMMON_FACTS.includes(name));
  return { ...Object.fromEntries(common), compared: ways.map(({ name }) => name).join(',') };
}

const COMMON_FACTS: readonly string[] = [
  'prompt',
  'seed',
  'guidance',
  'model',
  'modelFingerprint',
  'version',
];
