/** `jit-flux generate`: prompt to picture. */
import type { Stats } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename } from 'node:path';

import { invalidArgument } from '../errors.js';
import type { FluxPipeline, GenerateRequest, GenerateTimings, GenerateWarning } from '../pipeline/index.js';
import { modelFingerprint } from '../model/fingerprint.js';
import { BUNDLED_MODEL } from '../model/bundled-model.js';
import { requireFiles, resolveModel } from '../model/resolve-model.js';
import { resolveRequest, type ResolvedRequest } from '../pipeline/request.js';
import type { RgbImage } from '../image/index.js';
import type { JitPlan } from '../types.js';
import { type Context, defineCommand, EXIT } from './command.js';
import { describeMemory, describeModelChoice, describeRunChoice, describeTimings } from './details.js';
import { LETTERS } from './flags.js';
import { formatDuration } from './format.js';
import { type FromPicture, readFromPicture } from './from-picture.js';
import {
  given,
  GUIDANCE_FLAG,
  LOAD_FLAGS,
  loadOptions,
  MEMORY_CHECK_FLAG,
  MODEL_FLAG,
  ONE_IMAGE,
  promptWords,
  quietFlag,
  runOptions,
  SAMPLING_FLAGS,
  seedFlag,
} from './options.js';
import { openPipeline } from './open-pipeline.js';
import {
  checkOutput,
  checkLosses,
  checkSheet,
  outputFiles,
  PICTURE_FLAGS,
  type PictureArgs,
  showPicture,
  STDOUT,
  writePicture,
} from './picture-output.js';
import { generationProgress } from './progress.js';
import { MOST_RUNS, parseSeeds, type PromptLine, readPrompts, typedPrompts } from './prompts.js';

export const generateCommand = defineCommand({
  command: 'generate [prompt..]',
  describe: 'Generate pictures from a prompt',
  builder: (yargs) =>
    yargs
      .positional(
        'prompt',
        promptWords('what to draw, in quotes; - reads standard input, one prompt per line'),
      )
      .option('prompt-file', {
        type: 'string',
        requiresArg: true,
        describe:
          'file with one prompt per line, or a JSON object per line: prompt, and seed, guidance, width, height, steps, preset, out',
      })
      .option('from', {
        type: 'string',
        requiresArg: true,
        describe: 'a picture made before, whose settings to take; what else is given replaces them',
      })
      .option('conditioning', {
        type: 'string',
        requiresArg: true,
        describe: 'encoded prompts of `jit-flux encode` instead of a prompt; no text encoders are loaded',
      })
      .option('out', {
        alias: LETTERS.out,
        type: 'string',
        requiresArg: true,
        describe:
          'file to write: .png, .jpg, .webp, or - for standard output; numbered if there are several; an existing one is replaced (default: jit-flux-<seed>.png, or the next free name)',
      })
      .option('grid', {
        type: 'string',
        requiresArg: true,
        describe: 'file for all pictures of this call side by side, besides their own',
      })
      .option('model', MODEL_FLAG)
      .options(SAMPLING_FLAGS)
      .option('seed', seedFlag('one, or several for every prompt: 1,2,5-8 (default: random, printed)'))
      .option('skip-existing', {
        type: 'boolean',
        default: false,
        describe: 'make no picture whose file is there already',
      })
      .option('guidance', GUIDANCE_FLAG)
      .options(LOAD_FLAGS)
      .option('memory-check', MEMORY_CHECK_FLAG)
      .options(PICTURE_FLAGS)
      .option('quiet', quietFlag('no progress, no warnings'))
      .example('$0 generate "a red circle over the sea" -o circle.png', '')
      .example('$0 generate --from circle.png --seed 8', 'the same with another seed')
      .example('$0 generate "a red circle" --seed 1-9 -o circle.jpg --grid all.jpg', ''),
  async run(typed, io) {
    const { signal } = io;
    // Standard output is the picture's then.
    const context = typed.out === STDOUT ? { ...io, print: (line = '') => io.note(line) } : io;
    const from = typed.from === undefined ? undefined : await readFromPicture(typed.from, signal);
    const args = from ? completed(typed, from.flags, context.set) : typed;
    const load = loadOptions(args);
    if (from?.timeEmbedding) load.timeEmbedding = from.timeEmbedding;
    const { conditioning: file } = args;
    // Everything that can be wrong is found before anything is loaded.
    const words = typedPrompts(args);
    const prompts: Partial<PromptLine>[] = await readPrompts(words, args['prompt-file'], context);
    if (prompts.length === 0 && from?.prompt !== undefined && file === undefined) {
      prompts.push({ prompt: from.prompt });
    }
    if ((prompts.length === 0) === (file === undefined)) {
      const expected =
        file === undefined
          ? 'a prompt in quotes (or --prompt-file, --from, --conditioning)'
          : 'nothing beside --conditioning, which brings its own';
      throw invalidArgument('prompt', expected, words[0]);
    }
    if (file !== undefined) prompts.push({});
    const seeds = parseSeeds(args.seed);
    const model = args.model ?? modelOf(from);
    const textEncoders = file === undefined ? load.textEncoders : false;
    const spec = requireFiles(await resolveModel(model, { textEncoders, variant: load.variant, signal }));
    // Reading a conditioning needs native tensors, but checks the request against what is in it.
    using conditioning = file === undefined ? undefined : await loadConditioning(file, signal);
    const runs: Run[] = [];
    for (const { prompt, seed: own, out, ...options } of prompts) {
      const said = { ...typed, ...given(options) };
      const asked = from
        ? completed(said, from.flags, without(context.set, Object.keys(given(options))))
        : said;
      // Only the flag makes everything else that is printed keep off standard output.
      if (out === STDOUT) throw invalidArgument('out', 'a file in a list of prompts', out);
      for (const seed of own === undefined ? seeds : parseSeeds(String(own))) {
        const request: GenerateRequest = {
          ...given({ prompt, conditioning }),
          numImages: args['num-images'] ?? ONE_IMAGE,
          ...runOptions(asked, spec.info),
          ...given({ guidance: asked.guidance, seed }),
          signal,
        };
        const resolved = resolveRequest(request, spec.info, spec.transformer.config);
        runs.push({
          request: { ...request, seed: resolved.seed },
          resolved,
          out: out ?? args.out,
          files: [],
        });
        if (runs.length > MOST_RUNS) {
          throw invalidArgument('prompt', `at most ${MOST_RUNS} prompts times seeds`, prompts.length);
        }
      }
    }
    nameFiles(runs);
    const isOne = runs.length === 1;
    for (const line of describeModelChoice(spec, load)) context.detail(line);
    const skipped = args['skip-existing'] ? await takeExisting(runs) : [];
    await checkLosses(args.quality, [
      ...runs.flatMap(({ files }) => files),
      ...(args.grid === undefined ? [] : [args.grid]),
    ]);
    for (const { files, out } of runs) {
      for (const path of files) await checkOutput({ path, replace: out !== undefined }, 'out', context);
    }
    const sheet =
      args.grid === undefined ? undefined : await openSheet(args.grid, { prompts, runs, skipped }, context);
    for (const path of skipped) if (!args.quiet) context.note(`${path} is there already`);

    const done: RunReport[] = [];
    let memory;
    if (runs.length > 0) {
      const size = ({ resolved: { images, plan } }: Run) => images * plan.totalTokens;
      const largest = runs.reduce((most, run) => (size(run) > size(most) ? run : most));
      const o = { args, largest: largest.resolved };
      await using pipeline = await openPipeline(spec, load, o, context);
      ({ plan: memory } = await pipeline.memory());
      for (const line of memory ? describeMemory(memory, context.stderr.columns) : []) context.detail(line);
      const weights = modelFingerprint(spec);
      if (from?.fingerprint !== undefined && weights !== from.fingerprint) {
        from.doubts.push(`${typed.from} was made with other weights: the picture may differ`);
      }
      if (!args.quiet) for (const doubt of from?.doubts ?? []) context.note(`Warning: ${doubt}`);
      try {
        for (const [i, run] of runs.entries()) {
          const { prompts, seed } = run.resolved;
          const which = `${i + 1} of ${runs.length}: ${prompts[0]?.slice(0, MOST_SHOWN)}, seed ${seed}`;
          if (!isOne && !args.quiet) context.note(which);
          const { report, images } = await makePictures(pipeline, run, args, context);
          done.push(report);
          sheet?.images.push(...images);
        }
      } catch (error) {
        // What was made is not lost with what follows.
        const paths = done.flatMap(({ images }) => images.map(({ path }) => path));
        if (paths.length > 0) context.note(`Made before: ${paths.join(', ')}`);
        throw error;
      }
    }
    const grid = sheet && (await writeSheet(sheet, args, context));
    const described = { name: spec.info.name, path: spec.path };
    const [only] = done;
    if (isOne && only) {
      const { images, seed, ...rest } = only;
      context.printJson({ images, grid, seed, model: described, ...rest, memory });
    } else {
      context.printJson({ runs: done, skipped, grid, model: described, memory });
    }
    // Nothing is lost, but whoever goes on with the file that was named does not find it.
    const written = [...done.flatMap(({ images }) => images), ...(grid ? [grid] : [])];
    const isElsewhere = written.some(({ elsewhere }) => elsewhere !== undefined);
    return isElsewhere ? EXIT.failure : EXIT.ok;
  },
});

/** Characters of a prompt in a line of progress. */
const MOST_SHOWN = 60;

/** One request and where its pictures go. */
interface Run {
  request: GenerateRequest;
  resolved: ResolvedRequest;
  /** The file that was named. */
  out: string | undefined;
  files: string[];
}

/** What `--json` says of a run. */
interface RunReport {
  images: {
    path: string;
    width: number;
    height: number;
    prompt: string;
    seed: number | bigint;
    /** Why it is not where it was wanted. */
    elsewhere: string | undefined;
  }[];
  seed: number | bigint;
  warnings: GenerateWarning[];
  timings: GenerateTimings;
  textTokens: number;
  plan: JitPlan;
}

/** Samples, decodes and writes the pictures of one request, and prints where they are. */
async function makePictures(
  pipeline: FluxPipeline,
  { request, resolved, files, out }: Run,
  args: PictureArgs & { quiet: boolean },
  context: Context,
): Promise<{ report: RunReport; images: readonly RgbImage[] }> {
  for (const line of describeRunChoice(resolved)) context.detail(line);
  const progress = await generationProgress(context, resolved.plan, { enabled: !args.quiet });
  let result;
  try {
    result = await pipeline.generate({ ...request, onStep: (event) => progress.step(event) });
  } finally {
    progress.close();
  }
  for (const line of describeTimings(result.timings)) context.detail(line);
  const decoded = performance.now();
  const images: RunReport['images'] = [];
  for (const [i, image] of result.images.entries()) {
    const output = { path: files[i]!, replace: out !== undefined };
    const { path, elsewhere } = await writePicture(image, output, args, context);
    const { width, height, prompt, seed } = image;
    images.push({ path, width, height, prompt, seed, elsewhere });
    if (args.show) showPicture(image, context);
  }
  context.detail(`Write ${formatDuration(performance.now() - decoded)}`);
  if (!args.quiet) for (const { message } of result.warnings) context.note(`Warning: ${message}`);
  for (const { path, width, height, seed } of images) {
    context.print(args.quiet ? path : `${path}  ${width}x${height}  seed ${seed}`, path);
  }
  const { plan, warnings, timings, seed } = result;
  if (!args.quiet) {
    context.print(`${plan.preset}, ${plan.steps} steps, ${formatDuration(timings.total)}`);
  }
  const report = { images, seed, warnings, timings, textTokens: resolved.textTokens, plan };
  return { report, images: result.images };
}

/** One picture of all of a call. */
interface Sheet {
  path: string;
  columns: number | undefined;
  images: RgbImage[];
}

/**
 * Checks what `--grid` says. The pictures of a prompt are a row, if there are several prompts with several pictures each.
 * @throws ERR_JITFLUX_INVALID_ARGUMENT, ERR_JITFLUX_WRITE_FAILED
 */
async function openSheet(
  path: string,
  o: { prompts: readonly unknown[]; runs: readonly Run[]; skipped: readonly string[] },
  context: Context,
): Promise<Sheet> {
  if (path === STDOUT) throw invalidArgument('grid', 'a file', path);
  if (o.skipped.length > 0)
    throw invalidArgument('grid', 'no --skip-existing that leaves out pictures', path);
  const pictures = o.runs.reduce((sum, { resolved }) => sum + resolved.images, 0);
  checkSheet('grid', pictures);
  await checkOutput({ path, replace: true }, 'grid', context);
  const perPrompt = pictures / o.prompts.length;
  const isTable = o.prompts.length > 1 && perPrompt > 1 && Number.isInteger(perPrompt);
  return { path, columns: isTable ? perPrompt : undefined, images: [] };
}

async function writeSheet({ path, columns, images }: Sheet, args: PictureArgs, context: Context) {
  const { contactSheet } = await import('../image/index.js');
  const sheet = contactSheet(images, { columns });
  const written = await writePicture(sheet, { path, replace: true }, args, context);
  context.print(`${written.path}  ${sheet.width}x${sheet.height}`, written.path);
  return { ...written, width: sheet.width, height: sheet.height };
}

/** Names the pictures of all runs: those with the same `--out` are numbered on. */
function nameFiles(runs: readonly Run[]): void {
  const counts = new Map<string, number>();
  const outOf = ({ out, resolved }: Run) => out ?? `jit-flux-${resolved.seed}.png`;
  for (const run of runs) {
    if (run.out !== undefined) counts.set(run.out, (counts.get(run.out) ?? 0) + run.resolved.images);
  }
  const names = new Map([...counts].map(([out, count]) => [out, outputFiles(out, count)]));
  for (const run of runs) {
    const { images } = run.resolved;
    run.files = names.get(run.out ?? '')?.splice(0, images) ?? outputFiles(outOf(run), images);
  }
}

/** Removes the runs whose pictures are all there. @returns the paths of these */
async function takeExisting(runs: Run[]): Promise<string[]> {
  const skipped: string[] = [];
  for (const run of [...runs]) {
    const there = await Promise.all(run.files.map((path) => stat(path).then(isFile, () => false)));
    if (!there.every(Boolean)) continue;
    skipped.push(...run.files);
    runs.splice(runs.indexOf(run), 1);
  }
  return skipped;
}

const isFile = (info: Stats) => info.isFile();

/** What a preset decides: one that is typed takes the place of all of these. */
const OF_PRESET: readonly string[] = [
  'steps',
  'schedule',
  'stage-ratios',
  'token-ratios',
  'anchors',
  'activation',
  'micro-flow',
  'lifter',
] satisfies (keyof FromPicture['flags'])[];

/** Flags of a picture under those that were typed, and above those that are set in the environment or a file. */
function completed<Args extends object>(
  typed: Args,
  flags: FromPicture['flags'],
  set: ReadonlySet<string>,
): Args {
  const isTyped = (name: string) => (typed as Record<string, unknown>)[name] !== undefined && !set.has(name);
  const isReplaced = (name: string) =>
    isTyped(name) ||
    (isTyped('preset') && OF_PRESET.includes(name)) ||
    // Encoded prompts bring their own.
    (isTyped('conditioning') && name === 'text-tokens');
  const missing = Object.entries(flags).filter(([name, value]) => value !== undefined && !isReplaced(name));
  return { ...typed, ...Object.fromEntries(missing) };
}

const without = (all: ReadonlySet<string>, some: readonly string[]) =>
  new Set([...all].filter((name) => !some.includes(name)));

/** @throws ERR_JITFLUX_INVALID_ARGUMENT if the picture's model is not the bundled one */
function modelOf(from: FromPicture | undefined): string {
  const name = from?.model;
  if (name === undefined || name === basename(BUNDLED_MODEL)) return BUNDLED_MODEL;
  throw invalidArgument('model', `the path of ${name}, with which the picture was made`, undefined);
}

async function loadConditioning(path: string, signal: AbortSignal) {
  const { loadEncodedPrompts } = await import('../pipeline/index.js');
  return loadEncodedPrompts(path, { signal });
}
