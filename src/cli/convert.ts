/** `jit-flux convert`: weights in another format or dtype. */
import { ERROR_CODES, JitFluxError } from '../errors.js';
import { choiceFlag } from './choice-flag.js';
import { defineCommand } from './command.js';
import { formatBytes, table } from './format.js';
import { given, quietFlag } from './options.js';
import { transferProgress } from './progress.js';

export const convertCommand = defineCommand({
  command: 'convert <input> <output>',
  describe: 'Convert a model snapshot or a weight file to TorchScript archives or safetensors',
  builder: (yargs) =>
    yargs
      .positional('input', {
        type: 'string',
        demandOption: true,
        describe: 'diffusers snapshot (directory with model_index.json), weight file or directory of shards',
      })
      .positional('output', {
        type: 'string',
        demandOption: true,
        describe: 'directory for a snapshot; else a .pt or .safetensors file; an existing one is replaced',
      })
      .option(
        'dtype',
        choiceFlag('dtype', ['keep', 'float32', 'bfloat16', 'float16'], {
          default: 'keep',
          describe: 'type of all floating point tensors',
        }),
      )
      .option(
        'format',
        choiceFlag('format', ['torchscript', 'safetensors'], {
          describe: "default: by the output's extension; torchscript for a snapshot",
        }),
      )
      .option('resume', {
        type: 'boolean',
        default: true,
        describe: 'go on where an interrupted conversion stopped; --no-resume starts again',
      })
      .option('verify', {
        type: 'boolean',
        default: false,
        describe: 'check the CRC-32 of a TorchScript input first',
      })
      .option('quiet', quietFlag('no progress'))
      .example('$0 convert FLUX.1-dev flux-dev --dtype bfloat16', '')
      .example('$0 convert flux1-dev.safetensors transformer.pt', ''),
  async run(args, context) {
    const { convertModel } = await import('../convert/index.js');
    const progress = await transferProgress(context, { enabled: !args.quiet });
    let result;
    try {
      result = await convertModel(args.input, args.output, {
        ...given({ format: args.format, dtype: args.dtype }),
        resume: args.resume,
        verify: args.verify,
        onProgress: ({ component, writtenBytes, totalBytes }) =>
          progress.update({ phase: component ?? 'converting', done: writtenBytes, total: totalBytes }),
        signal: context.signal,
      });
    } catch (error) {
      progress.close();
      const aborted = error instanceof JitFluxError && error.code === ERROR_CODES.ABORTED;
      if (aborted && error.details?.['partial'] !== undefined && !args.quiet && !context.json) {
        context.note('The same command goes on from here.');
      }
      throw error;
    } finally {
      progress.close();
    }
    context.printJson(result);
    const rows = result.files.map((file) => [
      file.path,
      `${file.tensors} tensors`,
      formatBytes(file.bytes),
      file.reused
        ? 'done before'
        : file.resumedBytes > 0
          ? `resumed at ${formatBytes(file.resumedBytes)}`
          : '',
    ]);
    for (const line of table(rows, [1, 2])) context.print(line);
    for (const { path, skippedTensors, ...lost } of result.files) {
      if (lost.becameInfinite > 0) {
        const names = lost.infiniteTensors.join(', ');
        context.note(
          `Warning: ${path}: ${lost.becameInfinite} numbers became infinite in ${args.dtype} (${names}); ` +
            'no picture can come of it. Use --dtype bfloat16.',
        );
      }
      if (args.quiet) continue;
      if (lost.becameZero > 0) {
        context.note(`${path}: ${lost.becameZero} small numbers became zero in ${args.dtype}`);
      }
      if (skippedTensors > 0) {
        context.note(`Warning: ${path}: ${skippedTensors} tensors outside the transformer were left out`);
      }
    }
  },
});
