/** `jit-flux setup`: fetches LibTorch. */
import { defineCommand } from './command.js';
import { given, quietFlag } from './options.js';
import { transferProgress } from './progress.js';

export const setupCommand = defineCommand({
  command: 'setup',
  describe: 'Download and unpack the LibTorch that jit-flux needs',
  builder: (yargs) =>
    yargs
      .option('variant', {
        type: 'string',
        requiresArg: true,
        describe:
          'cpu (0.2 GB to download, 0.5 GB on disk), cu130 for NVIDIA devices (2.7 and 4.4 GB), or auto: cu130 where ' +
          'it can be used (default: cpu)',
      })
      .option('from', {
        type: 'string',
        requiresArg: true,
        describe:
          'local copy of the pinned archive, or a directory that holds all of them: for machines without network access',
      })
      .option('cache-dir', {
        type: 'string',
        requiresArg: true,
        describe: 'where to put it (default: $JIT_FLUX_CACHE or ~/.cache/jit-flux)',
      })
      .option('force', { type: 'boolean', default: false, describe: 'replace what is there' })
      .option('quiet', quietFlag('no progress')),
  async run(args, context) {
    const [{ setupLibTorch }, { AUTO_VARIANT, chooseVariant }] = await Promise.all([
      import('../libtorch/provision.js'),
      import('../libtorch/variant.js'),
    ]);
    let { variant } = args;
    if (variant === AUTO_VARIANT) {
      const choice = chooseVariant();
      if (!args.quiet) context.note(`Variant ${choice.variant}: ${choice.reason}`);
      variant = choice.variant;
    }
    const progress = await transferProgress(context, { enabled: !args.quiet });
    let result;
    try {
      result = await setupLibTorch({
        ...given({ variant, from: args.from, cacheDir: args['cache-dir'] }),
        force: args.force,
        onProgress: (p) => progress.update(p),
        signal: context.signal,
      });
    } finally {
      progress.close();
    }
    context.printJson(result);
    const state = result.alreadyPresent ? 'is already installed' : 'installed';
    context.print(`LibTorch ${result.version} (${result.variant}) ${state}: ${result.path}`);
  },
});
