/** `jit-flux generate`: prompt to PNG. */
import { basename, extname } from 'node:path';

import { invalidArgument } from '../errors.js';
import type { GenerateRequest } from '../pipeline/index.js';
import { BUNDLED_MODEL } from '../model/model-directory.js';
import { memoryRequest } from '../model/memory-plan.js';
import { requireFiles, resolveModel } from '../model/resolve-model.js';
import { resolveRequest } from '../pipeline/request.js';
import { defineCommand, EXIT } from './command.js';
import { formatDuration } from './format.js';
import { type FromPicture, readFromPicture } from './from-picture.js';
import {
  given,
  LOAD_FLAGS,
  loadOptions,
  MEMORY_CHECK_FLAG,
  parseSeed,
  runOptions,
  SAMPLING_FLAGS,
} from './options.js';
import { generationProgress } from './progress.js';

export const generateCommand = defineCommand({
  command: 'generate [prompt]',
  describe: 'Generate pictures from a prompt',
  builder: (yargs) =>
    yargs
      .positional('prompt', { type: 'string', describe: 'what to draw; or give --conditioning or --from' })
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
        alias: 'o',
        type: 'string',
        requiresArg: true,
        describe:
          'PNG file to write; an existing one is replaced (default: jit-flux-<seed>.png, or the next free name)',
      })
      .option('model', {
        type: 'string',
        requiresArg: true,
        describe: 'model directory or checkpoint (default: the bundled flux-tiny)',
      })
      .options(SAMPLING_FLAGS)
      .option('seed', { type: 'string', requiresArg: true, describe: 'default: random, printed' })
      .option('guidance', { type: 'number', requiresArg: true, describe: "default: the model's" })
      .options(LOAD_FLAGS)
      .option('memory-check', MEMORY_CHECK_FLAG)
      .option('metadata', {
        type: 'boolean',
        default: true,
        describe: 'write into the file how it was made (--no-metadata: leave that out)',
      })
      .option('quiet', { alias: 'q', type: 'boolean', default: false, describe: 'no progress, no warnings' })
      .example('$0 generate "a red circle over the sea" -o circle.png', '')
      .example('$0 generate --from circle.png --seed 8', 'the same with another seed'),
  async run(typed, context) {
    const { signal } = context;
    const from = typed.from === undefined ? undefined : await readFromPicture(typed.from, signal);
    const args = from ? completed(typed, from.flags) : typed;
    const load = loadOptions(args);
    if (from?.timeEmbedding) load.timeEmbedding = from.timeEmbedding;
    const { conditioning: file } = args;
    if ((args.prompt === undefined) === (file === undefined)) {
      throw invalidArgument('prompt', 'either a prompt or --conditioning', args.prompt);
    }
    // Everything that can be wrong is found before anything is loaded.
    const model = args.model ?? modelOf(from);
    const textEncoders = file === undefined ? load.textEncoders : false;
    const spec = requireFiles(await resolveModel(model, { textEncoders, variant: load.variant, signal }));
    // Reading a conditioning needs native tensors, but checks the request against what is in it.
    using conditioning = file === undefined ? undefined : await loadConditioning(file, signal);
    const request: GenerateRequest = {
      ...given({ prompt: args.prompt, conditioning }),
      numImages: args['num-images'],
      ...runOptions(args, spec.info),
      ...given({ guidance: args.guidance, seed: parseSeed(args.seed) }),
      signal,
    };
    const resolved = resolveRequest(request, spec.info, spec.transformer.config);
    const { seed } = resolved;
    const { assertWritable, freePath, writeFileOrElsewhere } = await import('../image/index.js');
    // A name that nobody has chosen must not cost anybody a picture.
    const replace = args.out !== undefined;
    const files = outputFiles(args.out ?? `jit-flux-${seed}.png`, resolved.images);
    for (const file of files) await assertWritable(replace ? file : await freePath(file));

    const progress = await generationProgress(context, resolved.plan, { enabled: !args.quiet });
    let result;
    let memory;
    try {
      const { FluxPipeline } = await import('../pipeline/index.js');
      progress.loading(spec.info.name);
      // In the description.
      delete load.textEncoders;
      delete load.variant;
      await using pipeline = await FluxPipeline.load(spec, {
        ...load,
        memoryCheck: args['memory-check'] && memoryRequest(resolved),
        signal,
      });
      ({ plan: memory } = await pipeline.memory());
      result = await pipeline.generate({ ...request, seed, onStep: (event) => progress.step(event) });
    } finally {
      progress.close();
    }

    const failures: (string | undefined)[] = [];
    for (const [i, image] of result.images.entries()) {
      const { path, failed } = await writeFileOrElsewhere(
        files[i] as string,
        image.toPNG({ metadata: args.metadata }),
        {
          signal,
          replace,
        },
      );
      if (failed) context.note(`Warning: ${failed.message}; the picture is in ${path}`);
      files[i] = path;
      failures[i] = failed?.message;
    }
    const made = result.images[0]?.metadata['modelFingerprint'];
    if (from?.fingerprint !== undefined && made !== from.fingerprint) {
      from.doubts.push(`${typed.from} was made with other weights: the picture may differ`);
    }
    const messages = [...(from?.doubts ?? []), ...result.warnings.map(({ message }) => message)];
    if (!args.quiet) for (const message of messages) context.note(`Warning: ${message}`);
    const { plan, warnings, timings } = result;
    context.printJson({
      images: result.images.map(({ width, height, prompt, seed: own }, i) => ({
        path: files[i],
        width,
        height,
        prompt,
        seed: own,
        // Why it is not where it was wanted.
        elsewhere: failures[i],
      })),
      seed: result.seed,
      model: { name: spec.info.name, path: spec.path },
      warnings,
      timings,
      textTokens: resolved.textTokens,
      plan,
      memory,
    });
    for (const [i, image] of result.images.entries()) {
      if (args.quiet) context.print(files[i]);
      else context.print(`${files[i]}  ${image.width}x${image.height}  seed ${image.seed}`);
    }
    if (!args.quiet) {
      context.print(`${plan.preset}, ${plan.steps} steps, ${formatDuration(timings.total)}`);
    }
    // Nothing is lost, but whoever goes on with the file that was named does not find it.
    return failures.some((failed) => failed !== undefined) ? EXIT.failure : EXIT.ok;
  },
});

/** Flags of a picture under those that were typed. */
function completed<Args extends object>(typed: Args, flags: FromPicture['flags']): Args {
  const isTyped = (name: string) => (typed as Record<string, unknown>)[name] !== undefined;
  // Encoded prompts take the place of the picture's.
  const none = isTyped('conditioning') ? { prompt: undefined, 'text-tokens': undefined } : {};
  const missing = Object.entries({ ...flags, ...none }).filter(([name]) => !isTyped(name));
  return { ...typed, ...Object.fromEntries(missing) };
}

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

/** `out.png`, or `out-1.png`, `out-2.png`, ... if there are several. */
function outputFiles(out: string, count: number): string[] {
  const extension = extname(out);
  if (extension.toLowerCase() !== '.png') throw invalidArgument('out', 'a file name that ends in .png', out);
  if (count === 1) return [out];
  const digits = String(count).length;
  return Array.from({ length: count }, (_, i) => {
    const number = String(i + 1).padStart(digits, '0');
    return `${out.slice(0, -extension.length)}-${number}${extension}`;
  });
}
