/** The command line as a function: arguments in, exit code out. */
import yargs from 'yargs';

import { ERROR_CODES, JitFluxError, type JitFluxErrorCode, withoutControls } from '../errors.js';
import { VERSION } from '../files/version.js';
import { type Command, type Context, EXIT, type Io } from './command.js';
import { convertCommand } from './convert.js';
import { doctorCommand } from './doctor.js';
import { toJson } from './format.js';
import { encodeCommand } from './encode.js';
import { generateCommand } from './generate.js';
import { inspectCommand } from './inspect.js';
import { planCommand } from './plan.js';
import { arrangePrompts } from './prompts.js';
import { setupCommand } from './setup.js';
import { nearest } from './suggest.js';

export const COMMANDS: readonly Command[] = [
  generateCommand,
  encodeCommand,
  planCommand,
  inspectCommand,
  convertCommand,
  setupCommand,
  doctorCommand,
];

/** Errors that are ours, not the user's or the machine's. */
const UNEXPECTED: readonly JitFluxErrorCode[] = [ERROR_CODES.NATIVE, ERROR_CODES.DISPOSED];

/** Columns of help: as many as the terminal has, within reason. */
const WIDEST = 100;
const NARROWEST = 40;

/** A mistake in the command line itself, found by yargs. */
class UsageError extends Error {}
/** Of what the parser says: it quotes whole arguments, which may be of any length. */
const MOST_CHARACTERS = 400;

/**
 * Runs the command line. Never throws and never ends the process.
 * @param argv arguments without `node` and the script
 * @returns 0; 1 for an unexpected failure; 2 for bad input or a bad environment; 130 after an interrupt
 */
export async function run(argv: readonly string[], io: Io): Promise<number> {
  // Needed before parsing, because parsing can fail.
  const json = argv.includes('--json') || argv.includes('--json=true');
  const context: Context = {
    ...io,
    json,
    print: (line = '') => void (json || io.stdout.write(`${withoutControls(line)}\n`)),
    printJson: (document) => void (json && io.stdout.write(`${toJson(document)}\n`)),
    note: (line) => void io.stderr.write(`${withoutControls(line)}\n`),
  };
  let exitCode: number = EXIT.ok;
  try {
    const parser = yargs()
      .scriptName('jit-flux')
      .usage('$0 <command>\n\nFLUX image generation in Node, accelerated by Just-in-Time sparse sampling')
      .locale('en')
      .parserConfiguration({
        'dot-notation': false,
        'camel-case-expansion': false,
        'parse-positional-numbers': false,
        // Prompts may begin with a dash.
        'populate--': true,
      })
      .middleware(takeLast, true)
      .option('json', { type: 'boolean', default: false, describe: 'print one JSON document on stdout' })
      .strict()
      .demandCommand(1, 1, 'Name a command')
      .recommendCommands()
      .exitProcess(false)
      .showHelpOnFail(false)
      .fail((message: string | null, error: Error | undefined) => {
        throw error ?? new UsageError(message ?? 'Invalid command line');
      })
      .alias('h', 'help')
      .version(VERSION)
      .epilogue(
        'Exit codes: 0 success, 1 unexpected failure, 2 bad input or environment, 130 interrupted (SIGTERM: 143)',
      )
      .wrap(Math.min(WIDEST, Math.max(NARROWEST, io.stdout.columns ?? WIDEST)));
    for (const { command, describe, builder, run: execute } of COMMANDS) {
      parser.command(command, describe, builder, async (args) => {
        exitCode = (await execute(args as never, context)) ?? EXIT.ok;
      });
    }
    let output = '';
    await parser.parseAsync(wordsOf(argv), {}, (_error, _args, text) => {
      output = text;
    });
    // Help and version.
    if (output !== '') io.stdout.write(`${output}\n`);
    return argv.length === 0 ? EXIT.badInput : exitCode;
  } catch (error) {
    return report(error instanceof UsageError ? await withSuggestion(error, argv) : error, context);
  }
}

/** As the parser takes them. No words at all, and `help`, ask for help. */
function wordsOf(argv: readonly string[]): string[] {
  const [command, ...rest] = argv;
  if (command === undefined) return ['--help'];
  return command === 'help' ? [...rest, '--help'] : arrangePrompts(argv);
}

/** For a flag that no command has, the one that was meant. */
async function withSuggestion(error: UsageError, argv: readonly string[]): Promise<UsageError> {
  const [, unknown] = /^Unknown arguments?: ([\w-]+)/.exec(error.message) ?? [];
  const { command, builder } = COMMANDS.find((one) => one.command.split(' ')[0] === argv[0]) ?? {};
  if (unknown === undefined || command === undefined || !builder) return error;
  const help = await builder(yargs().scriptName('jit-flux').exitProcess(false)).getHelp();
  const flags = [...help.matchAll(/--([a-z][a-z-]+)/g)].map(([, flag]) => flag!);
  const meant = nearest(unknown, [...new Set(flags)]);
  return meant === undefined ? error : new UsageError(`${error.message}; did you mean --${meant}?`);
}

/** Lists that are meant as such: words, not flags. */
const WORDS: readonly string[] = ['_', '--', 'prompt'];

/** Of a flag that was given again, the last counts. yargs does so itself only where it drops all but the last word, too. */
function takeLast(args: Record<string, unknown>): void {
  for (const [name, value] of Object.entries(args)) {
    if (Array.isArray(value) && !WORDS.includes(name)) args[name] = value.at(-1);
  }
}

/** Tells the user what went wrong and chooses the exit code. */
function report(error: unknown, context: Context): number {
  const interrupted = context.signal.aborted;
  const known = error instanceof JitFluxError ? error : undefined;
  const usage = error instanceof UsageError || (error instanceof Error && error.name === 'YError');
  const said = error instanceof Error ? error.message : String(error);
  const message = usage && said.length > MOST_CHARACTERS ? `${said.slice(0, MOST_CHARACTERS)}...` : said;
  const code = known?.code ?? (usage ? ERROR_CODES.INVALID_ARGUMENT : 'ERR_UNEXPECTED');
  context.printJson({ error: { code, message, ...(known?.details && { details: known.details }) } });
  if (!context.json) {
    if (interrupted && (known?.code === ERROR_CODES.ABORTED || !known)) context.note('Interrupted');
    else {
      context.note(`jit-flux: ${message}${known ? ` [${code}]` : ''}`);
      if (usage) context.note('See jit-flux --help');
      else if (!known && error instanceof Error && error.stack) context.note(error.stack);
    }
  }
  if (interrupted) return EXIT.interrupted;
  return usage || (known && !UNEXPECTED.includes(known.code)) ? EXIT.badInput : EXIT.failure;
}
