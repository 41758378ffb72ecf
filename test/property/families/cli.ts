/**
 * The command line's grammar: every option of every command with hostile values. Whatever is typed gives exit code 0 or 2
 * and, where it is 2, a message with a code or the hint at --help; never a stack trace. `run` is what the program calls.
 */
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Writable } from 'node:stream';

import type { Io } from '../../../src/cli/command.js';
import { type Api, type Family, type Target } from '../../support/hostile/family.js';

interface World extends Api {
  run: (argv: readonly string[], io: Io) => Promise<number>;
}

/** Longest command line that is tried. */
const MOST_WORDS = 500;

const LOAD = [
  '--device',
  'cpu',
  '--dtype',
  'float32',
  '--threads',
  '1',
  '--map-weights',
  '--no-allow-torchscript-code',
  // Of a model whose encoders are TorchScript: refused.
  '--quantize-text-encoders',
  'int8',
  ...['--variant', 'fp16'],
];
const TRANSFORMER = [
  ...['--quantize', 'int8', '--release-encoders', '--no-stream-weights', '--no-cuda-graphs'],
  '--encoders-on-cpu',
];
/** Where there is a directory at all, it has no text encoders. */
const ENCODERS = ['--text-encoders', 'empty'];
const SAMPLING = [
  ...['--preset', 'jit-4x', '--width', '64', '--height', '64', '--steps', '4', '--text-tokens', '24'],
  ...['--num-images', '1', '--stage-ratios', '0.4,1', '--token-ratios', '0.5,1', '--schedule', 'static:1'],
  ...['--anchors', 'strided', '--activation', 'grid', '--micro-flow', 'relax:2', '--lifter', 'nearest'],
];

/** A command with every option that it has, as it would be typed. */
function command(
  name: string,
  words: (w: World) => string[],
  more: Partial<Target<World>> = {},
): Target<World> {
  return {
    name: `jit-flux ${name}`,
    good: (w) => words(w).map((word) => (word.startsWith('-') ? { word } : word)),
    async: true,
    call: async (w, args) =>
      judge(
        w,
        args.slice(0, MOST_WORDS).map((arg) => wordOf(w, arg)),
      ),
    ...more,
  };
}

/** What arrives of a value as a word of the command line. An object stands for an option's name, so that it can be hostile, too. */
function wordOf({ scratch }: World, value: unknown): string {
  try {
    const inner: unknown =
      typeof value === 'object' && value !== null && 'word' in value ? value.word : value;
    const word = String(inner).slice(0, 100_000);
    // Nothing outside is written to.
    return /^\/(?!proc|nonexistent)/.test(word) && !word.startsWith(scratch) ? word.slice(1) : word;
  } catch {
    return 'unreadable';
  }
}

async function judge({ run, scratch, root }: World, words: string[]): Promise<void> {
  const argv = words.map((word) => word.replaceAll('ROOT', root));
  const at = argv.findIndex((word) => word.startsWith('--cache-dir'));
  if (at >= 0) argv.splice(at, 2, '--cache-dir', join(scratch, 'cache'));
  let out = '';
  let err = '';
  const io: Io = {
    stdout: { write: (text: string) => void (out += text) },
    stderr: new Writable({
      write(chunk: Buffer, _encoding, done) {
        err += chunk.toString();
        done();
      },
    }),
    signal: new AbortController().signal,
    env: { XDG_CONFIG_HOME: join(scratch, 'settings'), JIT_FLUX_THREADS: '1' },
  };
  const code = await run(argv, io);
  const fail = (what: string): never => {
    throw new Error(
      `${what}: ${JSON.stringify({ argv, code, out: out.slice(-500), err: err.slice(-1500) }).slice(0, 3000)}`,
    );
  };
  if (code !== 0 && code !== 2) fail(`exit code ${code}`);
  // With --verbose it is asked for.
  const isVerbose = argv.some((word) => /^(--verbose|-[a-zA-Z]*v)/.test(word));
  const hasStack = (text: string) => /\n\s+at .*[:(]/.test(text);
  if ((!isVerbose && hasStack(err)) || hasStack(out)) fail('a stack trace');
  // Of several the last counts.
  const typed = argv.includes('--') ? argv.slice(0, argv.indexOf('--')) : argv;
  const json = typed.filter((word) => /^--(?:json(?:=.*)?|no-json)$/s.test(word)).at(-1);
  const isJson = json !== undefined && !/^--no-|=false$/.test(json);
  if (isJson && out !== '') {
    try {
      JSON.parse(out);
    } catch {
      // Help and version are text.
      if (!/^(jit-flux|\d+\.\d+)/.test(out)) fail('no JSON');
    }
  }
  const told = isJson ? out : err + out;
  if (code === 2 && !/\bERR_JITFLUX_[A-Z_]+\b|See jit-flux (?:\w+ )?--help|FAIL/.test(told))
    fail('no message');
  if (err.length > 20_000) fail('a message of any length');
}

export const family: Family<World> = {
  async open(api) {
    // No command may reach the network or the cache of whoever runs this.
    const none = 'http://127.0.0.1:9';
    process.env = {
      ...process.env,
      JIT_FLUX_CACHE: join(api.scratch, 'cache'),
      HTTPS_PROXY: none,
      HTTP_PROXY: none,
      https_proxy: none,
      http_proxy: none,
      NO_PROXY: '',
      no_proxy: '',
      PATH: '/nonexistent',
    };
    mkdirSync(join(api.scratch, 'empty'), { recursive: true });
    const { run } = (await import(`${api.root}/dist/cli/run.js`)) as Pick<World, 'run'>;
    return { ...api, run };
  },
  mend: ({ scratch }) => rmSync(join(scratch, 'cache'), { recursive: true, force: true }),
  ownNames: [
    'help',
    'version',
    'double dash',
    'json',
    'negation',
    'equals',
    'unknown option',
    'a command',
    'colour',
    'verbose',
    'colours',
    'no settings',
    'settings',
    'letters',
  ],
  own: () => ({
    help: () => '--help',
    version: () => '--version',
    'double dash': () => '--',
    json: () => '--json',
    negation: () => '--no-json',
    equals: () => '--width=',
    'unknown option': () => '--__proto__=1',
    'a command': () => 'plan',
    colour: () => '\x1b[31mred\x1b[0m\r\n',
    verbose: () => '--verbose',
    colours: () => '--color',
    'no settings': () => '--no-config',
    settings: () => '--config=/nonexistent',
    letters: () => '-qvW',
  }),
  targets: [
    command('plan', () => ['plan', '--model', 'flux.1-dev', ...SAMPLING, ...LOAD, ...TRANSFORMER]),
    command('plan', () => ['plan', '-m', 'flux.1-dev', '--device', 'cuda', '--gpu-memory', '24']),
    command('plan --json', () => ['plan', '--json', '-v', '--no-color', '--config', 'ROOT/package.json']),
    command('plan --json', () => ['plan', '--json', '--model', 'flux-tiny', ...SAMPLING]),
    command('inspect', () => ['inspect', 'ROOT/models/flux-tiny', '--tensors', '--json']),
    command('inspect', () => ['inspect', 'ROOT/test/fixtures/flux/flux-nano.safetensors', '--tensors'], {
      slow: 2,
    }),
    command('convert', () => [
      ...['convert', 'ROOT/test/fixtures/weights/pico.safetensors', 'pico.pt'],
      ...['--dtype', 'bfloat16', '--format', 'torchscript', '--no-resume', '--verify', '--quiet'],
    ]),
    command(
      'setup',
      () => ['setup', '--variant', 'cpu', '--from', 'empty', '--cache-dir', 'cache', '--force', '-q'],
      {
        slow: 2,
      },
    ),
    command('doctor', () => ['doctor', '--no-self-test', '--json'], { slow: 4 }),
    // What is refused before anything is loaded, in most cases: `generate` itself is the pipeline's.
    command('generate', () => [
      ...['generate', 'a picture', '-o', 'out.png', '--model', 'ROOT/models/flux-tiny', '--seed', '7'],
      ...['--guidance', '3', '--memory-check', '--quiet', ...SAMPLING, ...LOAD, '--threads', '0'],
      ...['--from', 'none.png', '--no-metadata', '--prompt-file', 'none.txt', '--skip-existing'],
      ...['--quality', '50', '--show', '--grid', 'all.png'],
    ]),
    command('generate', () => [
      ...[
        'generate',
        '--conditioning',
        'none.safetensors',
        '--out',
        'out.png',
        '--model',
        'ROOT/models/flux-tiny',
      ],
      ...[...TRANSFORMER, ...ENCODERS],
    ]),
    command('compare', () => [
      ...['compare', 'a picture', '-o', 'out.jpg', '--model', 'ROOT/models/flux-tiny', '--seed', '7'],
      ...['--presets', 'dense:2,jit-7x', '--width', '64', '--height', '64', '--text-tokens', '24'],
      ...['--guidance', '3', '--memory-check', '-q', '--quality', '50', '--no-metadata', '--show'],
      ...[...LOAD, ...TRANSFORMER, ...ENCODERS, '--threads', '0'],
    ]),
    command('plan', () => ['plan', '--model', 'ROOT/models/flux-tiny', ...ENCODERS]),
    command('encode', () => ['encode', 'a picture', '--model', 'ROOT/models/flux-tiny', ...ENCODERS]),
    command('encode', () => [
      ...['encode', 'a picture', '-o', 'out.safetensors', '--model', 'ROOT/models/flux-tiny'],
      ...['--text-tokens', '24', '--memory-check', '-q', ...LOAD, '--threads', '0'],
    ]),
  ],
};
