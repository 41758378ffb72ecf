/** `jit-flux inspect`: what is in a weight file. */
import { defineCommand, EXIT } from './command.js';
import { formatBytes, formatCount, table } from './format.js';

export const inspectCommand = defineCommand({
  command: 'inspect <file>',
  describe:
    'Show format, layout, architecture and size of a weight file; exit code 2 if it holds no usable transformer',
  builder: (yargs) =>
    yargs
      .positional('file', {
        type: 'string',
        demandOption: true,
        describe: 'TorchScript archive (.pt), .safetensors file or directory of shards',
      })
      .option('tensors', { type: 'boolean', default: false, describe: 'list every tensor' })
      .example('$0 inspect models/flux-tiny/transformer.pt', ''),
  async run(args, context) {
    const { inspectWeights } = await import('../engine/index.js');
    const found = await inspectWeights(args.file, { signal: context.signal });
    const { format, layout, prefix, config, problem, tensors, totalBytes } = found;
    const dtypes = new Map<string, { tensors: number; parameters: number; bytes: number }>();
    let parameters = 0;
    for (const { dtype, shape, bytes } of tensors) {
      const count = shape.reduce((product, size) => product * size, 1);
      const entry = dtypes.get(dtype) ?? { tensors: 0, parameters: 0, bytes: 0 };
      dtypes.set(dtype, {
        tensors: entry.tensors + 1,
        parameters: entry.parameters + count,
        bytes: entry.bytes + bytes,
      });
      parameters += count;
    }
    context.printJson({
      file: args.file,
      format,
      layout,
      prefix,
      config,
      problem,
      parameters,
      totalBytes,
      dtypes: Object.fromEntries(dtypes),
      tensorCount: tensors.length,
      ...(args.tensors && { tensors }),
    });

    const rows = [
      ['file', args.file],
      ['format', format],
      ['layout', layout ?? 'not recognised'],
      ...(prefix ? [['prefix', prefix]] : []),
      ['tensors', String(tensors.length)],
      ['parameters', `${parameters} (${formatCount(parameters)})`],
      ['size', `${totalBytes} bytes (${formatBytes(totalBytes)})`],
      ...[...dtypes].map(([dtype, entry]) => [
        dtype,
        `${entry.tensors} tensors, ${formatCount(entry.parameters)} parameters, ${formatBytes(entry.bytes)}`,
      ]),
    ];
    if (config) {
      rows.push(
        ['blocks', `${config.doubleBlocks} double, ${config.singleBlocks} single`],
        ['hidden size', `${config.hiddenSize} = ${config.heads} heads x ${config.headDim}`],
        ['channels', `${config.inChannels} in, ${config.outChannels} out`],
        ['conditioning', `text ${config.textDim}, pooled ${config.pooledDim}`],
        ['guidance', config.guidance ? 'embedded' : 'none'],
        ['rope axes', config.ropeAxes.join(', ')],
      );
    }
    for (const line of table(rows)) context.print(line);
    if (args.tensors) {
      context.print();
      const list = tensors.map(({ name, dtype, shape, bytes }) => [
        name,
        dtype,
        `[${shape.join(', ')}]`,
        formatBytes(bytes),
      ]);
      for (const line of table(list, [3])) context.print(line);
    }
    if (!problem) return;
    if (!context.json) context.note(`jit-flux: ${problem.message} [${problem.code}]`);
    return EXIT.badInput;
  },
});
