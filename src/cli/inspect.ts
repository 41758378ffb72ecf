/** `jit-flux inspect`: what is in a weight file, or what a model is. */
import { open, stat } from 'node:fs/promises';
import { join } from 'node:path';

import { MODEL_INDEX } from '../model/bundled-model.js';
import { resolveModel } from '../model/resolve-model.js';
import type { ModelSpec } from '../model/spec.js';
import { DEFAULT_PRESET } from '../sampler/presets.js';
import { type Context, defineCommand, EXIT } from './command.js';
import { mostStored } from '../engine/describe.js';
import { formatBytes, formatCount, table } from './format.js';
import { readPicture } from './from-picture.js';

export const inspectCommand = defineCommand({
  command: 'inspect <file>',
  describe:
    'Show what a weight file holds (exit code 2 if it is no usable transformer), what a model is (its parts, their ' +
    'types, its defaults, what was inferred and why), or how a picture was made',
  builder: (yargs) =>
    yargs
      .positional('file', {
        type: 'string',
        demandOption: true,
        describe:
          'TorchScript archive (.pt), .safetensors file, directory of shards, model directory, known name, or a picture',
      })
      .option('tensors', { type: 'boolean', default: false, describe: 'list every tensor' })
      .example('$0 inspect models/flux-tiny/transformer.pt', ''),
  async run(args, context) {
    if (await isPicture(args.file)) return inspectPicture(args.file, context);
    if (await isModel(args.file)) {
      const spec = await resolveModel(args.file, { signal: context.signal });
      context.printJson(spec);
      for (const line of describeModel(spec, context.stdout.columns)) context.print(line);
      return;
    }
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
    for (const line of table(rows, [], { columns: context.stdout.columns })) context.print(line);
    if (args.tensors) {
      context.print();
      const list = tensors.map(({ name, dtype, shape, bytes }) => [
        name,
        dtype,
        `[${shape.join(', ')}]`,
        formatBytes(bytes),
      ]);
      for (const line of table(list, [3], { columns: context.stdout.columns })) context.print(line);
    }
    if (!problem) return;
    if (!context.json) context.note(`jit-flux: ${problem.message} [${problem.code}]`);
    return EXIT.badInput;
  },
});

async function isPicture(path: string): Promise<boolean> {
  const { formatOfContent, SIGNATURE_BYTES } = await import('../image/index.js');
  // A pipe or a device is looked at by whoever reads weights, with care.
  if (!(await stat(path).catch(() => undefined))?.isFile()) return false;
  const file = await open(path).catch(() => undefined);
  if (!file) return false;
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(SIGNATURE_BYTES), 0, SIGNATURE_BYTES, 0);
    return formatOfContent(buffer.subarray(0, bytesRead)) !== undefined;
  } catch {
    return false; // why it cannot be read is told by whoever reads weights
  } finally {
    await file.close();
  }
}

async function inspectPicture(path: string, context: Context): Promise<void> {
  const { format, width, height, text, metadata } = await readPicture(path, context.signal);
  context.printJson({ file: path, format, width, height, metadata: metadata ?? null, text });
  const facts = Object.entries(metadata ?? text).filter(([name]) => name !== 'parameters' || !metadata);
  const rows = [
    ['file', path],
    ['format', format],
    ['size', `${width}x${height}`],
    ...facts.map(([name, value]) => [name, String(value)]),
  ];
  for (const line of table(rows, [], { columns: context.stdout.columns })) context.print(line);
  if (!metadata) context.note(`${path} does not say how it was made, or another program made it`);
}

/** A directory with an index, or a name that is no path. */
async function isModel(path: string): Promise<boolean> {
  const exists = (candidate: string) =>
    stat(candidate).then(
      () => true,
      () => false,
    );
  if (await exists(join(path, MODEL_INDEX))) return true;
  return !(await exists(path)) && !/[/.](pt|safetensors|json)$|\//.test(path);
}

function describeModel(
  { kind, path, info, transformer, text, decoder, inferred }: ModelSpec,
  columns: number | undefined,
): string[] {
  const parts = [
    ['transformer', transformer.weights] as const,
    ...(text?.kind === 'native'
      ? ([
          ['text_encoder', text.clip.weights],
          ['text_encoder_2', text.t5.weights],
        ] as const)
      : text
        ? ([['text_encoder', text.weights]] as const)
        : []),
    ['vae', decoder.weights] as const,
  ];
  const { width, height, guidance, preset, dense } = info.defaults;
  const { config } = transformer;
  return [
    ...table(
      [
        ['model', info.name],
        ['kind', kind],
        ...(path === undefined ? [] : [['path', path]]),
        ...(info.license === undefined ? [] : [['licence', info.license]]),
        ...(config
          ? [
              ['blocks', `${config.doubleBlocks} double, ${config.singleBlocks} single`],
              ['hidden size', `${config.hiddenSize} = ${config.heads} heads x ${config.headDim}`],
            ]
          : []),
        ['text tokens', `${info.text.defaultLength ?? info.text.length}, at most ${info.text.length}`],
        ['latents', `${info.decoder.channels} channels, ${info.decoder.spatialFactor} pixels each`],
        ['default', `${width}x${height}, guidance ${guidance}, preset ${preset ?? DEFAULT_PRESET}`],
        ...(dense ? [['dense', `${dense.steps} steps, ${dense.schedule.kind} schedule`]] : []),
        ...inferred.map(({ what, value, why, doubtful }) => [
          doubtful ? `${what} (doubtful)` : what,
          `${value}: ${why}`,
        ]),
      ],
      [],
      { columns },
    ),
    '',
    ...table(
      [
        ['part', 'format', 'stored as', 'M parameters', 'size', 'file'],
        ...parts.map(([name, weights]) => {
          // Of an archive whose code is run only the file is known.
          const described = weights && 'storedTypes' in weights ? weights : undefined;
          return [
            name,
            weights?.format ?? '',
            (described && mostStored(described)) ?? '',
            described ? (described.parameters / 1e6).toFixed(1) : '',
            weights ? formatBytes(weights.fileBytes) : '',
            weights?.path ?? 'known by its name only',
          ];
        }),
      ],
      [3, 4],
      { columns, drop: [1, 3] },
    ),
  ];
}
