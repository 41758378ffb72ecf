/** `jit-flux encode`: prompt to a file that `generate --conditioning` takes. */
import { invalidArgument } from '../errors.js';
import { BUNDLED_MODEL } from '../model/bundled-model.js';
import { checkPrompts } from '../pipeline/request.js';
import { defineCommand } from './command.js';
import { LETTERS } from './flags.js';
import { numberFlag } from './number-flag.js';
import { typedPrompts } from './prompts.js';
import {
  ENCODER_FLAGS,
  given,
  loadOptions,
  MEMORY_CHECK_FLAG,
  MODEL_FLAG,
  promptWords,
  quietFlag,
} from './options.js';

export const encodeCommand = defineCommand({
  command: 'encode [prompt..]',
  describe: 'Run the text encoders only, and save what they say',
  builder: (yargs) =>
    yargs
      .positional('prompt', promptWords('what to draw, in quotes'))
      .option('out', {
        alias: LETTERS.out,
        type: 'string',
        requiresArg: true,
        default: 'conditioning.safetensors',
        describe: 'file to write; an existing one is replaced',
      })
      .option('model', MODEL_FLAG)
      .option('text-tokens', numberFlag('text-tokens', { describe: "default: the model's" }))
      .options(ENCODER_FLAGS)
      .option('memory-check', MEMORY_CHECK_FLAG)
      .option('quiet', quietFlag('no warnings'))
      .example('$0 encode "a lighthouse at dawn" --model FLUX.1-dev -o lighthouse.safetensors', ''),
  async run(args, context) {
    const { signal } = context;
    const words = typedPrompts(args);
    if (words.length !== 1) {
      throw invalidArgument('prompt', 'one prompt in quotes', words.length === 0 ? undefined : words.length);
    }
    const [prompt] = checkPrompts(words[0]);
    const { assertWritable } = await import('../image/index.js');
    await assertWritable(args.out);
    const { encodeOnly } = await import('../pipeline/encode-only.js');
    using encoded = await encodeOnly(args.model ?? BUNDLED_MODEL, prompt as string, {
      ...loadOptions(args),
      ...given({ maxSequenceLength: args['text-tokens'] }),
      memoryCheck: args['memory-check'],
      signal,
    });
    await encoded.save(args.out, { signal });
    if (!args.quiet) for (const { message } of encoded.warnings) context.note(`Warning: ${message}`);
    const { model, tokens, warnings } = encoded;
    context.printJson({ path: args.out, model, tokens: tokens[0], warnings, shape: encoded.prompt.shape });
    const counts = Object.entries(tokens[0] ?? {}).map(([encoder, count]) => `${encoder} ${count}`);
    context.print(`${args.out}  ${model}, tokens: ${counts.join(', ')}`);
  },
});
